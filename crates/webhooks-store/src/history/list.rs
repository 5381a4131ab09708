//! Reading history.

use bytes::Bytes;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;
use webhooks_domain::delivery::DeliveryState;

use super::{AttemptRow, DeliveryRow, MAX_ATTEMPTS_SHOWN, MAX_PAGE, codec, tally};
use crate::{
    Store,
    error::StoreError,
    pg::{Day, Micros},
};

/// The last row of a page; the next page begins after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryCursor {
    /// When that delivery was made, in microseconds.
    pub created_at: i64,
    /// Its id.
    pub id: Uuid,
}

/// A page of deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPage {
    /// The rows, newest first.
    pub rows: Vec<DeliveryRow>,
    /// How many match in all, at the moment the rows were read.
    pub total: i64,
    /// Whether another page follows.
    pub more: bool,
}

impl DeliveryRow {
    /// Where the page after this row begins.
    #[must_use]
    pub fn cursor(&self) -> DeliveryCursor {
        DeliveryCursor {
            created_at: self.created_at,
            id: self.id,
        }
    }
}

/// The columns that a row shows; the body's parts stay where they are.
macro_rules! shown {
    ($rest:literal) => {
        concat!(
            "
SELECT id, workspace_id, webhook_id, event_id, event_type, link_id, lbid, trigger, state,
  attempt_count, next_attempt_at, created_at, completed_at, last_status_code, last_error_class,
  last_error_reason, event_seq
FROM deliveries WHERE ",
            $rest
        )
    };
}

/// The deliveries of one day: an index range in the order wanted, in one partition. The row
/// comparison is the index's own order, so a page costs the same wherever it begins.
const PAGE: &str = shown!(
    "workspace_id = $1 AND webhook_id = $2 AND day = $3 AND state = ANY($4)
  AND (created_at, id) < ($5, $6)
ORDER BY created_at DESC, id DESC LIMIT $7"
);

const ONE: &str = shown!("day = $1 AND id = $2 AND workspace_id = $3");

const ATTEMPTS: &str = "
SELECT number, execution_id, started_at, outcome, class, status_code, dns_us, connect_us, tls_us,
  first_byte_us, total_us, response_headers, body_codec, response_body, response_body_truncated,
  error, remote_ip, dispatcher
FROM attempts WHERE day = $1 AND delivery_id = $2 AND workspace_id = $3
ORDER BY number, started_at, execution_id LIMIT $4";

const COUNTS: &str = "
SELECT day, pending, retrying, held, delivered, failed, cancelled FROM delivery_counts
WHERE workspace_id = $1 AND webhook_id = $2 ORDER BY day DESC";

const BODY: &str = "
SELECT d.snapshot, d.rendition, e.body_codec, e.renditions FROM deliveries d
JOIN events e ON e.day = d.day AND e.workspace_id = d.workspace_id AND e.event_id = d.event_id
WHERE d.day = $1 AND d.id = $2 AND d.workspace_id = $3
  AND d.snapshot IS NOT NULL AND e.renditions IS NOT NULL";

