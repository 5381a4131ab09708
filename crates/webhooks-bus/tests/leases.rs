//! Leases on a real nats-server that freezes, and over a line that is cut.

#![cfg(test)]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use webhooks_bus::{Bus, BusSettings, Handover, LeaseEvent, Leases, LeasesSettings, StoredMessage};
use webhooks_devstack::{Course, Line, NatsServer, Signal, wait_until};

const LIMIT: Duration = Duration::from_secs(20);
const PARTITIONS: u16 = 16;

struct World {
    nats: NatsServer,
    _folder: tempfile::TempDir,
}

struct Member {
    leases: Leases,
    events: mpsc::UnboundedReceiver<LeaseEvent>,
    epochs: HashMap<u16, u64>,
    ended: CancellationToken,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nats = NatsServer::builder(folder.path()).start().await.unwrap();
        let bus = connect(&nats.url()).await;
        wait_until("the topology", LIMIT, async || bus.apply_topology().await)
            .await
            .unwrap();
        Self {
            nats,
            _folder: folder,
        }
    }

    async fn line(&self) -> Line {
        let target = ([127, 0, 0, 1], self.nats.port());
        Line::to(target.into()).await.unwrap()
    }
}

async fn connect(url: &str) -> Bus {
    let settings = BusSettings {
        url: url.to_owned(),
        ..BusSettings::default()
    };
    Bus::connect(settings, "test").await.unwrap()
}

impl Member {
    async fn join(name: &str, url: &str) -> Self {
        let settings = LeasesSettings {
            member: name.to_owned(),
            partitions: PARTITIONS,
            ttl: Duration::from_secs(3),
            renew: Duration::from_millis(500),
        };
        let ended = CancellationToken::new();
        let (leases, events) = Leases::start(&connect(url).await, settings, ended.clone());
        Self {
            leases,
            events,
            epochs: HashMap::new(),
            ended,
        }
    }

