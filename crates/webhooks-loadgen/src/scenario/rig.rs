//! What scenarios have in common: a stack, a receiver with a ledger, webhooks, publishers, the end.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Method, header};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_bus::Bus;
use webhooks_devstack::{http_get, wait_until};

use super::{
    Scene,
    outcome::{Expectation, Outcome, Repeats},
};
use crate::{
    check::{self, Evidence, Hook},
    client::HttpClient,
    faults::{quiet, record},
    ledger::{self, Ledger, Published},
    now_micros,
    publish::{self, Door, Plan, Subject, Tally},
    receiver::{Receiver, ReceiverOptions},
    sample::{EventSpec, EventTemplate},
    stack::{NewWebhook, Part, Stack, StackOptions, Workspace},
};

/// Attempts of a delivery: the standard policy's.
const MAX_ATTEMPTS: u32 = 3;

/// How long it may take to come to rest: long, for a machine that has other work to do.
pub(super) const QUIET_LIMIT: Duration = Duration::from_secs(600);

/// How long the load goes on before and after a fault.
pub(super) const CALM: Duration = Duration::from_secs(3);

/// How long a part may take to be back.
pub(super) const BACK_LIMIT: Duration = Duration::from_secs(60);

/// Events a second of one publisher.
pub(super) const RATE: f64 = 8.0;

/// A running system under a scenario's hands.
pub(super) struct Rig<'a> {
    pub(super) stack: Stack,
    pub(super) receiver: Arc<Receiver>,
    pub(super) workspace: Workspace,
    pub(super) links: Vec<Uuid>,
    folder: PathBuf,
    hooks: Vec<Hook>,
    stop: CancellationToken,
    publishers: JoinSet<anyhow::Result<(Door, Tally)>>,
    tallies: Vec<(Door, Tally)>,
    ledgers: Vec<PathBuf>,
    /// Events published one by one, by the scenario itself.
    own: Ledger,
    /// When dispatchers were killed, frozen or let go, in microseconds since the epoch.
    cuts: Vec<i64>,
    expectations: Vec<Expectation>,
    note: &'a mut dyn FnMut(String),
}

impl<'a> Rig<'a> {
    /// Starts a stack with two dispatchers, changed by `change`, and makes three webhooks: one takes
    /// everything, one its link's, one is flaky.
    pub(super) async fn start(
        scene: Scene<'a>,
        change: impl FnOnce(StackOptions) -> StackOptions,
    ) -> anyhow::Result<Self> {
        let mut rig = Box::pin(Self::bare(scene, change)).await?;
        let link = rig.links[0];
        rig.hook("/ok/wide", &[]).await?;
        rig.hook("/ok/link", &[link]).await?;
        rig.hook("/flaky/200/a", &[]).await?;
        Ok(rig)
    }

    /// The same without webhooks.
    pub(super) async fn bare(
        scene: Scene<'a>,
        change: impl FnOnce(StackOptions) -> StackOptions,
    ) -> anyhow::Result<Self> {
        let Scene {
            options,
            folder,
            note,
        } = scene;
        let stack = StackOptions {
            dispatchers: 2,
            ..StackOptions::new(&options.bin_dir, folder)
        }
        .setting("WEBHOOKS_RETRY_BASE", "1s")
        .setting("WEBHOOKS_RETRY_IMMEDIATE", "200ms")
        .setting("WEBHOOKS_RETRY_MAX_ATTEMPTS", &MAX_ATTEMPTS.to_string())
        .setting("WEBHOOKS_ATTEMPT_TIMEOUT", "5s");
        let stack = Box::pin(Stack::start(change(stack))).await?;
        let receiver = Receiver::start(ReceiverOptions {
            ledger: Some(folder.join("received")),
            keep: 0,
            seed: options.seed,
            ..ReceiverOptions::default()
        })
        .await?;
        let workspace = stack.workspace("Scenario").await?;
        let own = folder.join("published-own");
        Ok(Self {
            stack,
            receiver: Arc::new(receiver),
            workspace,
            links: (0..3).map(|_| Uuid::new_v4()).collect(),
            folder: folder.to_owned(),
            hooks: Vec::new(),
            stop: CancellationToken::new(),
            publishers: JoinSet::new(),
            tallies: Vec::new(),
            own: Ledger::open(&own)?,
            ledgers: vec![own],
            cuts: Vec::new(),
            expectations: Vec::new(),
            note,
        })
    }

