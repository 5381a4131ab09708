use std::time::Duration;

use prost::Message as _;
use reqwest::{Method, StatusCode};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use webhooks_bus::{Outgoing, subjects};
use webhooks_devstack::{Postgres, wait_until};
use webhooks_domain::{
    sealing::{Binding, Keyring, SEAL_RANDOM_BYTES},
    signing::SigningKey,
    webhook::{Plan, WebhookSource, WebhookStatus},
};
use webhooks_proto::internal::v1::{ReportRequest, report_service_client::ReportServiceClient};
use webhooks_store::{
    Actor, Begun, Extras, IDEMPOTENCY_LEASE, IdempotencyKey, NewWebhook, NewWorkspace,
    SealedSecret, WebhookOptions, WorkspaceSettings,
};

use crate::support::{
    ENCRYPTION_KEYS, INTERNAL_TOKEN, LIMIT, OPERATOR_TOKEN, World, delivered, delivery, id_of, now,
    webhook_body, with_token,
};

#[tokio::test]
async fn without_postgres_it_says_so_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut postgres = Postgres::builder(folder.path()).start().await.unwrap();
    let url = postgres.create_database("test").await.unwrap();
    let world = World::on(url, &[]).await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let (token, webhook) = (
        workspace.token.as_str(),
        world.webhook(&workspace.token).await,
    );

    postgres.kill().await.unwrap();
    let away = world.get("/v1/webhooks", token).await;
    assert_eq!(away.status, StatusCode::SERVICE_UNAVAILABLE, "{away:?}");
    assert_eq!(
        (&away.body["codeType"], &away.body["code"]),
        (&"UNAVAILABLE".into(), &503.into())
    );
    assert_eq!(away.headers["retry-after"], "1");
    assert!(
        !away.body.to_string().contains("postgres"),
        "our inner life is not the caller's"
    );
    wait_until("readiness to say so", LIMIT, async || {
        let missing = world.context.readiness.state().missing();
        if missing.iter().any(|line| line.starts_with("postgres:")) {
            Ok(())
        } else {
            Err(missing)
        }
    })
    .await
    .unwrap();
    // What is spooled meanwhile waits for it.
    let report = delivered(&delivery(workspace.id, webhook, "meanwhile"));
    let message = Outgoing::new(
        subjects::report(0),
        "meanwhile",
        report.encode_to_vec().into(),
    );
    world.bus.publish(message, LIMIT).await.unwrap();

    postgres.start().await.unwrap();
    world.wait_ready().await;
    let made = world.post(token, &webhook_body("after")).await;
    assert_eq!(made.status, StatusCode::OK, "{made:?}");
    wait_until("the spooled report", LIMIT, async || {
        let shown = world
            .get(&format!("/v1/webhooks/{webhook}"), token)
            .await
            .body;
        if shown["webhook"]["successCount"] == 1 {
            Ok(())
        } else {
            Err(shown)
        }
    })
    .await
    .unwrap();
    assert!(!world.context.shutdown.is_cancelled(), "no task died of it");
}

