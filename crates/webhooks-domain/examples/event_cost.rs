//! What one event costs in the domain, in microseconds: reading, rendering, the webhook's
//! snapshot and matching. Run with
//! `cargo run --release -p webhooks-domain --example event_cost`.

#![expect(clippy::print_stdout, reason = "the figures are this program's output")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;
use webhooks_domain::event::{
    DEFAULT_SOURCE, EventLimits, Profile, WebhookSnapshot, event_identity, parse_event, render,
    render_snapshot,
};
use webhooks_domain::matching::{EventFacts, Participation, Subscription, WebhookIndex};

const SAMPLE: &[u8] = include_bytes!("../tests/data/step_completed.sample.json");
const ROUNDS: u32 = 20_000;

struct Hook {
    id: Uuid,
    workspace: Uuid,
    links: Vec<Uuid>,
    triggers: Vec<String>,
}

impl Subscription for Hook {
    fn id(&self) -> Uuid {
        self.id
    }
    fn workspace_id(&self) -> Uuid {
        self.workspace
    }
    fn link_ids(&self) -> &[Uuid] {
        &self.links
    }
    fn triggers(&self) -> &[String] {
        &self.triggers
    }
    fn event_actions(&self) -> &[String] {
        &[]
    }
    fn created_at_micros(&self) -> i64 {
        0
    }
    fn participation(&self) -> Participation {
        Participation::Deliver
    }
}

/// The best of five runs: what the code costs, not what the machine was doing beside it.
fn measure<R>(name: &str, mut work: impl FnMut() -> R) {
    let best = (0..5)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                black_box(work());
            }
            start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS)
        })
        .fold(f64::INFINITY, f64::min);
    println!("{name:<44} {best:>8.3} µs");
}

/// Two webhooks of the event's link, the others bound to links of their own, all in one workspace.
fn index(workspace: Uuid, link: Uuid, size: u128) -> WebhookIndex<Hook> {
    let mut index = WebhookIndex::new();
    for number in 0..size {
        let other = Uuid::from_u128(number << 64);
        index.upsert(Arc::new(Hook {
            id: Uuid::from_u128(number),
            workspace,
            links: vec![if number < 2 { link } else { other }],
            triggers: vec!["KIND_EXIT".to_owned()],
        }));
    }
    index
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pretty = std::str::from_utf8(SAMPLE)?;
    let minified: String = pretty.lines().map(str::trim).collect();
    let minified = minified.replace("\": ", "\":");
    let limits = EventLimits::DEFAULT;
    let event = parse_event(minified.as_bytes(), &limits)?;
    println!(
        "sample: {} bytes minified, {} pretty",
        minified.len(),
        SAMPLE.len()
    );

    for (form, bytes) in [("minified", minified.as_bytes()), ("pretty", SAMPLE)] {
        measure(&format!("parse_event, {form}"), || {
            parse_event(black_box(bytes), &limits)
        });
        for profile in Profile::ALL {
            measure(&format!("render {profile}, {form}"), || {
                render(black_box(bytes), profile)
            });
        }
    }
    measure("event_identity, derived", || {
        event_identity(black_box(&event), None)
    });

    let triggers = ["KIND_EXIT".to_owned()];
    let snapshot = WebhookSnapshot {
        id: Uuid::from_u128(1),
        name: "Test Webhook",
        endpoint_url: "https://webhook-test.com/74d9a9bae65ebaa1900ca1b1553617ef",
        status: "ACTIVE",
        workspace_id: event.workspace_id,
        link_id: None,
        created_by: Some(Uuid::from_u128(2)),
        source: DEFAULT_SOURCE,
        triggers: &triggers,
        created_at_micros: 1_760_000_000_123_456,
        updated_at_micros: 1_760_000_000_123_456,
        last_sent_at_micros: Some(1_760_000_001_123_456),
        last_delivered_at_micros: Some(1_760_000_001_123_456),
        success_count: 13,
        failure_count: 0,
    };
    measure("render_snapshot standard", || {
        render_snapshot(black_box(&snapshot), Profile::Standard)
    });

    let facts = EventFacts::of(&event, event.timestamp_micros);
    for size in [10, 1_000, 100_000] {
        let index = index(event.workspace_id, event.link_id, size);
        assert_eq!(index.matches(&facts).len(), 2);
        measure(&format!("match 2 of {size} webhooks"), || {
            index.matches(black_box(&facts))
        });
    }
    Ok(())
}
