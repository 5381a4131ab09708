//! A second copy of an event that fell through.

use std::time::Duration;

use webhooks_bus::{Outgoing, headers, names, subjects};
use webhooks_domain::clock::Clock as _;
use webhooks_proto::internal::v1::WebhookConfig;
use webhooks_runtime::SystemClock;

use crate::support::{LIMIT, LINK, Stack, WORKSPACE, payload, webhook};

async fn publish(stack: &Stack, message_id: &str, accepted_at: i64, first: Option<u64>) {
    let event = Outgoing::new(
        subjects::event(WORKSPACE, LINK),
        message_id,
        payload(WORKSPACE, LINK, "e1"),
    )
    .header(headers::EVENT_ID, "e1")
    .header(headers::WORKSPACE, &WORKSPACE.to_string())
    .header(headers::ACCEPTED_AT, &accepted_at.to_string());
    let event = match first {
        Some(seq) => event.header(headers::AGAIN, &seq.to_string()),
        None => event,
    };
    stack.bus.publish(event, LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_second_copy_makes_what_the_first_would_have_made() {
    let stack = Stack::start().await;
    stack
        .config
        .put_webhook(&webhook(1, WORKSPACE))
        .await
        .unwrap();
    let accepted = SystemClock.now_micros();
    publish(&stack, "first", accepted, None).await;
    // Lost between the streams: acknowledged, and nothing was made of it.
    let lost = stack
        .bus
        .pull(names::EVENTS, names::EVENTS_CONSUMER, Default::default())
        .next()
        .await;
    lost.acker().ack_sure().await.unwrap();
    let running = stack.fanout().await;
    publish(&stack, "again:1", accepted, Some(1)).await;
    let made = stack.bodies(1).await;
    let verdicts = stack.verdicts(1).await;
    assert_eq!(verdicts[0].event_seq, 1, "it stands for the first");

    // Once more: nothing is made twice, but whoever missed the verdict gets it again.
    publish(&stack, "again:1:2", accepted, Some(1)).await;
    let verdicts = stack.verdicts(2).await;
    assert_eq!(verdicts[0], verdicts[1]);
    stack.all_acknowledged().await;
    assert_eq!(stack.bodies(1).await, made);
    running.stop().await;
}

#[tokio::test]
async fn an_event_that_is_run_again_after_its_verdicts_id_is_forgotten_keeps_its_bodies() {
    let mut stack = Stack::start().await;
    stack
        .config
        .put_webhook(&webhook(1, WORKSPACE))
        .await
        .unwrap();
    let running = stack.fanout().await;
    let seven_hours_ago = SystemClock.now_micros() - 7 * 3_600_000_000;
    publish(&stack, "first", seven_hours_ago, None).await;
    let made = stack.bodies(1).await;
    stack.all_acknowledged().await;

    // The id is forgotten at once instead of after six hours; the webhook is another by now.
    let jetstream = stack.bus.jetstream();
    let mut verdicts = jetstream.get_stream(names::VERDICTS).await.unwrap();
    let mut config = verdicts.info().await.unwrap().config.clone();
    config.duplicate_window = Duration::from_millis(100);
    jetstream.update_stream(config).await.unwrap();
    stack
        .config
        .put_webhook(&WebhookConfig {
            name: "another name".to_owned(),
            revision: 2,
            ..webhook(1, WORKSPACE)
        })
        .await
        .unwrap();
    let deliveries = jetstream.get_stream("DELIVERIES-0").await.unwrap();
    deliveries.purge().await.unwrap();
    // A work queue forgets the ids of what has left it.
    stack.nats.restart().await.unwrap();
    publish(&stack, "again:1", seven_hours_ago, Some(1)).await;
    assert_eq!(stack.bodies(1).await, made);
    assert!(stack.jobs("DELIVERIES-0", 1).await[0].recheck);
    let verdicts = stack.verdicts(2).await;
    assert_eq!(verdicts[0], verdicts[1], "the recorded one, told once more");
    running.stop().await;
}