#[tokio::test]
async fn without_nats_nothing_is_changed_and_reading_goes_on() {
    let mut world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let (token, webhook) = (
        workspace.token.as_str(),
        world.webhook(&workspace.token).await,
    );
    world.nats.kill().await.unwrap();
    let key = [("idempotency-key", "k")];
    let body = webhook_body("second");
    let refused = world
        .write(Method::POST, "/v1/webhooks", token, &key, &body)
        .await;
    assert_eq!(
        refused.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "{refused:?}"
    );
    assert_eq!(refused.body["codeType"], "UNAVAILABLE");
    let path = format!("/v1/webhooks/{webhook}");
    assert_eq!(
        world.delete(&path, token).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    let list = world.get("/v1/webhooks", token).await;
    assert_eq!(
        (list.status, &list.body["totalCount"]),
        (StatusCode::OK, &1.into())
    );

    world.nats.start().await.unwrap();
    let mut was_pending = false;
    let made = wait_until("a creation with the same key", LIMIT, async || {
        let reply = world
            .write(Method::POST, "/v1/webhooks", token, &key, &body)
            .await;
        was_pending |= reply.body.to_string().contains("CHANGE_PENDING");
        if reply.status == StatusCode::OK {
            Ok(reply)
        } else {
            Err(reply)
        }
    })
    .await
    .unwrap();
    // Unless it was done meanwhile, and only not everybody told of it in time.
    assert!(
        was_pending || !made.headers.contains_key("idempotent-replayed"),
        "a 503 is no answer to keep"
    );
    assert_eq!(world.configured(id_of(&made)).await, Some(1));
}

#[tokio::test]
async fn a_workspace_whose_maker_was_killed_is_made_once() {
    let world = World::start().await;
    let body = json!({ "name": "cut off" }).to_string();
    let mut hash = Sha256::new();
    for part in ["POST", "/v1/operator/workspaces"] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(&body);
    let lease = i64::try_from((IDEMPOTENCY_LEASE + Duration::from_secs(1)).as_micros()).unwrap();
    let claim = IdempotencyKey {
        token_id: "operator",
        key: "k",
    };
    let begun = world
        .store
        .begin_idempotent(claim, hash.finalize().into(), now() - lease)
        .await
        .unwrap();
    assert_eq!(begun, Begun::Fresh);
    let new = NewWorkspace {
        id: Uuid::new_v4(),
        name: "cut off".into(),
        plan: Plan::Free,
        owner_member: Uuid::new_v4(),
        now: now() - lease,
    };
    let settings = WorkspaceSettings::default();
    world
        .store
        .create_workspace_with(&new, &settings, Some(claim), &Actor::System)
        .await
        .unwrap();
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "k"),
    ];
    for replayed in [false, true] {
        let reply = world
            .send(
                Method::POST,
                "/v1/operator/workspaces",
                OPERATOR_TOKEN,
                &headers,
                Some(body.clone()),
            )
            .await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        assert_eq!(reply.body["workspace"]["id"], new.id.to_string());
        let told = reply.headers.contains_key("idempotent-replayed");
        assert_eq!(told, replayed);
    }
}

/// The bucket takes nothing, but its leader answers: NATS that dies between the sign of life and the
/// write, only longer.
async fn let_config_take(world: &World, max_message_size: i32) {
    let mut stream = world.bus.jetstream().get_stream("KV_CONFIG").await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    config.max_message_size = max_message_size;
    world.bus.jetstream().update_stream(&config).await.unwrap();
}

#[tokio::test]
async fn a_change_that_is_stored_but_not_in_force_says_so_and_is_finished_by_its_key() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let key = [("idempotency-key", "k")];
    let body = webhook_body("pending");
    let_config_take(&world, 1).await;
    let pending = world
        .write(Method::POST, "/v1/webhooks", token, &key, &body)
        .await;
    assert_eq!(
        pending.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "{pending:?}"
    );
    assert_eq!(pending.body["codeType"], "CHANGE_PENDING");
    let list = world.get("/v1/webhooks", token).await;
    assert_eq!(list.body["totalCount"], 1);
    let_config_take(&world, -1).await;
    let finished = world
        .write(Method::POST, "/v1/webhooks", token, &key, &body)
        .await;
    assert_eq!(finished.status, StatusCode::OK, "{finished:?}");
    assert_eq!(finished.headers["idempotent-replayed"], "true");
    assert!(
        finished.body["webhook"]["secret"].is_string(),
        "the first answer, whole"
    );
    assert_eq!(world.configured(id_of(&finished)).await, Some(1));
    assert_eq!(world.get("/v1/webhooks", token).await.body["totalCount"], 1);
}

