//! `webhooks delivery …`: what became of a delivery, with what customers do not see.

use std::fmt::Write as _;

use anyhow::Context as _;
use webhooks_domain::event::format_micros;
use webhooks_store::{AttemptRecord, DeliveryRow};

use super::store;
use crate::{cli::DeliveryShowOptions, console::say};

/// `webhooks delivery show`: the delivery, and a line for each attempt.
///
/// # Errors
/// There is none of this id, or the database fails.
pub(crate) async fn show(options: &DeliveryShowOptions) -> anyhow::Result<()> {
    let store = store()?;
    let workspace = store.workspace_of_delivery(options.id).await?;
    let workspace = workspace.with_context(|| format!("there is no delivery {}", options.id))?;
    let found = store.get_delivery(workspace, options.id).await?;
    let (row, attempts) = found.with_context(|| format!("there is no delivery {}", options.id))?;
    say(described(&row));
    for attempt in &attempts {
        say(line(attempt));
    }
    Ok(())
}

fn described(row: &DeliveryRow) -> String {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let time = |at: Option<i64>| or_none(at.map(format_micros));
    let state = match &row.state_reason {
        Some(reason) => format!("{} ({reason})", row.state),
        None => row.state.to_string(),
    };
    format!(
        "delivery   {}
workspace  {}
webhook    {}
event      {}
trigger    {}
state      {state}
created    {}
next       {}
completed  {}",
        row.id,
        row.workspace_id,
        row.webhook_id,
        row.event_id,
        row.trigger.api_word(),
        format_micros(row.created_at),
        time(row.next_attempt_at),
        time(row.completed_at),
    )
}

fn line(attempt: &AttemptRecord) -> String {
    let filled = |text: &str| match text {
        "" => "-".to_owned(),
        text => text.to_owned(),
    };
    let status = attempt
        .status_code
        .map_or_else(|| "-".to_owned(), |status| status.to_string());
    let mut line = format!(
        "attempt {}  {}  {}  {status}  to {}  by {}",
        attempt.number,
        format_micros(attempt.started_at),
        attempt.outcome.as_str(),
        filled(&attempt.remote_ip),
        filled(&attempt.dispatcher),
    );
    for (name, micros) in [
        ("dns", attempt.timings.dns_us),
        ("connect", attempt.timings.connect_us),
        ("tls", attempt.timings.tls_us),
        ("first byte", attempt.timings.first_byte_us),
        ("total", attempt.timings.total_us),
    ] {
        if let Some(micros) = micros {
            write!(line, "  {name} {:.1} ms", f64::from(micros) / 1_000.0)
                .expect("writing to a string cannot fail");
        }
    }
    if !attempt.error.is_empty() {
        line.push_str("  ");
        line.push_str(&attempt.error);
    }
    line
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use uuid::Uuid;
    use webhooks_domain::endpoint::Outcome;
    use webhooks_store::Timings;

    use super::*;

    #[test]
    fn an_attempt_is_one_line_with_its_address() {
        let attempt = AttemptRecord {
            number: 2,
            execution_id: Uuid::nil(),
            started_at: 0,
            outcome: Outcome::Timeout,
            class: None,
            status_code: None,
            timings: Timings {
                connect_us: Some(1_500),
                ..Timings::default()
            },
            response_headers: Vec::new(),
            response_body: Bytes::new(),
            response_body_truncated: false,
            error: "timeout".to_owned(),
            remote_ip: "203.0.113.9".to_owned(),
            dispatcher: String::new(),
        };
        assert_eq!(
            line(&attempt),
            "attempt 2  1970-01-01T00:00:00Z  TIMEOUT  -  to 203.0.113.9  by -  connect 1.5 ms  timeout"
        );
    }
}
