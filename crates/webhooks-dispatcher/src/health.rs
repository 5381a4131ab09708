//! The health of a partition's endpoints: the rules are [`webhooks_domain::health`]'s, here they are
//! fed and kept.
//!
//! The owner of a partition decides at once, in the order in which attempts end. What it decided is
//! then written to bucket HEALTH, and **the delivery's message is acknowledged only when that write
//! is durable**: whoever takes over after a crash either finds the outcome counted, or finds the
//! delivery still owed, and then counts it itself, once (the record names what was counted).
//! Conclusions that come while a write is under way go with the next one, so an endpoint has one
//! write on its way at a time. An endpoint that is well has no record, and costs nothing here.
//!
//! Each write is a compare-and-set, made only while the lease is certain. When it meets another
//! revision (the owner before wrote late, or our own write had got through) that one is the base,
//! and what is not in it yet is applied to it again.
//!
//! An owner that has given or lost its partition decides nothing more. What ends there it tells the
//! next owner, by a note on the partition's own stream, so it is counted there, once.

mod keep;
mod note;
mod write;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;
use webhooks_bus::{HealthEntry, health_of};
use webhooks_domain::{
    health::{
        Change, Ended, Health, HealthPolicy, HealthStatus, Notice, Verdict, effective_status,
    },
    ids,
    webhook::{StatusReason, WebhookStatus},
};
use webhooks_proto::internal::v1::EndpointHealth;

use crate::{partition_io::Settled, registry::Target, shared::Shared};
pub(crate) use note::{ended_in, ended_of, tell_next_owner};
use write::forget;

/// How long a probe may take from HELD to its end before another one goes out.
const PROBE_PATIENCE: Duration = Duration::from_secs(75);

/// Endpoints in memory beyond which those that are well are forgotten.
const KEPT_IN_MEMORY: usize = 1_024;

/// Something that a record has yet to show.
#[derive(Debug, Clone)]
enum Input {
    Ended(Ended),
    Epoch { epoch: u64, at_micros: i64 },
    Announced(Notice),
}

/// One endpoint.
struct Tracked {
    workspace: Uuid,
    /// As of every input.
    health: Health,
    /// As the record of `revision` says.
    base: Health,
    revision: u64,
    version: u64,
    /// What is not in the record yet, oldest first, with who waits for it.
    inputs: Vec<(Input, Option<oneshot::Sender<()>>)>,
    writing: bool,
    telling: bool,
    /// Until when the probe that is out may take.
    probe_until: Option<Instant>,
}

/// The endpoints of a partition that are not known to be well.
pub(crate) struct HealthBook {
    shared: Arc<Shared>,
    partition: u16,
    tracked: HashMap<Uuid, Tracked>,
}

/// What an input led to.
pub(crate) struct Effect {
    /// The status in force may have changed.
    pub(crate) status_changed: bool,
    /// Resolves when the record shows it (or somebody else owns the partition).
    pub(crate) durable: Option<oneshot::Receiver<()>>,
    /// To be done.
    pub(crate) act: Option<BoxFuture<'static, Settled>>,
}

/// Something about an endpoint's health is durable, or is not.
pub(crate) enum HealthSettled {
    /// The record was written, with so many of the inputs.
    Written {
        webhook: Uuid,
        wrote: Box<Health>,
        inputs: usize,
        revision: u64,
    },
    /// Another record is there.
    Met {
        webhook: Uuid,
        found: Box<Option<EndpointHealth>>,
        revision: u64,
    },
    /// Not now.
    Again { webhook: Uuid },
    /// A notice was told.
    Told {
        webhook: Uuid,
        notice: Option<Notice>,
    },
}

impl HealthBook {
    pub(crate) fn new(shared: Arc<Shared>, partition: u16) -> Self {
        Self {
            shared,
            partition,
            tracked: HashMap::new(),
        }
    }

    /// Takes over what the owner before has written. The mirror must have caught up.
    pub(crate) fn take_over(&mut self, records: Vec<(Uuid, HealthEntry)>) {
        let partitions = self.shared.bus.settings().partitions;
        let now = self.shared.clock.now_micros();
        for (webhook, (record, revision)) in records {
            if ids::partition_of(webhook, partitions) != self.partition {
                continue;
            }
            match health_of(&record) {
                Ok(health) => {
                    let health = health.taken_over(now);
                    if is_well(&health) {
                        continue;
                    }
                    let workspace = Uuid::from_slice(&record.workspace_id).unwrap_or_default();
                    let tracked = Tracked {
                        revision,
                        version: record.version,
                        ..Tracked::new(workspace, health)
                    };
                    self.tracked.insert(webhook, tracked);
                }
                Err(error) => {
                    tracing::error!(%error, webhook.id = %webhook, "a health record cannot be used");
                }
            }
        }
    }

    /// The status in force.
    pub(crate) fn status(
        &self,
        webhook: Uuid,
        target: &Target,
    ) -> (WebhookStatus, Option<StatusReason>) {
        let known = self.tracked.get(&webhook);
        let health = known.map(|tracked| (tracked.health.epoch, tracked.health.status));
        effective_status(target.configured, health)
    }

    /// Most requests at a time, while the endpoint recovers.
    pub(crate) fn ramp_limit(&self, webhook: Uuid) -> Option<usize> {
        let limit = self.tracked.get(&webhook)?.health.ramp_limit()?;
        usize::try_from(limit).ok()
    }

