//! NATS full, away, and back: never a false yes, and recovery without a restart.

use std::{cell::Cell, collections::HashSet, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, future::ready, stream};
use tonic::Code;
use uuid::Uuid;
use webhooks_bus::{BusSettings, Outgoing, headers, names, subjects};
use webhooks_devstack::wait_until;
use webhooks_proto::v1::PublishEventRequest;
use webhooks_runtime::Clock as _;

use crate::support::{LIMIT, Options, Stack, event, event_id, post_to};

/// Who says within two seconds that it cannot publish.
fn impatient() -> Options {
    Options {
        publish_timeout: Some(Duration::from_secs(2)),
        ..Options::default()
    }
}

#[tokio::test]
async fn a_full_stream_is_a_503_and_nothing_that_was_accepted_is_lost() {
    let bus = BusSettings {
        events_max_bytes: 1024 * 1024,
        ..BusSettings::default()
    };
    let stack = Stack::with(Options {
        bus,
        ..Options::default()
    })
    .await;
    let mut accepted = 0;
    let refused = loop {
        let answer = stack
            .post(event(&format!("e{accepted}"), &"x".repeat(100_000)))
            .await;
        match answer.status {
            202 => accepted += 1,
            _ => break answer,
        }
        assert!(accepted < 100, "a megabyte cannot hold this");
    };
    assert_eq!(
        (refused.status, refused.member("codeType")),
        (503, "STREAM_FULL"),
        "{refused:?}"
    );
    assert!(refused.has_header("retry-after: 5"), "{refused:?}");
    let mut grpc = stack.grpc().await;
    let message = PublishEventRequest {
        event: Bytes::from(event("g", &"x".repeat(100_000))),
        id: String::new(),
    };
    let status = grpc
        .publish_event(stack.authorised(message))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    // A NATS publisher's event waits on INTAKE for room.
    stack
        .publish("n", &event("n", &"x".repeat(100_000)))
        .await
        .unwrap();
    assert_eq!(
        stack.events(accepted).await.len(),
        usize::try_from(accepted).unwrap()
    );

    let more = BusSettings {
        events_max_bytes: 64 * 1024 * 1024,
        ..stack.bus.settings().clone()
    };
    let operator = webhooks_bus::Bus::connect(more, "operator").await.unwrap();
    wait_until("the operator's connection", LIMIT, async || {
        operator
            .apply_topology()
            .await
            .map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    stack.empty(names::INTAKE).await;
    assert_eq!(stack.post(event("later", "")).await.status, 202);
    assert_eq!(
        stack.events(accepted + 2).await.len(),
        usize::try_from(accepted + 2).unwrap()
    );
    assert!(stack.dead_letters(0).await.is_empty());
}

#[tokio::test]
async fn while_nats_is_away_every_answer_is_a_503_and_then_it_goes_on() {
    let mut stack = Stack::with(impatient()).await;
    assert_eq!(stack.post(event("before", "")).await.status, 202);
    stack.nats.kill().await.unwrap();
    let refused = stack.post(event("during", "")).await;
    assert_eq!(
        (refused.status, refused.member("codeType")),
        (503, "UNAVAILABLE"),
        "{refused:?}"
    );
    assert!(refused.has_header("retry-after: 1"), "{refused:?}");
    wait_until("readiness to fall", LIMIT, async || {
        let missing = stack.ctx.readiness.state().missing();
        if missing.iter().any(|line| line.starts_with("nats:")) {
            Ok(())
        } else {
            Err(missing)
        }
    })
    .await
    .unwrap();

    stack.nats.start().await.unwrap();
    wait_until("publishing to work again", LIMIT, async || {
        let answer = stack.post(event("during", "")).await;
        if answer.status == 202 {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await
    .unwrap();
    stack.ready().await;
    assert_eq!(stack.events(2).await.len(), 2);
    stack.stop().await;
}

#[tokio::test]
async fn nats_killed_under_load_loses_no_accepted_event() {
    let mut stack = Stack::with(impatient()).await;
    let (http, token) = (stack.http, stack.token.clone());
    let killed = Cell::new(false);
    let posts = stream::iter(0..)
        // As many as there is time for until the last kill is over, and a thousand at least.
        .take_while(|number| ready(*number < 1_000 || !killed.get()))
        .map(|number| {
            let token = &token;
            async move {
                let id = format!("e{number}");
                (post_to(http, token, &[], event(&id, "")).await.status, id)
            }
        })
        .buffer_unordered(32)
        .collect::<Vec<_>>();
    let kills = async {
        for _ in 0..3 {
            let before = stack.bus.message_count(names::EVENTS).await.unwrap();
            wait_until("events to flow", LIMIT, async || {
                match stack.bus.message_count(names::EVENTS).await {
                    Ok(count) if count >= before + 100 => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await
            .unwrap();
            stack.nats.restart().await.unwrap();
            stack.ready().await;
        }
        killed.set(true);
    };
    let (answers, ()) = tokio::join!(posts, kills);
    let accepted: Vec<_> = answers
        .iter()
        .filter(|(status, _)| *status == 202)
        .map(|(_, id)| id)
        .collect();
    assert!(
        answers
            .iter()
            .all(|(status, _)| [202, 503].contains(status))
    );
    assert!(accepted.len() > 300, "{} accepted", accepted.len());
    let count = stack.bus.message_count(names::EVENTS).await.unwrap();
    let stored = stack.events(count).await;
    let ids: HashSet<_> = stored.iter().map(event_id).collect();
    assert!(accepted.iter().all(|id| ids.contains(id.as_str())));
    assert_eq!(ids.len(), stored.len(), "an id is stored once");
}

#[tokio::test]
async fn when_what_is_owed_later_fills_its_place_no_more_events_are_taken_until_it_has_room() {
    let stack = Stack::with(Options {
        bus: BusSettings {
            retries_max_bytes: 1024 * 1024,
            ..BusSettings::default()
        },
        ..Options::default()
    })
    .await;
    assert_eq!(stack.post(event("before", "")).await.status, 202);
    let in_an_hour = webhooks_domain::event::format_micros(
        webhooks_runtime::SystemClock.now_micros() + 3_600_000_000,
    );
    for number in 0..9_u128 {
        let (webhook, delivery) = (Uuid::from_u128(1), Uuid::from_u128(number));
        let schedule = Outgoing::new(
            subjects::schedule(0, webhook, delivery, 2, 0),
            &delivery.to_string(),
            Bytes::from(vec![b'x'; 100_000]),
        )
        .header(headers::SCHEDULE, &format!("@at {in_an_hour}"))
        .header(headers::SCHEDULE_TARGET, &subjects::due(0, webhook));
        stack.bus.publish(schedule, LIMIT).await.unwrap();
    }
    let refused = wait_until("a refusal", LIMIT, async || {
        let answer = stack.post(event("during", "")).await;
        if answer.status == 503 {
            Ok(answer)
        } else {
            Err(answer)
        }
    })
    .await
    .unwrap();
    assert_eq!(refused.member("codeType"), "STREAM_FULL", "{refused:?}");
    assert!(refused.has_header("retry-after: 5"), "{refused:?}");
    wait_until("readiness to name it", LIMIT, async || {
        let missing = stack.ctx.readiness.state().missing();
        let named = |line: &String| line.starts_with("retries: RETRIES-0");
        if missing.iter().any(named) {
            Ok(())
        } else {
            Err(missing)
        }
    })
    .await
    .unwrap();
    // A NATS publisher's event waits on INTAKE.
    stack.publish("n", &event("n", "")).await.unwrap();

    let retries = stack.bus.jetstream().get_stream("RETRIES-0").await.unwrap();
    retries.purge().await.unwrap();
    wait_until("events to be taken again", LIMIT, async || {
        let answer = stack.post(event("after", "")).await;
        if answer.status == 202 {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await
    .unwrap();
    stack.empty(names::INTAKE).await;
    // What was posted before the stop was seen may be among them.
    let count = stack.bus.message_count(names::EVENTS).await.unwrap();
    let ids: HashSet<_> = stack
        .events(count)
        .await
        .iter()
        .map(|event| event_id(event).to_owned())
        .collect();
    assert!(["before", "n", "after"].iter().all(|id| ids.contains(*id)));
    stack.stop().await;
}
