//! Whatever the order, the repetition and the batches: the same reports make the same tables.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::try_join_all;
use proptest::prelude::*;
use uuid::Uuid;
use webhooks_domain::{
    delivery::DeliveryState,
    endpoint::outcome::{FailureClass, Outcome},
};
use webhooks_store::{DeliveryFacts, ReportRecord, StoreError, VerdictRecord};

use crate::support::{Database, Draw, NOON, SECOND, attempt, facts, verdict};

#[derive(Debug, Clone)]
enum Message {
    Report(Box<ReportRecord>),
    Verdict(Box<VerdictRecord>),
}

/// A report in small numbers, so that many of them are about the same thing.
#[derive(Debug, Clone)]
struct Seed {
    delivery: usize,
    kind: usize,
    number: u32,
    execution: u128,
    at: i64,
    made: u32,
}

fn any_seed() -> impl Strategy<Value = Seed> {
    (0usize..5, 0usize..9, 1u32..4, 0u128..2, 0i64..6, 0u32..3).prop_map(
        |(delivery, kind, number, execution, at, made)| Seed {
            delivery,
            kind,
            number,
            execution,
            at,
            made,
        },
    )
}

fn delivery(n: usize) -> DeliveryFacts {
    let webhook = Uuid::from_u128(1 + u128::try_from(n % 2).unwrap());
    let yesterday = if n == 4 { 86_400 * SECOND } else { 0 };
    facts(
        Uuid::from_u128(9),
        webhook,
        &format!("event-{n}"),
        NOON - yesterday,
    )
}

fn message(seed: &Seed) -> Message {
    let facts = delivery(seed.delivery);
    if seed.kind == 8 {
        return Message::Verdict(Box::new(verdict(&facts)));
    }
    let (state, with_attempt) = match seed.kind {
        0 => (DeliveryState::Retrying, true),
        1 => (DeliveryState::Delivered, true),
        2 => (DeliveryState::Failed, true),
        3 => (DeliveryState::Held, true),
        4 => (DeliveryState::Held, false),
        5 => (DeliveryState::Pending, false),
        6 => (DeliveryState::Cancelled, false),
        _ => (DeliveryState::Retrying, false),
    };
    let at = facts.created_at + seed.at * SECOND;
    let attempt = with_attempt.then(|| {
        // What an execution met is a matter of the execution, not of who reports it.
        let outcome = [
            Outcome::HttpError,
            Outcome::Timeout,
            Outcome::Internal,
            Outcome::Success,
        ][(usize::try_from(seed.number + 2 * u32::try_from(seed.execution).unwrap()).unwrap()
            + seed.delivery)
            % 4];
        let mut attempt = attempt(
            seed.number,
            facts.created_at + i64::from(seed.number) * SECOND,
            outcome,
        );
        attempt.execution_id = Uuid::from_u128(seed.execution);
        if outcome == Outcome::Internal {
            attempt.class = Some(FailureClass::Ours);
        }
        attempt
    });
    Message::Report(Box::new(ReportRecord {
        delivery: facts,
        state,
        attempts_made: seed.made,
        next_attempt_at: (state == DeliveryState::Retrying).then_some(at + SECOND),
        at,
        // Not every report without an attempt has one.
        reason: match (with_attempt, seed.execution % 2) {
            (false, 0) => "hold_expired".to_owned(),
            _ => String::new(),
        },
        // Only a first attempt brings the snapshot, and not every one knows it.
        snapshot: (with_attempt && seed.number == 1 && seed.execution == 0)
            .then(|| (Bytes::from_static(b"{\"id\":1}"), 0)),
        waits_for: seed
            .execution
            .is_multiple_of(3)
            .then(|| Uuid::from_u128(seed.execution)),
        attempt,
    }))
}

async fn record(database: &Database, messages: &[Message]) -> Result<(), StoreError> {
    let (mut reports, mut verdicts) = (Vec::new(), Vec::new());
    for message in messages {
        match message {
            Message::Report(report) => reports.push(report.as_ref().clone()),
            Message::Verdict(verdict) => verdicts.push(verdict.as_ref().clone()),
        }
    }
    database.store.record_verdicts(&verdicts).await?;
    database.store.record_reports(&reports).await
}

