//! Searching history, replaying from it, jobs, events and figures.

use sqlx::AssertSqlSafe;
use uuid::Uuid;
use webhooks_domain::{
    delivery::DeliveryState,
    endpoint::outcome::{FailureClass, Outcome},
    ids::Trigger,
};
use webhooks_store::{
    DeliveryFacts, DeliveryFilter, DeliveryRow, EventRow, Interval, JobFilter, JobRow, JobState,
    JobType, MAX_EXAMINED, Missing, NewJob, NewTest, RenditionRecord, Replay, StoreError, TestSend,
    VerdictRecord, Wish,
};

use crate::support::{Database, NOON, SECOND, actor, attempt, day, facts, report, verdict};

const DAY: i64 = 86_400 * SECOND;

async fn search(database: &Database, workspace: Uuid, filter: DeliveryFilter) -> Vec<String> {
    let page = database
        .store
        .search_deliveries(workspace, &filter, 1_000, None)
        .await
        .unwrap();
    assert_eq!(page.total, i64::try_from(page.rows.len()).unwrap());
    assert!(!page.total_is_lower_bound && page.next.is_none());
    page.rows.into_iter().map(|row| row.event_id).collect()
}

fn named(filter: DeliveryFilter, webhook: Uuid) -> DeliveryFilter {
    DeliveryFilter {
        webhook: Some(webhook),
        ..filter
    }
}

