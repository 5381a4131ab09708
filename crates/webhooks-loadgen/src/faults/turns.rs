//! Webhooks that are made, paused, disabled and deleted while everything is being killed, and two whose
//! endpoints are dead.
//!
//! Three writers, each with a webhook of its own kind of halt: one is paused and resumed in turn, one
//! disabled and enabled, and one is made and deleted over and over. Two more have an endpoint that
//! answers 500 or 410, so that the system disables it, and enable it each time that happened; what was
//! held is discarded. A writer asks as a customer's
//! program does: until the answer is there, since management, nats-server and PostgreSQL die under
//! its calls. It notes when it first asked and when a success was answered; what was never answered
//! was not promised. (A creation is not tried again, as a lost answer holds the secret: the webhook is
//! found in the end and counted as expected.) Every webhook that is left at the end is active again, so that what it was owed
//! goes out; those that died are deleted.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use http::Method;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    check::{Halt, HaltKind, Hook},
    client::Answer,
    ledger::Ledger,
    now_micros,
    receiver::Receiver,
    stack::{Api, MadeWebhook, NewWebhook, Workspace},
};

/// How long a webhook gets deliveries between two halts.
const LIVE: std::ops::Range<Duration> = Duration::from_millis(500)..Duration::from_millis(2_000);

/// How long a halt lasts: what is forbidden after 2 s has time to happen.
const HALTED: std::ops::Range<Duration> =
    Duration::from_millis(3_300)..Duration::from_millis(4_300);

const WEBHOOKS: &str = "/v1/webhooks";
const LIST: &str = "/v1/webhooks?pageSize=1000";

/// Endpoints that never answer 2xx.
const DYING: [&str; 2] = ["/status/500/dying-", "/status/410/dying-"];

/// Between two tries of a call.
const AGAIN: Duration = Duration::from_millis(100);

/// How long a dead endpoint may take to be disabled: ten failures and the probes between them, while
/// everything that is needed for it is killed in turn.
const DISABLED_LIMIT: Duration = Duration::from_secs(120);

/// How long a call may go unanswered: longer than anything stays dead, with time to start.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// What the writers did.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The webhooks they made.
    pub(super) hooks: Vec<Hook>,
    /// The halts they asked for.
    pub(super) halts: Vec<Halt>,
}

/// What every writer needs.
pub(super) struct Scene {
    pub(super) receiver: Arc<Receiver>,
    pub(super) workspace: Workspace,
    /// The link whose events the writers' webhooks take.
    pub(super) link: Uuid,
    /// Every call with its answer, for a person who looks into a failed run.
    pub(super) ledger: Ledger,
    pub(super) seed: u64,
}

/// Writers at work.
#[derive(Default)]
pub(super) struct Writers(JoinSet<anyhow::Result<Turns>>);

impl Writers {
    /// Starts one for each kind of halt.
    pub(super) fn start(
        scene: &Arc<Scene>,
        api: impl Fn() -> anyhow::Result<Api>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let mut writers = Self::default();
        let writer = |number| {
            anyhow::Ok(Writer {
                scene: Arc::clone(scene),
                api: api()?,
                dice: StdRng::seed_from_u64(scene.seed.wrapping_add(number)),
                stop: stop.clone(),
                made: 0,
                turns: Turns::default(),
            })
        };
        let kinds = [HaltKind::Paused, HaltKind::Disabled, HaltKind::Deleted];
        for (number, kind) in (0_u64..).zip(kinds) {
            writers.0.spawn(writer(number)?.work(kind));
        }
        for (number, prefix) in (10_u64..).zip(DYING) {
            writers.0.spawn(writer(number)?.die(prefix));
        }
        Ok(writers)
    }

    /// Waits for all of them, once they were told to stop and everything runs again.
    pub(super) async fn finish(mut self) -> anyhow::Result<Turns> {
        let mut all = Turns::default();
        while let Some(turns) = self.0.join_next().await {
            let turns = turns?.context("a writer of webhooks")?;
            all.hooks.extend(turns.hooks);
            all.halts.extend(turns.halts);
        }
        Ok(all)
    }
}

struct Writer {
    scene: Arc<Scene>,
    api: Api,
    dice: StdRng,
    stop: CancellationToken,
    /// Creations that were tried.
    made: u32,
    turns: Turns,
}