    /// Gives what it is asked for, as who has nothing in hand does.
    async fn obey(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                LeaseEvent::Gained {
                    partition, epoch, ..
                } => {
                    self.epochs.insert(partition, epoch);
                }
                LeaseEvent::Give { partition } => {
                    if let Some(epoch) = self.epochs.get(&partition) {
                        // What cannot be given now is asked for again.
                        self.leases
                            .release(partition, *epoch, Vec::new())
                            .await
                            .ok();
                    }
                }
                LeaseEvent::Lost { .. } => {}
            }
        }
    }

    fn sends(&self) -> usize {
        (0..PARTITIONS)
            .filter(|partition| self.leases.may_send(*partition))
            .count()
    }

    async fn until_it_may_send(&self, count: usize) {
        wait_until("its partitions", LIMIT, async || match self.sends() {
            found if found == count => Ok(()),
            found => Err(found),
        })
        .await
        .unwrap();
    }

    /// What has happened since the last look.
    fn happened(&mut self) -> Vec<LeaseEvent> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stalls_for_a_second_costs_no_partition_and_no_pause() {
    let world = World::start().await;
    let mut member = Member::join("a", &world.nats.url()).await;
    member.until_it_may_send(16).await;
    member.happened();
    let probe = connect(&world.nats.url()).await;
    let mut rounds = 0;
    for _ in 0..20 {
        let renewals = probe.last_seq("KV_LEASES").await.unwrap();
        let watcher = Watcher::start(&member.leases);
        let stopped = Instant::now();
        world.nats.signal(Signal::STOP).unwrap();
        // How long the fault lasts.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        world.nats.signal(Signal::CONT).unwrap();
        wait_until("the server to answer", LIMIT, async || {
            probe.last_seq("KV_LEASES").await
        })
        .await
        .unwrap();
        let lasted = stopped.elapsed();
        wait_until("renewals to go on", LIMIT, async || {
            match probe.last_seq("KV_LEASES").await {
                Ok(found) if found >= renewals + 5 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
        let (pauses, was_late) = watcher.stop();
        let happened = member.happened();
        // A machine that stood still itself has made the fault longer than it was to be.
        if was_late || lasted > Duration::from_millis(1_300) {
            member.until_it_may_send(16).await;
            continue;
        }
        assert_eq!(pauses, 0);
        assert_eq!(happened, []);
        rounds += 1;
        if rounds == 2 {
            return;
        }
    }
    panic!("{rounds} rounds of twenty in which the machine had time for this");
}

/// Looks every millisecond whether a member may send.
struct Watcher {
    stop: Arc<AtomicBool>,
    looking: std::thread::JoinHandle<(u64, bool)>,
}

impl Watcher {
    fn start(leases: &Leases) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (leases, stopped) = (leases.clone(), stop.clone());
        let looking = std::thread::spawn(move || {
            let (mut pauses, mut was_late) = (0, false);
            let mut last = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                pauses += u64::from((0..PARTITIONS).any(|partition| !leases.may_send(partition)));
                std::thread::sleep(Duration::from_millis(1));
                was_late |= last.elapsed() > Duration::from_millis(200);
                last = Instant::now();
            }
            (pauses, was_late)
        });
        Self { stop, looking }
    }

    /// How often it might not, and whether a look came late.
    fn stop(self) -> (u64, bool) {
        self.stop.store(true, Ordering::Relaxed);
        self.looking.join().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_lapse_partitions_that_nobody_took_are_still_ours() {
    let world = World::start().await;
    let mut member = Member::join("a", &world.nats.url()).await;
    member.until_it_may_send(16).await;
    member.happened();
    world.nats.signal(Signal::STOP).unwrap();
    // Fenced by itself: nobody can tell it.
    member.until_it_may_send(0).await;
    world.nats.signal(Signal::CONT).unwrap();
    member.until_it_may_send(16).await;
    assert_eq!(member.happened(), [], "they were never lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_took_meanwhile_is_lost_and_never_sent_by_both() {
    let world = World::start().await;
    let line = world.line().await;
    let mut cut_off = Member::join("a", &format!("nats://{}", line.address())).await;
    cut_off.until_it_may_send(16).await;
    cut_off.happened();
    let mut other = Member::join("b", &world.nats.url()).await;
    wait_until("it to know the owner", LIMIT, async || {
        match other.leases.ownerless() {
            0 => Ok(()),
            unknown => Err(unknown),
        }
    })
    .await
    .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let overlaps = Arc::new(AtomicU64::new(0));
    let watcher = {
        let members = [cut_off.leases.clone(), other.leases.clone()];
        let (stop, overlaps) = (stop.clone(), overlaps.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for partition in 0..PARTITIONS {
                    // Once more the first: between two looks a second may have passed.
                    let [first, second] = &members;
                    let may = |leases: &Leases| leases.may_send(partition);
                    if may(first) && may(second) && may(first) {
                        overlaps.fetch_add(1, Ordering::Relaxed);
                    }
                }
                std::thread::yield_now();
            }
        })
    };
    line.set(Course::Cut);
    cut_off.until_it_may_send(0).await;
    // It takes all of them: the one that is cut off is dead to it.
    other.until_it_may_send(16).await;
    let taken: Vec<_> = other
        .happened()
        .into_iter()
        .filter_map(|event| match event {
            LeaseEvent::Gained { handover, .. } => Some(handover),
            _ => None,
        })
        .collect();
    assert_eq!(taken, vec![Handover::FromDead; 16]);
    line.set(Course::Open);
    let mut lost = 0;
    wait_until("all of them to be lost", LIMIT, async || {
        while let Ok(event) = cut_off.events.try_recv() {
            lost += usize::from(matches!(event, LeaseEvent::Lost { .. }));
        }
        if lost == 16 { Ok(()) } else { Err(lost) }
    })
    .await
    .unwrap();
    stop.store(true, Ordering::Relaxed);
    watcher.join().unwrap();
    assert_eq!(overlaps.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_takes_over_from_an_owner_that_died_before_it_looked() {
    let world = World::start().await;
    let url = world.nats.url();
    let owner = Member::join("a", &url).await;
    owner.until_it_may_send(16).await;
    // As if it were killed: its key ends by its time to live.
    owner.ended.cancel();
    let probe = connect(&url).await;
    wait_until("its key to end", LIMIT, async || {
        match probe.get_last("KV_LEASES", "$KV.LEASES.m.a").await {
            Ok(found) if found.as_ref().is_none_or(StoredMessage::is_end_of_key) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    let mut joining = Member::join("b", &url).await;
    joining.until_it_may_send(16).await;
    let taken = joining.happened();
    assert_eq!(taken.len(), 16);
    assert!(taken.iter().all(|event| matches!(
        event,
        LeaseEvent::Gained {
            handover: Handover::FromDead,
            ..
        }
    )));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_after_a_restart_of_the_server_is_seen_as_soon_as_any() {
    let mut world = World::start().await;
    let url = world.nats.url();
    let (mut stays, mut dies) = (Member::join("a", &url).await, Member::join("b", &url).await);
    for restart in [false, true] {
        if restart {
            world.nats.restart().await.unwrap();
        }
        // Who saw itself alone for a moment has taken all of them, and gives half of them away.
        wait_until("both to be certain of their half", LIMIT, async || {
            stays.obey().await;
            dies.obey().await;
            match (stays.sends(), dies.sends()) {
                (8, 8) => Ok(()),
                other => Err(other),
            }
        })
        .await
        .unwrap();
    }
    let died = Instant::now();
    dies.ended.cancel();
    stays.until_it_may_send(16).await;
    // Its key lives for 3 s; a watch that went with the server is missed after 10 s at the earliest.
    let took = died.elapsed();
    assert!(took < Duration::from_millis(9_500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_renew_for_long_gives_up_by_himself() {
    let world = World::start().await;
    let line = world.line().await;
    let mut member = Member::join("a", &format!("nats://{}", line.address())).await;
    member.until_it_may_send(16).await;
    member.happened();
    line.set(Course::Cut);
    let mut lost = 0;
    wait_until("all of them to be given up", LIMIT, async || {
        while let Ok(event) = member.events.try_recv() {
            lost += usize::from(matches!(event, LeaseEvent::Lost { .. }));
        }
        if lost == 16 { Ok(()) } else { Err(lost) }
    })
    .await
    .unwrap();
    assert_eq!(member.leases.owned(), 0);
    line.set(Course::Open);
    member.until_it_may_send(16).await;
}
