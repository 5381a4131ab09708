//! The plans that PostgreSQL used, from its own log (`auto_explain`), one request of each form.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context as _;
use rand::{SeedableRng as _, rngs::StdRng};

use super::{Caller, data::History, forms::FORMS, restart};
use crate::stack::Stack;

/// What was read.
pub(super) struct Plans {
    /// Every plan.
    pub(super) whole: String,
    /// For each form the indexes that were used, as Markdown.
    pub(super) summary: String,
}

/// Asks each form once, and reads what PostgreSQL logged of it.
pub(super) async fn read(
    stack: &mut Stack,
    history: &History,
    folder: &Path,
) -> anyhow::Result<Plans> {
    for setting in [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_buffers = on",
        "auto_explain.log_timing = off",
    ] {
        stack.sql(&format!("ALTER SYSTEM SET {setting}")).await?;
    }
    restart(stack).await?;
    let log = folder.join("postgres").join("postgres.log");
    let mut client = Caller::new(stack)?;
    let mut plans = Plans {
        whole: String::new(),
        summary: "| form | statements | indexes used (index scans) | tables read whole |\n| --- | ---: | --- | --- |\n"
            .to_owned(),
    };
    for form in FORMS {
        let mut random = StdRng::seed_from_u64(7);
        let path = (form.path)(history, &mut random);
        // The first request of a connection looks up types.
        client.get(form.token(history), &path).await?;
        let before = length(&log)?;
        client.get(form.token(history), &path).await?;
        let text = std::fs::read_to_string(&log)
            .with_context(|| format!("cannot read {}", log.display()))?;
        let told = text.get(before..).unwrap_or_default();
        plans
            .whole
            .push_str(&format!("==== {}: {path}\n{told}\n", form.name));
        plans.summary.push_str(&summary(form.name, told));
    }
    Ok(plans)
}

fn length(log: &Path) -> anyhow::Result<usize> {
    let length = std::fs::metadata(log)
        .with_context(|| format!("cannot read {}", log.display()))?
        .len();
    Ok(usize::try_from(length)?)
}

fn summary(form: &str, told: &str) -> String {
    let mut indexes: BTreeMap<String, u32> = BTreeMap::new();
    let mut whole: BTreeMap<String, u32> = BTreeMap::new();
    for line in told.lines().filter(|line| !line.contains("never executed")) {
        let name = |mark: &str| {
            let rest = line.split(mark).nth(1)?;
            Some(without_day(rest.split_whitespace().next()?))
        };
        if let Some(index) = name(" using ").or_else(|| name("Bitmap Index Scan on ")) {
            *indexes.entry(index).or_default() += 1;
        } else if let Some(table) = name("Seq Scan on ") {
            *whole.entry(table).or_default() += 1;
        }
    }
    let list = |found: &BTreeMap<String, u32>| {
        let items: Vec<_> = found
            .iter()
            .map(|(name, count)| format!("`{name}` ({count})"))
            .collect();
        items.join(", ")
    };
    format!(
        "| {form} | {} | {} | {} |\n",
        told.matches("Query Text:").count(),
        list(&indexes),
        list(&whole)
    )
}

/// The name of a partition's index or table, without the day in it.
fn without_day(name: &str) -> String {
    let parts = name.split('_');
    let kept = parts.filter(|part| part.len() != 8 || !part.bytes().all(|b| b.is_ascii_digit()));
    kept.collect::<Vec<_>>().join("_")
}

#[cfg(test)]
mod tests {
    use super::{summary, without_day};

    #[test]
    fn what_was_not_run_is_not_counted() {
        let told = "Query Text: SELECT 1\n -> Index Scan using deliveries_20260101_pkey on x (cost)\n \
            -> Index Scan using deliveries_20260102_pkey on y (never executed)\n -> Seq Scan on webhooks w (rows=1)";
        let line = summary("f", told);
        assert_eq!(line, "| f | 1 | `deliveries_pkey` (1) | `webhooks` (1) |\n");
        assert_eq!(without_day("a_20260102_b_idx"), "a_b_idx");
    }
}