impl Writer {
    async fn work(mut self, kind: HaltKind) -> anyhow::Result<Turns> {
        let prefix = format!("/ok/{}-", kind.as_str());
        if kind == HaltKind::Deleted {
            loop {
                let webhook = self.make(&prefix).await?;
                self.rest(LIVE).await;
                self.halt(webhook, kind).await?;
                if self.stop.is_cancelled() {
                    break;
                }
            }
        } else {
            let webhook = self.make(&prefix).await?;
            while !self.stop.is_cancelled() {
                self.rest(LIVE).await;
                self.halt(webhook, kind).await?;
                self.rest(HALTED).await;
                self.lift(webhook).await?;
            }
        }
        self.find_unanswered(&prefix).await?;
        Ok(self.turns)
    }

    /// Lets a dead endpoint be disabled, at least once, and enables it each time.
    async fn die(mut self, prefix: &'static str) -> anyhow::Result<Turns> {
        let webhook = self.make(prefix).await?;
        let path = format!("/v1/webhooks/{webhook}");
        loop {
            self.disabled(&path).await?;
            self.rest(LIVE).await;
            if self.stop.is_cancelled() {
                break;
            }
            let body = json!({ "status": "WEBHOOK_STATUS_ACTIVE", "heldDeliveries": "DISCARD" });
            self.insist(Method::PATCH, &path, Some(&body)).await?;
        }
        // Nothing is left open: neither of this one nor of one whose creation was not answered.
        self.find_unanswered(prefix).await?;
        for webhook in self
            .turns
            .hooks
            .iter()
            .map(|hook| hook.id)
            .collect::<Vec<_>>()
        {
            self.halt(webhook, HaltKind::Deleted).await?;
        }
        Ok(self.turns)
    }

