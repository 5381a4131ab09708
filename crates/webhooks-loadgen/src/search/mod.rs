//! Lists and searches over a long history: each form that the API offers, timed against its aim.
//!
//! The whole system runs with real servers in a folder of its own. History is made by SQL, in the
//! daily partitions that the system would have made, skewed as histories are: one large workspace,
//! many small ones, rare failures, a few replays. Then PostgreSQL is started anew (its own cache is
//! cold in the first run, the machine's is as it is) and every form is asked over REST by one client,
//! each time with another webhook, event, link or moment, in several runs. At the end the plans that
//! PostgreSQL used are read from its log.

mod data;
mod forms;
mod plans;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context as _, ensure};
use http::{HeaderMap, Method, header};
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::Value;

use crate::{
    client::HttpClient,
    stack::{Part, Stack, StackOptions},
};

use self::{
    data::{DAYS, History},
    forms::{FORMS, Form},
};

/// What p99 is to stay under, in milliseconds.
pub const AIM_MS: f64 = 50.0;

/// PostgreSQL's own cache, in MiB: a fourteenth of the history, where its manual wants a quarter of the
/// machine's memory. The test kit's 128 would measure copies from the machine's cache.
const SHARED_BUFFERS_MB: u32 = 1_024;

/// What to do.
#[derive(Debug, Clone)]
pub struct SearchOptions {
    /// Where the programs are.
    pub bin_dir: PathBuf,
    /// A folder on the disk that is to be measured; data in it is removed at the end, the table and
    /// the plans stay.
    pub folder: PathBuf,
    /// Deliveries in the history.
    pub deliveries: u64,
    /// Runs over all forms.
    pub runs: usize,
    /// Requests of each form in a run.
    pub requests: usize,
}

/// The times of one form, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Times {
    p50: f64,
    p99: f64,
    max: f64,
}

/// Runs it and gives the table in Markdown; `note` is told what happens.
///
/// # Errors
/// Something cannot be started, or a request is not answered with 200.
pub async fn run(
    options: &SearchOptions,
    mut note: impl FnMut(String) + Send,
) -> anyhow::Result<String> {
    std::fs::create_dir_all(&options.folder)
        .with_context(|| format!("cannot create {}", options.folder.display()))?;
    let folder = tempfile::tempdir_in(&options.folder).context("cannot make a temporary folder")?;
    note("starting the stack".to_owned());
    let stack = StackOptions::new(&options.bin_dir, folder.path())
        .shared_buffers_mb(SHARED_BUFFERS_MB)
        .setting("WEBHOOKS_RATE_LIMIT", "1000000")
        .setting("WEBHOOKS_HISTORY_RETENTION_DAYS", "90");
    let mut stack = Stack::start(stack).await?;
    let began = Instant::now();
    let history = data::make(&mut stack, options.deliveries, &mut note).await?;
    let size = stack
        .sql("SELECT pg_size_pretty(pg_database_size(current_database()))")
        .await?;
    let made = format!(
        "{} deliveries of {} events in {DAYS} days, {size}, made in {:.0} s",
        history.deliveries,
        history.events,
        began.elapsed().as_secs_f64()
    );
    note(made.clone());
    restart(&mut stack).await?;
    let mut client = Caller::new(&stack)?;
    let mut all: Vec<Vec<Times>> = vec![Vec::new(); FORMS.len()];
    for run in 0..options.runs {
        for (form, times) in FORMS.iter().zip(&mut all) {
            let seed = u64::try_from(run).unwrap_or_default();
            let measured = client.measure(form, &history, seed, options.requests).await;
            let measured = measured.with_context(|| form.name.to_owned())?;
            note(format!(
                "run {}: {}: p50 {:.1} p99 {:.1} max {:.1} ms",
                run + 1,
                form.name,
                measured.p50,
                measured.p99,
                measured.max
            ));
            times.push(measured);
        }
    }
    let table = table(&made, options, &all);
    let plans = plans::read(&mut stack, &history, folder.path()).await?;
    std::fs::write(options.folder.join("search-plans.txt"), plans.whole)?;
    let table = format!("{table}\n{}", plans.summary);
    let file = options.folder.join("search.md");
    std::fs::write(&file, &table).with_context(|| format!("cannot write {}", file.display()))?;
    stack.stop_all().await?;
    Ok(table)
}

