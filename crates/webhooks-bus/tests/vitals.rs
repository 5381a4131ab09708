//! Readiness at a real nats-server that stands still and keeps its connections.

#![cfg(test)]

mod server;

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use webhooks_bus::{Bus, Vitals};
use webhooks_devstack::{NatsServer, Signal, wait_until};
use webhooks_runtime::Readiness;

const LIMIT: Duration = Duration::from_secs(20);

/// Some 6 s, and room for a machine that is busy.
const TOLD_WITHIN: Duration = Duration::from_secs(12);

struct World {
    nats: NatsServer,
    bus: Bus,
    readiness: Readiness,
    ended: CancellationToken,
    _folder: tempfile::TempDir,
}

impl World {
    /// Watched, and ready.
    async fn start() -> Self {
        let (nats, bus, folder) = server::start().await.unwrap();
        let (readiness, ended) = (Readiness::new(), CancellationToken::new());
        let (vitals, watched) = (Vitals::new(&bus, &readiness), ended.clone());
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move { vitals.watch(watched, |_| ()).await });
        let world = Self {
            nats,
            bus,
            readiness,
            ended,
            _folder: folder,
        };
        world.until_ready().await;
        world
    }

    async fn until_ready(&self) {
        wait_until("readiness", LIMIT, async || {
            let state = self.readiness.state();
            match state.is_ready() {
                true => Ok(()),
                false => Err(state.missing()),
            }
        })
        .await
        .unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_31_a_server_that_keeps_the_connection_and_says_nothing_is_told_within_seconds() {
    let world = World::start().await;
    assert!(world.nats.signal(Signal::STOP).unwrap());
    let stopped = Instant::now();
    let told = wait_until("readiness to fall", LIMIT, async || {
        let missing = world.readiness.state().missing();
        let nats = missing.iter().find(|line| line.starts_with("nats: "));
        nats.cloned().ok_or(missing)
    })
    .await
    .unwrap();
    let took = stopped.elapsed();
    assert!(
        world.bus.is_connected(),
        "{told}: the connection itself broke"
    );
    assert!(took < TOLD_WITHIN, "{told}: after {took:?}");
    assert!(world.nats.signal(Signal::CONT).unwrap());
    world.until_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_pauses_for_a_moment_stays_ready() {
    let world = World::start().await;
    let follower = world.readiness.subscribe();
    for _ in 0..2 {
        let received = world.bus.client().statistics();
        assert!(world.nats.signal(Signal::STOP).unwrap());
        // How long the fault lasts.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let before = received.in_bytes.load(std::sync::atomic::Ordering::Relaxed);
        assert!(world.nats.signal(Signal::CONT).unwrap());
        wait_until("it to be heard again", LIMIT, async || {
            let now = received.in_bytes.load(std::sync::atomic::Ordering::Relaxed);
            if now > before { Ok(()) } else { Err(now) }
        })
        .await
        .unwrap();
    }
    assert!(!follower.has_changed().unwrap(), "{:?}", follower.borrow());
}
