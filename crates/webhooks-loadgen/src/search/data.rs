//! The history: made by SQL, a day at a time, before the day's tables join the others, so that their
//! indexes are built once and not row by row.
//!
//! Of each two events one is the large workspace's and makes four deliveries (to four of its twenty
//! webhooks); the other is one of a thousand small ones', of which few are busy, and makes one. Three
//! events are a journey.

use anyhow::{Context as _, ensure};
use rand::{Rng as _, rngs::StdRng};
use uuid::Uuid;

use crate::stack::{NewWebhook, Part, Stack, Workspace};

/// What an event keeps of its body, as history packs it: a profile, what stands before the part that each
/// webhook has of its own, and what stands after it, each after its length.
const ONE_RENDITION: &str = "\\x080000007374616e64617264010000007b010000007d";

/// Days of history, today the last.
pub(super) const DAYS: i64 = 30;

/// A day in microseconds.
pub(super) const DAY: i64 = 86_400_000_000;

/// Webhooks of the large workspace.
pub(super) const BIG_WEBHOOKS: usize = 20;

/// Links of the large workspace.
pub(super) const BIG_LINKS: u64 = 200;

/// Deliveries of two events.
const OF_TWO: u64 = 5;

/// Deliveries that are asked for by id.
const KNOWN: u64 = 1_000;

/// What is known of the history from outside.
pub(super) struct History {
    pub(super) big: Workspace,
    /// The busiest of the small ones.
    pub(super) small: Workspace,
    /// The large workspace's.
    pub(super) webhooks: Vec<Uuid>,
    pub(super) deliveries: u64,
    pub(super) events: u64,
    /// Some of the large workspace's deliveries.
    pub(super) deliveries_known: Vec<Uuid>,
    /// The first moment, in microseconds.
    pub(super) from: i64,
    /// After the last moment, in microseconds.
    pub(super) to: i64,
    events_a_day: u64,
}

impl History {
    /// A random event of the large workspace.
    pub(super) fn event(&self, random: &mut StdRng) -> String {
        let (day, number) = self.place(random);
        format!("evt-{day}-{}", number * 2)
    }

    /// A random journey of the large workspace.
    pub(super) fn journey(&self, random: &mut StdRng) -> String {
        let (day, number) = self.place(random);
        format!("lbid-{day}-{}", number * 2 / 6)
    }

    /// A link of the large workspace.
    pub(super) fn link(&self, number: u64) -> Uuid {
        Uuid::from_u128(u128::from(number) + 1)
    }

    fn place(&self, random: &mut StdRng) -> (i64, u64) {
        (
            random.random_range(0..DAYS),
            random.random_range(0..self.events_a_day / 2),
        )
    }
}

