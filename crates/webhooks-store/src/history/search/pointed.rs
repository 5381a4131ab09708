//! The deliveries of one event or one journey.
//!
//! No index of deliveries knows events: it would be written in random order with every delivery.
//! What an event made was made at the moment the event was accepted, and the table of events knows
//! that moment; so each event leads to one place in the workspace's order of time. What people asked
//! for (replays, tests) was made at other times. It is little, and has small indexes of its own.
//!
//! A delivery whose report came before its event's verdict is not found until the verdict is there.

use sqlx::{PgConnection, Postgres, QueryBuilder, Row as _};
use uuid::Uuid;

use super::{DeliveryCursor, DeliveryPage, DeliveryRow, MAX_COUNTED, SHOWN, Search};
use crate::{
    error::StoreError,
    pg::{Micros, storable},
};

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
        sql.push("SELECT all_of_them.total, page.* FROM (SELECT count(*) AS total FROM found) all_of_them LEFT JOIN LATERAL (SELECT * FROM found WHERE (created_at, id) < (")
            .push_bind(Micros(start.created_at))
            .push(", ")
            .push_bind(start.id)
            .push(") ORDER BY created_at DESC, id DESC LIMIT ")
            .push_bind(self.wanted(0))
            .push(") page ON true ORDER BY page.created_at DESC, page.id DESC");
        let answer = sql.build().fetch_all(connection).await?;
        let total: i64 = match answer.first() {
            Some(row) => row.try_get("total")?,
            None => 0,
        };
        let mut rows = Vec::with_capacity(answer.len());
        for row in &answer {
            if row.try_get::<Option<Uuid>, _>("id")?.is_some() {
                rows.push(DeliveryRow::of(row)?);
            }
        }
        Ok(self.page(rows, None, (total.min(MAX_COUNTED), total > MAX_COUNTED)))
    }

    /// All that match, as `found`.
    fn push_found(&self, sql: &mut QueryBuilder<Postgres>) {
        sql.push("WITH moments AS MATERIALIZED (");
        self.push_moments(sql);
        sql.push("), found AS MATERIALIZED ((SELECT made.* FROM moments m CROSS JOIN LATERAL (SELECT ")
            .push(SHOWN)
            .push(" FROM deliveries WHERE day = m.day AND created_at = m.accepted_at AND event_id = m.event_id AND trigger = 'EVENT' AND workspace_id = ")
            .push_bind(self.workspace);
        self.push_narrow(sql);
        // The offset keeps the planner from looking through it, so that each moment is a look by index.
        // Without it one event took the longer the longer the history: 360 ms at 300,000 deliveries.
        sql.push(" OFFSET 0) made) UNION ALL (SELECT ")
            .push(SHOWN)
            .push(" FROM deliveries WHERE trigger <> 'EVENT' AND workspace_id = ")
            .push_bind(self.workspace);
        self.push_key(sql);
        self.push_narrow(sql);
        sql.push(") LIMIT ").push_bind(MAX_COUNTED + 1).push(") ");
    }

    /// When the events were accepted that are asked for. An event is looked for day by day, each a
    /// look into one partition by its primary key.
    fn push_moments(&self, sql: &mut QueryBuilder<Postgres>) {
        const COLUMNS: &str = "day, accepted_at, event_id";
        if self.filter.event_id.is_some() {
            sql.push("SELECT e.* FROM (SELECT min(day) AS first, max(day) AS last FROM delivery_counts WHERE workspace_id = ")
                .push_bind(self.workspace)
                .push(") days CROSS JOIN LATERAL generate_series(days.first::timestamp, days.last::timestamp, '1 day') AS d(at) CROSS JOIN LATERAL (SELECT ")
                .push(COLUMNS)
                .push(" FROM events WHERE day = d.at::date AND workspace_id = ")
                .push_bind(self.workspace);
            self.push_key(sql);
            sql.push(" LIMIT 1) e");
        } else {
            sql.push("SELECT ")
                .push(COLUMNS)
                .push(" FROM events WHERE workspace_id = ")
                .push_bind(self.workspace);
            self.push_key(sql);
            sql.push(" LIMIT ").push_bind(MAX_COUNTED + 1);
        }
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
