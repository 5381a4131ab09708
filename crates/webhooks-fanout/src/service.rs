//! The pull loop, and its end.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_bus::{
    Bus, BusError, ConfigMirror, PROGRESS_EVERY, PullSettings, Pulled, StatsMirror, SteadyClock,
    Vitals, headers, names,
};
use webhooks_runtime::{Backoff, Context};

use crate::{
    config::{Config, EVENT_SHARE},
    confirm::Confirm,
    fair::{Limits, Line},
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

/// Events of one workspace that are handled at a time: three quarters of the default in all, so that an
/// event of another workspace finds a place at once. Fewer (64 were tried) cost one busy workspace a
/// fifth of its throughput, as what goes to NATS together becomes smaller.
const WORKSPACE_SHARE: usize = 192;

/// Pulled events that wait for their turn: a burst of so many delays no other workspace by more than it
/// takes to pull it. What waits longer than [`PROGRESS_EVERY`] costs a message every
/// [`WAITING_EVERY`] each.
const MAX_WAITING: usize = 16_384;

/// Their bytes.
const MAX_WAITING_BYTES: usize = 32 << 20;

/// Pulled events whose webhooks are not confirmed yet, beside those that wait for their turn.
const MAX_UNCONFIRMED: usize = 512;

/// Events under way from which on there is enough to do, so that nobody waits for the next ones.
const BUSY: usize = 32;

/// How often it is told that waiting events are in hand: twice before their consumer's `ack_wait`
/// ends, whenever they came. On a replicated consumer each telling is a proposal to the others.
const WAITING_EVERY: Duration = Duration::from_millis(1_500);

/// How long one round of telling may take; with room on the way it takes milliseconds.
const TELLING_LIMIT: Duration = Duration::from_millis(500);

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
    pub async fn run(self, mut ctx: Context) -> Result<(), FanoutError> {
        let Self { config, bus } = self;
        SteadyClock::install(&mut ctx, &bus);
        let drained = CancellationToken::new();
        let index = Arc::new(SharedIndex::default());
        let mirror = ConfigMirror::start(&bus, index.clone(), drained.clone());
        let fanout = Fanout {
            stats: StatsMirror::start(&bus, drained.clone()),
            publisher: Publisher::new(bus.clone(), config.publish_window, ctx.shutdown.clone()),
            clock: ctx.clock.clone(),
            share: EVENT_SHARE.min(config.publish_window),
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
        let settings = PullSettings::default();
        let mut pull = self
            .fanout
            .bus
            .pull(names::EVENTS, names::EVENTS_CONSUMER, settings);
        let mut line: Line<Pulled> = Line::new(Limits {
            share: WORKSPACE_SHARE.min(self.concurrency),
            under_way: self.concurrency,
            waiting: MAX_WAITING,
            bytes: MAX_WAITING_BYTES,
        });
        let mut confirm: Confirm<Pulled> = Confirm::new(MAX_UNCONFIRMED, {
            let (mirror, shutdown) = (self.mirror.clone(), self.shutdown.clone());
            move || catch_up(mirror.clone(), shutdown.clone()).boxed()
        });
        let mut under_way = UnderWay::default();
        let mut in_hand = InHand::default();
        let mut progress = tokio::time::interval(WAITING_EVERY);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some((workspace, pulled)) = line.start() {
                let fanout = self.fanout.clone();
                let seq = pulled.stream_seq;
                under_way.start(workspace, seq, async move { fanout.handle(&pulled).await });
            }
            let busy = under_way.len() >= BUSY;
            tokio::select! {
                () = self.shutdown.cancelled() => break,
                (workspace, seq) = under_way.next(), if !under_way.is_empty() => {
                    in_hand.done(seq);
                    line.ended(workspace);
                }
                confirmed = confirm.next(busy) => {
                    let Some(confirmed) = confirmed else { break };
                    for pulled in confirmed {
                        let bytes = pulled.payload.len();
                        line.push(workspace_of(&pulled), pulled, bytes);
                    }
                }
                batch = pull.next_batch(settings.batch), if line.has_room() && confirm.has_room() => {
                    confirm.push(in_hand.take(batch));
                }
                _ = progress.tick() => {
                    if self.fanout.bus.is_connected() {
                        signal_progress(line.waiting().chain(confirm.waiting())).await;
                    }
                }
            }
        }
        give_back(confirm.drain()).await;
        give_back(line.drain()).await;
        pull.hand_back().await;
        while !under_way.is_empty() {
            under_way.next().await;
        }
    }
}