    /// Tells what happens.
    pub(super) fn note(&mut self, line: impl Into<String>) {
        (self.note)(line.into());
    }

    /// Notes what had to hold.
    pub(super) fn expect(&mut self, what: impl Into<String>, held: bool, seen: impl ToString) {
        let one = Expectation {
            what: what.into(),
            held,
            seen: seen.to_string(),
        };
        self.note(format!(
            "{} {}: {}",
            if one.held { "held" } else { "BROKEN" },
            one.what,
            one.seen
        ));
        self.expectations.push(one);
    }

    /// Makes a webhook at the receiver; `links` empty = the whole workspace.
    pub(super) async fn hook(&mut self, path: &str, links: &[Uuid]) -> anyhow::Result<Uuid> {
        let url = self.receiver.url(path);
        self.hook_at(path, url, links).await
    }

    /// The same under another URL that leads there.
    pub(super) async fn hook_at(
        &mut self,
        path: &str,
        url: String,
        links: &[Uuid],
    ) -> anyhow::Result<Uuid> {
        let new = NewWebhook {
            name: path.to_owned(),
            endpoint_url: url,
            links: links.to_vec(),
            triggers: Some(Vec::new()),
        };
        let made = self
            .stack
            .api(&self.workspace)?
            .create_webhook(&new)
            .await?;
        self.receiver.add_secret(Some(made.id), made.key);
        self.hooks.push(Hook {
            id: made.id,
            workspace: self.workspace.id,
            path: path.to_owned(),
            links: links.to_vec(),
            kinds: Vec::new(),
            created: now_micros(),
            healthy: path.starts_with("/ok") || path.starts_with("/hang"),
        });
        Ok(made.id)
    }

    /// Starts a publisher at every door.
    pub(super) fn load(&mut self) -> anyhow::Result<()> {
        for door in Door::ALL {
            let plan = Plan {
                rate: Some(RATE),
                workers: 8,
                retry: true,
                ..Plan::default()
            };
            self.publish(door, plan)?;
        }
        Ok(())
    }

    /// Makes a webhook whose endpoint answers after so many seconds, and gives it an event each second:
    /// something is always on the wire.
    pub(super) async fn slow_hook(&mut self, seconds: u32) -> anyhow::Result<()> {
        let link = Uuid::new_v4();
        self.hook(&format!("/hang/{seconds}"), &[link]).await?;
        let plan = Plan {
            rate: Some(1.0),
            workers: 2,
            retry: true,
            ..Plan::default()
        };
        self.publish_of(Door::Grpc, plan, vec![link])
    }

    /// Starts one publisher.
    pub(super) fn publish(&mut self, door: Door, plan: Plan) -> anyhow::Result<()> {
        self.publish_of(door, plan, self.links.clone())
    }

    /// The same about other links.
    pub(super) fn publish_of(
        &mut self,
        door: Door,
        plan: Plan,
        links: Vec<Uuid>,
    ) -> anyhow::Result<()> {
        let file = self.folder.join(format!(
            "published-{}-{}",
            self.ledgers.len(),
            door.as_str()
        ));
        let ledger = Ledger::open(&file)?;
        self.ledgers.push(file);
        let target = self.stack.door(door, &self.workspace);
        let subject = Subject {
            workspace: self.workspace.id,
            links,
            kinds: ["KIND_EXIT", "KIND_ENTRY"].map(str::to_owned).to_vec(),
        };
        let stop = self.stop.clone();
        self.publishers.spawn(async move {
            let tally = publish::run(&target, &subject, &plan, &ledger, &stop).await?;
            ledger.flush()?;
            Ok((door, tally))
        });
        Ok(())
    }

    /// Waits until every publisher has published what it was to, or was told to stop.
    pub(super) async fn published(&mut self) -> anyhow::Result<()> {
        while let Some(tally) = self.publishers.join_next().await {
            self.tallies.push(tally??);
        }
        Ok(())
    }

