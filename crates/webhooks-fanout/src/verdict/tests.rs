use std::sync::Arc;

use prost::Message as _;
use uuid::Uuid;
use webhooks_proto::internal::v1::Status;

use super::*;
use crate::event::tests::{LINK, WORKSPACE, event};

fn webhook(id: u128, profile: Profile) -> Subscriber {
    Subscriber {
        id: Uuid::from_u128(id),
        workspace_id: WORKSPACE,
        name: "Test".to_owned(),
        endpoint_url: "https://example.com/hook?secret=1".to_owned(),
        status: Status::Active,
        link_ids: Vec::new(),
        triggers: vec!["KIND_EXIT".to_owned()],
        event_actions: Vec::new(),
        source: "LINKBREAKERS".to_owned(),
        created_by: None,
        created_at: 1_760_047_193_506_032,
        updated_at: 1_760_112_731_194_332,
        profile,
    }
}

fn matched(webhook: Subscriber) -> Matched<Subscriber> {
    Matched {
        webhook: Arc::new(webhook),
        participation: Participation::Deliver,
    }
}

fn no_stats(_: &Subscriber) -> Option<WebhookStats> {
    None
}

#[test]
fn an_event_without_matches_still_has_a_verdict_with_its_standard_rendition() {
    let drawn = draw_up(&event(), &[], no_stats).unwrap();
    let [part] = &drawn.parts[..] else {
        panic!("one part")
    };
    assert_eq!((part.part, part.parts, part.matches.len()), (0, 1, 0));
    assert_eq!(part.renditions.len(), 1);
    assert_eq!(part.renditions[0].profile, "standard");
    assert_eq!(
        (part.event_seq, &*part.event_id, &*part.lbid),
        (7, "e1", "2VqK")
    );
    assert_eq!(part.event_timestamp, 1_760_112_748_161_007);
}

#[test]
fn each_profile_in_use_is_rendered_once_and_matches_point_to_theirs() {
    let webhooks = [
        Profile::Thin,
        Profile::Standard,
        Profile::Thin,
        Profile::Strict,
    ];
    let matches: Vec<_> = (1..)
        .zip(webhooks)
        .map(|(id, profile)| matched(webhook(id, profile)))
        .collect();
    let drawn = draw_up(&event(), &matches, no_stats).unwrap();
    let part = &drawn.parts[0];
    let pointed: Vec<_> = part
        .matches
        .iter()
        .map(|one| &*part.renditions[usize::try_from(one.rendition).unwrap()].profile)
        .collect();
    assert_eq!(pointed, ["thin", "standard", "thin", "strict"]);
    assert_eq!(part.renditions.len(), 3);
}

#[test]
fn the_snapshot_has_the_counters_and_the_link_of_a_bound_webhook() {
    let stats = |_: &Subscriber| {
        Some(WebhookStats {
            success_count: 13,
            failure_count: 0,
            last_sent_at: 1_760_112_731_194_332,
            last_delivered_at: 0,
        })
    };
    let bound = Subscriber {
        link_ids: vec![LINK],
        ..webhook(1, Profile::Standard)
    };
    let drawn = draw_up(&event(), &[matched(bound)], stats).unwrap();
    let text = String::from_utf8(drawn.parts[0].matches[0].snapshot.to_vec()).unwrap();
    assert!(text.contains(r#""successCount":13"#), "{text}");
    assert!(text.contains(&format!(r#""linkId":"{LINK}""#)), "{text}");
    assert!(
        text.contains(r#""lastSentAt":"2025-10-10T16:12:11.194332Z""#),
        "{text}"
    );
    assert!(
        !text.contains("lastDeliveredAt") && !text.contains("failureCount"),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn ten_thousand_matches_make_numbered_parts_within_their_limits() {
    let matches: Vec<_> = (1..=10_000)
        .map(|id| matched(webhook(id, Profile::Standard)))
        .collect();
    let drawn = draw_up(&event(), &matches, no_stats).unwrap();
    assert_eq!(drawn.parts.len(), 10_000_usize.div_ceil(PART_MAX_MATCHES));
    for (number, part) in (0..).zip(&drawn.parts) {
        assert_eq!((part.part, part.parts), (number, 40));
        assert_eq!(part.renditions.is_empty(), number != 0);
        assert!(part.matches.len() <= PART_MAX_MATCHES);
        assert!(part.encoded_len() <= PART_MAX_BYTES);
    }
    let all: Vec<u128> = drawn
        .parts
        .iter()
        .flat_map(|part| &part.matches)
        .map(|one| Uuid::from_slice(&one.webhook_id).unwrap().as_u128())
        .collect();
    assert!(all.into_iter().eq(1..=10_000));
}

#[test]
fn long_names_close_a_part_earlier() {
    let long = |id| {
        matched(Subscriber {
            name: "n".repeat(10_000),
            ..webhook(id, Profile::Standard)
        })
    };
    let matches: Vec<_> = (1..=256).map(long).collect();
    let drawn = draw_up(&event(), &matches, no_stats).unwrap();
    assert!(drawn.parts.len() > 1);
    // A part may be over by the envelope of its event, never by a match.
    assert!(
        drawn
            .parts
            .iter()
            .all(|part| part.encoded_len() < 1_000_000)
    );
}

#[test]
fn a_second_run_with_the_same_webhooks_draws_up_the_same() {
    let matches = [matched(webhook(1, Profile::Standard))];
    let paused = [Matched {
        participation: Participation::Hold,
        ..matches[0].clone()
    }];
    let first = draw_up(&event(), &matches, no_stats).unwrap();
    assert_eq!(first, draw_up(&event(), &matches, no_stats).unwrap());
    let held = draw_up(&event(), &paused, no_stats).unwrap();
    assert!(held.parts[0].matches[0].held);
    assert_eq!(
        held.parts[0].matches[0].delivery_id,
        first.parts[0].matches[0].delivery_id
    );
}