/// Makes about so many deliveries.
pub(super) async fn make(
    stack: &mut Stack,
    deliveries: u64,
    note: &mut (impl FnMut(String) + Send),
) -> anyhow::Result<History> {
    let big = stack.workspace("Large").await?;
    let small = stack.workspace("Small").await?;
    let mut webhooks = Vec::new();
    for (workspace, count) in [(&big, BIG_WEBHOOKS), (&small, 3)] {
        let mut api = stack.api(workspace)?;
        for number in 0..count {
            let new = NewWebhook {
                name: format!("webhook {number}"),
                endpoint_url: "http://127.0.0.1:9/".to_owned(),
                ..NewWebhook::default()
            };
            webhooks.push(api.create_webhook(&new).await?.id);
        }
    }
    let small_webhooks = webhooks.split_off(BIG_WEBHOOKS);
    // Nothing but the API is measured, and nothing else is to write. Not sooner: that a workspace's
    // token is in force is seen at ingest.
    for part in [Part::Ingest, Part::Fanout, Part::Dispatcher(1)] {
        stack.stop(part).await?;
    }
    // Without this every row would be written twice. The tables are made and filled in one
    // transaction each, which then needs no log.
    for setting in [
        "wal_level = 'minimal'",
        "max_wal_senders = 0",
        "maintenance_work_mem = '512MB'",
        "autovacuum = off",
    ] {
        stack.sql(&format!("ALTER SYSTEM SET {setting}")).await?;
    }
    super::restart(stack).await?;
    // Its background work and ours would lock each other's tables out.
    stack.stop(Part::Management).await?;
    let events_a_day = deliveries * 2 / OF_TWO / u64::try_from(DAYS)?;
    let now = crate::now_micros();
    let first_day = now / DAY - (DAYS - 1);
    stack
        .sql(&names(&big, &small, &webhooks, &small_webhooks))
        .await?;
    for day in 0..DAYS {
        let share = if day == DAYS - 1 { now % DAY } else { DAY };
        make_day(stack, first_day + day, day, events_a_day, share)
            .await
            .with_context(|| format!("day {day}"))?;
        note(format!("day {} of {DAYS}", day + 1));
    }
    stack.sql("VACUUM (ANALYZE, PARALLEL 0) events").await?;
    stack.sql("VACUUM (ANALYZE, PARALLEL 0) deliveries").await?;
    stack.sql("VACUUM (ANALYZE, PARALLEL 0) attempts").await?;
    stack.sql("VACUUM (ANALYZE) delivery_counts").await?;
    for setting in [
        "wal_level",
        "max_wal_senders",
        "maintenance_work_mem",
        "autovacuum",
    ] {
        stack.sql(&format!("ALTER SYSTEM RESET {setting}")).await?;
    }
    stack.revive(Part::Management).await?;
    stack.wait_ready(Part::Management).await?;
    let count = |table: &str| format!("SELECT count(*) FROM {table}");
    let known = format!(
        "SELECT id FROM deliveries TABLESAMPLE SYSTEM (1) REPEATABLE (1) WHERE workspace_id = '{}' LIMIT {KNOWN}",
        big.id
    );
    let known = stack.sql(&known).await?;
    let deliveries_known = known
        .lines()
        .map(str::parse)
        .collect::<Result<Vec<Uuid>, _>>()?;
    ensure!(!deliveries_known.is_empty(), "no deliveries were made");
    Ok(History {
        deliveries: stack.sql(&count("deliveries")).await?.parse()?,
        events: stack.sql(&count("events")).await?.parse()?,
        big,
        small,
        webhooks,
        deliveries_known,
        from: first_day * DAY,
        to: now,
        events_a_day,
    })
}

/// Tables of names that the days are made of, in a schema that the system does not know.
fn names(big: &Workspace, small: &Workspace, webhooks: &[Uuid], of_small: &[Uuid]) -> String {
    let list = |ids: &[Uuid]| {
        let quoted: Vec<_> = ids.iter().map(|id| format!("'{id}'")).collect();
        format!("ARRAY[{}]::uuid[]", quoted.join(", "))
    };
    format!(
        "CREATE SCHEMA bench;
         CREATE TABLE bench.workspaces AS SELECT w, CASE w WHEN -1 THEN '{}'::uuid
             WHEN 0 THEN '{}'::uuid ELSE md5('workspace' || w)::uuid END AS id
           FROM generate_series(-1, 999) w;
         CREATE TABLE bench.webhooks AS
           SELECT -1 AS w, (k - 1)::int AS k, id FROM unnest({}) WITH ORDINALITY u(id, k)
           UNION ALL SELECT 0, (k - 1)::int, id FROM unnest({}) WITH ORDINALITY u(id, k)
           UNION ALL SELECT w, k, md5('webhook' || w || '-' || k)::uuid
             FROM generate_series(1, 999) w, generate_series(0, 2) k;
         ANALYZE bench.workspaces; ANALYZE bench.webhooks;",
        big.id,
        small.id,
        list(webhooks),
        list(of_small),
    )
}

