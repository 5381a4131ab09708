use futures::future::join_all;
use uuid::Uuid;
use webhooks_domain::webhook::{Plan, StatusReason, WebhookStatus};
use webhooks_store::{
    DeletedWebhook, HealthNews, Past, PastConfig, Room, StatusFilter, StoreError, Verified,
    WebhookPatch, WebhookRow, WorkspaceLimits, WorkspacePatch,
};

use crate::support::{Database, NOON, actor, new_webhook};

async fn make(database: &Database, workspace: Uuid) -> WebhookRow {
    let new = new_webhook(workspace);
    database
        .store
        .create_webhook(&new, None, None, &actor())
        .await
        .unwrap()
}

#[tokio::test]
async fn the_plan_limit_holds_under_parallel_creates() {
    let database = Database::fresh().await;
    let workspace = database.workspace().await;
    let create = async |_| {
        let new = new_webhook(workspace);
        database
            .store
            .create_webhook(&new, Some(10), None, &actor())
            .await
    };
    let results = join_all((0..50).map(create)).await;
    let made = results.iter().filter(|result| result.is_ok()).count();
    let refused = results.iter().filter(|result| {
        matches!(
            result,
            Err(StoreError::PlanLimit {
                limit: 10,
                used: 10
            })
        )
    });
    assert_eq!((made, refused.count()), (10, 40));
    assert_eq!(database.store.count_webhooks(workspace).await.unwrap(), 10);
    for table in [
        "SELECT count(*) FROM outbox",
        "SELECT count(*) FROM webhook_secrets",
    ] {
        assert_eq!(database.count(table).await, 10, "{table}");
    }
}

#[tokio::test]
async fn a_workspaces_limit_of_held_deliveries_reaches_each_of_its_webhooks_in_the_read_model() {
    let database = Database::fresh().await;
    let (workspace, other) = (database.workspace().await, database.workspace().await);
    let (mine, foreign) = (
        make(&database, workspace).await,
        make(&database, other).await,
    );
    assert_eq!((mine.held_max, mine.revision), (None, 1));
    let set = async |held_per_webhook, name: &str| {
        let patch = WorkspacePatch {
            name: Some(name.to_owned()),
            limits: Some(WorkspaceLimits {
                held_per_webhook,
                ..WorkspaceLimits::default()
            }),
            ..WorkspacePatch::default()
        };
        let changed = database
            .store
            .update_workspace(workspace, &patch, &actor(), NOON)
            .await;
        assert!(changed.unwrap().is_some());
        let row = database.store.get_webhook(workspace, mine.id).await;
        let row = row.unwrap().unwrap();
        assert_eq!(row.revision, 1, "its owner has changed nothing");
        (row.held_max, row.config_revision())
    };
    assert_eq!(set(Some(7), "a").await, (Some(7), 2));
    // What does not change the limit tells the webhooks nothing.
    assert_eq!(set(Some(7), "b").await, (Some(7), 2));
    assert_eq!(set(None, "b").await, (None, 3));
    let row = database.store.get_webhook(other, foreign.id).await;
    assert_eq!(row.unwrap(), Some(foreign));
    let told = database
        .texts("SELECT concat_ws(' ', kind, workspace_id, revision) FROM outbox ORDER BY id")
        .await;
    let expected = [(workspace, 1), (other, 1), (workspace, 2), (workspace, 3)]
        .map(|(workspace, revision)| format!("webhook {workspace} {revision}"));
    assert_eq!(told, expected);
}

