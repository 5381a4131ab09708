//! The deliveries of one event or one journey.
//!
//! No index of deliveries knows events: it would be written in random order with every delivery.
//! What an event made was made at the moment the event was accepted, and the table of events knows
//! that moment; so each event leads to one place in the workspace's order of time. What people asked
//! for (replays, tests) was made at other times. It is little, and has small indexes of its own.
//!
//! A delivery whose report came before its event's verdict is not found until the verdict is there.
//!
//! Nearly always all that matches is little enough to be gathered and counted in one look. What is more
//! than [`MAX_COUNTED`] is not: then each page looks for the rows that come after the one before.

use sqlx::{PgConnection, Postgres, QueryBuilder, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{DeliveryCursor, DeliveryPage, DeliveryRow, MAX_COUNTED, SHOWN, Search};
use crate::{
    error::StoreError,
    pg::{self, Day, Micros, storable},
};

/// Fewest events of a journey that a page looks at where they are too many for one look.
const LEAST_MOMENTS: i64 = 1_000;

/// What is known of an event that leads to its deliveries.
const MOMENT: &str = "day, accepted_at, event_id";

impl Search<'_> {
    /// The page after `after`, with the exact total up to [`MAX_COUNTED`]. The rows are gathered
    /// before they are put in order: the planner would otherwise sometimes walk the whole log in the
    /// hope to meet them soon.
    pub(super) async fn pointed(
        &self,
        connection: &mut PgConnection,
        after: Option<DeliveryCursor>,
    ) -> Result<DeliveryPage, StoreError> {
        let start = self.filter.start(after);
        let mut sql = QueryBuilder::new("");
        self.push_found(&mut sql);
        // Total and page of one look; without a page there is one row that has the total alone.
        sql.push("SELECT all_of_them.total, all_of_them.moments, page.* FROM (SELECT (SELECT count(*) FROM found) AS total, (SELECT count(*) FROM moments) AS moments) all_of_them LEFT JOIN LATERAL (SELECT * FROM found WHERE (created_at, id) < (")
            .push_bind(Micros(start.created_at))
            .push(", ")
            .push_bind(start.id)
            .push(") ORDER BY created_at DESC, id DESC LIMIT ")
            .push_bind(self.wanted(0))
            .push(") page ON true ORDER BY page.created_at DESC, page.id DESC");
        let answer = sql.build().fetch_all(&mut *connection).await?;
        let (total, moments): (i64, i64) = match answer.first() {
            Some(row) => (row.try_get("total")?, row.try_get("moments")?),
            None => (0, 0),
        };
        if total > MAX_COUNTED || moments > MAX_COUNTED {
            // Which of them were gathered is chance.
            let total = total.min(MAX_COUNTED);
            return self.pointed_on(connection, start, total).await;
        }
        Ok(self.page(shown(&answer)?, None, (total, false)))
    }

    /// The page after `start` where more matches than is gathered in one look. What events made and what
    /// people asked for are each put in order from `start` on, as far as a page goes, so that every
    /// page finds the next rows. Of a journey's events so many are looked at; when they do not fill the
    /// page, it ends with the last of them, and leads on.
    async fn pointed_on(
        &self,
        connection: &mut PgConnection,
        start: DeliveryCursor,
        total: i64,
    ) -> Result<DeliveryPage, StoreError> {
        let most = match self.filter.event_id {
            // One a day, all of them looked at.
            Some(_) => i64::MAX,
            None => self.wanted(0).max(LEAST_MOMENTS),
        };
        let mut sql = QueryBuilder::new("WITH moments AS MATERIALIZED (");
        self.push_next_moments(&mut sql, start, most);
        sql.push("), edge AS MATERIALIZED (SELECT count(*) AS moments, min(accepted_at) AS oldest FROM moments), found AS MATERIALIZED ((SELECT made.* FROM moments m CROSS JOIN LATERAL (");
        self.push_made(&mut sql);
        sql.push(" OFFSET 0) made");
        self.push_next(&mut sql, start);
        sql.push(") UNION ALL (SELECT * FROM (");
        self.push_asked(&mut sql);
        // As above: what was asked for is gathered by its index before it is put in order.
        sql.push(" OFFSET 0) asked");
        self.push_next(&mut sql, start);
        sql.push(")) SELECT edge.moments, edge.oldest, page.* FROM edge LEFT JOIN LATERAL (SELECT * FROM found WHERE edge.moments < ")
            .push_bind(most)
            .push(" OR created_at >= edge.oldest ORDER BY created_at DESC, id DESC LIMIT ")
            .push_bind(self.wanted(0))
            .push(") page ON true ORDER BY page.created_at DESC, page.id DESC");
        let answer = sql.build().fetch_all(connection).await?;
        let mut stopped = None;
        if let Some(row) = answer.first()
            && row.try_get::<i64, _>("moments")? >= most
        {
            // All events of that moment were looked at.
            stopped = pg::optional_micros(row, "oldest")?.map(|oldest| DeliveryCursor {
                created_at: oldest,
                id: Uuid::nil(),
            });
        }
        Ok(self.page(shown(&answer)?, stopped, (total, true)))
    }

    /// All that match, as `found`.
    fn push_found(&self, sql: &mut QueryBuilder<Postgres>) {
        sql.push("WITH moments AS MATERIALIZED (");
        self.push_moments(sql);
        sql.push("), found AS MATERIALIZED ((SELECT made.* FROM moments m CROSS JOIN LATERAL (");
        self.push_made(sql);
        // The offset keeps the planner from looking through it, so that each moment is a look by index.
        // Without it one event took the longer the longer the history: 360 ms at 300,000 deliveries.
        sql.push(" OFFSET 0) made) UNION ALL (");
        self.push_asked(sql);
        sql.push(") LIMIT ").push_bind(MAX_COUNTED + 1).push(") ");
    }

    /// What the event of the moment `m` made.
    fn push_made(&self, sql: &mut QueryBuilder<Postgres>) {
        sql.push("SELECT ")
            .push(SHOWN)
            .push(" FROM deliveries WHERE day = m.day AND created_at = m.accepted_at AND event_id = m.event_id AND trigger = 'EVENT' AND workspace_id = ")
            .push_bind(self.workspace);
        self.push_narrow(sql);
    }

    /// What people asked for.
    fn push_asked(&self, sql: &mut QueryBuilder<Postgres>) {
        sql.push("SELECT ")
            .push(SHOWN)
            .push(" FROM deliveries WHERE trigger <> 'EVENT' AND workspace_id = ")
            .push_bind(self.workspace);
        self.push_key(sql);
        self.push_narrow(sql);
    }

    /// Of the rows so far, those that come after `start`, in order and as many as a page takes.
    fn push_next(&self, sql: &mut QueryBuilder<Postgres>, start: DeliveryCursor) {
        sql.push(" WHERE (created_at, id) < (")
            .push_bind(Micros(start.created_at))
            .push(", ")
            .push_bind(start.id)
            .push(") ORDER BY created_at DESC, id DESC LIMIT ")
            .push_bind(self.wanted(0));
    }

    /// When the events were accepted that are asked for. An event is looked for day by day, each a
    /// look into one partition by its primary key.
    fn push_moments(&self, sql: &mut QueryBuilder<Postgres>) {
        if self.filter.event_id.is_some() {
            sql.push("SELECT e.* FROM (SELECT min(day) AS first, max(day) AS last FROM delivery_counts WHERE workspace_id = ")
                .push_bind(self.workspace)
                .push(") days CROSS JOIN LATERAL generate_series(days.first::timestamp, days.last::timestamp, '1 day') AS d(at) CROSS JOIN LATERAL (SELECT ")
                .push(MOMENT)
                .push(" FROM events WHERE day = d.at::date AND workspace_id = ")
                .push_bind(self.workspace);
            self.push_key(sql);
            sql.push(" LIMIT 1) e");
        } else {
            sql.push("SELECT ")
                .push(MOMENT)
                .push(" FROM events WHERE workspace_id = ")
                .push_bind(self.workspace);
            self.push_key(sql);
            sql.push(" LIMIT ").push_bind(MAX_COUNTED + 1);
        }
    }

    /// The same, newest first, of what can have made rows after `start`: of a journey the next `most`,
    /// and all that were accepted at the moment of the last of them.
    fn push_next_moments(
        &self,
        sql: &mut QueryBuilder<Postgres>,
        start: DeliveryCursor,
        most: i64,
    ) {
        if self.filter.event_id.is_some() {
            return self.push_moments(sql);
        }
        sql.push("SELECT ")
            .push(MOMENT)
            .push(" FROM events WHERE workspace_id = ")
            .push_bind(self.workspace);
        self.push_key(sql);
        sql.push(" AND day <= ")
            .push_bind(Day::of_micros(start.created_at))
            // Nothing comes after the least id of a moment, but what was accepted before it.
            .push(match start.id.is_nil() {
                true => " AND accepted_at < ",
                false => " AND accepted_at <= ",
            })
            .push_bind(Micros(start.created_at));
        if let Some(from) = self.filter.created_from {
            sql.push(" AND accepted_at >= ").push_bind(Micros(from));
        }
        sql.push(" ORDER BY accepted_at DESC FETCH FIRST ")
            .push_bind(most)
            .push(" ROWS WITH TIES");
    }

    /// The event, the journey, or both: columns that events and deliveries share.
    fn push_key(&self, sql: &mut QueryBuilder<Postgres>) {
        for (column, value) in [
            ("event_id", &self.filter.event_id),
            ("lbid", &self.filter.lbid),
        ] {
            if let Some(value) = value {
                sql.push(" AND ").push(column).push(" = ");
                sql.push_bind(storable(value).into_owned());
            }
        }
    }

    /// The other conditions on deliveries.
    fn push_narrow(&self, sql: &mut QueryBuilder<Postgres>) {
        if let Some(webhook) = self.filter.webhook {
            sql.push(" AND webhook_id = ").push_bind(webhook);
        }
        if let Some(link) = self.filter.link_id {
            sql.push(" AND link_id = ").push_bind(link);
        }
        self.filter.push_from(sql);
        if let Some(before) = self.filter.created_before {
            sql.push(" AND created_at < ").push_bind(Micros(before));
        }
        self.filter.push_rest(sql);
    }
}

/// The deliveries among an answer's rows: without any there is one row all the same.
fn shown(answer: &[PgRow]) -> Result<Vec<DeliveryRow>, StoreError> {
    let mut rows = Vec::with_capacity(answer.len());
    for row in answer {
        if row.try_get::<Option<Uuid>, _>("id")?.is_some() {
            rows.push(DeliveryRow::of(row)?);
        }
    }
    Ok(rows)
}