/// One day: the share of it that has passed, in microseconds.
async fn make_day(
    stack: &Stack,
    epoch_day: i64,
    day: i64,
    events: u64,
    share: i64,
) -> anyhow::Result<()> {
    let date = stack
        .sql(&format!("SELECT 'epoch'::date + {epoch_day}"))
        .await?;
    let suffix = date.replace('-', "");
    let storage = "toast_tuple_target = 8160";
    let [events_of, deliveries_of, attempts_of] =
        ["events", "deliveries", "attempts"].map(|table| format!("{table}_{suffix}"));
    let mut sql = String::new();
    for (table, name, storage) in [
        ("events", &events_of, storage.to_owned()),
        (
            "deliveries",
            &deliveries_of,
            format!("fillfactor = 45, {storage}"),
        ),
        ("attempts", &attempts_of, storage.to_owned()),
    ] {
        // What management has made ahead is empty.
        sql.push_str(&format!(
            "DROP TABLE IF EXISTS {name};
             CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE) WITH ({storage});\n"
        ));
    }
    let start = epoch_day * DAY;
    sql.push_str(&format!(
        "INSERT INTO {events_of} (day, workspace_id, event_id, link_id, accepted_at, event_timestamp,
           event_seq, renderer_version, lbid, event_type, step_kind, event_action, body_codec, renditions)
         SELECT '{date}', w.id, 'evt-{day}-' || e.n,
           CASE WHEN e.w = -1 THEN lpad(to_hex(e.n / 2 % {BIG_LINKS} + 1), 32, '0')::uuid
             ELSE md5('link' || e.w || '-' || e.n % 5)::uuid END,
           e.at, e.at, {day}::bigint * {events} + e.n + 1, 1, 'lbid-{day}-' || e.n / 6, 'step.completed',
           'KIND_EXIT', 'CLIENT_REDIRECT', 0, '{ONE_RENDITION}'
         FROM (SELECT n, 'epoch'::timestamptz + ({start} + n::numeric * {share} / {events})::bigint * interval '1 microsecond' AS at,
             CASE WHEN n % 2 = 0 THEN -1 ELSE floor(1000 * power((hashint8(n * 31 + {day}) & 16777215) / 16777216.0, 3))::int END AS w
           FROM generate_series(0, {events} - 1) n) e
         JOIN bench.workspaces w ON w.w = e.w;\n"
    ));
    sql.push_str(&format!(
        "INSERT INTO {deliveries_of} (day, rendition, id, workspace_id, webhook_id, link_id, created_at,
           event_seq, event_id, event_type, lbid, trigger, state, state_attempts, attempt_count, state_at,
           completed_at, last_attempt_at, last_status_code, last_error_class, last_error_reason, snapshot)
         SELECT e.day, 0, (substr(m, 1, 8) || '-' || substr(m, 9, 4) || '-8' || substr(h, 1, 3) || '-8'
             || substr(h, 4, 3) || '-' || substr(h, 7, 12))::uuid,
           e.workspace_id, k.id, e.link_id, e.accepted_at, e.event_seq, e.event_id, e.event_type, e.lbid,
           'EVENT', s.state, 1, 1, e.accepted_at + interval '1 second',
           CASE WHEN s.state IN ('DELIVERED', 'FAILED', 'CANCELLED') THEN e.accepted_at + interval '1 second' END,
           e.accepted_at + interval '500 ms', s.code,
           CASE WHEN s.state IN ('FAILED', 'CANCELLED') THEN CASE WHEN s.code = 404 THEN 'PERMANENT' ELSE 'TEMPORARY' END END,
           CASE WHEN s.state IN ('FAILED', 'CANCELLED') THEN 'http_' || s.code END,
           decode(repeat('7b', 200), 'hex')
         FROM {events_of} e
         JOIN bench.workspaces w ON w.id = e.workspace_id
         CROSS JOIN LATERAL (SELECT generate_series(0, CASE WHEN w.w = -1 THEN 3 ELSE 0 END)) j(j)
         JOIN bench.webhooks k ON k.w = w.w
           AND k.k = CASE WHEN w.w = -1 THEN (e.event_seq * 7 + j.j * 3) % {BIG_WEBHOOKS} ELSE e.event_seq % 3 END
         CROSS JOIN LATERAL (SELECT md5(e.event_seq || '-' || j.j) AS h,
           lpad(to_hex((extract(epoch FROM e.accepted_at) * 1000)::bigint), 12, '0') AS m) i
         CROSS JOIN LATERAL (SELECT (('x' || substr(i.h, 20, 7))::bit(28)::int % 1000000) AS draw) d
         CROSS JOIN LATERAL (SELECT CASE WHEN d.draw < 20 THEN 'HELD' WHEN d.draw < 5000 THEN 'CANCELLED'
             WHEN d.draw < 25000 THEN 'FAILED' ELSE 'DELIVERED' END AS state,
           CASE WHEN d.draw < 20 THEN NULL WHEN d.draw < 25000 THEN CASE WHEN d.draw % 10 = 0 THEN 404
             WHEN d.draw BETWEEN 20000 AND 20002 THEN 418 ELSE 503 END ELSE 200 END AS code) s;
         INSERT INTO {deliveries_of} (day, rendition, id, workspace_id, webhook_id, link_id, created_at,
           event_seq, event_id, event_type, lbid, trigger, state, state_attempts, attempt_count, state_at,
           completed_at, last_attempt_at, last_status_code, snapshot, event_day)
         SELECT day, 0, (substr(id::text, 1, 14) || '4' || substr(id::text, 16))::uuid, workspace_id,
           webhook_id, link_id, created_at + interval '1 microsecond', event_seq, event_id, event_type, lbid,
           'REPLAY', 'DELIVERED', 1, 1, state_at, state_at, last_attempt_at, 200, snapshot, day
         FROM {deliveries_of} WHERE event_seq % 1000 < 2;\n"
    ));
    // Attempts are looked up by delivery: some days of them are as good as all.
    if day >= DAYS - 3 {
        sql.push_str(&format!(
            "INSERT INTO {attempts_of} (day, number, delivery_id, execution_id, workspace_id, started_at,
               status_code, total_us, body_codec, response_body_truncated, outcome, class, error, remote_ip,
               dispatcher, response_headers, response_body)
             SELECT day, 1, id, id, workspace_id, last_attempt_at, last_status_code,
               5000 + event_seq % 100000, 0, false,
               CASE WHEN state = 'DELIVERED' THEN 'SUCCESS' ELSE 'HTTP_ERROR' END, last_error_class,
               coalesce(last_error_reason, ''), '127.0.0.1', 'dispatcher-1', '', ''
             FROM {deliveries_of} WHERE last_status_code IS NOT NULL;\n"
        ));
    }
    let until = stack
        .sql(&format!("SELECT 'epoch'::date + {}", epoch_day + 1))
        .await?;
    for (table, name) in [
        ("events", &events_of),
        ("deliveries", &deliveries_of),
        ("attempts", &attempts_of),
    ] {
        sql.push_str(&format!(
            "ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{date}') TO ('{until}');\n"
        ));
    }
    let states = [
        "PENDING",
        "RETRYING",
        "HELD",
        "DELIVERED",
        "FAILED",
        "CANCELLED",
    ]
    .map(|state| format!("count(*) FILTER (WHERE state = '{state}')"))
    .join(", ");
    sql.push_str(&format!(
        "INSERT INTO delivery_counts (webhook_id, day, workspace_id, pending, retrying, held, delivered, failed, cancelled)
         SELECT webhook_id, day, workspace_id, {states} FROM {deliveries_of} GROUP BY 1, 2, 3;"
    ));
    stack.sql(&sql).await?;
    Ok(())
}