#[tokio::test]
async fn an_endpoint_is_verified_for_the_url_it_has_and_no_other() {
    let database = Database::fresh().await;
    let store = &database.store;
    let (workspace, other) = (database.workspace().await, database.workspace().await);
    let made = make(&database, workspace).await;
    assert_eq!(made.verified(), None, "nobody asks");
    let require = async |workspace, required, hosts: &[&str]| {
        let patch = WorkspacePatch {
            endpoint_verification: Some(required),
            verification_exempt_hosts: Some(hosts.iter().map(|&host| host.into()).collect()),
            ..WorkspacePatch::default()
        };
        let changed = store
            .update_workspace(workspace, &patch, &actor(), NOON)
            .await;
        assert!(changed.unwrap().is_some());
    };
    let shown = async || {
        let row = store
            .get_webhook(workspace, made.id)
            .await
            .unwrap()
            .unwrap();
        (row.verified(), row.config_revision())
    };
    require(workspace, true, &[]).await;
    assert_eq!(shown().await, (Some(false), 2));
    require(workspace, true, &["example.com"]).await;
    assert_eq!(shown().await, (None, 3), "its host is exempt");
    require(workspace, true, &["*.example.com"]).await;
    assert_eq!(shown().await, (Some(false), 4));

    let verify = async |workspace, url: &str| {
        store
            .verify_endpoint(workspace, made.id, url, &actor(), NOON)
            .await
            .unwrap()
    };
    let elsewhere = "https://example.com/other";
    assert_eq!(verify(other, &made.endpoint_url).await, Verified::Stale);
    assert_eq!(verify(workspace, elsewhere).await, Verified::Stale);
    assert_eq!(shown().await, (Some(false), 4));
    assert_eq!(verify(workspace, &made.endpoint_url).await, Verified::Now);
    assert_eq!(shown().await, (Some(true), 5));
    assert_eq!(
        verify(workspace, &made.endpoint_url).await,
        Verified::Before
    );
    assert_eq!(shown().await, (Some(true), 5));
    let told = database
        .texts("SELECT revision::text FROM outbox WHERE kind = 'webhook' ORDER BY id")
        .await;
    assert_eq!(told, ["1", "2", "3", "4", "5"]);

    let patch = WebhookPatch {
        endpoint_url: Some(elsewhere.into()),
        ..WebhookPatch::default()
    };
    let moved = store
        .update_webhook(workspace, made.id, &patch, &actor(), NOON)
        .await;
    assert_eq!(moved.unwrap().unwrap().verified(), Some(false));
    require(workspace, false, &[]).await;
    assert_eq!(shown().await, (None, 7));
}

#[tokio::test]
async fn a_webhook_reads_back_as_it_was_made() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let mut new = new_webhook(workspace);
    new.name = "a\0b".into();
    let link = Uuid::from_u128;
    new.link_ids = vec![link(3), link(1), link(3), link(2)];
    new.triggers = Vec::new();
    let made = store
        .create_webhook(&new, Some(1), None, &actor())
        .await
        .unwrap();
    assert_eq!(
        store.get_webhook(workspace, new.id).await.unwrap(),
        Some(made.clone())
    );
    assert_eq!(store.get_webhook(Uuid::nil(), new.id).await.unwrap(), None);
    assert_eq!(made.name, "a␀b");
    assert_eq!(made.link_ids, [link(3), link(1), link(2)]);
    assert_eq!(
        (made.status, made.status_reason),
        (WebhookStatus::Active, None)
    );
    assert_eq!(made.secrets, [new.secret.clone()]);
    assert_eq!(
        (made.revision, made.created_at, made.updated_at),
        (1, NOON, NOON)
    );
    assert_eq!(
        (made.success_count, made.failure_count, made.last_sent_at),
        (0, 0, None)
    );
    let taken = store
        .create_webhook(&new, None, None, &actor())
        .await
        .unwrap_err();
    assert!(
        matches!(taken, StoreError::Conflict("webhook id")),
        "{taken}"
    );
    let nowhere = store
        .create_webhook(&new_webhook(Uuid::nil()), None, None, &actor())
        .await;
    assert!(matches!(
        nowhere.unwrap_err(),
        StoreError::NotFound("workspace")
    ));
}

#[tokio::test]
async fn an_update_changes_what_it_names_and_counts_only_if_it_changes_something() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let made = make(&database, workspace).await;
    let update = async |patch: WebhookPatch| {
        store
            .update_webhook(workspace, made.id, &patch, &actor(), NOON + 5)
            .await
    };
    assert_eq!(
        update(WebhookPatch::default()).await.unwrap(),
        Some(made.clone())
    );
    let same = WebhookPatch {
        name: Some(made.name.clone()),
        ..WebhookPatch::default()
    };
    assert_eq!(update(same).await.unwrap(), Some(made.clone()));
    let paused = Some((WebhookStatus::Paused, Some(StatusReason::User)));
    let links = Some(vec![Uuid::from_u128(1), Uuid::from_u128(1)]);
    let patch = WebhookPatch {
        status: paused,
        link_ids: links,
        ..WebhookPatch::default()
    };
    let changed = update(patch).await.unwrap().unwrap();
    let expected = WebhookRow {
        status: WebhookStatus::Paused,
        status_reason: Some(StatusReason::User),
        link_ids: vec![Uuid::from_u128(1)],
        revision: 2,
        updated_at: NOON + 5,
        ..made.clone()
    };
    assert_eq!(changed, expected);
    let stale = WebhookPatch {
        expected_revision: Some(1),
        ..WebhookPatch::default()
    };
    assert!(matches!(
        update(stale).await.unwrap_err(),
        StoreError::Conflict("webhook revision")
    ));
    let senseless = Some((WebhookStatus::Active, Some(StatusReason::User)));
    let senseless = WebhookPatch {
        status: senseless,
        ..WebhookPatch::default()
    };
    assert!(matches!(
        update(senseless).await.unwrap_err(),
        StoreError::Database(_)
    ));
    let nothing = WebhookPatch::default();
    let other = store
        .update_webhook(Uuid::nil(), made.id, &nothing, &actor(), NOON)
        .await;
    assert_eq!(other.unwrap(), None);
    assert_eq!(
        store.get_webhook(workspace, made.id).await.unwrap(),
        Some(expected)
    );
}

