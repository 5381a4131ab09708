use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;
use uuid::Uuid;
use webhooks_domain::signing::{SigningKey, sign};
use webhooks_loadgen::{
    client::{Answer, HttpClient},
    ledger::{self, Received},
    receiver::{Receiver, ReceiverOptions},
};

struct Sender {
    client: HttpClient,
}

impl Sender {
    fn to(receiver: &Receiver) -> Self {
        Self {
            client: HttpClient::new(&receiver.url("")).expect("a plain origin"),
        }
    }

    async fn send(&mut self, method: Method, path: &str, body: &str) -> anyhow::Result<Answer> {
        self.client
            .send(
                method,
                path,
                &HeaderMap::new(),
                Bytes::copy_from_slice(body.as_bytes()),
            )
            .await
    }

    async fn post(&mut self, path: &str, body: &str) -> Answer {
        self.send(Method::POST, path, body)
            .await
            .expect("an answer")
    }

    async fn get(&mut self, path: &str) -> Value {
        serde_json::from_slice(
            &self
                .send(Method::GET, path, "")
                .await
                .expect("an answer")
                .body,
        )
        .expect("JSON")
    }
}

async fn receiver() -> Receiver {
    Receiver::start(ReceiverOptions::default())
        .await
        .expect("a free port")
}

#[tokio::test]
async fn every_behaviour_answers_as_its_path_says() {
    let receiver = receiver().await;
    let mut sender = Sender::to(&receiver);
    assert_eq!(sender.post("/ok/1", "{}").await.status, 200);
    assert_eq!(sender.post("/status/503/a", "{}").await.status, 503);
    let limited = sender.post("/retry-after/7", "{}").await;
    assert_eq!(
        (
            limited.status.as_u16(),
            limited.headers["retry-after"].to_str().unwrap()
        ),
        (429, "7")
    );
    let started = Instant::now();
    assert_eq!(sender.post("/hang/0.2", "{}").await.status, 200);
    assert!(started.elapsed() >= Duration::from_millis(200));
    let error = sender.send(Method::POST, "/reset", "{}").await.unwrap_err();
    assert!(format!("{error:?}").contains("reset"), "{error:?}");
    assert_eq!(sender.post("/flaky/1000", "{}").await.status, 500);
    assert_eq!(sender.post("/flaky/0", "{}").await.status, 200);
    assert_eq!(receiver.count(), 7);
}

#[tokio::test]
async fn flaky_answers_fail_in_the_share_asked_for_and_repeat_with_the_seed() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let receiver = Receiver::start(ReceiverOptions {
            seed: 7,
            ..ReceiverOptions::default()
        })
        .await
        .unwrap();
        let mut sender = Sender::to(&receiver);
        let mut failed = Vec::new();
        for _ in 0..400 {
            failed.push(sender.post("/flaky/250", "{}").await.status != 200);
        }
        runs.push(failed);
    }
    assert_eq!(runs[0], runs[1]);
    let share = runs[0].iter().filter(|failed| **failed).count();
    assert!((60..140).contains(&share), "{share} of 400");
}

#[tokio::test]
async fn what_came_is_shown_counted_and_forgotten() {
    let receiver = receiver().await;
    let mut sender = Sender::to(&receiver);
    let webhook = Uuid::new_v4();
    sender
        .post("/ok/1", &format!(r#"{{"webhook":{{"id":"{webhook}"}}}}"#))
        .await;
    sender.post("/ok/2", "second").await;
    let all = sender.get("/requests?limit=10").await;
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert_eq!(
        (&all[0]["path"], &all[0]["body"], &all[0]["verified"]),
        (&"/ok/2".into(), &"second".into(), &Value::Null)
    );
    assert!(all[0]["receivedAt"].as_str().unwrap().ends_with('Z'));
    assert!(all[0]["headers"]["host"].is_string());
    let one = sender.get(&format!("/requests?webhookId={webhook}")).await;
    assert_eq!(
        (one.as_array().unwrap().len(), &one[0]["path"]),
        (1, &"/ok/1".into())
    );
    assert_eq!(
        sender
            .get("/requests?limit=1")
            .await
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(sender.get("/count").await["count"], 2);
    sender.send(Method::DELETE, "/requests", "").await.unwrap();
    assert_eq!(sender.get("/count").await["count"], 0);
    assert_eq!(sender.get("/requests").await.as_array().unwrap().len(), 0);
    assert_eq!(
        sender.send(Method::GET, "/livez", "").await.unwrap().status,
        200
    );
    assert_eq!(
        sender
            .send(Method::GET, "/nothing", "")
            .await
            .unwrap()
            .status,
        404
    );
}

#[tokio::test]
async fn signatures_are_verified_once_a_secret_is_known() {
    let receiver = receiver().await;
    let mut sender = Sender::to(&receiver);
    let key = SigningKey::from_random([3; 32]);
    let answer = sender
        .post(
            "/secrets",
            &serde_json::json!({ "secret": key.reveal() }).to_string(),
        )
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        sender
            .post("/secrets", r#"{"secret":"whsec_!"}"#)
            .await
            .status,
        400
    );
    let timestamp = std::time::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs()
        .try_into()
        .unwrap();
    let body = b"{}";
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", "msg_1".parse().unwrap());
    headers.insert("webhook-timestamp", i64::into(timestamp));
    headers.insert(
        "webhook-signature",
        sign(&[key], "msg_1", timestamp, body).parse().unwrap(),
    );
    sender
        .client
        .send(Method::POST, "/ok", &headers, Bytes::from_static(body))
        .await
        .unwrap();
    sender
        .client
        .send(Method::POST, "/ok", &headers, Bytes::from_static(b"{ }"))
        .await
        .unwrap();
    let seen: Vec<_> = receiver
        .requests()
        .iter()
        .map(|request| request.verified)
        .collect();
    assert_eq!(seen, [Some(false), Some(true)]);
}

#[tokio::test]
async fn the_ledger_has_every_request_in_the_order_of_arrival() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("received");
    let options = ReceiverOptions {
        ledger: Some(file.clone()),
        keep: 0,
        ..ReceiverOptions::default()
    };
    let receiver = Receiver::start(options).await.unwrap();
    let mut sender = Sender::to(&receiver);
    let event = Uuid::new_v4();
    sender
        .post("/status/500", &format!(r#"{{"event":{{"id":"{event}"}}}}"#))
        .await;
    sender.send(Method::POST, "/reset", "x").await.unwrap_err();
    receiver.stop().await.unwrap();
    let lines: Vec<Received> = ledger::read(&file).unwrap();
    let seen: Vec<_> = lines
        .iter()
        .map(|line| (line.path.as_str(), line.status, line.event))
        .collect();
    assert_eq!(
        seen,
        [("/status/500", 500, Some(event)), ("/reset", 0, None)]
    );
}
