//! Very many outstanding retries, made by the dispatcher itself: the endpoints answer 503 with a
//! `Retry-After` that ends at one moment for all, and 200 from then on. So every delivery has one
//! attempt, then a schedule on RETRIES, and all schedules are due at once: the worst case for whoever
//! works them off.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::ensure;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_bus::{Bus, names};
use webhooks_devstack::wait_until;

use super::{
    Report, make_webhooks, on_link,
    sink::{Behaviour, OK, Sink},
    watch::{self, Watch},
};
use crate::{
    ledger::Ledger,
    now_micros,
    publish::{self, Door, Gate, Plan, Subject},
    stack::Stack,
};

/// How far the publisher may be ahead of the receiver, in deliveries.
const LEAD: u64 = 20_000;

/// How long a phase may take.
const LIMIT: Duration = Duration::from_secs(3 * 3_600);

pub(super) async fn run(
    stack: &Stack,
    (count, webhooks, due_after): (u64, u32, Duration),
    note: &mut (dyn FnMut(String) + Send),
) -> anyhow::Result<Report> {
    ensure!(
        webhooks > 0 && count.is_multiple_of(u64::from(webhooks)),
        "{count} deliveries cannot be shared by {webhooks} webhooks"
    );
    let mut report = Report::default();
    report.add("memory at rest", watch::shown(&watch::at_rest(stack).await));
    let bus = stack.bus().await?;
    let due = now_micros() + i64::try_from(due_after.as_micros())?;
    let (refused, taken) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let answer = answer(due, Arc::clone(&refused), Arc::clone(&taken));
    let sink = Sink::start(Behaviour::Answer(answer)).await?;
    let workspace = stack.workspace("retries").await?;
    let link = Uuid::new_v4();
    let wishes = (0..webhooks).map(|n| on_link(format!("retried {n}"), sink.url(n), link));
    make_webhooks(stack, &workspace, wishes.collect()).await?;

    note(format!("making {count} retries"));
    let begun = Instant::now();
    let fan_out = u64::from(webhooks);
    let seen = Arc::clone(&refused);
    let plan = Plan {
        count: Some(count / fan_out),
        batch: 10,
        gate: Some(Gate::new(move |n| {
            n.saturating_mul(fan_out) <= seen.load(Ordering::Relaxed) + LEAD
        })),
        ..Plan::default()
    };
    let subject = Subject {
        workspace: workspace.id,
        links: vec![link],
        kinds: vec!["KIND_EXIT".to_owned()],
    };
    let target = stack.door(Door::Http, &workspace);
    let (ledger, stop) = (Ledger::none(), CancellationToken::new());
    let mut making = Watch::default();
    let work = async {
        let tally = publish::run(&target, &subject, &plan, &ledger, &stop).await?;
        ensure!(tally.ok == count / fan_out, "{tally:?}");
        wait_until("every first attempt", LIMIT, async || {
            match refused.load(Ordering::Relaxed) + taken.load(Ordering::Relaxed) {
                seen if seen >= count => Ok(()),
                seen => Err(format!("{seen} of {count}")),
            }
        })
        .await
    };
    making.during(stack, work).await?;
    let outstanding = wait_scheduled(&bus, &refused, &taken).await?;
    let seconds = begun.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    let each_second = |seconds: f64| count as f64 / seconds;
    report.add(
        format!("{outstanding} retries outstanding of {count} deliveries"),
        format!(
            "made in {seconds:.0} s, {:.0} a second; most memory: {}",
            each_second(seconds),
            making.shown()
        ),
    );
    let disk = |part: &str| watch::on_disk(&stack.folder().join(part));
    report.add(
        "on disk then",
        format!(
            "nats-server {} MiB, PostgreSQL {} MiB",
            disk("nats"),
            disk("postgres")
        ),
    );
    let resting = watch::at_rest(stack).await;
    report.add("memory while they wait", watch::shown(&resting));

    let left = Duration::from_micros(u64::try_from(due - now_micros()).unwrap_or(0));
    note(format!(
        "all of them are due in {:.0} s",
        left.as_secs_f64()
    ));
    let mut waiting = Watch::default();
    waiting.during(stack, tokio::time::sleep(left)).await;
    report.add("most memory until they were due", waiting.shown());

    let begun = Instant::now();
    let mut draining = Watch::default();
    let drained = wait_until("every retry", LIMIT, async || {
        match taken.load(Ordering::Relaxed) {
            seen if seen >= count => Ok(()),
            seen => Err(format!("{seen} of {count}")),
        }
    });
    draining.during(stack, drained).await?;
    let seconds = begun.elapsed().as_secs_f64();
    report.add(
        "from the moment they were due until the last was taken",
        format!(
            "{seconds:.0} s, {:.0} a second; most memory: {}",
            each_second(seconds),
            draining.shown()
        ),
    );
    wait_until("RETRIES to be empty", LIMIT, async || {
        match retries(&bus).await {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    report.add(
        "requests in all",
        format!(
            "{} refused, {} taken",
            refused.load(Ordering::Relaxed),
            taken.load(Ordering::Relaxed)
        ),
    );
    report.add(
        "on disk at the end",
        format!(
            "nats-server {} MiB, PostgreSQL {} MiB",
            disk("nats"),
            disk("postgres")
        ),
    );
    report.add(
        "memory at the end",
        watch::shown(&watch::at_rest(stack).await),
    );
    Ok(report)
}

type Answer = Arc<dyn Fn() -> Bytes + Send + Sync>;

/// 503 with the seconds that are left until `due`, then 200.
fn answer(due: i64, refused: Arc<AtomicU64>, taken: Arc<AtomicU64>) -> Answer {
    Arc::new(move || {
        let left = (due - now_micros()).div_euclid(1_000_000);
        if left > 0 {
            refused.fetch_add(1, Ordering::Relaxed);
            let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: ";
            format!("{head}{left}\r\n\r\n").into()
        } else {
            taken.fetch_add(1, Ordering::Relaxed);
            Bytes::from_static(OK)
        }
    })
}

/// Every schedule is written: as many as were refused and not taken since.
async fn wait_scheduled(bus: &Bus, refused: &AtomicU64, taken: &AtomicU64) -> anyhow::Result<u64> {
    wait_until("the schedules", LIMIT, async || {
        let owed = refused
            .load(Ordering::Relaxed)
            .saturating_sub(taken.load(Ordering::Relaxed));
        match retries(bus).await {
            Ok(there) if there >= owed => Ok(there),
            other => Err(format!("{other:?} of {owed}")),
        }
    })
    .await
}

async fn retries(bus: &Bus) -> anyhow::Result<u64> {
    let mut all = 0;
    for shard in 0..bus.settings().shards() {
        let stream = names::retries(shard * names::PARTITIONS_PER_STREAM);
        all += bus.message_count(&stream).await?;
    }
    Ok(all)
}