/// Waits until the index has every webhook that was created before now. `false` when the service stops.
async fn catch_up(mirror: ConfigMirror, shutdown: CancellationToken) -> bool {
    let caught_up =
        webhooks_runtime::retry("confirming the read model", CATCH_UP, &shutdown, || {
            let mirror = mirror.clone();
            async move { mirror.catch_up().await }
        });
    caught_up.await.is_some()
}

/// Sequences of the events that were pulled and are not done with. One that is handed over again
/// meanwhile (NATS stood still for longer than `ack_wait`) is not handled a second time beside itself:
/// its first acknowledgement is for both.
#[derive(Default)]
struct InHand(HashSet<u64>);

impl InHand {
    /// The events that are not in hand yet.
    fn take(&mut self, mut batch: Vec<Pulled>) -> Vec<Pulled> {
        batch.retain(|pulled| {
            let new = self.0.insert(pulled.stream_seq);
            if !new {
                metrics::counter!("webhooks_fanout_redelivered_in_hand_total").increment(1);
            }
            new
        });
        batch
    }

    fn done(&mut self, seq: u64) {
        self.0.remove(&seq);
    }
}

/// Events being handled, each with its workspace and its sequence.
#[derive(Default)]
struct UnderWay {
    tasks: JoinSet<()>,
    events: HashMap<tokio::task::Id, (Uuid, u64)>,
}

impl UnderWay {
    fn start(
        &mut self,
        workspace: Uuid,
        seq: u64,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let id = self.tasks.spawn(work).id();
        self.events.insert(id, (workspace, seq));
    }

    fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Workspace and sequence of the next one that ends. Cancel-safe; not to be asked when there is
    /// none.
    async fn next(&mut self) -> (Uuid, u64) {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => {
                // Handling survives panics; its message comes again.
                tracing::error!(%error, "the handling of an event ended early");
                error.id()
            }
            None => return (Uuid::nil(), 0),
        };
        self.events.remove(&id).unwrap_or_default()
    }
}

/// Whose turn an event takes. One without a readable workspace is poison, and found to be when it is
/// handled.
fn workspace_of(pulled: &Pulled) -> Uuid {
    let header = pulled.header(headers::WORKSPACE);
    header
        .and_then(|text| Uuid::try_parse(text).ok())
        .unwrap_or_default()
}

/// What waits is not to be handed to somebody else meanwhile. Most wait for less than a tick, and are
/// not told of. Where the way to NATS is full, it is given up until the next tick: what else waits for it
/// goes first, and so does a shutdown.
async fn signal_progress(waiting: impl Iterator<Item = &Pulled>) {
    let now = Instant::now();
    let telling = async {
        for pulled in waiting.filter(|one| now.duration_since(one.pulled) >= PROGRESS_EVERY) {
            if let Err(error) = pulled.acker().progress().await {
                tracing::debug!(%error, "progress of an event could not be told");
            }
        }
    };
    if tokio::time::timeout(TELLING_LIMIT, telling).await.is_err() {
        tracing::debug!("not all that waits could be told of in time");
    }
}

async fn give_back(batch: Vec<Pulled>) {
    for pulled in batch {
        if let Err(error) = pulled.acker().nak(None).await {
            tracing::debug!(%error, "an event could not be given back");
        }
    }
}
