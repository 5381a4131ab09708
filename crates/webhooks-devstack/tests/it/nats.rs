use async_nats::jetstream::{self, stream};
use webhooks_devstack::{NatsServer, SyncInterval, http_get};

use crate::gone;

async fn stored(url: &str) -> u64 {
    let context = jetstream::new(async_nats::connect(url).await.unwrap());
    context
        .get_stream("TEST")
        .await
        .unwrap()
        .cached_info()
        .state
        .messages
}

#[tokio::test]
async fn acknowledged_messages_survive_a_kill_on_the_same_port() {
    let folder = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::builder(folder.path())
        .name("n1")
        .start()
        .await
        .unwrap();
    let (url, first_pid) = (nats.url(), nats.pid().unwrap());
    let context = jetstream::new(async_nats::connect(&url).await.unwrap());
    let config = stream::Config {
        name: "TEST".into(),
        subjects: vec!["test.>".into()],
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    for number in 0..10_u8 {
        context
            .publish("test.a", vec![number].into())
            .await
            .unwrap()
            .await
            .unwrap();
    }

    nats.kill().await.unwrap();
    assert_eq!(nats.pid(), None);
    gone(&[first_pid]).await;
    nats.kill().await.unwrap();
    nats.start().await.unwrap();

    assert_eq!(nats.url(), url);
    assert_ne!(nats.pid(), Some(first_pid));
    assert_eq!(stored(&url).await, 10);
    nats.start().await.unwrap_err();

    nats.stop().await.unwrap();
    nats.start().await.unwrap();
    assert_eq!(stored(&url).await, 10);
}

#[tokio::test]
async fn options_reach_the_server_and_dropping_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let nats = NatsServer::builder(folder.path())
        .sync_interval(SyncInterval::Always)
        .max_file_bytes(123_456_789)
        .extra_config("max_payload: 262144")
        .start()
        .await
        .unwrap();
    let (status, limits) = http_get(&format!("{}/jsz", nats.monitor_url()))
        .await
        .unwrap();
    assert_eq!(status, 200);
    for expected in ["\"sync_always\": true", "\"max_storage\": 123456789"] {
        assert!(limits.contains(expected), "no {expected} in {limits}");
    }
    let (_, server) = http_get(&format!("{}/varz", nats.monitor_url()))
        .await
        .unwrap();
    assert!(server.contains("\"max_payload\": 262144"), "{server}");
    let pid = nats.pid().unwrap();
    drop(nats);
    assert!(!webhooks_devstack::is_running(pid));
}

#[tokio::test]
async fn a_server_that_cannot_start_shows_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let error = NatsServer::builder(folder.path())
        .extra_config("nonsense: {")
        .start()
        .await
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("Parse error on line"),
        "{error:#}"
    );
}