#[tokio::test]
async fn deliveries_are_found_by_whatever_is_known_of_them() {
    let database = Database::fresh().await;
    let store = &database.store;
    store
        .ensure_partitions(day(NOON).plus(-2), 3)
        .await
        .unwrap();
    let (workspace, a, b) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let delivery = |webhook, event: &str, at| facts(workspace, webhook, event, at);
    let old = delivery(a, "old", NOON - 2 * DAY);
    let mut other_link = delivery(a, "link", NOON - 1);
    other_link.link_id = Some(Uuid::from_u128(5));
    let mut other_journey = delivery(b, "journey", NOON);
    other_journey.lbid = "another".into();
    let failed = delivery(b, "failed", NOON + 1);
    let stranger = facts(Uuid::new_v4(), Uuid::new_v4(), "stranger", NOON);
    let all = [&old, &other_link, &other_journey, &failed, &stranger];
    store.record_verdicts(&all.map(verdict)).await.unwrap();
    let mut broken = attempt(1, NOON, Outcome::HttpError);
    broken.class = Some(FailureClass::Temporary);
    store
        .record_reports(&[
            report(&failed, DeliveryState::Failed, broken),
            report(
                &old,
                DeliveryState::Delivered,
                attempt(1, NOON, Outcome::Success),
            ),
        ])
        .await
        .unwrap();
    let none = DeliveryFilter::default;
    let cases: Vec<(DeliveryFilter, &[&str])> = vec![
        (none(), &["failed", "journey", "link", "old"]),
        (named(none(), a), &["link", "old"]),
        (
            DeliveryFilter {
                states: vec![DeliveryState::Failed, DeliveryState::Delivered],
                ..none()
            },
            &["failed", "old"],
        ),
        (
            DeliveryFilter {
                class: Some(FailureClass::Temporary),
                ..none()
            },
            &["failed"],
        ),
        (
            DeliveryFilter {
                status: Some((500, 599)),
                ..none()
            },
            &["failed"],
        ),
        (
            DeliveryFilter {
                status: Some((200, 200)),
                ..none()
            },
            &["old"],
        ),
        (
            DeliveryFilter {
                event_id: Some("old".into()),
                ..none()
            },
            &["old"],
        ),
        (
            DeliveryFilter {
                event_id: Some("old".into()),
                ..named(none(), b)
            },
            &[],
        ),
        (
            DeliveryFilter {
                link_id: Some(Uuid::from_u128(5)),
                ..none()
            },
            &["link"],
        ),
        (
            DeliveryFilter {
                lbid: Some("another".into()),
                ..none()
            },
            &["journey"],
        ),
        (
            DeliveryFilter {
                trigger: Some(Trigger::Test),
                ..none()
            },
            &[],
        ),
        (
            DeliveryFilter {
                created_from: Some(NOON - 1),
                created_before: Some(NOON + 1),
                ..none()
            },
            &["journey", "link"],
        ),
        (
            DeliveryFilter {
                created_before: Some(NOON - DAY),
                states: vec![DeliveryState::Delivered],
                ..none()
            },
            &["old"],
        ),
    ];
    for (filter, expected) in cases {
        let found = search(&database, workspace, filter.clone()).await;
        assert_eq!(found, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn a_rare_match_is_found_page_by_page_within_the_limit_of_rows() {
    let database = Database::fresh().await;
    let (workspace, webhook) = (Uuid::new_v4(), Uuid::new_v4());
    database
        .store
        .ensure_partitions(day(NOON), 1)
        .await
        .unwrap();
    // 25,000 delivered, three of them failed: one every 10,000.
    let rows = 25_000;
    let insert = format!(
        "INSERT INTO deliveries (day, id, workspace_id, webhook_id, event_id, event_type, lbid,
           trigger, created_at, event_seq, state, state_at, completed_at, last_error_class,
           last_error_reason, last_status_code)
         SELECT '2026-01-15', ('019bc1fa' || '-4000-8000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
           '{workspace}', '{webhook}', 'e' || n, 'step.completed', 'l',
           CASE WHEN n % 10000 = 1 THEN 'REPLAY' ELSE 'EVENT' END,
           to_timestamp({at}) + n * interval '1 ms', n,
           CASE WHEN n % 10000 = 1 THEN 'FAILED' ELSE 'DELIVERED' END, now(), now(),
           CASE WHEN n % 10000 = 1 THEN 'TEMPORARY' END, CASE WHEN n % 10000 = 1 THEN 'x' END,
           CASE WHEN n % 10000 = 1 THEN 503 ELSE 200 END
         FROM generate_series(0, {rows} - 1) n;
         INSERT INTO delivery_counts VALUES
           ('{webhook}', '2026-01-15', '{workspace}', 0, 0, 0, {rows} - 3, 3, 0);
         ANALYZE deliveries;",
        at = NOON / SECOND,
    );
    sqlx::raw_sql(AssertSqlSafe(insert))
        .execute(&database.sql)
        .await
        .unwrap();
    for filter in [
        DeliveryFilter {
            trigger: Some(Trigger::Replay),
            ..DeliveryFilter::default()
        },
        DeliveryFilter {
            trigger: Some(Trigger::Replay),
            ..named(DeliveryFilter::default(), webhook)
        },
    ] {
        let (mut found, mut after, mut pages) = (0, None, 0);
        loop {
            let page = database
                .store
                .search_deliveries(workspace, &filter, 10, after)
                .await
                .unwrap();
            assert!(
                page.total_is_lower_bound && page.total <= 3,
                "{}",
                page.total
            );
            assert_eq!(page.more, page.next.is_some());
            found += page.rows.len();
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, 3);
        assert_eq!(pages, rows / MAX_EXAMINED);
    }
    // What cannot have been delivered is found without looking at what was.
    for filter in [
        DeliveryFilter {
            status: Some((503, 503)),
            ..DeliveryFilter::default()
        },
        DeliveryFilter {
            class: Some(FailureClass::Temporary),
            ..named(DeliveryFilter::default(), webhook)
        },
    ] {
        let page = database
            .store
            .search_deliveries(workspace, &filter, 10, None)
            .await
            .unwrap();
        assert_eq!((page.rows.len(), page.next), (3, None));
        assert_eq!((page.total, page.total_is_lower_bound), (3, false));
    }
    // What the counters know is exact at any size, and so is a search by state.
    let states = DeliveryFilter {
        states: vec![DeliveryState::Failed],
        ..DeliveryFilter::default()
    };
    let page = database
        .store
        .search_deliveries(workspace, &states, 10, None)
        .await
        .unwrap();
    assert_eq!((page.total, page.total_is_lower_bound), (3, false));
    let newest = DeliveryFilter {
        created_from: Some(NOON + 20_000 * SECOND / 1_000),
        ..states
    };
    let page = database
        .store
        .search_deliveries(workspace, &newest, 10, None)
        .await
        .unwrap();
    assert_eq!((page.rows.len(), page.next), (1, None));
    assert_eq!((page.total, page.total_is_lower_bound), (1, false));
}

#[tokio::test]
async fn a_replay_has_the_same_bytes_and_is_owed_once() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let original = facts(workspace, Uuid::new_v4(), "e", NOON - 3 * DAY);
    let actor = actor();
    let wish = Wish {
        actor: &actor,
        now: NOON,
        claim: None,
    };
    let key = Uuid::from_u128(1);
    let unknown = store.replay_delivery(workspace, original.delivery_id, key, wish);
    assert_eq!(unknown.await.unwrap(), Replay::Unknown);
    store
        .record_reports(&[report(
            &original,
            DeliveryState::Failed,
            attempt(1, NOON, Outcome::Timeout),
        )])
        .await
        .unwrap();
    let early = store.replay_delivery(workspace, original.delivery_id, key, wish);
    assert_eq!(early.await.unwrap(), Replay::NotYet);
    store.record_verdicts(&[verdict(&original)]).await.unwrap();
    let stranger = store.replay_delivery(Uuid::new_v4(), original.delivery_id, key, wish);
    assert_eq!(stranger.await.unwrap(), Replay::Unknown);

    let made = store
        .replay_delivery(workspace, original.delivery_id, key, wish)
        .await
        .unwrap();
    let Replay::Made(replay) = made else {
        panic!("{made:?}")
    };
    assert_eq!(replay.replay_of, Some(original.delivery_id));
    assert_eq!(
        (replay.trigger, replay.state),
        (Trigger::Replay, DeliveryState::Pending)
    );
    assert_eq!(replay.created_at, NOON);
    let again = store
        .replay_delivery(workspace, original.delivery_id, key, wish)
        .await
        .unwrap();
    assert_eq!(
        again,
        Replay::Made(replay.clone()),
        "the same wish makes nothing twice"
    );

    let body = store
        .delivery_body(workspace, original.delivery_id)
        .await
        .unwrap();
    assert!(body.is_some());
    assert_eq!(
        store.delivery_body(workspace, replay.id).await.unwrap(),
        body
    );
    let owed = store.next_owed(10).await.unwrap();
    assert_eq!(owed.len(), 1);
    assert_eq!(owed[0].delivery.id, replay.id);
    assert_eq!(owed[0].body.as_deref(), body.as_deref());
    store.done_owed(&[owed[0].outbox_id]).await.unwrap();
    assert!(store.next_owed(10).await.unwrap().is_empty());

    // A replay of the replay goes back to the same event.
    let wish = Wish {
        now: NOON + DAY,
        ..wish
    };
    let second = store
        .replay_delivery(workspace, replay.id, key, wish)
        .await
        .unwrap();
    let Replay::Made(second) = second else {
        panic!("{second:?}")
    };
    assert_eq!(
        store.delivery_body(workspace, second.id).await.unwrap(),
        body
    );

    sqlx::query("UPDATE events SET renditions = NULL")
        .execute(&database.sql)
        .await
        .unwrap();
    let expired = store.replay_delivery(workspace, original.delivery_id, key, wish);
    assert_eq!(expired.await.unwrap(), Replay::Expired);
    let audited = "SELECT count(*) FROM audit_log WHERE action = 'delivery.retry'";
    assert_eq!(database.count(audited).await, 3);
}

fn rendition(profile: &str) -> RenditionRecord {
    RenditionRecord {
        profile: profile.into(),
        head: "{\"event\":{},\"webhook\":".into(),
        tail: ",\"lbid\":\"x\"}".into(),
    }
}

fn test_of(workspace: Uuid, n: i64) -> NewTest {
    let event = format!("test-{n}");
    let delivery = DeliveryFacts {
        trigger: Trigger::Test,
        event_seq: 0,
        ..facts(workspace, Uuid::from_u128(9), &event, NOON + n)
    };
    let event = VerdictRecord {
        renditions: vec![rendition("strict")],
        deliveries: Vec::new(),
        ..verdict(&delivery)
    };
    NewTest {
        event_day: day(NOON),
        event: Some(event),
        rendition: rendition("strict"),
        snapshot: b"{}".to_vec(),
        action: "webhook.test",
        limit: 2,
        window: 60 * SECOND,
        delivery,
    }
}

#[tokio::test]
async fn a_test_is_owed_is_capped_and_counts_for_nothing() {
    let database = Database::fresh().await;
    let (store, workspace) = (&database.store, database.workspace().await);
    let actor = actor();
    let at = |now| Wish {
        actor: &actor,
        now,
        claim: None,
    };
    for n in 0..2 {
        let sent = store
            .send_test(&test_of(workspace, n), at(NOON + n))
            .await
            .unwrap();
        assert!(matches!(sent, TestSend::Made(_)), "{sent:?}");
    }
    let third = store
        .send_test(&test_of(workspace, 2), at(NOON + 2))
        .await
        .unwrap();
    assert_eq!(third, TestSend::TooMany(NOON + 60 * SECOND));
    let later = NOON + 60 * SECOND;
    let later = store
        .send_test(&test_of(workspace, 3), at(later))
        .await
        .unwrap();
    assert!(matches!(later, TestSend::Made(_)), "{later:?}");
    assert_eq!(store.next_owed(10).await.unwrap().len(), 3);

    let sent = test_of(workspace, 0).delivery;
    let delivered = report(
        &sent,
        DeliveryState::Delivered,
        attempt(1, NOON, Outcome::Success),
    );
    store.record_reports(&[delivered]).await.unwrap();
    let listed = store
        .list_deliveries(
            workspace,
            sent.webhook_id,
            Some(DeliveryState::Delivered),
            10,
            None,
        )
        .await
        .unwrap();
    assert_eq!(listed.total, 1);
    let counted =
        "SELECT coalesce(sum(success_count + failure_count), 0)::bigint FROM webhook_stats";
    assert_eq!(database.count(counted).await, 0);
    let events = store
        .list_events(workspace, (0, i64::MAX), 10, None)
        .await
        .unwrap();
    assert!(events.rows.is_empty(), "tests are no events");
}

fn job(workspace: Uuid, webhook: Uuid, kind: JobType) -> NewJob {
    NewJob {
        id: Uuid::new_v4(),
        workspace_id: workspace,
        webhook_id: webhook,
        kind,
        since: NOON - 2 * DAY,
        until: NOON + DAY,
        filter: JobFilter::default(),
        dry_run: false,
        rate_per_second: 2,
    }
}

/// Fires for every event but one.
struct Every;

impl Missing for Every {
    fn fires(&self, event: &EventRow) -> bool {
        event.id != "unwanted"
    }

    fn body(
        &self,
        _: &EventRow,
        renditions: &[RenditionRecord],
    ) -> Option<(RenditionRecord, Vec<u8>)> {
        Some((renditions.first()?.clone(), b"{\"now\":true}".to_vec()))
    }
}

/// Runs a job to its end; how many steps it took.
async fn run(database: &Database, mut now: i64) -> (JobRow, u32) {
    let mut steps = 0;
    loop {
        now += SECOND;
        let claimed = database.store.claim_job(now).await.unwrap();
        let Some(claimed) = claimed else { continue };
        let done = database
            .store
            .advance_job(&claimed, &Every, now)
            .await
            .unwrap();
        steps += 1;
        // A crash after the commit: the same step again does nothing.
        let again = database
            .store
            .advance_job(&claimed, &Every, now)
            .await
            .unwrap();
        assert_eq!(again, done);
        if done.state != JobState::Running {
            return (done, steps);
        }
        assert!(steps < 100);
    }
}

#[tokio::test]
async fn a_recovery_replays_each_failed_event_once_and_at_its_rate() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let webhook = Uuid::new_v4();
    store
        .ensure_partitions(day(NOON).plus(-2), 4)
        .await
        .unwrap();
    let at = |n: i64| {
        facts(
            workspace,
            webhook,
            &format!("e{n}"),
            NOON - DAY + n * DAY / 8,
        )
    };
    let all: Vec<_> = (0..7).map(at).collect();
    store
        .record_verdicts(&all.iter().map(verdict).collect::<Vec<_>>())
        .await
        .unwrap();
    let failed = |facts| {
        report(
            facts,
            DeliveryState::Failed,
            attempt(1, NOON, Outcome::Timeout),
        )
    };
    let mut reports: Vec<_> = all[..5].iter().map(failed).collect();
    reports.push(report(
        &all[5],
        DeliveryState::Delivered,
        attempt(1, NOON, Outcome::Success),
    ));
    store.record_reports(&reports).await.unwrap();
    let actor = actor();
    let wish = Wish {
        actor: &actor,
        now: NOON + 2 * DAY,
        claim: None,
    };
    // One of the five has arrived by a replay meanwhile.
    let key = Uuid::from_u128(7);
    let Replay::Made(replay) = store
        .replay_delivery(workspace, all[0].delivery_id, key, wish)
        .await
        .unwrap()
    else {
        panic!("not made")
    };
    let arrived = DeliveryFacts {
        delivery_id: replay.id,
        trigger: Trigger::Replay,
        created_at: replay.created_at,
        ..all[0].clone()
    };
    let arrived = report(
        &arrived,
        DeliveryState::Delivered,
        attempt(1, NOON, Outcome::Success),
    );
    store.record_reports(&[arrived]).await.unwrap();

    let dry = NewJob {
        dry_run: true,
        ..job(workspace, webhook, JobType::RecoverFailed)
    };
    store.create_job(&dry, wish).await.unwrap();
    let (done, _) = run(&database, wish.now).await;
    assert_eq!((done.matched, done.replayed), (4, 0), "{done:?}");

    let new = job(workspace, webhook, JobType::RecoverFailed);
    let made = store.create_job(&new, wish).await.unwrap();
    assert_eq!((made.state, &made.job), (JobState::Pending, &new));
    let (done, steps) = run(&database, wish.now).await;
    assert_eq!(done.state, JobState::Succeeded);
    assert_eq!(
        (done.examined, done.matched, done.replayed, done.skipped),
        (7, 4, 4, 0)
    );
    assert!(steps >= 2, "two a second");
    let pending = DeliveryFilter {
        trigger: Some(Trigger::Replay),
        states: vec![DeliveryState::Pending],
        ..named(DeliveryFilter::default(), webhook)
    };
    let mut replayed = search(&database, workspace, pending).await;
    replayed.sort_unstable();
    assert_eq!(replayed, ["e1", "e2", "e3", "e4"]);
    // They are on their way now: another recovery finds nothing.
    store
        .create_job(&job(workspace, webhook, JobType::RecoverFailed), wish)
        .await
        .unwrap();
    let (done, _) = run(&database, wish.now).await;
    assert_eq!((done.matched, done.replayed), (0, 0));
}

#[tokio::test]
async fn what_is_missing_is_made_from_the_events() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let (webhook, other) = (Uuid::new_v4(), Uuid::new_v4());
    store
        .ensure_partitions(day(NOON).plus(-2), 4)
        .await
        .unwrap();
    let had = facts(workspace, webhook, "had", NOON);
    let verdicts = [
        verdict(&had),
        verdict(&facts(workspace, other, "missing", NOON + 1)),
        verdict(&facts(workspace, other, "unwanted", NOON + 2)),
        verdict(&facts(workspace, other, "too late", NOON + 2 * DAY)),
    ];
    let verdicts = verdicts.map(|mut verdict| {
        verdict.event_seq = u64::try_from(verdict.accepted_at / SECOND).unwrap();
        verdict
    });
    store.record_verdicts(&verdicts).await.unwrap();
    let actor = actor();
    let wish = Wish {
        actor: &actor,
        now: NOON + 3 * DAY,
        claim: None,
    };
    let new = job(workspace, webhook, JobType::ReplayMissing);
    store.create_job(&new, wish).await.unwrap();
    let (done, _) = run(&database, wish.now).await;
    assert_eq!(
        (done.examined, done.matched, done.replayed),
        (3, 1, 1),
        "{done:?}"
    );
    let owed = store.next_owed(10).await.unwrap();
    assert_eq!(owed.len(), 1);
    assert_eq!(owed[0].delivery.event_id, "missing");
    let body = String::from_utf8(owed[0].body.clone().unwrap().to_vec()).unwrap();
    assert!(body.contains("{\"now\":true}"), "{body}");
}

