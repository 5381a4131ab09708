use bytes::Bytes;
use prost::Message as _;
use serde_json::json;
use uuid::Uuid;
use webhooks_bus::{Outgoing, subjects};
use webhooks_devstack::wait_until;
use webhooks_domain::webhook::Plan;
use webhooks_proto::internal::v1::{
    DeadLetter, Match, Rendition, Verdict, WebhookConfig, WebhookStats,
};

use crate::support::{LIMIT, World, delivered, delivery, now, uuid};

async fn publish(world: &World, subject: String, id: &str, payload: Bytes) {
    world
        .bus
        .publish(Outgoing::new(subject, id, payload), LIMIT)
        .await
        .unwrap();
}

async fn wait_for_total(world: &World, token: &str, webhook: Uuid, query: &str, total: u64) {
    let path = format!("/v1/webhooks/{webhook}/deliveries?{query}");
    wait_until("deliveries", LIMIT, async || {
        let list = world.get(&path, token).await.body;
        if list["totalCount"] == total {
            Ok(())
        } else {
            Err(list)
        }
    })
    .await
    .unwrap();
}

async fn wait_for_dead_letter(world: &World, reason: &str) -> DeadLetter {
    wait_until("a dead letter", LIMIT, async || {
        let last = world
            .bus
            .get_last("DEAD", &subjects::dead("management"))
            .await
            .unwrap();
        last.map(|message| DeadLetter::decode(message.payload).unwrap())
            .filter(|letter| letter.reason == reason)
            .ok_or("none yet")
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_change_is_in_the_read_model_when_it_is_answered() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let id = world.webhook(&workspace.token).await;
    assert_eq!(world.configured(id).await, Some(1));
    let key = subjects::webhook_key(workspace.id, id);
    let stored = world
        .bus
        .get_last("KV_CONFIG", &format!("$KV.CONFIG.{key}"))
        .await
        .unwrap()
        .unwrap();
    let config = WebhookConfig::decode(stored.payload).unwrap();
    assert_eq!((config.triggers.len(), config.secrets.len()), (1, 1));
    assert_eq!(uuid(&config.workspace_id), workspace.id);
    world
        .patch(&id.to_string(), &workspace.token, &json!({ "name": "new" }))
        .await;
    assert_eq!(world.configured(id).await, Some(2));
    world
        .delete(&format!("/v1/webhooks/{id}"), &workspace.token)
        .await;
    assert_eq!(world.configured(id).await, None);
}

#[tokio::test]
async fn what_the_read_model_lost_comes_back_and_what_it_has_too_much_goes() {
    let mut world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let id = world.webhook(&workspace.token).await;
    world.stop_service().await;
    let subject = format!("$KV.CONFIG.{}", subjects::webhook_key(workspace.id, id));
    let lost = world
        .bus
        .get_last("KV_CONFIG", &subject)
        .await
        .unwrap()
        .unwrap();
    let bucket = world.bus.jetstream().get_stream("KV_CONFIG").await.unwrap();
    bucket.purge().filter(subject).await.unwrap();
    let stray = Uuid::new_v4();
    let mut config = WebhookConfig::decode(lost.payload).unwrap();
    config.id = stray.into_bytes().to_vec().into();
    webhooks_bus::ConfigWriter::new(&world.bus)
        .put_webhook(&config)
        .await
        .unwrap();
    assert_eq!(world.configured(id).await, None);
    world.start_service().await;
    wait_until("the repair", LIMIT, async || {
        match (world.configured(id).await, world.configured(stray).await) {
            (Some(1), None) => Ok(()),
            other => Err(other),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_verdict_makes_what_is_owed_visible() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let (token, webhook) = (
        workspace.token.as_str(),
        world.webhook(&workspace.token).await,
    );
    let owed = delivery(workspace.id, webhook, "e1");
    let held = delivery(workspace.id, webhook, "e2");
    for (reference, is_held) in [(&owed, false), (&held, true)] {
        let verdict = Verdict {
            event_seq: 1,
            event_id: reference.event_id.clone(),
            workspace_id: reference.workspace_id.clone(),
            link_id: reference.link_id.clone(),
            lbid: reference.lbid.clone(),
            event_type: reference.event_type.clone(),
            step_kind: "KIND_EXIT".to_owned(),
            event_action: "CLIENT_REDIRECT".to_owned(),
            accepted_at: reference.created_at,
            event_timestamp: reference.created_at,
            part: 0,
            parts: 1,
            renderer_version: 1,
            renditions: vec![Rendition {
                profile: "standard".to_owned(),
                head: Bytes::from_static(b"{"),
                tail: Bytes::from_static(b"}"),
            }],
            matches: vec![Match {
                webhook_id: reference.webhook_id.clone(),
                delivery_id: reference.delivery_id.clone(),
                snapshot: Bytes::from_static(b"{}"),
                rendition: 0,
                held: is_held,
            }],
            ..Verdict::default()
        };
        // In two parts: the second comes first, and counts only because the first names it.
        let more = delivery(
            workspace.id,
            webhook,
            &format!("{}-more", reference.event_id),
        );
        let mut second = Verdict {
            part: 1,
            parts: 2,
            renditions: vec![],
            ..verdict.clone()
        };
        second.matches[0].delivery_id = more.delivery_id;
        let subject = subjects::verdict(workspace.id);
        let id = format!("{}-1", reference.event_id);
        let stored = Outgoing::new(subject.clone(), &id, second.encode_to_vec().into());
        let stored = world.bus.publish(stored, LIMIT).await.unwrap();
        let abandoned = delivery(workspace.id, webhook, "abandoned");
        second.matches[0].delivery_id = abandoned.delivery_id;
        publish(
            &world,
            subject.clone(),
            &format!("{id}-abandoned"),
            second.encode_to_vec().into(),
        )
        .await;
        let first = Verdict {
            parts: 2,
            part_seqs: vec![stored.seq],
            ..verdict
        };
        publish(
            &world,
            subject,
            &reference.event_id,
            first.encode_to_vec().into(),
        )
        .await;
    }
    wait_for_total(&world, token, webhook, "state=PENDING", 2).await;
    wait_for_total(&world, token, webhook, "state=HELD", 2).await;
    wait_for_total(&world, token, webhook, "", 4).await;
    publish(
        &world,
        subjects::verdict(workspace.id),
        "poison",
        Bytes::from_static(b"\xff\xff"),
    )
    .await;
    let letter = wait_for_dead_letter(&world, "undecodable").await;
    assert_eq!(
        (letter.stream.as_str(), letter.payload.as_ref()),
        ("VERDICTS", b"\xff\xff".as_slice())
    );
}

#[tokio::test]
async fn spooled_reports_are_drained_and_poison_is_kept() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let (token, webhook) = (
        workspace.token.as_str(),
        world.webhook(&workspace.token).await,
    );
    publish(
        &world,
        subjects::report(0),
        "poison",
        Bytes::from_static(b"\xff\xff"),
    )
    .await;
    let mut senseless = delivered(&delivery(workspace.id, webhook, "bad"));
    senseless.state = 0;
    publish(
        &world,
        subjects::report(1),
        "senseless",
        senseless.encode_to_vec().into(),
    )
    .await;
    for n in 0..20 {
        let report = delivered(&delivery(workspace.id, webhook, &format!("e{n}")));
        let partition = u16::try_from(n % 4).unwrap();
        publish(
            &world,
            subjects::report(partition),
            &format!("r{n}"),
            report.encode_to_vec().into(),
        )
        .await;
    }
    wait_for_total(&world, token, webhook, "state=DELIVERED", 20).await;
    let letter = wait_for_dead_letter(&world, "undecodable").await;
    assert_eq!(letter.stream, "REPORTS");
    wait_until("an empty spool", LIMIT, async || {
        match world.bus.message_count("REPORTS").await.unwrap() {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await
    .unwrap();
    // Counters reach the bucket that payloads are made from.
    let subject = format!("$KV.STATS.{webhook}");
    wait_until("published counters", LIMIT, async || {
        let last = world.bus.get_last("KV_STATS", &subject).await.unwrap();
        let stats = last.map(|message| WebhookStats::decode(message.payload).unwrap());
        match stats {
            Some(stats) if stats.success_count == 20 && stats.last_sent_at <= now() => Ok(()),
            other => Err(other),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn keys_that_have_outlived_their_day_are_purged_in_one_run_however_many() {
    let mut world = World::start().await;
    world.stop_service().await;
    let fill = "INSERT INTO idempotency_keys (token_id, key, request_hash, started_at)
        SELECT 'AAAA', 'old-' || n, 'x', now() - interval '25 hours'
        FROM generate_series(1, 25000) n;
        INSERT INTO idempotency_keys (token_id, key, request_hash, started_at)
        VALUES ('AAAA', 'young', 'x', now() - interval '23 hours')";
    world.sql(fill).await;
    // The next run is an hour away, so what goes now goes in the first.
    world.start_service().await;
    wait_until("the purge", LIMIT, async || {
        let left = world.sql("SELECT count(*) FROM idempotency_keys").await;
        if left.trim() == "1" {
            Ok(())
        } else {
            Err(left)
        }
    })
    .await
    .unwrap();
    let left = world.sql("SELECT key FROM idempotency_keys").await;
    assert_eq!(left.trim(), "young");
}
