//! Records: written when something is not in them, one at a time, and what is in them is told.

use std::time::Duration;

use futures::{FutureExt as _, future::BoxFuture};
use uuid::Uuid;
use webhooks_bus::{OpsEvent, Signature, health_of, record_of};
use webhooks_domain::health::{Change, Health, HealthPolicy};
use webhooks_proto::internal::v1::EndpointHealth;

use super::{
    HealthBook, HealthSettled, Input,
    write::{Put, put},
};
use crate::partition_io::Settled;

/// Pause before a write or notice is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// How long a notice may take to be stored before it is tried again.
const TELL_WITHIN: Duration = Duration::from_secs(5);

impl HealthBook {
    /// A write or notice has ended. Whether the status in force may have changed, and what to do.
    pub(crate) fn settled(
        &mut self,
        settled: HealthSettled,
    ) -> (Option<Uuid>, Vec<BoxFuture<'static, Settled>>) {
        let policy = self.policy();
        let now = self.shared.clock.now_micros();
        let (webhook, mut changed) = match settled {
            HealthSettled::Written {
                webhook,
                wrote,
                inputs,
                revision,
            } => {
                if let Some(tracked) = self.tracked.get_mut(&webhook) {
                    tracked.writing = false;
                    tracked.base = *wrote;
                    tracked.revision = revision;
                    tracked.version += 1;
                    tracked.drop_inputs(inputs);
                }
                (webhook, None)
            }
            HealthSettled::Met {
                webhook,
                found,
                revision,
            } => (webhook, self.met(webhook, *found, revision, now, &policy)),
            HealthSettled::Again { webhook } => {
                if let Some(tracked) = self.tracked.get_mut(&webhook) {
                    tracked.writing = false;
                }
                (webhook, None)
            }
            HealthSettled::Told { webhook, notice } => {
                if let Some(tracked) = self.tracked.get_mut(&webhook) {
                    tracked.telling = false;
                    if let Some(notice) = notice
                        && tracked.health.announced(&notice) != Change::None
                    {
                        tracked.inputs.push((Input::Announced(notice), None));
                    }
                }
                (webhook, None)
            }
        };
        if !self.tracked.contains_key(&webhook) {
            changed = None;
        }
        let acts = [self.write(webhook), self.tell(webhook)];
        (changed, acts.into_iter().flatten().collect())
    }

    /// Another record is there: it is the base, and what it does not show yet is applied to it.
    fn met(
        &mut self,
        webhook: Uuid,
        found: Option<EndpointHealth>,
        revision: u64,
        now: i64,
        policy: &HealthPolicy,
    ) -> Option<Uuid> {
        let tracked = self.tracked.get_mut(&webhook)?;
        tracked.writing = false;
        tracked.revision = revision;
        tracked.version = found.as_ref().map_or(0, |found| found.version);
        let base = found.map(|found| health_of(&found)).transpose();
        tracked.base = match base {
            Ok(Some(base)) => base.taken_over(now),
            Ok(None) => Health::new(tracked.health.epoch, now),
            Err(error) => {
                // It is replaced: nobody could ever use it.
                tracing::error!(%error, webhook.id = %webhook, "a health record cannot be used");
                Health::new(tracked.health.epoch, now)
            }
        };
        let before = (tracked.health.status, tracked.health.epoch);
        tracked.health = tracked.base.clone();
        for (input, _) in &tracked.inputs {
            match input {
                Input::Ended(ended) => tracked.health.ended(ended, policy),
                Input::Epoch { epoch, at_micros } => tracked.health.begin_epoch(*epoch, *at_micros),
                Input::Announced(notice) => tracked.health.announced(notice),
            };
        }
        let after = (tracked.health.status, tracked.health.epoch);
        (before != after).then_some(webhook)
    }

    /// Writes what the record does not show, one write at a time.
    pub(super) fn write(&mut self, webhook: Uuid) -> Option<BoxFuture<'static, Settled>> {
        let (shared, partition) = (self.shared.clone(), self.partition);
        let tracked = self.tracked.get_mut(&webhook)?;
        if tracked.writing || tracked.inputs.is_empty() {
            return None;
        }
        if tracked.health == tracked.base {
            // What was to be added is there already.
            let all = tracked.inputs.len();
            tracked.drop_inputs(all);
            return None;
        }
        tracked.writing = true;
        let signature = Signature {
            writer: &shared.name,
            at_micros: shared.clock.now_micros(),
            version: tracked.version + 1,
        };
        let record = record_of(tracked.workspace, webhook, &tracked.health, signature);
        let wrote = Box::new(tracked.health.clone());
        let (inputs, expected) = (tracked.inputs.len(), tracked.revision);
        Some(
            async move {
                let settled = if shared.leases.may_send(partition) {
                    put(&shared, webhook, record, expected).await
                } else {
                    Ok(Put::Later)
                };
                Settled::Health(match settled {
                    Ok(Put::Done(revision)) => HealthSettled::Written {
                        webhook,
                        wrote,
                        inputs,
                        revision,
                    },
                    Ok(Put::Other(found, revision)) => HealthSettled::Met {
                        webhook,
                        found,
                        revision,
                    },
                    later => {
                        if let Err(error) = later {
                            tracing::warn!(%error, webhook.id = %webhook, "health not written yet");
                        }
                        tokio::time::sleep(AGAIN_AFTER).await;
                        HealthSettled::Again { webhook }
                    }
                })
            }
            .boxed(),
        )
    }

    /// Tells the first notice that is in the record and not told, one at a time.
    pub(super) fn tell(&mut self, webhook: Uuid) -> Option<BoxFuture<'static, Settled>> {
        let shared = self.shared.clone();
        let tracked = self.tracked.get_mut(&webhook)?;
        let notice = *tracked.base.unannounced.first()?;
        if tracked.telling || !tracked.health.unannounced.contains(&notice) {
            return None;
        }
        tracked.telling = true;
        let event = OpsEvent::of(tracked.workspace, webhook, &notice, &tracked.base);
        Some(
            async move {
                let told = match shared.bus.tell(&event, TELL_WITHIN).await {
                    Ok(_) => Some(notice),
                    Err(error) => {
                        tracing::warn!(%error, webhook.id = %webhook, kind = event.kind, "operational event not stored yet");
                        tokio::time::sleep(AGAIN_AFTER).await;
                        None
                    }
                };
                Settled::Health(HealthSettled::Told {
                    webhook,
                    notice: told,
                })
            }
            .boxed(),
        )
    }

    /// What the owner before has left to tell.
    pub(crate) fn left_to_tell(&mut self) -> Vec<BoxFuture<'static, Settled>> {
        let all: Vec<Uuid> = self.tracked.keys().copied().collect();
        all.into_iter().filter_map(|one| self.tell(one)).collect()
    }
}
