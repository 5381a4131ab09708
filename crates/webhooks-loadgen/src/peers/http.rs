//! A bare signed keep-alive client: what HTTP and signing alone allow.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http::{HeaderMap, HeaderValue, Method, header};
use tokio::task::JoinSet;
use uuid::Uuid;
use webhooks_domain::signing::{SigningKey, sign};

use super::Reached;
use crate::{
    client::HttpClient,
    now_micros,
    sample::{EventSpec, EventTemplate},
};

/// What to do.
#[derive(Debug, Clone)]
pub struct HttpPeer {
    /// `http://host:port` of the receiver.
    pub url: String,
    /// Where it posts to.
    pub path: String,
    /// Connections, each with one request at a time.
    pub connections: usize,
    /// How long.
    pub duration: Duration,
}

/// Posts bodies of the sample's size, each signed anew, on kept-alive connections.
///
/// # Errors
/// The receiver is away or answers other than 200.
pub async fn bare_http(peer: &HttpPeer) -> anyhow::Result<Reached> {
    let started = Instant::now();
    let until = started + peer.duration;
    let mut connections = JoinSet::new();
    for _ in 0..peer.connections {
        let (client, path) = (HttpClient::new(&peer.url)?, peer.path.clone());
        connections.spawn(post_until(client, path, until));
    }
    let mut count = 0;
    while let Some(part) = connections.join_next().await {
        count += part.context("a connection's task failed")??;
    }
    Ok(Reached {
        count,
        elapsed: started.elapsed(),
    })
}

async fn post_until(mut client: HttpClient, path: String, until: Instant) -> anyhow::Result<u64> {
    let keys = [SigningKey::from_random([7; 32])];
    let body = EventTemplate::new().render(&EventSpec {
        id: Uuid::new_v4(),
        workspace: Uuid::new_v4(),
        link: Uuid::new_v4(),
        kind: "KIND_EXIT".to_owned(),
        timestamp_micros: now_micros(),
    });
    let mut count = 0;
    while Instant::now() < until {
        let (id, timestamp) = (
            format!("msg_{}", Uuid::new_v4().simple()),
            now_micros() / 1_000_000,
        );
        let mut headers = HeaderMap::with_capacity(5);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(
            "webhook-signature",
            sign(&keys, &id, timestamp, &body).parse()?,
        );
        headers.insert("webhook-timestamp", timestamp.into());
        headers.insert("webhook-id", id.parse()?);
        let answer = client
            .send(Method::POST, &path, &headers, body.clone())
            .await?;
        ensure!(
            answer.status == 200,
            "the receiver answered {}",
            answer.status
        );
        count += 1;
    }
    Ok(count)
}