/// All of history as text, but for the transaction that wrote last.
async fn tables(database: &Database) -> Vec<String> {
    let mut tables = Vec::new();
    for select in [
        "SELECT d::text FROM deliveries d ORDER BY id",
        "SELECT a::text FROM attempts a ORDER BY delivery_id, number, execution_id",
        "SELECT e::text FROM events e ORDER BY event_id",
        "SELECT c::text FROM delivery_counts c ORDER BY webhook_id, day",
        "SELECT concat_ws(' ', webhook_id, success_count, failure_count, last_sent_at, last_delivered_at) FROM webhook_stats ORDER BY webhook_id",
    ] {
        tables.extend(database.texts(select).await);
    }
    tables
}

/// What the counters say must be what a count over the log says.
pub(crate) async fn assert_counters_equal_the_log(database: &Database) {
    let kept = database.texts("
        SELECT concat_ws(' ', webhook_id, day, pending, retrying, held, delivered, failed, cancelled)
        FROM delivery_counts ORDER BY webhook_id, day").await;
    let counted = database
        .texts(
            "
        SELECT concat_ws(' ', webhook_id, day, count(*) FILTER (WHERE state = 'PENDING'),
          count(*) FILTER (WHERE state = 'RETRYING'), count(*) FILTER (WHERE state = 'HELD'),
          count(*) FILTER (WHERE state = 'DELIVERED'), count(*) FILTER (WHERE state = 'FAILED'),
          count(*) FILTER (WHERE state = 'CANCELLED'))
        FROM deliveries GROUP BY webhook_id, day ORDER BY webhook_id, day",
        )
        .await;
    assert_eq!(kept, counted);
    let kept = database.texts("
        SELECT concat_ws(' ', webhook_id, success_count, failure_count, coalesce(last_sent_at::text, '-'), coalesce(last_delivered_at::text, '-'))
        FROM webhook_stats ORDER BY webhook_id").await;
    let counted = database.texts("
        SELECT concat_ws(' ', d.webhook_id,
          count(DISTINCT d.id) FILTER (WHERE d.state = 'DELIVERED'),
          count(DISTINCT d.id) FILTER (WHERE d.state = 'FAILED'),
          coalesce((max(a.started_at) FILTER (WHERE a.class IS DISTINCT FROM 'OURS'))::text, '-'),
          coalesce((max(a.started_at) FILTER (WHERE a.outcome = 'SUCCESS'))::text, '-'))
        FROM deliveries d LEFT JOIN attempts a ON a.day = d.day AND a.delivery_id = d.id
        GROUP BY d.webhook_id
        HAVING bool_or(d.state IN ('DELIVERED', 'FAILED')) OR bool_or(a.started_at IS NOT NULL AND a.class IS DISTINCT FROM 'OURS')
        ORDER BY d.webhook_id").await;
    assert_eq!(kept, counted);
}

/// Shuffled, partly repeated, cut into batches, written by three writers at the same time.
async fn record_in_disorder(
    database: &Database,
    messages: &[Message],
    disorder: u64,
) -> Result<(), StoreError> {
    let mut draw = Draw(disorder);
    let repeated: Vec<_> = messages
        .iter()
        .filter(|_| draw.below(3) == 0)
        .cloned()
        .collect();
    let mut all = [messages, &repeated[..]].concat();
    draw.shuffle(&mut all);
    let batches: Vec<_> = all.chunks(1 + draw.below(6)).collect();
    let writer = async |first: usize| {
        for batch in batches.iter().skip(first).step_by(3) {
            record(database, batch).await?;
        }
        Ok(())
    };
    try_join_all((0..3).map(writer)).await.map(|_: Vec<()>| ())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn reports_converge(seeds in prop::collection::vec(any_seed(), 1..25), disorder: u64) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut messages: Vec<_> = seeds.iter().map(message).collect();
            // Every delivery has a verdict sooner or later.
            let told: BTreeSet<usize> = seeds.iter().map(|seed| seed.delivery).collect();
            messages.extend(told.into_iter().map(|n| Message::Verdict(Box::new(verdict(&delivery(n))))));
            let (tidy, untidy) = (Database::fresh().await, Database::fresh().await);
            record(&tidy, &messages).await.unwrap();
            record_in_disorder(&untidy, &messages, disorder).await.unwrap();
            assert_eq!(tables(&tidy).await, tables(&untidy).await);
            assert_counters_equal_the_log(&untidy).await;
        });
    }
}
