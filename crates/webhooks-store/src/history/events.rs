//! Events as history keeps them.

use bytes::Bytes;
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{MAX_PAGE, RenditionRecord, codec, search::MAX_COUNTED};
use crate::{
    Store,
    error::StoreError,
    pg::{self, Day, Micros, storable},
};

/// Most days back that an event is looked for by its id alone: history is never kept longer.
const MOST_DAYS_BACK: u32 = 3_650;

/// A stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Its id, unique within the workspace.
    pub id: String,
    /// Whose it is.
    pub workspace_id: Uuid,
    /// `step.completed`.
    pub event_type: String,
    /// The link it is about.
    pub link_id: Option<Uuid>,
    /// The journey's key.
    pub lbid: String,
    /// `KIND_EXIT`, …
    pub step_kind: String,
    /// The step's action, as it came; empty = not told.
    pub event_action: String,
    /// When it was accepted, in microseconds.
    pub accepted_at: i64,
    /// Its own timestamp, in microseconds.
    pub timestamp: i64,
    /// Its place on the EVENTS stream; 0 = it was made here, for a test.
    pub event_seq: u64,
}

/// A stored event with what its deliveries are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventContent {
    /// The event.
    pub event: EventRow,
    /// The day that holds it.
    pub day: Day,
    /// The sanitised event per profile; empty when it is past its retention.
    pub renditions: Vec<RenditionRecord>,
}

/// The last row of a page; the next page begins after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventCursor {
    /// When that event was accepted, in microseconds.
    pub accepted_at: i64,
    /// Its place on the EVENTS stream.
    pub event_seq: u64,
}

/// A page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// The rows, newest first.
    pub rows: Vec<EventRow>,
    /// How many match, exact up to [`MAX_COUNTED`].
    pub total: i64,
    /// There are more than `total`.
    pub total_is_lower_bound: bool,
    /// Whether another page follows.
    pub more: bool,
}

macro_rules! columns {
    () => {
        "e.event_id, e.workspace_id, e.event_type, e.link_id, e.lbid, e.step_kind, e.event_action,
  e.accepted_at, e.event_timestamp, e.event_seq, e.day"
    };
}
pub(super) use columns;

/// The days one by one, so that each is a look into one partition by its primary key.
const ONE: &str = concat!(
    "SELECT ",
    columns!(),
    ", e.body_codec, e.renditions
FROM unnest($1::date[]) d(day) CROSS JOIN LATERAL (
  SELECT * FROM events x WHERE x.day = d.day AND x.workspace_id = $2 AND x.event_id = $3) e
ORDER BY e.day DESC LIMIT 1"
);

/// Tests are no events of the workspace.
const PAGE: &str = concat!(
    "SELECT ",
    columns!(),
    "
FROM events e WHERE e.workspace_id = $1 AND e.day BETWEEN $2 AND $3
  AND e.accepted_at >= $4 AND e.accepted_at < $5 AND e.event_seq > 0
  AND (e.day, e.accepted_at, e.event_seq) < ($6, $7, $8)
ORDER BY e.day DESC, e.accepted_at DESC, e.event_seq DESC LIMIT $9"
);

const COUNT: &str = "
SELECT count(*) FROM (SELECT 1 FROM events e WHERE e.workspace_id = $1 AND e.day BETWEEN $2 AND $3
  AND e.accepted_at >= $4 AND e.accepted_at < $5 AND e.event_seq > 0 LIMIT $6) counted";