#[tokio::test]
async fn parallel_updates_make_one_revision_each() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let made = make(&database, workspace).await;
    let rename = async |n: u32| {
        let patch = WebhookPatch {
            name: Some(format!("name {n}")),
            ..WebhookPatch::default()
        };
        store
            .update_webhook(workspace, made.id, &patch, &actor(), NOON)
            .await
            .unwrap()
            .unwrap()
    };
    let mut revisions: Vec<_> = join_all((0..20).map(rename))
        .await
        .iter()
        .map(|w| w.revision)
        .collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (2..=21).collect::<Vec<i64>>());
    let told: Vec<_> = store
        .next_outbox(10, 100)
        .await
        .unwrap()
        .rows
        .iter()
        .map(|row| row.revision)
        .collect();
    assert_eq!(
        told,
        (1..=21).collect::<Vec<i64>>(),
        "the outbox has them in the order they were made"
    );
}

#[tokio::test]
async fn every_change_leaves_an_outbox_row_and_an_audit_entry_and_a_refused_one_leaves_nothing() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let made = make(&database, workspace).await;
    let patch = WebhookPatch {
        name: Some("new".into()),
        ..WebhookPatch::default()
    };
    store
        .update_webhook(workspace, made.id, &patch, &actor(), NOON + 1)
        .await
        .unwrap();
    assert!(
        !store
            .delete_webhook(Uuid::nil(), made.id, None, &actor(), NOON + 2)
            .await
            .unwrap()
    );
    assert!(
        store
            .delete_webhook(workspace, made.id, None, &actor(), NOON + 2)
            .await
            .unwrap()
    );
    assert!(
        !store
            .delete_webhook(workspace, made.id, None, &actor(), NOON + 3)
            .await
            .unwrap()
    );
    store
        .create_webhook(&new_webhook(workspace), Some(0), None, &actor())
        .await
        .unwrap_err();
    let outbox = store.next_outbox(10, 10).await.unwrap().rows;
    let told: Vec<_> = outbox
        .iter()
        .map(|row| (row.workspace_id, row.key.clone(), row.revision))
        .collect();
    let key = made.id.to_string();
    assert_eq!(
        told,
        [1, 2, 3].map(|revision| (workspace, key.clone(), revision))
    );
    assert_eq!(store.next_outbox(10, 1).await.unwrap().rows, outbox[..1]);
    store
        .done_outbox(&[outbox[0].id, outbox[1].id, 999])
        .await
        .unwrap();
    assert_eq!(store.next_outbox(10, 10).await.unwrap().rows, outbox[2..]);
    let log = database.texts("SELECT concat_ws(' ', action, actor, before->>'name', after->>'name') FROM audit_log WHERE action LIKE 'webhook.%' ORDER BY id").await;
    let by = "token:Ab3dEf6hIj9l";
    assert_eq!(
        log,
        [
            format!("webhook.create {by} orders"),
            format!("webhook.update {by} orders new"),
            format!("webhook.delete {by} new"),
        ]
    );
    let secrets = database
        .count(
            "SELECT count(*) FROM audit_log WHERE concat(before, after) ~* 'nonce|cipher|secret'",
        )
        .await;
    assert_eq!(secrets, 0);
    let left = database
        .count(
            "SELECT (SELECT count(*) FROM webhook_secrets) + (SELECT count(*) FROM webhook_links)",
        )
        .await;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn lists_page_exactly_by_creation_and_id() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let other = database.workspace().await;
    make(&database, other).await;
    let mut all = Vec::new();
    for n in 0..7 {
        let new = webhooks_store::NewWebhook {
            now: NOON + n / 3,
            ..new_webhook(workspace)
        };
        all.push(
            store
                .create_webhook(&new, None, None, &actor())
                .await
                .unwrap(),
        );
    }
    all.sort_by_key(|row| (row.created_at, row.id));
    for size in 1..=8 {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = store
                .list_webhooks(workspace, StatusFilter::Any, size, after)
                .await
                .unwrap();
            assert_eq!(page.total, 7);
            assert!(!page.rows.is_empty(), "no token may lead to an empty page");
            after = page.rows.last().map(WebhookRow::cursor);
            seen.extend(page.rows);
            if !page.more {
                break;
            }
        }
        assert_eq!(seen, all, "page size {size}");
    }
    for (n, (status, reason)) in [
        (WebhookStatus::Paused, StatusReason::DeliveryFailures),
        (WebhookStatus::Disabled, StatusReason::User),
        (WebhookStatus::AutoDisabled, StatusReason::EndpointGone),
    ]
    .into_iter()
    .enumerate()
    {
        let patch = WebhookPatch {
            status: Some((status, Some(reason))),
            ..WebhookPatch::default()
        };
        store
            .update_webhook(workspace, all[n].id, &patch, &actor(), NOON + 9)
            .await
            .unwrap();
    }
    for (filter, total) in [
        (StatusFilter::Any, 7),
        (StatusFilter::Active, 4),
        (StatusFilter::Paused, 1),
        (StatusFilter::Disabled, 2),
    ] {
        let page = store
            .list_webhooks(workspace, filter, 100, None)
            .await
            .unwrap();
        assert_eq!(
            (page.total, page.rows.len()),
            (total, usize::try_from(total).unwrap()),
            "{filter:?}"
        );
    }
    let mut ids: Vec<_> = store
        .webhook_config_rows(None, 100)
        .await
        .unwrap()
        .iter()
        .map(|w| w.id)
        .collect();
    assert_eq!(ids.len(), 8);
    let rest = store.webhook_config_rows(Some(ids[4]), 2).await.unwrap();
    assert_eq!(
        rest.iter().map(|w| w.id).collect::<Vec<_>>(),
        ids.drain(5..7).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_creation_judged_by_another_plan_is_not_made() {
    let database = Database::fresh().await;
    let store = &database.store;
    let id = database.workspace().await;
    let judged = store.get_workspace(id).await.unwrap().unwrap();
    let room = |judged_by| Room {
        limit: None,
        judged_by: Some(judged_by),
    };
    let made = store
        .create_webhook(&new_webhook(id), room(&judged), None, &actor())
        .await;
    made.unwrap();
    store
        .set_plan(id, Plan::Light, &actor(), NOON)
        .await
        .unwrap();
    let late = store
        .create_webhook(&new_webhook(id), room(&judged), None, &actor())
        .await;
    assert!(matches!(
        late.unwrap_err(),
        StoreError::Conflict("workspace")
    ));
    let now = store.get_workspace(id).await.unwrap().unwrap();
    assert_eq!(now.plan, Plan::Light);
    store
        .create_webhook(&new_webhook(id), room(&now), None, &actor())
        .await
        .unwrap();
}

#[tokio::test]
async fn what_a_webhook_was_at_a_moment_stands_in_the_audit_log() {
    let database = Database::fresh().await;
    let store = &database.store;
    let (workspace, other) = (database.workspace().await, database.workspace().await);
    let made = make(&database, workspace).await;
    let (id, link, who) = (made.id, Uuid::from_u128(1), actor());
    let change = async |patch: WebhookPatch, now| {
        let changed = store.update_webhook(workspace, id, &patch, &who, now);
        assert!(changed.await.unwrap().is_some());
    };
    // A look at a secret says nothing of the configuration.
    store
        .record_access(
            workspace,
            &actor(),
            "webhook.secret_shown",
            &id.to_string(),
            NOON + 5,
        )
        .await
        .unwrap();
    let kinds = WebhookPatch {
        triggers: Some(vec!["KIND_ENTRY".into()]),
        ..WebhookPatch::default()
    };
    change(kinds, NOON + 10).await;
    let news = HealthNews {
        episode_id: format!("{id}-1"),
        kind: "auto_disabled".into(),
        workspace_id: workspace,
        webhook_id: id,
        epoch: made.health_epoch,
        status: WebhookStatus::AutoDisabled,
        reason: Some(StatusReason::ConsecutiveFailures),
        at: NOON + 20,
    };
    let acted = store.record_health(&news, |_, _| Vec::new(), NOON + 20);
    assert!(acted.await.unwrap());
    let scope = WebhookPatch {
        link_ids: Some(vec![link]),
        event_actions: Some(vec!["FORM_SUBMIT".into()]),
        ..WebhookPatch::default()
    };
    change(scope, NOON + 30).await;
    let deleted = store.delete_webhook(workspace, id, None, &who, NOON + 40);
    assert!(deleted.await.unwrap());

    let at = async |workspace, moment| {
        let mut found = store.webhooks_at(workspace, &[id], moment).await.unwrap();
        found.remove(&id)
    };
    let was = |status, kind: &str, revision| PastConfig {
        status,
        link_ids: Vec::new(),
        triggers: vec![kind.to_owned()],
        event_actions: Vec::new(),
        revision,
    };
    let first = Some(Past::Config(was(WebhookStatus::Active, "KIND_EXIT", 1)));
    assert_eq!(at(workspace, NOON - 1).await, first, "as it was made");
    assert_eq!(at(workspace, NOON).await, first);
    assert_eq!(at(workspace, NOON + 9).await, first);
    let second = was(WebhookStatus::Active, "KIND_ENTRY", 2);
    assert_eq!(at(workspace, NOON + 10).await, Some(Past::Config(second)));
    let third = was(WebhookStatus::AutoDisabled, "KIND_ENTRY", 2);
    assert_eq!(
        at(workspace, NOON + 20).await,
        Some(Past::Config(third.clone()))
    );
    let last = PastConfig {
        link_ids: vec![link],
        event_actions: vec!["FORM_SUBMIT".into()],
        revision: 3,
        ..third
    };
    assert_eq!(at(workspace, NOON + 39).await, Some(Past::Config(last)));
    assert_eq!(at(workspace, NOON + 40).await, None, "nothing came later");
    assert_eq!(
        at(other, NOON).await,
        None,
        "another workspace's is unknown"
    );

    let gone = async |workspace, after, made_by| {
        let found = store.webhooks_deleted_after(workspace, after, made_by);
        found.await.unwrap()
    };
    let expected = DeletedWebhook {
        id,
        created_at: NOON,
    };
    assert_eq!(gone(workspace, NOON + 39, NOON).await, [expected]);
    assert_eq!(gone(workspace, NOON + 40, NOON).await, []);
    assert_eq!(
        gone(workspace, NOON, NOON - 1).await,
        [],
        "not made by then"
    );
    assert_eq!(gone(other, NOON, NOON).await, []);

    // What has another form is not guessed at.
    let strange = "INSERT INTO audit_log (workspace_id, actor, action, subject, at, before)
        VALUES ($1, 'system', 'webhook.update', $2, '2026-01-15 12:00:01+00', '{\"status\": \"NEW\"}')";
    sqlx::query(strange)
        .bind(workspace)
        .bind(id.to_string())
        .execute(&database.sql)
        .await
        .unwrap();
    assert_eq!(at(workspace, NOON + 40).await, Some(Past::Unreadable));
}

#[tokio::test]
async fn a_workspace_with_many_changes_leaves_others_their_turn() {
    let database = Database::fresh().await;
    let store = &database.store;
    let (many, few) = (database.workspace().await, database.workspace().await);
    for workspace in [many, many, many, many, many, few] {
        let new = new_webhook(workspace);
        let made = store.create_webhook(&new, None, None, &actor()).await;
        made.unwrap();
    }
    let step = store.next_outbox(10, 2).await.unwrap();
    let whose: Vec<_> = step.rows.iter().map(|row| row.workspace_id).collect();
    assert_eq!(whose, [many, many, few]);
    assert_eq!(step.more_of, [many].into());
    assert!(!step.more_workspaces);
    // Of one workspace only, it is not known what others have.
    let step = store.next_outbox(1, 10).await.unwrap();
    assert!(step.more_workspaces && step.more_of.is_empty());
    let ids: Vec<i64> = step.rows.iter().map(|row| row.id).collect();
    store.done_outbox(&ids).await.unwrap();
    let rest = store.next_outbox(1, 10).await.unwrap().rows;
    assert_eq!(ids.len() + rest.len(), 6);
    let rest: Vec<i64> = rest.iter().map(|row| row.id).collect();
    store.done_outbox(&rest).await.unwrap();
    let none = store.next_outbox(1, 10).await.unwrap();
    assert!(none.rows.is_empty() && !none.more_workspaces);
}