#[tokio::test]
async fn what_cannot_be_told_of_one_workspace_holds_up_no_other() {
    let world = World::start().await;
    let stuck = world.workspace(Plan::Enterprise).await;
    let other = world.workspace(Plan::Enterprise).await;
    // A row that nobody can read, and a bulk change behind it.
    let rows = format!(
        "INSERT INTO outbox (kind, workspace_id, key, revision)
         SELECT 'webhook', '{id}', CASE n WHEN 1 THEN 'no id' ELSE gen_random_uuid()::text END, 1
         FROM generate_series(1, 3000) n",
        id = stuck.id
    );
    world.sql(&rows).await;
    for n in 0..5 {
        let body = webhook_body(&format!("n{n}"));
        let made = world.post(&other.token, &body).await;
        assert_eq!(made.status, StatusCode::OK, "{made:?}");
        assert_eq!(world.configured(id_of(&made)).await, Some(1));
    }
    let pending = world.post(&stuck.token, &webhook_body("n")).await;
    assert_eq!(pending.body["codeType"], "CHANGE_PENDING", "{pending:?}");
    world.sql("DELETE FROM outbox WHERE key = 'no id'").await;
    let made = wait_until("the others of that workspace", LIMIT, async || {
        let made = world.post(&stuck.token, &webhook_body("later")).await;
        match made.status {
            StatusCode::OK => Ok(made),
            _ => Err(made),
        }
    })
    .await
    .unwrap();
    assert_eq!(world.configured(id_of(&made)).await, Some(1));
}

#[tokio::test]
async fn a_creation_whose_process_was_killed_is_finished_by_the_next_call() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let token_id = token["lbk_test_".len()..][..12].to_owned();
    let body = webhook_body("cut off").to_string();
    // What the dead process had done: claimed the key and committed, a lease ago.
    let mut hash = Sha256::new();
    for part in ["POST", "/v1/webhooks"] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(&body);
    let long_ago =
        now() - i64::try_from((IDEMPOTENCY_LEASE + Duration::from_secs(1)).as_micros()).unwrap();
    let claim = IdempotencyKey {
        token_id: &token_id,
        key: "k",
    };
    let begun = world
        .store
        .begin_idempotent(claim, hash.finalize().into(), long_ago)
        .await
        .unwrap();
    assert_eq!(begun, Begun::Fresh);
    let id = Uuid::new_v4();
    let secret = SigningKey::from_random(*b"canary-signing-key-of-32-bytes-!");
    let binding = Binding {
        workspace: workspace.id,
        webhook: id,
        version: 1,
    };
    let sealed = Keyring::parse(ENCRYPTION_KEYS).unwrap().seal(
        binding,
        secret.as_bytes(),
        [9; SEAL_RANDOM_BYTES],
    );
    let new = NewWebhook {
        id,
        workspace_id: workspace.id,
        name: "cut off".into(),
        endpoint_url: "https://example.com/hook".into(),
        link_ids: vec![],
        triggers: vec!["KIND_EXIT".into()],
        source: WebhookSource::Linkbreakers,
        profile: "standard".into(),
        created_by: Uuid::new_v4(),
        created_by_email: None,
        secret: SealedSecret {
            key_id: sealed.key_id,
            version: 1,
            nonce: sealed.nonce.to_vec(),
            ciphertext: sealed.ciphertext,
            created_at: long_ago,
            expires_at: None,
        },
        status: WebhookStatus::Active,
        status_reason: None,
        options: WebhookOptions::default(),
        extras: Extras::default(),
        asymmetric: None,
        now: long_ago,
    };
    world
        .store
        .create_webhook(&new, None, Some(claim), &Actor::Token(token_id.clone()))
        .await
        .unwrap();

    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "k"),
    ];
    let reply = world
        .send(
            Method::POST,
            "/v1/webhooks",
            token,
            &headers,
            Some(body.clone()),
        )
        .await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    assert_eq!(id_of(&reply), id, "no second webhook");
    assert_eq!(reply.body["webhook"]["secret"], secret.reveal());
    assert_eq!(world.configured(id).await, Some(1));
    let again = world
        .send(Method::POST, "/v1/webhooks", token, &headers, Some(body))
        .await;
    assert_eq!(again.body, reply.body);
    assert_eq!(again.headers["idempotent-replayed"], "true");
}