/// PostgreSQL with an empty cache of its own, and management connected to it.
async fn restart(stack: &mut Stack) -> anyhow::Result<()> {
    stack.stop(Part::Management).await?;
    stack.postgres.stop().await?;
    stack.postgres.start().await?;
    stack.revive(Part::Management).await?;
    stack.wait_ready(Part::Management).await
}

/// One client with one connection.
struct Caller {
    client: HttpClient,
}

impl Caller {
    fn new(stack: &Stack) -> anyhow::Result<Self> {
        Ok(Self {
            client: HttpClient::new(&stack.api_url())?,
        })
    }

    async fn get(&mut self, token: &str, path: &str) -> anyhow::Result<Value> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse()?);
        let answer = self
            .client
            .send(Method::GET, path, &headers, bytes::Bytes::new())
            .await?;
        ensure!(
            answer.status == 200,
            "{path}: {} {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// A form's requests, each after the answer to the one before; where a form goes on by pages, each
    /// page is a request.
    async fn measure(
        &mut self,
        form: &Form,
        history: &History,
        seed: u64,
        requests: usize,
    ) -> anyhow::Result<Times> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut times = Vec::with_capacity(requests);
        let mut next: Option<String> = None;
        while times.len() < requests {
            let path = match next.take() {
                Some(path) => path,
                None => (form.path)(history, &mut random),
            };
            let began = Instant::now();
            let answer = self.get(form.token(history), &path).await?;
            times.push(began.elapsed().as_secs_f64() * 1_000.0);
            if let (true, Some(token)) = (form.pages, answer["nextPageToken"].as_str()) {
                let first = path.split("&pageToken=").next().unwrap_or(&path);
                next = Some(format!("{first}&pageToken={token}"));
            }
        }
        Ok(Times::of(times))
    }
}

impl Times {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let part = |hundredths: usize| {
            let rank = (times.len() * hundredths).div_ceil(100).max(1) - 1;
            times.get(rank).copied().unwrap_or_default()
        };
        Self {
            p50: part(50),
            p99: part(99),
            max: part(100),
        }
    }
}

fn table(made: &str, options: &SearchOptions, all: &[Vec<Times>]) -> String {
    let mut text = format!(
        "{made}; {} runs of {} requests a form, one client\n\n\
         | form | p50 ms | p99 ms (each run) | max ms | worst p99 / {AIM_MS:.0} ms |\n\
         | --- | ---: | ---: | ---: | ---: |\n",
        options.runs, options.requests
    );
    for (form, runs) in FORMS.iter().zip(all) {
        let worst = |part: fn(&Times) -> f64| runs.iter().map(part).fold(0.0, f64::max);
        let each: Vec<_> = runs.iter().map(|run| format!("{:.1}", run.p99)).collect();
        let p50 = runs.iter().map(|run| run.p50).fold(f64::MAX, f64::min);
        let line = format!(
            "| {} | {p50:.1} | {} | {:.1} | {:.2} |\n",
            form.name,
            each.join(", "),
            worst(|run| run.max),
            worst(|run| run.p99) / AIM_MS
        );
        text.push_str(&line);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::Times;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let times = Times::of((1..=200).rev().map(f64::from).collect());
        assert_eq!((times.p50, times.p99, times.max), (100.0, 198.0, 200.0));
        let one = Times::of(vec![7.0]);
        assert_eq!((one.p50, one.p99, one.max), (7.0, 7.0, 7.0));
    }
}
