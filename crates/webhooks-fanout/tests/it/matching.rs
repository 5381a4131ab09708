//! What an event becomes.

use std::collections::HashSet;

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;
use webhooks_bus::{BusSettings, Outgoing, names, subjects};
use webhooks_domain::{
    event::{Profile, render},
    ids,
};
use webhooks_proto::{
    internal::v1::{DeadLetter, DeliveryReport, Status, WebhookConfig, WebhookStats},
    v1::DeliveryState,
};
use webhooks_runtime::{Clock as _, SystemClock};

use crate::support::{LINK, OTHER, Stack, WORKSPACE, bytes, webhook};

#[tokio::test]
async fn each_matching_webhook_is_owed_one_delivery_with_a_frozen_body() {
    let stack = Stack::start().await;
    let paused = WebhookConfig {
        status: Status::Paused.into(),
        ..webhook(2, WORKSPACE)
    };
    let disabled = WebhookConfig {
        status: Status::Disabled.into(),
        ..webhook(3, WORKSPACE)
    };
    let thin = WebhookConfig {
        profile: "thin".to_owned(),
        link_ids: vec![bytes(LINK)],
        ..webhook(4, WORKSPACE)
    };
    let elsewhere = WebhookConfig {
        link_ids: vec![bytes(OTHER)],
        ..webhook(5, WORKSPACE)
    };
    let entries = WebhookConfig {
        triggers: vec!["KIND_ENTRY".to_owned()],
        ..webhook(6, WORKSPACE)
    };
    for config in [
        webhook(1, WORKSPACE),
        paused,
        disabled,
        thin,
        elsewhere,
        entries,
        webhook(7, OTHER),
    ] {
        stack.config.put_webhook(&config).await.unwrap();
    }
    let counters = WebhookStats {
        success_count: 13,
        ..WebhookStats::default()
    };
    stack
        .config
        .put_stats(Uuid::from_u128(1), &counters)
        .await
        .unwrap();
    let running = stack.fanout().await;
    let payload = stack.publish(WORKSPACE, LINK, "e1").await;

    let mut jobs = stack.jobs("DELIVERIES-0", 2).await;
    jobs.sort_by(|a, b| {
        a.delivery
            .as_ref()
            .unwrap()
            .webhook_id
            .cmp(&b.delivery.as_ref().unwrap().webhook_id)
    });
    let [first, thin] = &jobs[..] else {
        panic!("two")
    };
    let head = render(&payload, Profile::Standard).unwrap().head;
    assert!(first.body.starts_with(&head), "{:?}", first.body);
    let text = std::str::from_utf8(&first.body).unwrap();
    assert!(
        text.contains(r#""name":"Webhook 1""#) && text.contains(r#""a":18446744073709551616"#),
        "{text}"
    );
    assert!(thin.body.len() < first.body.len());
    let reference = first.delivery.as_ref().unwrap();
    assert_eq!(reference.webhook_id, bytes(Uuid::from_u128(1)));
    let delivery = ids::delivery_id(WORKSPACE, "e1", Uuid::from_u128(1), reference.created_at);
    assert_eq!(reference.delivery_id, bytes(delivery));
    assert_eq!(
        first.message_id,
        ids::message_id(WORKSPACE, "e1", Uuid::from_u128(1))
    );
    assert!(!first.recheck);

    let held = stack.jobs(names::HELD, 1).await;
    assert_eq!(
        held[0].delivery.as_ref().unwrap().webhook_id,
        bytes(Uuid::from_u128(2))
    );

    let verdicts = stack.verdicts(1).await;
    let told: Vec<_> = verdicts[0]
        .matches
        .iter()
        .map(|one| {
            (
                Uuid::from_slice(&one.webhook_id).unwrap().as_u128(),
                one.held,
            )
        })
        .collect();
    assert_eq!(told, [(1, false), (2, true), (4, false)]);
    assert_eq!((verdicts[0].event_seq, verdicts[0].parts), (1, 1));
    stack.all_acknowledged().await;

    // An event that nobody wanted is recorded too.
    stack.publish(Uuid::from_u128(99), LINK, "e2").await;
    let verdicts = stack.verdicts(2).await;
    assert!(verdicts[1].matches.is_empty() && !verdicts[1].renditions.is_empty());
    running.stop().await;
}

#[tokio::test]
async fn an_event_action_that_is_not_listed_makes_nothing() {
    let stack = Stack::start().await;
    let asking = |id, actions: &[&str]| WebhookConfig {
        event_actions: actions.iter().map(|&word| word.to_owned()).collect(),
        ..webhook(id, WORKSPACE)
    };
    for config in [
        asking(1, &[]),
        asking(2, &["CLIENT_REDIRECT", "THANK_YOU_PAGE"]),
        asking(3, &["FORM_SUBMIT"]),
    ] {
        stack.config.put_webhook(&config).await.unwrap();
    }
    let running = stack.fanout().await;
    for (id, action) in [
        ("short", r#""eventAction":"CLIENT_REDIRECT","#),
        ("long", r#""eventAction":"EVENT_ACTION_FORM_SUBMIT","#),
        ("none", ""),
    ] {
        let payload = crate::support::payload(WORKSPACE, LINK, id);
        let payload = String::from_utf8(payload.to_vec()).unwrap();
        let payload = payload.replace(r#""kind""#, &format!(r#"{action}"kind""#));
        let message = Outgoing::new(subjects::event(WORKSPACE, LINK), id, payload.into())
            .header(webhooks_bus::headers::EVENT_ID, id)
            .header(webhooks_bus::headers::WORKSPACE, &WORKSPACE.to_string())
            .header(
                webhooks_bus::headers::ACCEPTED_AT,
                &SystemClock.now_micros().to_string(),
            );
        let published = stack.bus.publish(message, crate::support::LIMIT);
        published.await.unwrap();
    }
    let mut owed: Vec<_> = stack
        .jobs("DELIVERIES-0", 5)
        .await
        .into_iter()
        .map(|job| job.delivery.unwrap())
        .map(|one| {
            let webhook = Uuid::from_slice(&one.webhook_id).unwrap();
            (one.event_id, webhook.as_u128())
        })
        .collect();
    owed.sort();
    let owed: Vec<_> = owed.iter().map(|(event, id)| (&**event, *id)).collect();
    assert_eq!(
        owed,
        [
            ("long", 1),
            ("long", 3),
            ("none", 1),
            ("short", 1),
            ("short", 2)
        ]
    );
    stack.all_acknowledged().await;
    running.stop().await;
}

#[tokio::test]
async fn the_hop_of_an_event_goes_with_its_deliveries_held_or_not() {
    let stack = Stack::start().await;
    let paused = WebhookConfig {
        status: Status::Paused.into(),
        ..webhook(2, WORKSPACE)
    };
    for config in [webhook(1, WORKSPACE), paused] {
        stack.config.put_webhook(&config).await.unwrap();
    }
    let running = stack.fanout().await;
    stack.publish(WORKSPACE, LINK, "own").await;
    let payload = crate::support::payload(WORKSPACE, LINK, "passed-on");
    let message = Outgoing::new(subjects::event(WORKSPACE, LINK), "passed-on", payload)
        .header(webhooks_bus::headers::EVENT_ID, "passed-on")
        .header(webhooks_bus::headers::WORKSPACE, &WORKSPACE.to_string())
        .header(
            webhooks_bus::headers::ACCEPTED_AT,
            &SystemClock.now_micros().to_string(),
        )
        .header(webhooks_bus::headers::HOP, "1");
    let published = stack.bus.publish(message, crate::support::LIMIT);
    published.await.unwrap();
    for stream in ["DELIVERIES-0", names::HELD] {
        let mut hops: Vec<_> = stack
            .jobs(stream, 2)
            .await
            .into_iter()
            .map(|job| (job.delivery.unwrap().event_id, job.hop))
            .collect();
        hops.sort();
        let expected = [("own".to_owned(), 0_u32), ("passed-on".to_owned(), 1)];
        assert_eq!(hops, expected, "{stream}");
    }
    stack.all_acknowledged().await;
    running.stop().await;
}

#[tokio::test]
async fn a_webhook_created_just_before_the_event_always_gets_it() {
    let stack = Stack::start().await;
    let running = stack.fanout().await;
    for number in 1..=1_000_u128 {
        let link = Uuid::from_u128(number << 32);
        let created = SystemClock.now_micros();
        let config = WebhookConfig {
            link_ids: vec![bytes(link)],
            created_at: created,
            ..webhook(number, WORKSPACE)
        };
        stack.config.put_webhook(&config).await.unwrap();
        // Events tell their own time; this one happened now.
        let now = webhooks_domain::event::format_micros(created);
        let payload = crate::support::payload(WORKSPACE, link, &format!("e{number}"));
        let payload = String::from_utf8(payload.to_vec())
            .unwrap()
            .replace("2025-10-10T16:12:28.161007Z", &now);
        let message = Outgoing::new(
            subjects::event(WORKSPACE, link),
            &format!("m{number}"),
            payload.into(),
        )
        .header(webhooks_bus::headers::EVENT_ID, &format!("e{number}"))
        .header(webhooks_bus::headers::WORKSPACE, &WORKSPACE.to_string())
        .header(
            webhooks_bus::headers::ACCEPTED_AT,
            &SystemClock.now_micros().to_string(),
        );
        stack
            .bus
            .publish(message, crate::support::LIMIT)
            .await
            .unwrap();
    }
    stack.all_acknowledged().await;
    let jobs = stack.jobs("DELIVERIES-0", 1_000).await;
    let webhooks: HashSet<_> = jobs
        .into_iter()
        .map(|job| job.delivery.unwrap().webhook_id)
        .collect();
    assert_eq!(webhooks.len(), 1_000);
    running.stop().await;
}

#[tokio::test]
async fn an_event_with_ten_thousand_matches_does_not_stand_before_another() {
    let stack = Stack::start().await;
    for id in 1..=10_000 {
        stack
            .config
            .put_webhook(&webhook(id, WORKSPACE))
            .await
            .unwrap();
    }
    let small = webhook(20_000, OTHER);
    stack.config.put_webhook(&small).await.unwrap();
    let running = stack.fanout().await;
    stack.publish(WORKSPACE, LINK, "large").await;
    stack.publish(OTHER, LINK, "small").await;

    let messages = stack.messages("DELIVERIES-0", 10_001).await;
    let place = messages.iter().position(|message| {
        let job =
            webhooks_proto::internal::v1::DeliveryJob::decode(message.payload.clone()).unwrap();
        job.delivery.unwrap().webhook_id == small.id
    });
    let place = place.expect("the small event's delivery");
    assert!(place < 5_000, "it was number {place}");
    let subjects: HashSet<_> = messages.iter().map(|message| &message.subject).collect();
    assert_eq!(subjects.len(), 10_001, "each delivery is there once");
    let verdicts = stack.verdicts(41).await;
    let first = verdicts
        .iter()
        .find(|verdict| verdict.event_id == "large" && verdict.part == 0)
        .unwrap();
    assert_eq!((first.parts, first.part_seqs.len()), (40, 39));
    stack.all_acknowledged().await;
    running.stop().await;
}

#[tokio::test]
async fn a_message_that_is_no_event_is_kept_and_the_next_one_passes() {
    let stack = Stack::start().await;
    stack
        .config
        .put_webhook(&webhook(1, WORKSPACE))
        .await
        .unwrap();
    let bad = Outgoing::new(
        subjects::event(WORKSPACE, LINK),
        "bad",
        Bytes::from_static(b"\xff\x00nonsense"),
    );
    stack.bus.publish(bad, crate::support::LIMIT).await.unwrap();
    let running = stack.fanout().await;
    stack.publish(WORKSPACE, LINK, "good").await;
    stack.jobs("DELIVERIES-0", 1).await;
    let letters = stack.messages(names::DEAD, 1).await;
    let letter = DeadLetter::decode(letters[0].payload.clone()).unwrap();
    assert_eq!(
        (&*letter.source, &*letter.reason, letter.stream_seq),
        ("fanout", "missing_header", 1)
    );
    assert_eq!(letter.payload, b"\xff\x00nonsense"[..]);
    stack.all_acknowledged().await;
    running.stop().await;
}

#[tokio::test]
async fn what_a_paused_webhook_has_no_room_for_is_reported_and_blocks_nobody() {
    let stack = Stack::with(BusSettings {
        held_per_webhook: 2,
        ..BusSettings::default()
    })
    .await;
    let paused = WebhookConfig {
        status: Status::Paused.into(),
        ..webhook(1, WORKSPACE)
    };
    stack.config.put_webhook(&paused).await.unwrap();
    stack
        .config
        .put_webhook(&webhook(2, WORKSPACE))
        .await
        .unwrap();
    let running = stack.fanout().await;
    for number in 0..5 {
        stack.publish(WORKSPACE, LINK, &format!("e{number}")).await;
    }
    stack.all_acknowledged().await;
    stack.jobs("DELIVERIES-0", 5).await;
    stack.jobs(names::HELD, 2).await;
    for message in stack.messages(names::REPORTS, 3).await {
        let report = DeliveryReport::decode(message.payload).unwrap();
        assert_eq!(report.state(), DeliveryState::Cancelled);
        assert_eq!(report.delivery.unwrap().webhook_id, paused.id);
    }
    running.stop().await;
}
