//! Searching history, replaying from it, jobs, events and figures.

mod figures;
mod jobs;
mod replays;
mod searches;

use uuid::Uuid;
use webhooks_store::{Actor, DeliveryFilter, Wish};

use crate::support::{Database, SECOND};

const DAY: i64 = 86_400 * SECOND;

async fn search(database: &Database, workspace: Uuid, filter: DeliveryFilter) -> Vec<String> {
    let page = database
        .store
        .search_deliveries(workspace, &filter, 1_000, None)
        .await
        .unwrap();
    assert_eq!(page.total, i64::try_from(page.rows.len()).unwrap());
    assert!(!page.total_is_lower_bound && page.next.is_none());
    page.rows.into_iter().map(|row| row.event_id).collect()
}

fn named(filter: DeliveryFilter, webhook: Uuid) -> DeliveryFilter {
    DeliveryFilter {
        webhook: Some(webhook),
        ..filter
    }
}

/// Who asks, and when, without a key.
fn wish(actor: &Actor, now: i64) -> Wish<'_> {
    Wish {
        actor,
        now,
        claim: None,
    }
}
