//! Clients that flood the doors with frames or let their heads drip: each is cut off or kept to its
//! limits, and everybody else is served meanwhile and afterwards.
//!
//! HTTP/2 is spoken by the gRPC door alone. The time limit of a head ([`webhooks_ingest::HEAD_TIMEOUT`])
//! is not waited for here: that heads which drip keep nobody out until then is shown.

use prost::Message as _;
use tokio::time::timeout;
use webhooks_devstack::{
    floods::{DRIPS, Drips, Flood, MOST, beside, floods, head, sent_unread},
    nonsense::framed,
};
use webhooks_ingest::GRPC_CALLS_PER_CONNECTION;
use webhooks_proto::v1::PublishEventRequest;

use crate::support::{LIMIT, Stack, event};

/// Fewer than the places at a door.
const SLOW: usize = 48;

fn message(id: &str) -> PublishEventRequest {
    PublishEventRequest {
        event: event(id, "").into(),
        id: String::new(),
    }
}

/// The head of a call that publishes an event.
fn call(stack: &Stack) -> Vec<u8> {
    let bearer = format!("Bearer {}", stack.token.reveal());
    let path = "/linkbreakers.webhooks.v1.EventService/PublishEvent";
    let more = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    head("POST", path, &more)
}

/// Somebody who publishes an event at each of the two doors.
async fn is_served(stack: &Stack) {
    let publishing = async {
        let answer = stack.post(event("proper", "")).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let mut grpc = stack.grpc().await;
        let request = stack.authorised(message("proper"));
        grpc.publish_event(request).await.unwrap();
    };
    timeout(LIMIT, publishing).await.unwrap();
}

#[tokio::test]
async fn no_flood_of_frames_has_to_be_taken_and_nobody_else_waits_for_its_end() {
    let stack = Stack::start().await;
    let body = framed(&message("given-up").encode_to_vec());
    for flood in floods(&call(&stack), &body) {
        let sending = flood.send(stack.grpc);
        let answered = beside(sending, async || is_served(&stack).await).await;
        let answered = answered.unwrap();
        assert!(flood.is_endured(&answered), "{}: {answered:?}", flood.what);
    }
    stack.ready().await;
    stack.stop().await;
}

#[tokio::test]
async fn calls_beyond_those_that_a_connection_may_have_are_refused() {
    let stack = Stack::start().await;
    let most = usize::try_from(GRPC_CALLS_PER_CONNECTION).unwrap();
    let flood = Flood::of_calls(&call(&stack), most + 44);
    let sending = flood.send(stack.grpc);
    let answered = beside(sending, async || is_served(&stack).await).await;
    let answered = answered.unwrap();
    assert!(!answered.is_over, "{answered:?}");
    assert_eq!(answered.most_calls, Some(GRPC_CALLS_PER_CONNECTION));
    assert_eq!(answered.refused, 44, "{answered:?}");
    stack.ready().await;
    stack.stop().await;
}

#[tokio::test]
async fn who_reads_no_answer_is_not_read_any_more() {
    let stack = Stack::start().await;
    let sent = beside(sent_unread(stack.grpc), async || is_served(&stack).await).await;
    let sent = sent.unwrap();
    assert!(sent < MOST, "{sent} bytes");
    stack.ready().await;
    stack.stop().await;
}

#[tokio::test]
async fn who_speaks_http_2_where_it_is_not_spoken_is_shown_out() {
    let stack = Stack::start().await;
    let flood = Flood::of_calls(&call(&stack), 1);
    let answered = flood.send(stack.http).await.unwrap();
    assert!(answered.is_over, "{answered:?}");
    is_served(&stack).await;
    stack.stop().await;
}

#[tokio::test]
async fn heads_that_drip_at_every_door_keep_nobody_out() {
    let stack = Stack::start().await;
    let mut http = Drips::begin(stack.http, SLOW).await.unwrap();
    let mut grpc = Drips::begin(stack.grpc, SLOW).await.unwrap();
    for _ in 0..DRIPS {
        http.drip().await;
        grpc.drip().await;
        is_served(&stack).await;
    }
    drop((http, grpc));
    stack.ready().await;
    stack.stop().await;
}
