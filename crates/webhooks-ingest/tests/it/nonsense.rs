//! Messages that nobody means, at the gRPC door: what is wrong with one is its caller's mistake, and
//! EVENTS holds what was said yes to and nothing else.

use std::collections::BTreeMap;

use axum::http;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tokio::time::timeout;
use tonic::{Code, Status, body::Body, transport::Channel};
use tower::ServiceExt as _;
use webhooks_devstack::nonsense::{self, MANY, Maker, flood, framed};
use webhooks_ingest::STREAM_MAX_EVENTS;
use webhooks_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{PublishEventRequest, PublishEventResponse, PublishEventsRequest, PublishEventsResponse},
};

use crate::support::{LIMIT, OTHER, Stack, event, event_id, event_of};

const PACKAGE: &str = "linkbreakers.webhooks.v1";

/// Events alone, batches of events, and streams of up to five.
const ALONE: usize = 1_000;
const BATCHES: usize = 600;
const STREAMS: usize = 400;

/// What a code may not be: each means a mistake of ours.
const OURS: [Code; 4] = [
    Code::Internal,
    Code::Unknown,
    Code::DataLoss,
    Code::Unavailable,
];

/// The door, whose callers say what they like.
struct Door {
    channel: Channel,
    authorization: String,
}

impl Door {
    async fn of(stack: &Stack) -> Self {
        let channel = Channel::from_shared(format!("http://{}", stack.grpc)).unwrap();
        Self {
            channel: channel.connect().await.unwrap(),
            authorization: format!("Bearer {}", stack.token.reveal()),
        }
    }

    /// Calls a method with these bytes, frames and all; its answer without its frame.
    async fn call(&self, method: &str, frames: Vec<u8>) -> Result<Bytes, Status> {
        let request = http::Request::post(format!("/{PACKAGE}.EventService/{method}"))
            .header("authorization", &self.authorization)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(Full::new(Bytes::from(frames))))
            .unwrap();
        let answer = timeout(LIMIT, self.channel.clone().oneshot(request)).await;
        let (head, body) = answer.unwrap().unwrap().into_parts();
        if let Some(refused) = Status::from_header_map(&head.headers) {
            return Err(refused);
        }
        let body = timeout(LIMIT, body.collect()).await.unwrap()?;
        let status = body.trailers().and_then(Status::from_header_map).unwrap();
        match status.code() {
            Code::Ok => Ok(body.to_bytes().slice(framed(&[]).len()..)),
            _ => Err(status),
        }
    }
}

/// What callers were told.
#[derive(Default)]
struct Told {
    /// The events that were said yes to, by their ids.
    taken: BTreeMap<String, Bytes>,
    refused: usize,
}

impl Told {
    fn yes(&mut self, id: String, event: &Bytes) {
        let first = self.taken.entry(id).or_insert_with(|| event.clone());
        // Said again, it is the same.
        assert_eq!(first, event);
    }

    fn no(&mut self, status: &Status, frames: &[u8]) {
        let shown = &frames[..frames.len().min(1_000)];
        assert!(!OURS.contains(&status.code()), "{status:?} to {shown:02x?}");
        self.refused += 1;
    }

    /// An answer with a verdict for each; how many it has.
    fn verdicts(&mut self, answer: Bytes, events: &[PublishEventRequest]) -> usize {
        let results = PublishEventsResponse::decode(answer).unwrap().results;
        for (number, result) in results.iter().enumerate() {
            if result.status == "refused" {
                let error = result.error.as_ref().unwrap();
                assert!((400..500).contains(&error.code), "{error:?}");
                self.refused += 1;
            } else {
                self.yes(result.id.clone(), &events[number].event);
            }
        }
        results.len()
    }
}

/// Events that are some: with ids, without, of somebody else's, and JSON that is none.
fn bodies() -> Vec<Vec<u8>> {
    let own = (0..200).map(|number| event(&format!("n-{number}"), ""));
    let without = (0..40).map(|number| {
        let event = event("", &number.to_string());
        event.replace("\"id\":\"\", ", "")
    });
    let others = [event_of(OTHER, "other", ""), "{}".to_owned()];
    let all = own.chain(without).chain(others);
    all.map(String::into_bytes).collect()
}

/// A field of bytes.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::bytes::encode(number, &bytes.to_vec(), &mut field);
    field
}