    /// An attempt has ended.
    pub(crate) fn ended(&mut self, webhook: Uuid, workspace: Uuid, ended: Ended) -> Effect {
        // One that met a fault of ours comes again, as a probe.
        if ended.probe
            && ended.verdict != Verdict::Ours
            && let Some(tracked) = self.tracked.get_mut(&webhook)
        {
            tracked.probe_until = None;
        }
        let matters = matches!(ended.verdict, Verdict::Failed | Verdict::Gone);
        if !matters && !self.tracked.contains_key(&webhook) {
            return Effect::none();
        }
        let policy = self.policy();
        let at_micros = ended.at_micros;
        let tracked = self
            .tracked
            .entry(webhook)
            .or_insert_with(|| Tracked::new(workspace, Health::new(ended.epoch, at_micros)));
        let change = tracked.health.ended(&ended, &policy);
        self.changed(webhook, change, Input::Ended(ended), true)
    }

    /// A webhook was changed; `None` = it is gone.
    pub(crate) fn configured(&mut self, webhook: Uuid, target: Option<&Target>) -> Effect {
        let Some(tracked) = self.tracked.get_mut(&webhook) else {
            return Effect::none();
        };
        let Some(target) = target else {
            self.tracked.remove(&webhook);
            let shared = self.shared.clone();
            return Effect {
                status_changed: true,
                durable: None,
                act: Some(forget(shared, webhook)),
            };
        };
        let (epoch, at_micros) = (target.configured.epoch, self.shared.clock.now_micros());
        let change = tracked.health.begin_epoch(epoch, at_micros);
        if change != Change::None {
            tracing::info!(webhook.id = %webhook, epoch, "webhook.status_set");
        }
        self.changed(webhook, change, Input::Epoch { epoch, at_micros }, false)
    }

    fn changed(&mut self, webhook: Uuid, change: Change, input: Input, wait: bool) -> Effect {
        if change == Change::None {
            return Effect::none();
        }
        let mut durable = None;
        if let Some(tracked) = self.tracked.get_mut(&webhook) {
            let (done, waits) = oneshot::channel();
            tracked.inputs.push((input, wait.then_some(done)));
            durable = wait.then_some(waits);
            if change == Change::Status {
                let (status, reason) = tracked.health.status.words();
                tracing::warn!(
                    webhook.id = %webhook,
                    workspace.id = %tracked.workspace,
                    status = status.as_str(),
                    reason = reason.map(StatusReason::as_str),
                    run = tracked.health.run,
                    "webhook.health"
                );
                metrics::counter!("webhooks_health_transitions_total", "status" => status.as_str())
                    .increment(1);
            }
        }
        Effect {
            status_changed: change == Change::Status,
            durable,
            act: self.write(webhook),
        }
    }

    /// Whether a probe may go out now: it is time, and none is out. Then it is out.
    pub(crate) fn probe_begins(&mut self, webhook: Uuid, now_micros: i64) -> bool {
        let Some(tracked) = self.tracked.get_mut(&webhook) else {
            return false;
        };
        let now = Instant::now();
        let may = tracked.health.probe_due(now_micros)
            && tracked.probe_until.is_none_or(|until| now >= until);
        if may {
            tracked.probe_until = Some(now + PROBE_PATIENCE);
        }
        may
    }

    /// There was nothing to probe with.
    pub(crate) fn probe_ended(&mut self, webhook: Uuid) {
        if let Some(tracked) = self.tracked.get_mut(&webhook) {
            tracked.probe_until = None;
        }
    }

    /// Whether anything is known of an endpoint but that it is well.
    pub(crate) fn is_known(&self, webhook: Uuid) -> bool {
        self.tracked.contains_key(&webhook)
    }

    /// Every endpoint that anything is known of.
    pub(crate) fn known(&self) -> Vec<Uuid> {
        self.tracked.keys().copied().collect()
    }

    /// The partition is another's: nothing is written any more. Returns what is not in the records,
    /// for the next owner.
    pub(crate) fn end(&mut self) -> Vec<(Uuid, Uuid, Ended, Option<oneshot::Sender<()>>)> {
        let mut left = Vec::new();
        for (webhook, tracked) in self.tracked.drain() {
            for (input, waits) in tracked.inputs {
                if let Input::Ended(ended) = input {
                    left.push((webhook, tracked.workspace, ended, waits));
                }
            }
        }
        left
    }

    /// Forgets endpoints that are well, when there are many.
    pub(crate) fn tidy(&mut self) {
        if self.tracked.len() > KEPT_IN_MEMORY {
            self.tracked.retain(|_, tracked| {
                tracked.writing
                    || tracked.telling
                    || !tracked.inputs.is_empty()
                    || !is_well(&tracked.health)
            });
        }
    }

    fn policy(&self) -> HealthPolicy {
        self.shared.settings.health
    }
}

impl Tracked {
    fn new(workspace: Uuid, health: Health) -> Self {
        Self {
            workspace,
            base: health.clone(),
            health,
            revision: 0,
            version: 0,
            inputs: Vec::new(),
            writing: false,
            telling: false,
            probe_until: None,
        }
    }

    fn drop_inputs(&mut self, count: usize) {
        for (_, waits) in self.inputs.drain(..count.min(self.inputs.len())) {
            if let Some(waits) = waits {
                // Who waited may be gone with its attempt.
                waits.send(()).ok();
            }
        }
    }
}

impl Effect {
    fn none() -> Self {
        Self {
            status_changed: false,
            durable: None,
            act: None,
        }
    }
}

/// Nothing that anybody would have to know.
fn is_well(health: &Health) -> bool {
    health.status == HealthStatus::Active
        && health.run == 0
        && health.unannounced.is_empty()
        && health.ramp_limit().is_none()
}
