//! What recording costs: verdicts and reports in batches of 500 into the database of
//! `DATABASE_URL` (which it migrates), by so many writers at a time.
//!
//! `DATABASE_URL=… cargo run --release -p webhooks-store --example report_cost -- [deliveries] [writers]`

use std::time::Instant;

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::try_join_all;
use uuid::Uuid;
use webhooks_domain::{
    delivery::DeliveryState,
    endpoint::outcome::Outcome,
    ids::{self, Trigger},
};
use webhooks_store::{
    AttemptRecord, Day, DeliveryFacts, RenditionRecord, ReportRecord, ResponseHeader, Store,
    StoreSettings, Timings, VerdictDelivery, VerdictRecord,
};

const BATCH: usize = 500;
const WEBHOOKS: usize = 20;
/// 2026-01-15T12:00:00Z.
const START: i64 = 1_768_478_400_000_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| {
        arguments
            .next()
            .map_or(Ok(default), |text| text.parse::<usize>())
    };
    let (deliveries, writers) = (number(100_000)?, number(2)?.max(1));
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL is not set")?;
    let store = Store::connect(&StoreSettings::new(url))?;
    store.migrate().await?;
    store.ensure_partitions(Day::of_micros(START), 1).await?;
    // Another run's deliveries are others, and the same day's.
    let workspace = Uuid::new_v4();
    let webhooks: Vec<_> = (0..WEBHOOKS).map(|_| Uuid::new_v4()).collect();
    let all: Vec<_> = (0..deliveries)
        .map(|n| delivery(workspace, &webhooks, n))
        .collect();
    let verdicts: Vec<_> = all.iter().map(verdict).collect();
    let reports: Vec<_> = all.iter().map(report).collect();
    measure("verdicts", writers, &verdicts, async |batch| {
        store.record_verdicts(batch).await
    })
    .await?;
    measure("reports", writers, &reports, async |batch| {
        store.record_reports(batch).await
    })
    .await?;
    measure("reports again", writers, &reports, async |batch| {
        store.record_reports(batch).await
    })
    .await?;
    Ok(())
}

async fn measure<T>(
    name: &str,
    writers: usize,
    records: &[T],
    write: impl AsyncFn(&[T]) -> Result<(), webhooks_store::StoreError>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let batches: Vec<_> = records.chunks(BATCH).collect();
    let writer = async |first: usize| {
        for batch in batches.iter().skip(first).step_by(writers) {
            write(batch).await?;
        }
        anyhow::Ok(())
    };
    try_join_all((0..writers).map(writer)).await?;
    let spent = begun.elapsed();
    let micros = u32::try_from(spent.as_micros())?;
    let count = u32::try_from(records.len())?;
    let each = f64::from(micros) / f64::from(count.max(1));
    #[expect(
        clippy::print_stdout,
        reason = "the figures are what this program is for"
    )]
    {
        println!(
            "{name}: {count} in {spent:.1?}, {each:.1} µs each, {:.0}/s",
            1e6 / each
        );
    }
    Ok(())
}

fn delivery(workspace: Uuid, webhooks: &[Uuid], n: usize) -> DeliveryFacts {
    let event_id = Uuid::from_u128(n as u128).to_string();
    let created_at = START + i64::try_from(n).unwrap_or(0) * 200;
    let webhook = webhooks[n % webhooks.len()];
    DeliveryFacts {
        delivery_id: ids::delivery_id(workspace, &event_id, webhook, created_at),
        webhook_id: webhook,
        workspace_id: workspace,
        event_id,
        event_type: "step.completed".into(),
        link_id: Some(Uuid::from_u128(77)),
        lbid: "2VqKhjxtKwC7pBbg".into(),
        trigger: Trigger::Event,
        created_at,
        event_seq: u64::try_from(n).unwrap_or(0),
    }
}

/// An event of 3 kB whose text compresses about as JSON does, and a snapshot of 350 bytes.
fn verdict(delivery: &DeliveryFacts) -> VerdictRecord {
    let mut head = String::with_capacity(3_000);
    for n in 0..40u128 {
        let noise = Uuid::from_u128(
            (delivery.delivery_id.as_u128() ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C),
        );
        head.push_str(&format!("\"member{n}\":\"{noise}\",\"flag\":false,"));
    }
    VerdictRecord {
        workspace_id: delivery.workspace_id,
        event_id: delivery.event_id.clone(),
        event_seq: delivery.event_seq,
        link_id: delivery.link_id,
        lbid: delivery.lbid.clone(),
        event_type: delivery.event_type.clone(),
        step_kind: "KIND_EXIT".into(),
        event_action: "CLIENT_REDIRECT".into(),
        accepted_at: delivery.created_at,
        event_timestamp: delivery.created_at,
        renderer_version: 1,
        renditions: vec![RenditionRecord {
            profile: "standard".into(),
            head: head.into(),
            tail: Bytes::from_static(b"}"),
        }],
        deliveries: vec![VerdictDelivery {
            delivery_id: delivery.delivery_id,
            webhook_id: delivery.webhook_id,
            snapshot: Bytes::from(format!(
                "{{\"id\":\"{}\",{}}}",
                delivery.webhook_id,
                "x".repeat(300)
            )),
            rendition: 0,
            held: false,
        }],
    }
}

fn report(delivery: &DeliveryFacts) -> ReportRecord {
    let header = |name: &str, value: &str| ResponseHeader {
        name: name.into(),
        value: value.into(),
    };
    let attempt = AttemptRecord {
        number: 1,
        execution_id: Uuid::new_v4(),
        started_at: delivery.created_at + 2_000,
        outcome: Outcome::Success,
        class: None,
        status_code: Some(200),
        timings: Timings {
            first_byte_us: Some(900),
            total_us: Some(1_000),
            ..Timings::default()
        },
        response_headers: vec![
            header("content-type", "application/json"),
            header("date", "Thu, 15 Jan 2026 12:00:00 GMT"),
            header("content-length", "15"),
        ],
        response_body: Bytes::from_static(b"{\"status\":\"ok\"}"),
        response_body_truncated: false,
        error: String::new(),
        remote_ip: "192.0.2.1".into(),
        dispatcher: "dispatcher-1".into(),
    };
    ReportRecord {
        delivery: delivery.clone(),
        state: DeliveryState::Delivered,
        attempts_made: 1,
        next_attempt_at: None,
        at: delivery.created_at + 3_000,
        attempt: Some(attempt),
        reason: String::new(),
        waits_for: None,
        snapshot: None,
    }
}