#[tokio::test]
async fn whatever_a_message_holds_is_its_callers_mistake_and_no_half_of_it_is_taken() {
    let stack = Stack::start().await;
    let door = Door::of(&stack).await;
    let messages = nonsense::messages(FILE_DESCRIPTOR_SET, PACKAGE).unwrap();
    let declared = |name: &str| messages[&format!(".{PACKAGE}.{name}")].clone();
    let one = declared("PublishEventRequest");
    let batch = declared("PublishEventsRequest");
    let ids = (0..20).map(|number| format!("n-{number}")).collect();
    let mut maker = Maker::new(23, messages.clone(), ids).with_bodies(bodies());
    let mut told = Told::default();

    for _ in 0..ALONE {
        let message = maker.request(&one);
        match door.call("PublishEvent", framed(&message)).await {
            Ok(answer) => {
                let accepted = PublishEventResponse::decode(answer).unwrap().event;
                let sent = PublishEventRequest::decode(message.as_slice()).unwrap();
                told.yes(accepted.unwrap().id, &sent.event);
            }
            Err(status) => told.no(&status, &message),
        }
    }
    for _ in 0..BATCHES {
        let message = maker.request(&batch);
        match door.call("PublishEvents", framed(&message)).await {
            Ok(answer) => {
                let sent = PublishEventsRequest::decode(message.as_slice()).unwrap();
                let sent = sent.events;
                assert_eq!(told.verdicts(answer, &sent), sent.len());
            }
            Err(status) => told.no(&status, &message),
        }
    }
    for number in 0..STREAMS {
        let sent: Vec<_> = (0..number % 6).map(|_| maker.request(&one)).collect();
        let read = |message: &Vec<u8>| PublishEventRequest::decode(message.as_slice()).ok();
        let readable: Vec<_> = sent.iter().map_while(read).collect();
        let frames = sent.iter().flat_map(|message| framed(message)).collect();
        let answer = door.call("StreamEvents", frames).await.unwrap();
        // Last, why no more was read.
        let broken = usize::from(readable.len() < sent.len());
        let verdicts = told.verdicts(answer, &readable);
        assert_eq!(verdicts, readable.len() + broken, "{sent:02x?}");
    }
    assert!(
        told.refused > 500 && told.taken.len() > 50,
        "{} refused, {} taken",
        told.refused,
        told.taken.len()
    );

    // A hundred thousand of each field, of what is in a field, of events, and of messages.
    for field in &one.field {
        let frames = framed(&nonsense::many(field));
        let refused = door.call("PublishEvent", frames.clone()).await;
        told.no(&refused.unwrap_err(), &frames);
    }
    let frames = framed(&field(1, &nonsense::many(&one.field[0])));
    let answer = door.call("PublishEvents", frames).await.unwrap();
    assert_eq!(told.verdicts(answer, &[]), 1);
    let frames = framed(&flood(&batch).unwrap());
    let refused = door.call("PublishEvents", frames.clone()).await;
    told.no(&refused.unwrap_err(), &frames);
    let frames = framed(&[]).repeat(MANY);
    let answer = door.call("StreamEvents", frames).await.unwrap();
    assert_eq!(told.verdicts(answer, &[]), STREAM_MAX_EVENTS + 1);

    // Frames that are none.
    for (frames, verdicts) in [
        (vec![], 0),
        (vec![0, 0], 1),
        (vec![0, 0, 0, 0, 9, 1], 1),
        // Compressed, it says, and not how; and what nobody knows.
        (vec![1, 0, 0, 0, 0], 1),
        (vec![7, 0, 0, 0, 0], 1),
    ] {
        for method in ["PublishEvent", "PublishEvents"] {
            let refused = door.call(method, frames.clone()).await;
            told.no(&refused.unwrap_err(), &frames);
        }
        let answer = door.call("StreamEvents", frames.clone()).await.unwrap();
        assert_eq!(told.verdicts(answer, &[]), verdicts, "{frames:02x?}");
    }

    let good = PublishEventRequest {
        event: event("good", "").into(),
        id: String::new(),
    };
    let mut grpc = stack.grpc().await;
    let answer = grpc.publish_event(stack.authorised(good.clone())).await;
    let accepted = answer.unwrap().into_inner().event.unwrap();
    assert_eq!((&*accepted.id, accepted.duplicate), ("good", false));
    told.yes(accepted.id, &good.event);
    let count = u64::try_from(told.taken.len()).unwrap();
    let stored = stack.events(count).await;
    let stored: BTreeMap<_, _> = stored
        .iter()
        .map(|stored| (event_id(stored).to_owned(), stored.payload.clone()))
        .collect();
    assert_eq!(stored, told.taken);
    stack.stop().await;
}
