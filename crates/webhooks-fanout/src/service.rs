//! The pull loop, and its end.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use webhooks_bus::{Bus, BusError, ConfigMirror, PullSettings, Pulled, StatsMirror, Vitals, names};
use webhooks_runtime::{Backoff, Context};

use crate::{
    config::{Config, EVENT_SHARE},
    fanout::Fanout,
    index::SharedIndex,
    publisher::Publisher,
};

/// Pauses while the read model cannot be confirmed.
const CATCH_UP: Backoff = Backoff {
    base: Duration::from_millis(50),
    factor: 2.0,
    cap: Duration::from_secs(1),
    jitter: 0.5,
};

/// Why fan-out cannot run.
#[derive(Debug, thiserror::Error)]
pub enum FanoutError {
    /// NATS cannot be used as it is set.
    #[error("the bus cannot be used")]
    Bus(#[from] BusError),
}

/// Fan-out, about to run.
pub struct FanoutService {
    config: Config,
    bus: Bus,
}

impl FanoutService {
    /// Starts to connect; does not wait for NATS.
    ///
    /// # Errors
    /// The NATS settings cannot be used.
    pub async fn build(config: Config, _: &Context) -> Result<Self, FanoutError> {
        let bus = Bus::connect(config.bus.clone(), "webhooks-fanout").await?;
        Ok(Self { config, bus })
    }

    /// Runs until the context's shutdown, then finishes what is in hand: pulling stops first, then
    /// the read model is no longer followed, then what NATS has not been sent yet is sent.
    ///
    /// # Errors
    /// None at present; trouble with NATS is waited out.
    pub async fn run(self, ctx: Context) -> Result<(), FanoutError> {
        let Self { config, bus } = self;
        let drained = CancellationToken::new();
        let index = Arc::new(SharedIndex::default());
        let mirror = ConfigMirror::start(&bus, index.clone(), drained.clone());
        let fanout = Fanout {
            stats: StatsMirror::start(&bus, drained.clone()),
            publisher: Publisher::new(bus.clone(), config.publish_window, ctx.shutdown.clone()),
            clock: ctx.clock.clone(),
            share: EVENT_SHARE.min(config.publish_window),
            record_unmatched: config.record_unmatched,
            index: index.clone(),
            bus: bus.clone(),
        };
        let vitals = Vitals::new(&bus, &ctx.readiness).with_config(mirror.clone());
        let watching = vitals.watch(drained.clone(), |_| {
            let webhooks = u32::try_from(index.len()).unwrap_or(u32::MAX);
            metrics::gauge!("webhooks_fanout_webhooks").set(f64::from(webhooks));
        });
        let pulling = async {
            Puller {
                fanout,
                mirror,
                concurrency: config.concurrency,
                shutdown: ctx.shutdown.clone(),
            }
            .run()
            .await;
            drained.cancel();
        };
        ctx.started();
        tokio::join!(Box::pin(pulling), Box::pin(watching));
        bus.flush().await;
        Ok(())
    }
}

struct Puller {
    fanout: Fanout,
    mirror: ConfigMirror,
    concurrency: usize,
    shutdown: CancellationToken,
}

impl Puller {
    async fn run(self) {
        let places = Arc::new(Semaphore::new(self.concurrency));
        let tasks = TaskTracker::new();
        let settings = PullSettings::default();
        let mut pull = self
            .fanout
            .bus
            .pull(names::EVENTS, names::EVENTS_CONSUMER, settings);
        while let Some(batch) = self
            .shutdown
            .run_until_cancelled(pull.next_batch(settings.batch))
            .await
        {
            if !self.catch_up().await {
                give_back(batch).await;
                break;
            }
            for pulled in batch {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                    return;
                };
                let fanout = self.fanout.clone();
                tasks.spawn(async move {
                    fanout.handle(&pulled).await;
                    drop(place);
                });
            }
        }
        pull.hand_back().await;
        tasks.close();
        tasks.wait().await;
    }

    /// Waits until the index has every webhook that was created before the batch was pulled, and
    /// so before its events were accepted. `false` when the service stops.
    async fn catch_up(&self) -> bool {
        let mirror = &self.mirror;
        let caught_up = webhooks_runtime::retry(
            "confirming the read model",
            CATCH_UP,
            &self.shutdown,
            || {
                let mirror = mirror.clone();
                async move { mirror.catch_up().await }
            },
        );
        caught_up.await.is_some()
    }
}

async fn give_back(batch: Vec<Pulled>) {
    for pulled in batch {
        if let Err(error) = pulled.acker().nak(None).await {
            tracing::debug!(%error, "an event could not be given back");
        }
    }
}
