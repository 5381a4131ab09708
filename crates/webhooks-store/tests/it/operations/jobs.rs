//! Jobs: what they find, how fast they go, and who may stop them.

use sqlx::AssertSqlSafe;
use uuid::Uuid;
use webhooks_domain::{delivery::DeliveryState, endpoint::outcome::Outcome, ids::Trigger};
use webhooks_store::{
    DeliveryFacts, DeliveryFilter, EventRow, JobFilter, JobRow, JobState, JobType, Missing, NewJob,
    RenditionRecord, Replay, StoreError, Wish,
};

use super::{DAY, named, search, wish};
use crate::support::{Database, NOON, SECOND, actor, attempt, day, facts, report, verdict};

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
    let wish = wish(&actor, NOON + 2 * DAY);
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
    let wish = wish(&actor, NOON + 3 * DAY);
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
async fn a_dry_run_counts_what_the_job_would_make() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let (webhook, other) = (Uuid::new_v4(), Uuid::new_v4());
    store
        .ensure_partitions(day(NOON).plus(-2), 4)
        .await
        .unwrap();
    // Three events failed, and one of them again at each of two replays.
    let all = [0, 1, 2].map(|n| facts(workspace, webhook, &format!("e{n}"), NOON - DAY + n));
    store
        .record_verdicts(&all.each_ref().map(verdict))
        .await
        .unwrap();
    let failed = |facts: &DeliveryFacts| {
        report(
            facts,
            DeliveryState::Failed,
            attempt(1, facts.created_at, Outcome::Timeout),
        )
    };
    let mut reports: Vec<_> = all.iter().map(failed).collect();
    let actor = actor();
    for n in 1..=2 {
        let asked = wish(&actor, NOON + n * SECOND);
        let key = Uuid::from_u128(u128::try_from(n).unwrap());
        let made = store
            .replay_delivery(workspace, all[0].delivery_id, key, asked)
            .await
            .unwrap();
        let Replay::Made(replay) = made else {
            panic!("{made:?}")
        };
        reports.push(failed(&DeliveryFacts {
            delivery_id: replay.id,
            trigger: Trigger::Replay,
            created_at: replay.created_at,
            ..all[0].clone()
        }));
    }
    store.record_reports(&reports).await.unwrap();
    // So many others lie between that no step sees both, and the payload of one event has gone.
    let fill = format!(
        "INSERT INTO deliveries (day, id, workspace_id, webhook_id, event_id, event_type, lbid,
           trigger, created_at, event_seq, state, state_at, completed_at)
         SELECT '2026-01-14', gen_random_uuid(), '{workspace}', '{webhook}', 'other-' || n,
           'step.completed', 'l', 'EVENT', to_timestamp({at}) + (n + 10) * interval '1 ms', 1,
           'DELIVERED', now(), now()
         FROM generate_series(1, 1500) n;
         UPDATE events SET renditions = NULL WHERE event_id = 'e2'",
        at = (NOON - DAY) / SECOND,
    );
    sqlx::raw_sql(AssertSqlSafe(fill))
        .execute(&database.sql)
        .await
        .unwrap();

    let later = NOON + 3 * DAY;
    let count = async |new: NewJob| {
        let id = new.id;
        store.create_job(&new, wish(&actor, later)).await.unwrap();
        let (done, _) = run(&database, later).await;
        assert_eq!((done.job.id, done.state), (id, JobState::Succeeded));
        (done.examined, done.matched, done.replayed, done.skipped)
    };
    let filter = JobFilter {
        states: vec![DeliveryState::Failed],
        ..JobFilter::default()
    };
    let replay = NewJob {
        filter,
        ..job(workspace, webhook, JobType::Replay)
    };
    let missing = job(workspace, other, JobType::ReplayMissing);
    let dry = |of: &NewJob| NewJob {
        id: Uuid::new_v4(),
        dry_run: true,
        ..of.clone()
    };
    let recovery = job(workspace, webhook, JobType::RecoverFailed);
    assert_eq!(count(dry(&recovery)).await, (1_505, 2, 0, 0));
    assert_eq!(count(dry(&replay)).await, (1_505, 2, 0, 0));
    assert_eq!(count(replay).await, (1_505, 5, 2, 3));
    assert_eq!(count(dry(&missing)).await, (3, 2, 0, 0));
    assert_eq!(count(missing).await, (3, 3, 2, 1));
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
    let wish = wish(&actor, NOON);
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
    let wish = wish(&actor, NOON);
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