#[tokio::test]
async fn a_job_waits_for_a_failure_whose_event_is_not_recorded_yet() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let webhook = Uuid::new_v4();
    let failed = facts(workspace, webhook, "e", NOON - 5 * SECOND);
    let told = report(
        &failed,
        DeliveryState::Failed,
        attempt(1, NOON, Outcome::Timeout),
    );
    store.record_reports(&[told]).await.unwrap();
    let actor = actor();
    let wish = Wish {
        actor: &actor,
        now: NOON,
        claim: None,
    };
    let new = job(workspace, webhook, JobType::Replay);
    store.create_job(&new, wish).await.unwrap();
    let claimed = store.claim_job(NOON).await.unwrap().unwrap();
    let waits = store.advance_job(&claimed, &Every, NOON).await.unwrap();
    assert_eq!(
        (waits.state, waits.examined, waits.skipped),
        (JobState::Running, 0, 0)
    );
    assert_eq!(store.claim_job(NOON + SECOND / 2).await.unwrap(), None);
    store.record_verdicts(&[verdict(&failed)]).await.unwrap();
    let claimed = store.claim_job(NOON + SECOND).await.unwrap().unwrap();
    let done = store
        .advance_job(&claimed, &Every, NOON + SECOND)
        .await
        .unwrap();
    assert_eq!(
        (done.state, done.replayed, done.skipped),
        (JobState::Succeeded, 1, 0)
    );
    // One that never comes holds nobody up for ever.
    let lost = facts(workspace, webhook, "lost", NOON + SECOND);
    let told = report(
        &lost,
        DeliveryState::Failed,
        attempt(1, NOON + SECOND, Outcome::Timeout),
    );
    store.record_reports(&[told]).await.unwrap();
    let later = NOON + 2 * 3_600 * SECOND;
    let new = NewJob {
        id: Uuid::new_v4(),
        since: NOON,
        until: later,
        filter: JobFilter {
            states: vec![DeliveryState::Failed],
            ..JobFilter::default()
        },
        ..job(workspace, webhook, JobType::Replay)
    };
    store
        .create_job(&new, Wish { now: later, ..wish })
        .await
        .unwrap();
    let claimed = store.claim_job(later).await.unwrap().unwrap();
    let done = store.advance_job(&claimed, &Every, later).await.unwrap();
    assert_eq!(
        (done.state, done.replayed, done.skipped),
        (JobState::Succeeded, 0, 1)
    );
}

