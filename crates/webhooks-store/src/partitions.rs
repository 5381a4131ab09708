//! One partition a day for events, deliveries and attempts: old history goes by dropping tables,
//! which costs nothing, and not by deleting rows.
//!
//! Partitions are made ahead of time. A row that has none lands in the default partition and moves
//! when its day gets one. All three functions may run anywhere, at any time, together: an advisory lock
//! makes them take turns, and each day is a transaction of its own. A day that is over is *closed*: its
//! tables take the same rows, and are vacuumed to the last one.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row as _, Transaction};

use crate::{Store, error::StoreError, pg::Day};

/// A partitioned table and how its partitions are stored.
struct Parent {
    table: &'static str,
    /// See `migrations/0002_history.sql` for the reasons.
    storage: &'static str,
}

const PARENTS: [Parent; 3] = [
    Parent {
        table: "events",
        storage: "toast_tuple_target = 8160",
    },
    Parent {
        table: "deliveries",
        storage: "fillfactor = 45, toast_tuple_target = 8160, \
            autovacuum_vacuum_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05",
    },
    Parent {
        table: "attempts",
        storage: "toast_tuple_target = 8160",
    },
];

/// How the tables of a day that is over are vacuumed: when a thousand of its rows are new or dead, and
/// not a share of them. The last share of a day would never be: what comes later is few. Until a page is
/// vacuumed, a look at what an index knows reads the table as well, and a search of that evening's
/// deliveries does so 5,000 times.
const CLOSED: &str = "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, \
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 1000";

/// What tells that a table has them: how PostgreSQL writes the last one down.
const CLOSED_MARK: &str = "autovacuum_vacuum_insert_threshold=1000";

/// Any number, the same for all who make, close or drop partitions ("whpart").
const ADVISORY_LOCK: i64 = 0x7768_7061_7274;

impl Store {
    /// Makes the partitions of `today` and the `ahead_days` after it; answers how many days were
    /// new. Rows of those days that are in the default partition move.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when a lock is not had within 2 s: call again later.
    pub async fn ensure_partitions(&self, today: Day, ahead_days: u16) -> Result<u32, StoreError> {
        let mut made = 0;
        for ahead in 0..=i32::from(ahead_days) {
            let day = today.plus(ahead);
            if self.has_partitions(day).await? {
                continue;
            }
            for (number, parent) in PARENTS.iter().enumerate() {
                // A table at a time: two that are locked together meet a reader of both in a deadlock.
                let mut tx = self.take_turn().await?;
                let new = make(&mut tx, parent, day).await?;
                tx.commit().await?;
                // A day is whose who made its first table.
                made += u32::from(new && number == 0);
            }
        }
        Ok(made)
    }

    /// Drops everything of the days before `day`, counters of those days included; answers how many
    /// days went. The totals of webhooks ([`crate::StatsRow`]) stay.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when a lock is not had within 2 s: what was dropped is dropped;
    /// call again later.
    pub async fn drop_partitions_older_than(&self, day: Day) -> Result<u32, StoreError> {
        let old: Vec<Day> = {
            let mut connection = self.pool.acquire().await?;
            let tables = existing(&mut connection).await?;
            let days: BTreeSet<Day> = tables.into_iter().map(|table| table.day).collect();
            days.into_iter().filter(|made| *made < day).collect()
        };
        let mut dropped = 0;
        for old_day in old {
            let mut tx = self.take_turn().await?;
            for parent in &PARENTS {
                let name = partition(parent, old_day);
                execute(&mut tx, format!("DROP TABLE IF EXISTS {name}")).await?;
            }
            for counts in [
                "DELETE FROM delivery_counts WHERE day = $1",
                "DELETE FROM event_counts WHERE day = $1",
            ] {
                sqlx::query(counts).bind(old_day).execute(&mut *tx).await?;
            }
            tx.commit().await?;
            dropped += 1;
        }
        self.clear_strays(day).await?;
        Ok(dropped)
    }

    /// Closes the days before `day`: what little still happens to their tables is vacuumed soon. Answers
    /// how many tables were not closed before. Readers and writers go on meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when a lock is not had within 2 s: what was closed is closed;
    /// call again later.
    pub async fn close_partitions_older_than(&self, day: Day) -> Result<u32, StoreError> {
        let tables = {
            let mut connection = self.pool.acquire().await?;
            existing(&mut connection).await?
        };
        let mut closed = 0;
        for table in tables {
            if table.closed || table.day >= day {
                continue;
            }
            let mut tx = self.take_turn().await?;
            // Somebody may have dropped it meanwhile.
            let Table { name, .. } = table;
            execute(
                &mut tx,
                format!("ALTER TABLE IF EXISTS {name} SET ({CLOSED})"),
            )
            .await?;
            tx.commit().await?;
            closed += 1;
        }
        Ok(closed)
    }