impl Store {
    /// A page of a webhook's deliveries, newest first, beginning after `after`, with the exact
    /// number of all that match. The number comes from counters that are kept with the rows, so it
    /// costs the same at ten deliveries and at ten million; a rare state among very many rows of
    /// one day is searched row by row. `page_size` is capped at [`MAX_PAGE`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_deliveries(
        &self,
        workspace: Uuid,
        webhook: Uuid,
        state: Option<DeliveryState>,
        page_size: u32,
        after: Option<DeliveryCursor>,
    ) -> Result<DeliveryPage, StoreError> {
        let states = state.map_or_else(|| DeliveryState::ALL.to_vec(), |state| vec![state]);
        let words: Vec<_> = states.iter().map(|state| state.as_str()).collect();
        let size = usize::try_from(page_size.min(MAX_PAGE)).unwrap_or(usize::MAX);
        let mut tx = self
            .pool
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        let counts = counts(&mut tx, workspace, webhook, &states).await?;
        let mut rows = Vec::new();
        for (day, from, most) in days_to_search(&counts, after) {
            // One row more than the page holds tells whether another page follows.
            let wanted = i64::try_from(size + 1 - rows.len()).unwrap_or(i64::MAX);
            let found = sqlx::query(PAGE)
                .bind(workspace)
                .bind(webhook)
                .bind(day)
                .bind(&words)
                .bind(Micros(from.created_at))
                .bind(from.id)
                .bind(wanted.min(most))
                .fetch_all(&mut *tx)
                .await?;
            for row in &found {
                rows.push(DeliveryRow::of(row)?);
            }
            if rows.len() > size {
                break;
            }
        }
        tx.commit().await?;
        let more = rows.len() > size;
        rows.truncate(size);
        Ok(DeliveryPage {
            rows,
            total: counts.iter().map(|(_, count)| count).sum(),
            more,
        })
    }

    /// The workspace's delivery of this id with its attempts in order (at most
    /// [`MAX_ATTEMPTS_SHOWN`]); another workspace's is not found.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_delivery(
        &self,
        workspace: Uuid,
        id: Uuid,
    ) -> Result<Option<(DeliveryRow, Vec<AttemptRow>)>, StoreError> {
        let day = Day::of_delivery(id);
        let mut tx = self
            .pool
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        let delivery = sqlx::query(ONE)
            .bind(day)
            .bind(id)
            .bind(workspace)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(delivery) = delivery else {
            return Ok(None);
        };
        let attempts = sqlx::query(ATTEMPTS)
            .bind(day)
            .bind(id)
            .bind(workspace)
            .bind(i64::from(MAX_ATTEMPTS_SHOWN))
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        let attempts: Result<_, _> = attempts.iter().map(AttemptRow::of).collect();
        Ok(Some((DeliveryRow::of(&delivery)?, attempts?)))
    }

    /// The body of a delivery, byte for byte as it was sent; `None` when the workspace has no such
    /// delivery or its verdict has not come.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the parts do not fit together.
    pub async fn delivery_body(
        &self,
        workspace: Uuid,
        id: Uuid,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let row = sqlx::query(BODY)
            .bind(Day::of_delivery(id))
            .bind(id)
            .bind(workspace)
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let renditions = codec::unpack(row.try_get("body_codec")?, row.try_get("renditions")?)?;
        let renditions = codec::unframe(renditions)?;
        let rendition = usize::try_from(row.try_get::<i32, _>("rendition")?)
            .ok()
            .and_then(|index| renditions.get(index))
            .ok_or_else(|| StoreError::corrupt("rendition", "the event has none of this number"))?;
        let snapshot: &[u8] = row.try_get("snapshot")?;
        let parts: [&Bytes; 2] = [&rendition.head, &rendition.tail];
        Ok(Some(
            [parts[0].as_ref(), snapshot, parts[1].as_ref()].concat(),
        ))
    }
}

/// How many deliveries in these states each day has, newest day first.
async fn counts(
    connection: &mut PgConnection,
    workspace: Uuid,
    webhook: Uuid,
    states: &[DeliveryState],
) -> Result<Vec<(Day, i64)>, StoreError> {
    let rows = sqlx::query(COUNTS)
        .bind(workspace)
        .bind(webhook)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            let mut count = 0;
            for state in states {
                count += row.try_get::<i64, _>(tally::column(*state))?;
            }
            Ok((row.try_get("day")?, count))
        })
        .collect()
}

/// Which days to search, newest first: where each begins, and how many rows it can give at most, so
/// that the search for a rare state ends with its last row. Days without any are left out; so at
/// most as many are searched as retention keeps.
fn days_to_search(
    counts: &[(Day, i64)],
    after: Option<DeliveryCursor>,
) -> impl Iterator<Item = (Day, DeliveryCursor, i64)> {
    let newest = DeliveryCursor {
        created_at: i64::MAX,
        id: Uuid::max(),
    };
    let (last, after) = after.map_or((Day::LAST, newest), |after| {
        (Day::of_delivery(after.id), after)
    });
    counts
        .iter()
        .filter(move |(day, count)| *day <= last && *count > 0)
        .map(move |(day, count)| (*day, if *day == last { after } else { newest }, *count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_searched_from_the_cursor_back_and_empty_ones_not_at_all() {
        let at = |day: i64| DeliveryCursor {
            created_at: day * 86_400_000_000,
            id: id(day),
        };
        fn id(day: i64) -> Uuid {
            webhooks_domain::ids::delivery_id(Uuid::nil(), "e", Uuid::nil(), day * 86_400_000_000)
        }
        let day = |n: i64| Day::of_delivery(id(n));
        let counts = [(day(9), 5), (day(8), 0), (day(7), 50)];
        let days = |after| days_to_search(&counts, after).collect::<Vec<_>>();
        let newest = DeliveryCursor {
            created_at: i64::MAX,
            id: Uuid::max(),
        };
        assert_eq!(days(None), [(day(9), newest, 5), (day(7), newest, 50)]);
        assert_eq!(
            days(Some(at(9))),
            [(day(9), at(9), 5), (day(7), newest, 50)]
        );
        assert_eq!(days(Some(at(8))), [(day(7), newest, 50)]);
        assert_eq!(days(Some(at(6))), []);
    }
}