#[tokio::test]
async fn a_job_is_paused_resumed_and_ended_by_a_person() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let actor = actor();
    let wish = Wish {
        actor: &actor,
        now: NOON,
        claim: None,
    };
    let new = job(workspace, Uuid::new_v4(), JobType::Replay);
    store.create_job(&new, wish).await.unwrap();
    let set = |state| store.set_job_state(workspace, new.id, state, wish);
    let paused = set(JobState::Paused).await.unwrap().unwrap();
    assert_eq!(paused.state, JobState::Paused);
    assert_eq!(store.claim_job(NOON + SECOND).await.unwrap(), None);
    assert_eq!(
        set(JobState::Running).await.unwrap().unwrap().state,
        JobState::Running
    );
    let claimed = store.claim_job(NOON + SECOND).await.unwrap().unwrap();
    assert_eq!(
        store.claim_job(NOON + SECOND).await.unwrap(),
        None,
        "claimed once"
    );
    // Ended between claim and step: the step leaves it as it is.
    assert_eq!(
        set(JobState::Cancelled).await.unwrap().unwrap().state,
        JobState::Cancelled
    );
    let after = store
        .advance_job(&claimed, &Every, NOON + SECOND)
        .await
        .unwrap();
    assert_eq!(after.state, JobState::Cancelled);
    let ended = set(JobState::Running).await.unwrap_err();
    assert!(matches!(ended, StoreError::Conflict(_)));
    let foreign = store.set_job_state(Uuid::new_v4(), new.id, JobState::Paused, wish);
    assert_eq!(foreign.await.unwrap(), None);
    assert_eq!(store.get_job(Uuid::new_v4(), new.id).await.unwrap(), None);
    let listed = store
        .list_jobs(workspace, new.webhook_id, 10, None)
        .await
        .unwrap();
    assert_eq!(
        (listed.total, listed.rows[0].state),
        (1, JobState::Cancelled)
    );
    let audited = "SELECT count(*) FROM audit_log WHERE action LIKE 'job.%'";
    assert_eq!(database.count(audited).await, 4);
}