/// A fault of ours or of an operator: the role may not log in, or may not write.
#[tokio::test]
async fn a_database_that_lets_us_in_no_more_buries_nothing() {
    const ROLE: &str = "webhooks_app";
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::builder(folder.path()).start().await.unwrap();
    let owners = postgres.create_database("test").await.unwrap();
    let mut world = World::on(owners, &[]).await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let (token, webhook) = (
        workspace.token.as_str(),
        world.webhook(&workspace.token).await,
    );
    let url = postgres.ensure_role(ROLE, "test").await.unwrap();
    world.store.grant_to(ROLE).await.unwrap();
    world.stop_service().await;
    world.set("WEBHOOKS_DATABASE_URL", &url);
    world.start_service().await;

    let channel = world.channel().await;
    let report = async |event: &str| {
        let report = ReportRequest {
            reports: vec![delivered(&delivery(workspace.id, webhook, event))],
        };
        let mut reports = ReportServiceClient::new(channel.clone());
        let answer = reports.report(with_token(INTERNAL_TOKEN, report)).await;
        answer.map(drop).map_err(|status| status.code())
    };
    let spool = async |event: &str| {
        let report = delivered(&delivery(workspace.id, webhook, event));
        let message = Outgoing::new(subjects::report(0), event, report.encode_to_vec().into());
        world.bus.publish(message, LIMIT).await.unwrap();
    };
    assert_eq!(report("before").await, Ok(()));
    let mut expected = 1;
    let out =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'webhooks_app'";
    for (broken, mended) in [
        (
            format!("ALTER ROLE {ROLE} NOLOGIN; {out}"),
            format!("ALTER ROLE {ROLE} LOGIN"),
        ),
        (
            format!("REVOKE ALL ON deliveries FROM {ROLE}"),
            format!("GRANT ALL ON deliveries TO {ROLE}"),
        ),
        (
            "ALTER TABLE attempts RENAME TO attempts_elsewhere".to_owned(),
            "ALTER TABLE attempts_elsewhere RENAME TO attempts".to_owned(),
        ),
    ] {
        // One transaction each: what is terminated must not come back before the rest holds.
        for statement in broken.split(';') {
            postgres.sql("test", statement).await.unwrap();
        }
        for number in 0..5 {
            spool(&format!("{expected}-{number}")).await;
        }
        wait_until("the spool to be tried", LIMIT, async || {
            let history = world.bus.consumer_state("REPORTS", "history").await;
            match history {
                Ok(history) if history.unacknowledged == 5 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
        // Whoever reports spools it then.
        assert_eq!(
            report(&format!("{expected}-now")).await,
            Err(tonic::Code::Unavailable),
            "{broken}"
        );
        assert_eq!(world.bus.letters().await.unwrap(), 0, "{broken}");
        postgres.sql("test", &mended).await.unwrap();
        expected += 5;
        wait_until("all of them to be recorded", LIMIT, async || {
            let path = format!("/v1/webhooks/{webhook}/deliveries?state=DELIVERED");
            let list = world.get(&path, token).await.body;
            if list["totalCount"] == expected {
                Ok(())
            } else {
                Err(list)
            }
        })
        .await
        .unwrap();
    }
    assert_eq!(world.bus.letters().await.unwrap(), 0);
    // What is recorded is acknowledged a moment later.
    wait_until("an empty spool", LIMIT, async || {
        match world.bus.message_count("REPORTS").await {
            Ok(0) => Ok(()),
            other => Err(other),
        }
    })
    .await
    .unwrap();
}