impl Store {
    /// The workspace's event of this id, the newest when history has several; `kept_days` is how long
    /// history is kept (at most 3,650), and as far back it is looked for. Days without a table cost
    /// next to nothing.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_event(
        &self,
        workspace: Uuid,
        id: &str,
        now: i64,
        kept_days: u32,
    ) -> Result<Option<EventContent>, StoreError> {
        // A clock may be ahead at the one end, and a day not dropped yet at the other.
        let tomorrow = Day::of_micros(now).plus(1);
        let back = pg::int(kept_days.min(MOST_DAYS_BACK)) + 2;
        let days: Vec<Day> = (0..=back).map(|back| tomorrow.plus(-back)).collect();
        let row = sqlx::query(ONE)
            .bind(days)
            .bind(workspace)
            .bind(storable(id))
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(content).transpose()
    }

    /// A page of the workspace's events, accepted at `from` or later and before `before`
    /// (microseconds), newest first, beginning after `after`. `page_size` is capped at
    /// [`MAX_PAGE`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_events(
        &self,
        workspace: Uuid,
        (from, before): (i64, i64),
        page_size: u32,
        after: Option<EventCursor>,
    ) -> Result<EventPage, StoreError> {
        let size = usize::try_from(page_size.min(MAX_PAGE)).unwrap_or(usize::MAX);
        let (first, last) = (Day::of_micros(from), Day::of_micros(before));
        let mut tx = self.begin_reading().await?;
        let (day, at, seq) = after.map_or((Day::LAST, i64::MAX, i64::MAX), |after| {
            let seq = pg::bigint(after.event_seq);
            (Day::of_micros(after.accepted_at), after.accepted_at, seq)
        });
        let found = sqlx::query(PAGE)
            .bind(workspace)
            .bind(first)
            .bind(last)
            .bind(Micros(from))
            .bind(Micros(before))
            .bind(day)
            .bind(Micros(at))
            .bind(seq)
            .bind(i64::try_from(size + 1).unwrap_or(i64::MAX))
            .fetch_all(&mut *tx)
            .await?;
        let total: i64 = sqlx::query_scalar(COUNT)
            .bind(workspace)
            .bind(first)
            .bind(last)
            .bind(Micros(from))
            .bind(Micros(before))
            .bind(MAX_COUNTED + 1)
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        let mut rows = found
            .iter()
            .map(EventRow::of)
            .collect::<Result<Vec<_>, _>>()?;
        let more = rows.len() > size;
        rows.truncate(size);
        Ok(EventPage {
            rows,
            total: total.min(MAX_COUNTED),
            total_is_lower_bound: total > MAX_COUNTED,
            more,
        })
    }
}

impl EventRow {
    /// Where the page after this row begins.
    #[must_use]
    pub fn cursor(&self) -> EventCursor {
        EventCursor {
            accepted_at: self.accepted_at,
            event_seq: self.event_seq,
        }
    }

    pub(super) fn of(row: &PgRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.try_get("event_id")?,
            workspace_id: row.try_get("workspace_id")?,
            event_type: row.try_get("event_type")?,
            link_id: row.try_get("link_id")?,
            lbid: row.try_get("lbid")?,
            step_kind: row.try_get("step_kind")?,
            event_action: row.try_get("event_action")?,
            accepted_at: pg::micros(row, "accepted_at")?,
            timestamp: pg::micros(row, "event_timestamp")?,
            event_seq: u64::try_from(row.try_get::<i64, _>("event_seq")?)
                .map_err(|error| StoreError::corrupt("event sequence", error))?,
        })
    }
}

pub(super) fn content(row: &PgRow) -> Result<EventContent, StoreError> {
    Ok(EventContent {
        event: EventRow::of(row)?,
        day: row.try_get("day")?,
        renditions: renditions(row)?,
    })
}

/// The renditions of a row with the columns `body_codec` and `renditions`.
pub(super) fn renditions(row: &PgRow) -> Result<Vec<RenditionRecord>, StoreError> {
    let packed: Option<&[u8]> = row.try_get("renditions")?;
    packed.map_or_else(
        || Ok(Vec::new()),
        |packed| codec::unframe(codec::unpack(row.try_get("body_codec")?, packed)?),
    )
}

/// The number of this rendition among the event's, which is added when there is none of its
/// profile; `None` when the event is past its retention.
pub(super) async fn rendition_of(
    connection: &mut PgConnection,
    (day, workspace, event): (Day, Uuid, &str),
    wanted: &RenditionRecord,
) -> Result<Option<i32>, StoreError> {
    let hold = "SELECT body_codec, renditions FROM events
        WHERE day = $1 AND workspace_id = $2 AND event_id = $3 FOR UPDATE";
    let row = sqlx::query(hold)
        .bind(day)
        .bind(workspace)
        .bind(storable(event))
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let mut known = renditions(&row)?;
    if known.is_empty() {
        return Ok(None);
    }
    let there = known.iter().position(|one| one.profile == wanted.profile);
    let index = match there {
        Some(index) => index,
        None => {
            known.push(wanted.clone());
            let framed = Bytes::from(codec::frame(&known));
            let (codec, packed) = codec::pack(&framed);
            let add = "UPDATE events SET body_codec = $4, renditions = $5
                WHERE day = $1 AND workspace_id = $2 AND event_id = $3";
            sqlx::query(add)
                .bind(day)
                .bind(workspace)
                .bind(storable(event))
                .bind(codec)
                .bind(packed.as_ref())
                .execute(connection)
                .await?;
            known.len() - 1
        }
    };
    i32::try_from(index)
        .map(Some)
        .map_err(|error| StoreError::corrupt("renditions", error))
}