#[tokio::test]
async fn events_page_newest_first() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = Uuid::new_v4();
    let verdicts: Vec<_> = (0..7)
        .map(|n| {
            let at = NOON - n / 2 * DAY;
            let mut verdict = verdict(&facts(workspace, Uuid::nil(), &format!("e{n}"), at));
            verdict.event_seq = u64::try_from(100 - n).unwrap();
            verdict
        })
        .collect();
    store.record_verdicts(&verdicts).await.unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store
            .list_events(workspace, (0, i64::MAX), 3, after)
            .await
            .unwrap();
        assert_eq!((page.total, page.total_is_lower_bound), (7, false));
        after = page.rows.last().map(EventRow::cursor);
        seen.extend(page.rows.into_iter().map(|row| row.id));
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, ["e0", "e1", "e2", "e3", "e4", "e5", "e6"]);
    let range = (NOON - DAY, NOON);
    let page = store.list_events(workspace, range, 10, None).await.unwrap();
    assert_eq!(page.total, 2, "from the first moment to before the last");
    let event = store
        .get_event(workspace, "e6", NOON)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(event.event.accepted_at, NOON - 3 * DAY);
    assert!(!event.renditions.is_empty());
    assert_eq!(
        store.get_event(Uuid::new_v4(), "e6", NOON).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn figures_are_what_the_rows_say() {
    let database = Database::fresh().await;
    let store = &database.store;
    let (workspace, webhook) = (Uuid::new_v4(), Uuid::new_v4());
    store.ensure_partitions(day(NOON), 1).await.unwrap();
    let at = |n: i64| facts(workspace, webhook, &format!("e{n}"), NOON + n * 60 * SECOND);
    let all: Vec<_> = (0..6).map(at).collect();
    store
        .record_verdicts(&all.iter().map(verdict).collect::<Vec<_>>())
        .await
        .unwrap();
    let mut reports = Vec::new();
    for (n, delivery) in all.iter().enumerate() {
        let (state, outcome) = match n {
            0..3 => (DeliveryState::Delivered, Outcome::Success),
            3..5 => (DeliveryState::Failed, Outcome::HttpError),
            _ => continue,
        };
        let mut one = attempt(1, delivery.created_at, outcome);
        one.timings.total_us = Some(u32::try_from(n + 1).unwrap() * 1_000);
        reports.push(report(delivery, state, one));
    }
    store.record_reports(&reports).await.unwrap();
    let range = (NOON, NOON + 3_600 * SECOND);
    for of in [None, Some(webhook)] {
        let measured = store
            .measure(workspace, of, Interval::Minute, range)
            .await
            .unwrap();
        let totals = measured.totals;
        assert_eq!(
            (totals.deliveries, totals.delivered, totals.failed),
            (6, 3, 2)
        );
        assert_eq!((totals.pending, totals.attempts), (1, 5));
        assert_eq!(measured.buckets.len(), 6);
        assert_eq!(measured.buckets[0].start, NOON);
        assert_eq!(measured.latency.sample, 5);
        assert_eq!(measured.latency.p50_us, Some(3_000.0));
        assert_eq!(measured.backlog, (1, 0, 0));
        assert!(!measured.partial);
        let [group] = measured.errors.as_slice() else {
            panic!("{:?}", measured.errors)
        };
        assert_eq!((group.status, group.count), (Some(503), 2));
        assert_eq!(group.first.delivery, all[3].delivery_id);
        assert_eq!(group.last.delivery, all[4].delivery_id);
    }
    let day = store
        .measure(workspace, None, Interval::Day, range)
        .await
        .unwrap();
    assert_eq!(day.buckets.len(), 1);
    let nothing = store
        .measure(Uuid::new_v4(), None, Interval::Hour, range)
        .await
        .unwrap();
    assert!(nothing.buckets.is_empty() && nothing.latency.p50_us.is_none());
}

/// Keeps the page's rows together with what tests of lists compare.
#[tokio::test]
async fn pages_of_a_workspace_hold_each_delivery_once() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = Uuid::new_v4();
    let all: Vec<_> = (0..25)
        .map(|n| {
            let webhook = Uuid::from_u128(n % 3);
            let at = NOON - i64::try_from(n / 10).unwrap() * DAY;
            facts(workspace, webhook, &format!("e{n}"), at)
        })
        .collect();
    store
        .record_verdicts(&all.iter().map(verdict).collect::<Vec<_>>())
        .await
        .unwrap();
    let filter = DeliveryFilter::default();
    for size in [1, 4, 25, 26] {
        let (mut seen, mut after): (Vec<DeliveryRow>, _) = (Vec::new(), None);
        loop {
            let page = store
                .search_deliveries(workspace, &filter, size, after)
                .await
                .unwrap();
            assert_eq!(page.total, 25);
            after = page.next;
            seen.extend(page.rows);
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 25);
        assert!(seen.is_sorted_by(|a, b| (a.created_at, a.id) > (b.created_at, b.id)));
    }
}
