//! A new key: everything is sealed anew while the service works, and the old key can go.

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;
use webhooks_bus::ConfigWriter;
use webhooks_devstack::wait_until;
use webhooks_domain::{
    sealing::{Binding, Keyring, Purpose, Sealed},
    webhook::Plan,
};
use webhooks_management::reseal::{Progress, remaining, reseal_all, unopened};
use webhooks_store::SealedSecret;

use crate::support::{ENCRYPTION_KEYS, LIMIT, World, webhook_body};

const NEW_KEY: &str = "k2:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

#[tokio::test]
async fn after_a_change_of_the_key_secrets_are_sealed_anew_and_the_read_model_follows() {
    let mut world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let mut ids: Vec<Uuid> = Vec::new();
    for number in 0..3 {
        let mut body = webhook_body(&format!("w{number}"));
        if number == 0 {
            body["signatures"] = json!(["v1", "v1a"]);
        }
        let made = world.post(&workspace.token, &body).await;
        ids.push(
            made.body["webhook"]["id"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap(),
        );
    }
    // The first one has an old key pair beside its new one.
    let path = format!("/v1/webhooks/{}/secret/rotate", ids[0]);
    let wish = json!({ "key": "PUBLIC_KEY" });
    let rotated = world
        .write(Method::POST, &path, &workspace.token, &[], &wish)
        .await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let keys = format!("{NEW_KEY},{ENCRYPTION_KEYS}");
    world.stop_service().await;
    world.set("WEBHOOKS_ENCRYPTION_KEYS", &keys);
    world.start_service().await;
    let both = Keyring::parse(&keys).unwrap();
    wait_until(
        "the background to seal anew",
        LIMIT,
        async || match remaining(&world.store, &both).await {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await
    .unwrap();
    // Nothing needs the old key any more, in the table as in the read model.
    let new = Keyring::parse(NEW_KEY).unwrap();
    assert_eq!(unopened(&world.store, &new).await.unwrap(), 0);
    // The right name over other bytes opens nothing, whatever the rows say.
    let mistyped = Keyring::parse("k2:AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=").unwrap();
    assert_eq!(remaining(&world.store, &mistyped).await.unwrap(), 0);
    assert_eq!(unopened(&world.store, &mistyped).await.unwrap(), 5);
    let mut pairs = 0;
    for id in ids {
        let row = world
            .store
            .get_webhook(workspace.id, id)
            .await
            .unwrap()
            .unwrap();
        let opens = |purpose, kept: &SealedSecret| {
            let sealed = Sealed {
                key_id: kept.key_id.clone(),
                nonce: kept.nonce.clone().try_into().unwrap(),
                ciphertext: kept.ciphertext.clone(),
            };
            let binding = Binding {
                workspace: workspace.id,
                webhook: id,
                version: kept.version,
            };
            new.open_for(purpose, binding, &sealed).unwrap();
        };
        opens(Purpose::SigningKey, &row.secrets[0]);
        for key in row.asymmetric_keys() {
            opens(Purpose::Ed25519, &key.sealed);
            pairs += 1;
        }
        wait_until("the read model", LIMIT, async || {
            let all = ConfigWriter::new(&world.bus)
                .webhooks()
                .await
                .unwrap_or_default();
            let seen = all
                .iter()
                .find(|(_, found, _)| *found == id)
                .map(|(_, _, revision)| *revision);
            if seen == Some(row.revision) {
                Ok(())
            } else {
                Err(seen)
            }
        })
        .await
        .unwrap();
    }
    assert_eq!(pairs, 2, "a key pair, and the one before it");
    assert_eq!(
        reseal_all(&world.store, &new).await.unwrap(),
        Progress::default()
    );
}

#[tokio::test]
async fn what_no_key_opens_is_counted_and_left_as_it_is() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    world.post(&workspace.token, &webhook_body("w")).await;
    let new = Keyring::parse(NEW_KEY).unwrap();
    let progress = reseal_all(&world.store, &new).await.unwrap();
    assert_eq!(progress, Progress { done: 0, stuck: 1 });
    assert_eq!(remaining(&world.store, &new).await.unwrap(), 1);
}

#[tokio::test]
async fn a_sealed_row_that_is_copied_to_another_webhook_opens_nothing() {
    let world = World::start().await;
    let victim = world.workspace(Plan::Enterprise).await;
    let thief = world.workspace(Plan::Enterprise).await;
    let theirs = world.webhook(&victim.token).await;
    let mut own = Vec::new();
    for _ in 0..3 {
        own.push(world.webhook(&thief.token).await);
    }
    let keys = Keyring::parse(ENCRYPTION_KEYS).unwrap();
    assert_eq!(unopened(&world.store, &keys).await.unwrap(), 0);
    // From another workspace, then from another webhook of the same one; the version is the same.
    for (count, from, to) in [(1, theirs, own[0]), (2, own[1], own[2])] {
        let statement = format!(
            "UPDATE webhook_secrets AS own SET nonce = other.nonce, ciphertext = other.ciphertext \
             FROM webhook_secrets AS other \
             WHERE own.webhook_id = '{to}' AND other.webhook_id = '{from}' \
             AND own.kind = 'SIGNING' AND other.kind = 'SIGNING' AND own.version = other.version \
             RETURNING 'copied'"
        );
        assert_eq!(world.sql(&statement).await.trim(), "copied");
        let found = unopened(&world.store, &keys).await.unwrap();
        assert_eq!(found, count, "{from} to {to}");
    }
}