    /// Publishes one event over HTTP and says how that was answered: the status (0 = not at all),
    /// `Retry-After`, and the body.
    pub(super) async fn offer(&mut self) -> anyhow::Result<Offered> {
        let url = self.stack.door(Door::Http, &self.workspace).url;
        let mut client = HttpClient::new(&url)?;
        let spec = self.next_event();
        let mut headers = HeaderMap::new();
        let bearer = format!("Bearer {}", self.workspace.token);
        headers.insert(header::AUTHORIZATION, bearer.parse()?);
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json"),
        );
        let started = now_micros();
        let since = Instant::now();
        let body: Bytes = EventTemplate::new().render(&spec);
        let answer = client
            .send(Method::POST, "/v1/events", &headers, body)
            .await;
        let offered = match answer {
            Ok(answer) => Offered {
                status: answer.status.as_u16(),
                retry_after: answer
                    .headers
                    .get(header::RETRY_AFTER)
                    .and_then(|value| value.to_str().ok()?.parse().ok()),
                body: String::from_utf8_lossy(&answer.body).into_owned(),
                took: since.elapsed(),
            },
            Err(error) => Offered {
                status: 0,
                retry_after: None,
                body: format!("{error:#}"),
                took: since.elapsed(),
            },
        };
        let outcome = match offered.status {
            202 => ledger::Outcome::Ok,
            400..500 => ledger::Outcome::Refused,
            _ => ledger::Outcome::Unknown,
        };
        self.note_offer(&spec, outcome, started, &offered.status.to_string());
        Ok(offered)
    }

    /// An event that whoever is given it will hand over: its deliveries are owed.
    pub(super) fn promised_event(&mut self) -> Bytes {
        let spec = self.next_event();
        self.note_offer(&spec, ledger::Outcome::Ok, now_micros(), "promised");
        EventTemplate::new().render(&spec)
    }

    fn next_event(&self) -> EventSpec {
        EventSpec {
            id: Uuid::new_v4(),
            workspace: self.workspace.id,
            link: self.links[0],
            kind: "KIND_EXIT".to_owned(),
            timestamp_micros: now_micros(),
        }
    }

    fn note_offer(&self, spec: &EventSpec, outcome: ledger::Outcome, started: i64, detail: &str) {
        self.own.append([Published {
            event: spec.id,
            workspace: spec.workspace,
            link: spec.link,
            kind: spec.kind.clone(),
            door: "http".to_owned(),
            outcome,
            started,
            ended: now_micros(),
            accepted: None,
            detail: detail.to_owned(),
        }]);
    }

    /// Offers events until one is answered as `wanted` says.
    pub(super) async fn offer_until(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Offered) -> bool,
    ) -> anyhow::Result<Offered> {
        let began = Instant::now();
        loop {
            let offered = self.offer().await?;
            if wanted(&offered) {
                return Ok(offered);
            }
            anyhow::ensure!(
                began.elapsed() < limit,
                "waited {limit:?} for {what}; last answer: {offered:?}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A moment at which a dispatcher's requests on the wire may be cut off from its record.
    pub(super) fn cut(&mut self) {
        self.cuts.push(now_micros());
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self, part: Part) -> anyhow::Result<()> {
        self.note(format!("kill {part}"));
        if part.is_dispatcher() {
            self.cut();
        }
        self.stack.kill(part).await
    }

    /// Starts a dead part again and waits until it is ready.
    pub(super) async fn revive(&mut self, part: Part) -> anyhow::Result<()> {
        self.stack.revive(part).await?;
        self.stack.wait_ready(part).await?;
        self.note(format!("{part} is back"));
        Ok(())
    }

    /// Lets the load go on for so long.
    pub(super) async fn go_on(&self, how_long: Duration) {
        tokio::time::sleep(how_long).await;
    }

    /// Everything that runs must be running.
    pub(super) fn nobody_died(&mut self) {
        let dead: Vec<String> = self.stack.dead().iter().map(ToString::to_string).collect();
        self.expect("nothing ended by itself", dead.is_empty(), dead.join(", "));
    }

    /// The sum of a counter or gauge of a service over all its labels that contain `label`; 0 = it was
    /// never set.
    pub(super) async fn metric(&self, part: Part, name: &str, label: &str) -> anyhow::Result<f64> {
        let url = format!("{}/metrics", self.stack.admin_url(part)?);
        let (status, text) = http_get(&url).await?;
        anyhow::ensure!(status == 200, "{url} answered {status}");
        let mut sum = 0.0;
        for line in text.lines().filter(|line| line.starts_with(name)) {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let rest = &series[name.len()..];
            if (rest.is_empty() || rest.starts_with('{')) && series.contains(label) {
                sum += value.parse::<f64>().unwrap_or(0.0);
            }
        }
        Ok(sum)
    }

    /// Whether a part's log has a line with this text.
    pub(super) fn logged(&self, part: Part, text: &str) -> anyhow::Result<bool> {
        let file = self.folder.join(format!("{part}.log"));
        let log = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        Ok(log.contains(text))
    }

    /// Waits for what a query of Postgres says.
    pub(super) async fn until_sql(
        &self,
        what: &str,
        limit: Duration,
        statement: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> anyhow::Result<()> {
        wait_until(what, limit, async || {
            match self.stack.sql(statement).await {
                Ok(text) if wanted(text.trim()) => Ok(()),
                Ok(text) => Err(text),
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await
    }

    /// A connection to NATS as the operator.
    pub(super) async fn bus(&self) -> anyhow::Result<Bus> {
        self.stack.bus().await
    }

    /// Where data and logs are.
    pub(super) fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// Ends the load, waits for rest, and judges.
    pub(super) async fn finish(self) -> anyhow::Result<Outcome> {
        Box::pin(self.end()).await
    }

    async fn end(mut self) -> anyhow::Result<Outcome> {
        self.go_on(CALM).await;
        self.stop.cancel();
        self.published().await?;
        self.own.flush()?;
        for part in self.stack.parts() {
            self.stack
                .wait_ready(part)
                .await
                .context("after the fault")?;
        }
        let ended = Instant::now();
        let quiet_after = match quiet(&self.stack, QUIET_LIMIT, self.note).await {
            Ok(_) => Some(ended.elapsed()),
            Err(error) => {
                (self.note)(format!("{error:#}"));
                None
            }
        };
        let receiver = Arc::into_inner(self.receiver).context("somebody holds the receiver")?;
        receiver.stop().await?;
        let mut published = Vec::new();
        for file in &self.ledgers {
            published.extend(ledger::read(file)?);
        }
        let received = ledger::read(&self.folder.join("received"))?;
        let repeats = Repeats::of(&received);
        // Every endpoint at its cap.
        let cap = usize::try_from(webhooks_domain::webhook::DEFAULT_IN_FLIGHT)?;
        let in_flight = self.hooks.len() * cap;
        let evidence = Evidence {
            published,
            received,
            hooks: self.hooks,
            halts: Vec::new(),
            deliveries: record::deliveries(&self.stack).await?,
            attempts: record::attempts(&self.stack).await?,
            counters: record::counters(&self.stack).await?,
            dispatcher_kills: self.cuts,
            max_attempts: MAX_ATTEMPTS,
            ..Evidence::default()
        };
        let report = check::check(&evidence);
        self.stack.stop_all().await?;
        let mut lapses = 0;
        for number in 1..=2 {
            let file = self
                .folder
                .join(format!("{}.log", Part::Dispatcher(number)));
            let log = std::fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            lapses += log.matches("membership lapsed").count();
        }
        Ok(Outcome {
            lapses,
            in_flight,
            report: Some(report),
            expectations: self.expectations,
            tallies: self.tallies,
            repeats,
            quiet_after,
            ..Outcome::default()
        })
    }
}

/// How an event that was offered was answered.
#[derive(Debug, Clone)]
pub(super) struct Offered {
    /// 0 = not at all.
    pub(super) status: u16,
    pub(super) retry_after: Option<u64>,
    pub(super) body: String,
    pub(super) took: Duration,
}

impl Offered {
    /// A 503 that says when to come again.
    pub(super) fn is_busy(&self) -> bool {
        self.status == 503 && self.retry_after.is_some()
    }
}