    /// Removes what is older than `day` and never had a partition.
    async fn clear_strays(&self, day: Day) -> Result<(), StoreError> {
        let mut tx = self.take_turn().await?;
        for parent in &PARENTS {
            let table = parent.table;
            let delete = format!("DELETE FROM {table}_default WHERE day < $1");
            sqlx::query(AssertSqlSafe(delete))
                .bind(day)
                .execute(&mut *tx)
                .await?;
        }
        for counts in [
            "DELETE FROM delivery_counts WHERE day < $1",
            "DELETE FROM event_counts WHERE day < $1",
        ] {
            sqlx::query(counts).bind(day).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    async fn has_partitions(&self, day: Day) -> Result<bool, StoreError> {
        let mut connection = self.pool.acquire().await?;
        for parent in &PARENTS {
            if !is_there(&mut connection, &partition(parent, day)).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A transaction in which nobody else makes or drops partitions. A table lock it cannot get
    /// soon is given up: everybody who comes after it would have to wait behind it.
    async fn take_turn(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut tx = self.pool.begin().await?;
        execute(&mut tx, "SET LOCAL statement_timeout = '60s'".to_owned()).await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(ADVISORY_LOCK)
            .execute(&mut *tx)
            .await?;
        execute(&mut tx, "SET LOCAL lock_timeout = '2s'".to_owned()).await?;
        Ok(tx)
    }
}

fn partition(parent: &Parent, day: Day) -> String {
    format!("{}_{}", parent.table, day.suffix())
}

/// Makes a table like the parent, moves the day's stray rows into it, and attaches it. Attaching
/// lets the parent's readers and writers go on, where `CREATE TABLE … PARTITION OF` would stop
/// them.
async fn make(
    connection: &mut PgConnection,
    parent: &Parent,
    day: Day,
) -> Result<bool, StoreError> {
    let name = partition(parent, day);
    if is_there(connection, &name).await? {
        return Ok(false);
    }
    let Parent { table, storage } = parent;
    let (from, to) = (day, day.plus(1));
    let statements = [
        format!("CREATE TABLE {name} (LIKE {table} INCLUDING ALL) WITH ({storage})"),
        format!("LOCK TABLE {table}_default IN ACCESS EXCLUSIVE MODE"),
        format!("INSERT INTO {name} SELECT * FROM {table}_default WHERE day = '{from}'"),
        format!("DELETE FROM {table}_default WHERE day = '{from}'"),
        format!(
            "ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ('{to}')"
        ),
    ];
    for statement in statements {
        execute(connection, statement).await?;
    }
    Ok(true)
}

/// Asks the catalogue, and not `to_regclass`, whose cache may not know what another transaction
/// made while this one waited for its turn.
async fn is_there(connection: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
    let select = "SELECT EXISTS (SELECT 1 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE c.relname = $1 AND pg_table_is_visible(c.oid))";
    Ok(sqlx::query_scalar(select)
        .bind(name)
        .fetch_one(connection)
        .await?)
}

/// A day's table.
struct Table {
    name: String,
    day: Day,
    closed: bool,
}

/// The tables of all days.
async fn existing(connection: &mut PgConnection) -> Result<Vec<Table>, StoreError> {
    let select = "SELECT parent.relname::text AS parent, child.relname::text AS child,
          coalesce($2 = ANY(child.reloptions), false) AS closed
        FROM pg_inherits i
        JOIN pg_class parent ON parent.oid = i.inhparent
        JOIN pg_class child ON child.oid = i.inhrelid
        WHERE i.inhparent = ANY($1::text[]::regclass[])";
    let names: Vec<_> = PARENTS.iter().map(|parent| parent.table).collect();
    let rows = sqlx::query(select)
        .bind(names)
        .bind(CLOSED_MARK)
        .fetch_all(connection)
        .await?;
    let mut tables = Vec::with_capacity(rows.len());
    for row in rows {
        let (parent, name): (&str, String) = (row.try_get("parent")?, row.try_get("child")?);
        let suffix = name
            .strip_prefix(parent)
            .and_then(|rest| rest.strip_prefix('_'));
        // The default partition has no day.
        if let Some(day) = suffix.and_then(Day::of_suffix) {
            let closed = row.try_get("closed")?;
            tables.push(Table { name, day, closed });
        }
    }
    Ok(tables)
}

/// Runs a statement whose only variable parts are names and days made here.
async fn execute(connection: &mut PgConnection, statement: String) -> Result<(), StoreError> {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await?;
    Ok(())
}
