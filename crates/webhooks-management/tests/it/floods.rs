//! Clients that flood the API with frames or let their heads drip: each is cut off or kept to its
//! limits, and everybody else is served meanwhile and afterwards.
//!
//! The time limits of a head (30 s until it is clear what is spoken, 60 s for a head) are not waited
//! for here: that heads which drip keep nobody out until then is shown.

use std::net::SocketAddr;

use webhooks_devstack::{
    floods::{DRIPS, Drips, Flood, MOST, beside, floods, head, sent_unread},
    nonsense::framed,
    wait_until,
};
use webhooks_domain::webhook::Plan;
use webhooks_proto::v1::{ListWebhooksRequest, webhook_service_client::WebhookServiceClient};

use crate::support::{LIMIT, World, with_token};

/// Heads that drip at once at each address.
const SLOW: usize = 200;

/// An address, and how it is asked.
struct Door {
    address: SocketAddr,
    /// Calls that a connection may have at once.
    most_calls: u32,
    /// The head and body of a call that reads webhooks.
    read: (Vec<u8>, Vec<u8>),
    /// The head of a call that waits for its body.
    write: Vec<u8>,
}

/// The service, and somebody who asks it.
struct Stage {
    world: World,
    token: String,
}

impl Stage {
    async fn set() -> Self {
        let world = World::start().await;
        let token = world.workspace(Plan::Enterprise).await.token;
        Self { world, token }
    }

    /// REST and gRPC.
    fn doors(&self) -> [Door; 2] {
        let addresses = self.world.context.announcer.addresses();
        let bearer = format!("Bearer {}", self.token);
        let head = |method: &str, path: &str, kind: &str| {
            let more = [
                ("authorization", bearer.as_str()),
                ("content-type", kind),
                ("te", "trailers"),
            ];
            head(method, path, &more)
        };
        let rest = |method: &str| head(method, "/v1/webhooks", "application/json");
        let grpc = |method: &str| {
            let path = format!("/linkbreakers.webhooks.v1.WebhookService/{method}");
            head("POST", &path, "application/grpc")
        };
        [
            Door {
                address: addresses["api"],
                most_calls: 128,
                read: (rest("GET"), Vec::new()),
                write: rest("POST"),
            },
            Door {
                address: addresses["grpc"],
                most_calls: 256,
                read: (grpc("ListWebhooks"), framed(&[])),
                write: grpc("CreateWebhook"),
            },
        ]
    }

    /// Somebody who asks at each of the two, again while the store has no connection left for him.
    async fn is_served(&self) {
        wait_until("an answer over REST", LIMIT, async || {
            let well = self.world.get("/v1/webhooks", &self.token).await;
            match well.status.as_u16() {
                200 => Ok(()),
                _ => Err(well),
            }
        })
        .await
        .unwrap();
        wait_until("an answer over gRPC", LIMIT, async || {
            let mut grpc = WebhookServiceClient::new(self.world.channel().await);
            let request = with_token(&self.token, ListWebhooksRequest::default());
            grpc.list_webhooks(request).await.map(drop)
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn no_flood_of_frames_has_to_be_taken_and_nobody_else_waits_for_its_end() {
    let stage = Stage::set().await;
    for door in stage.doors() {
        let (head, body) = &door.read;
        for flood in floods(head, body) {
            let sending = flood.send(door.address);
            let answered = beside(sending, async || stage.is_served().await).await;
            let answered = answered.unwrap();
            assert!(
                flood.is_endured(&answered),
                "{} at {}: {answered:?}",
                flood.what,
                door.address
            );
        }
    }
    stage.world.wait_ready().await;
}

#[tokio::test]
async fn calls_beyond_those_that_a_connection_may_have_are_refused() {
    let stage = Stage::set().await;
    for door in stage.doors() {
        let most = usize::try_from(door.most_calls).unwrap();
        let flood = Flood::of_calls(&door.write, most + 44);
        let sending = flood.send(door.address);
        let answered = beside(sending, async || stage.is_served().await).await;
        let answered = answered.unwrap();
        assert!(!answered.is_over, "{answered:?}");
        assert_eq!(answered.most_calls, Some(door.most_calls));
        assert_eq!(answered.refused, 44, "{answered:?}");
    }
    stage.world.wait_ready().await;
}

#[tokio::test]
async fn who_reads_no_answer_is_not_read_any_more() {
    let stage = Stage::set().await;
    for door in stage.doors() {
        let sending = sent_unread(door.address);
        let sent = beside(sending, async || stage.is_served().await).await;
        let sent = sent.unwrap();
        assert!(sent < MOST, "{sent} bytes");
    }
    stage.world.wait_ready().await;
}

#[tokio::test]
async fn heads_that_drip_keep_nobody_out() {
    let stage = Stage::set().await;
    let mut slow = Vec::new();
    for door in stage.doors() {
        slow.push(Drips::begin(door.address, SLOW).await.unwrap());
    }
    for _ in 0..DRIPS {
        for drips in &mut slow {
            drips.drip().await;
        }
        stage.is_served().await;
    }
    stage.world.wait_ready().await;
}