    /// Waits until the system has disabled a webhook: as long as something happens.
    async fn disabled(&mut self, path: &str) -> anyhow::Result<()> {
        let since = Instant::now();
        loop {
            let call = self.insist(Method::GET, path, None).await?;
            let webhook = call.body.context("a question is always answered")?;
            if webhook["webhook"]["statusLabel"] == "AUTO_DISABLED" {
                return Ok(());
            }
            if since.elapsed() > DISABLED_LIMIT {
                bail!("it is not disabled: {webhook}");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Makes a webhook; one whose creation was not answered is left alone and another one made.
    async fn make(&mut self, prefix: &str) -> anyhow::Result<Uuid> {
        let since = Instant::now();
        loop {
            self.made += 1;
            let path = format!("{prefix}{}", self.made);
            let new = NewWebhook {
                name: path.clone(),
                endpoint_url: self.scene.receiver.url(&path),
                links: vec![self.scene.link],
                triggers: Some(Vec::new()),
            };
            let began = now_micros();
            let answer = self
                .api
                .ask(Method::POST, WEBHOOKS, Some(&new.body()))
                .await;
            let told = self.note(began, 1, &Method::POST, WEBHOOKS, &answer);
            match told.status {
                200 => {
                    let made = MadeWebhook::read(&serde_json::from_str(&told.body)?)?;
                    self.scene.receiver.add_secret(Some(made.id), made.key);
                    self.know(made.id, path, now_micros());
                    return Ok(made.id);
                }
                status if is_passing(status) => {}
                status => bail!("a creation was answered {status}: {}", told.body),
            }
            if since.elapsed() > ANSWER_LIMIT {
                bail!("no creation succeeds: {} {}", told.status, told.body);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn know(&mut self, id: Uuid, path: String, created: i64) {
        self.turns.hooks.push(Hook {
            id,
            workspace: self.scene.workspace.id,
            healthy: path.starts_with("/ok"),
            path,
            links: vec![self.scene.link],
            kinds: Vec::new(),
            created,
        });
    }

    /// Webhooks that were made and whose creation was never answered: nothing is owed to them, and
    /// nobody knows their secrets, but what they get is expected.
    async fn find_unanswered(&mut self, prefix: &str) -> anyhow::Result<()> {
        let call = self.insist(Method::GET, LIST, None).await?;
        let list = call.body.context("a list is always answered")?;
        for webhook in list["webhooks"].as_array().into_iter().flatten() {
            let (Some(id), Some(name)) = (webhook["id"].as_str(), webhook["name"].as_str()) else {
                bail!("a webhook without id or name: {webhook}");
            };
            let id: Uuid = id.parse()?;
            let known = self.turns.hooks.iter().any(|hook| hook.id == id);
            if name.starts_with(prefix) && !known {
                self.know(id, name.to_owned(), i64::MAX);
            }
        }
        Ok(())
    }

    async fn halt(&mut self, webhook: Uuid, kind: HaltKind) -> anyhow::Result<()> {
        let path = format!("/v1/webhooks/{webhook}");
        let call = match kind {
            HaltKind::Paused => self.status(&path, "WEBHOOK_STATUS_PAUSED").await?,
            HaltKind::Disabled => self.status(&path, "WEBHOOK_STATUS_DISABLED").await?,
            HaltKind::Deleted => self.insist(Method::DELETE, &path, None).await?,
        };
        self.turns.halts.push(Halt {
            webhook,
            kind,
            called: call.began,
            answered: call.body.map(|_| call.ended),
            lifted: None,
            over: None,
        });
        Ok(())
    }

    async fn lift(&mut self, webhook: Uuid) -> anyhow::Result<()> {
        let path = format!("/v1/webhooks/{webhook}");
        let call = self.status(&path, "WEBHOOK_STATUS_ACTIVE").await?;
        if let Some(halt) = self.turns.halts.last_mut() {
            halt.lifted = Some(call.began);
            halt.over = Some(call.ended);
        }
        Ok(())
    }

    async fn status(&mut self, path: &str, status: &str) -> anyhow::Result<Call> {
        let body = json!({ "status": status });
        self.insist(Method::PATCH, path, Some(&body)).await
    }

    /// Asks until there is a success.
    async fn insist(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Call> {
        let (began, since) = (now_micros(), Instant::now());
        let mut tries = 0_u32;
        loop {
            tries += 1;
            let answer = self.api.ask(method.clone(), path, body).await;
            let told = self.note(began, tries, &method, path, &answer);
            let ended = now_micros();
            match told.status {
                200 => {
                    let body = Some(serde_json::from_str(&told.body)?);
                    return Ok(Call { began, ended, body });
                }
                // An earlier try did it and its answer was lost: done, but never promised.
                404 if method == Method::DELETE && tries > 1 => {
                    let body = None;
                    return Ok(Call { began, ended, body });
                }
                status if is_passing(status) => {}
                status => bail!("{method} {path} was answered {status}: {}", told.body),
            }
            if since.elapsed() > ANSWER_LIMIT {
                bail!(
                    "{method} {path} has no success: {} {}",
                    told.status,
                    told.body
                );
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Writes a call down.
    fn note(
        &self,
        began: i64,
        tries: u32,
        method: &Method,
        path: &str,
        answer: &anyhow::Result<Answer>,
    ) -> Told {
        let told = match answer {
            Ok(answer) => Told {
                status: answer.status.as_u16(),
                body: String::from_utf8_lossy(&answer.body).into_owned(),
            },
            Err(error) => Told {
                status: 0,
                body: format!("{error:#}"),
            },
        };
        let text = told.body.chars().filter(|c| !c.is_control());
        self.scene.ledger.append([format!(
            "{began}\t{}\t{tries}\t{method}\t{path}\t{}\t{}",
            now_micros(),
            told.status,
            text.take(200).collect::<String>()
        )]);
        told
    }

    /// Waits a while, less when told to stop.
    async fn rest(&mut self, how_long: std::ops::Range<Duration>) {
        let pause = tokio::time::sleep(self.dice.random_range(how_long));
        // Both ends of the wait are fine.
        self.stop.run_until_cancelled(pause).await;
    }
}

/// What a call was told.
struct Told {
    /// 0 = no answer.
    status: u16,
    /// The answer's body, or why there was none.
    body: String,
}

/// Whether somebody is dead, dying, starting or busy.
fn is_passing(status: u16) -> bool {
    matches!(status, 0 | 409 | 429 | 500..=599)
}

/// A call that was made, perhaps in several tries.
struct Call {
    /// When it was first tried.
    began: i64,
    /// When it was answered.
    ended: i64,
    /// The answer; `None` = it was done by a try whose answer was lost.
    body: Option<Value>,
}
