//! Finding deliveries.
//!
//! Three ways, by what is asked for:
//!
//! - *one event or one journey*: few rows, found through the events and counted exactly
//!   ([`pointed`]);
//! - *what never changes* (webhook, link, time): an index range of one day's partition after
//!   another, newest first, so a page costs the same wherever it begins;
//! - *what changes* (state, class, status) *or is not indexed* (trigger): the same walk, and rows
//!   that do not match are passed over. Where nothing delivered can match, it is a walk over what is
//!   not delivered only. At most [`MAX_EXAMINED`] rows are looked at in one call; a
//!   page may then hold fewer rows than asked for, or none, and still lead on. Counters tell which
//!   days have none of the states wanted; those are not walked at all.
//!
//! The total comes from counters where webhook, states and whole days are all that is asked for:
//! exact at any size. Otherwise it is counted up to [`MAX_COUNTED`] within the same limit of rows,
//! and marked as a lower bound when there may be more.

use sqlx::{PgConnection, Postgres, QueryBuilder, Row as _};
use uuid::Uuid;
use webhooks_domain::{delivery::DeliveryState, endpoint::outcome::FailureClass, ids::Trigger};

use super::{DeliveryRow, MAX_PAGE, tally};
use crate::{
    Store,
    error::StoreError,
    pg::{Day, Micros},
};

mod pointed;

/// Most rows that one search looks at without finding what was asked for, and that one count looks
/// at.
pub const MAX_EXAMINED: i64 = 5_000;

/// Up to here a total is exact whatever the filter, unless rows beyond [`MAX_EXAMINED`] hide some.
pub const MAX_COUNTED: i64 = 10_000;

/// Fewest rows that a search looks at in each day it comes to.
const LEAST_A_DAY: i64 = 500;

/// Which deliveries. The default is all of the workspace's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeliveryFilter {
    /// To this webhook.
    pub webhook: Option<Uuid>,
    /// In one of these states; empty = in any.
    pub states: Vec<DeliveryState>,
    /// Whose last error is of this class.
    pub class: Option<FailureClass>,
    /// Whose last answer had a status from the first to the second of these.
    pub status: Option<(u16, u16)>,
    /// Of this event.
    pub event_id: Option<String>,
    /// Of this link's events.
    pub link_id: Option<Uuid>,
    /// Of this journey.
    pub lbid: Option<String>,
    /// Made so.
    pub trigger: Option<Trigger>,
    /// Waiting behind a failing delivery of their key, or not.
    pub blocked: Option<bool>,
    /// Made at this moment or later, in microseconds.
    pub created_from: Option<i64>,
    /// Made before this moment, in microseconds.
    pub created_before: Option<i64>,
}

/// The last row of a page (or the last one looked at); the next page begins after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryCursor {
    /// When that delivery was made, in microseconds.
    pub created_at: i64,
    /// Its id.
    pub id: Uuid,
}

/// Before every row.
const NEWEST: DeliveryCursor = DeliveryCursor {
    created_at: i64::MAX,
    id: Uuid::max(),
};

/// A page of deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPage {
    /// The rows, newest first.
    pub rows: Vec<DeliveryRow>,
    /// How many match in all, at the moment the rows were read.
    pub total: i64,
    /// There may be more than `total`.
    pub total_is_lower_bound: bool,
    /// Whether another page follows.
    pub more: bool,
    /// Where it begins; present exactly when `more`.
    pub next: Option<DeliveryCursor>,
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
pub(super) const SHOWN: &str = "id, workspace_id, webhook_id, event_id, event_type, link_id, lbid,
  trigger, state, attempt_count, next_attempt_at, created_at, completed_at, last_status_code,
  last_error_class, last_error_reason, event_seq, replay_of, state_reason,
  waits_for";

impl DeliveryFilter {
    /// The states that a match can be in, as far as the filter tells.
    fn possible(&self) -> Vec<DeliveryState> {
        let failed = self.class.is_some() || self.status.is_some_and(|(from, _)| from >= 300);
        DeliveryState::ALL
            .into_iter()
            .filter(|state| self.states.is_empty() || self.states.contains(state))
            // What was delivered shows a success, whatever came before it.
            .filter(|state| !(failed && *state == DeliveryState::Delivered))
            // What ended waits for nothing, and what is held waits for its webhook.
            .filter(|state| {
                let waits = matches!(state, DeliveryState::Pending | DeliveryState::Retrying);
                self.blocked != Some(true) || waits
            })
            .collect()
    }

    /// Few rows, by an index of their own.
    fn is_pointed(&self) -> bool {
        self.event_id.is_some() || self.lbid.is_some()
    }

    /// The counters know how many match in a whole day.
    fn is_counted(&self) -> bool {
        !self.is_pointed()
            && self.class.is_none()
            && self.status.is_none()
            && self.link_id.is_none()
            && self.trigger.is_none()
            && self.blocked.is_none()
    }

    /// Rows of the walk may have to be passed over.
    fn passes_over(&self) -> bool {
        self.possible().len() < DeliveryState::ALL.len()
            || self.class.is_some()
            || self.status.is_some()
            || self.trigger.is_some()
            || self.blocked.is_some()
    }

    /// Nothing that was delivered can match: the walk is then over the few that were not, which have
    /// indexes of their own.
    fn is_of_undelivered(&self) -> bool {
        !self.possible().contains(&DeliveryState::Delivered)
    }

    /// Adds the conditions that an index of the order of time knows.
    fn push_walk(&self, sql: &mut QueryBuilder<Postgres>, workspace: Uuid, day: Day) {
        sql.push("workspace_id = ").push_bind(workspace);
        sql.push(" AND day = ").push_bind(day);
        if let Some(webhook) = self.webhook {
            sql.push(" AND webhook_id = ").push_bind(webhook);
        }
        if self.is_of_undelivered() {
            sql.push(" AND state <> 'DELIVERED'");
        } else {
            self.push_link(sql);
        }
        self.push_from(sql);
    }

    fn push_link(&self, sql: &mut QueryBuilder<Postgres>) {
        if let Some(link) = self.link_id {
            sql.push(" AND link_id = ").push_bind(link);
        }
    }

    fn push_from(&self, sql: &mut QueryBuilder<Postgres>) {
        if let Some(from) = self.created_from {
            sql.push(" AND created_at >= ").push_bind(Micros(from));
        }
    }

    /// The columns that rows of the walk over what is undelivered are passed over for; its indexes
    /// have all but the last.
    fn columns_of_rest(&self) -> &'static str {
        match self.blocked {
            None => "state, last_error_class, last_status_code, link_id, trigger",
            Some(_) => "state, last_error_class, last_status_code, link_id, trigger, waits_for",
        }
    }

    /// Adds the conditions that rows of the walk are passed over for.
    fn push_passed_over(&self, sql: &mut QueryBuilder<Postgres>) {
        if self.is_of_undelivered() {
            self.push_link(sql);
        }
        self.push_rest(sql);
    }

    /// Adds the conditions that no index knows.
    fn push_rest(&self, sql: &mut QueryBuilder<Postgres>) {
        let possible = self.possible();
        if possible.len() < DeliveryState::ALL.len() {
            let words: Vec<&'static str> = possible.iter().map(|state| state.as_str()).collect();
            sql.push(" AND state = ANY(").push_bind(words).push(")");
        }
        if let Some(class) = self.class {
            sql.push(" AND last_error_class = ")
                .push_bind(class.as_str());
        }
        if let Some((from, to)) = self.status {
            sql.push(" AND last_status_code BETWEEN ")
                .push_bind(i32::from(from))
                .push(" AND ")
                .push_bind(i32::from(to));
        }
        if let Some(trigger) = self.trigger {
            sql.push(" AND trigger = ").push_bind(trigger.api_word());
        }
        match self.blocked {
            Some(true) => sql.push(" AND waits_for IS NOT NULL"),
            Some(false) => sql.push(" AND waits_for IS NULL"),
            None => sql,
        };
    }

    /// Where the walk begins: after the cursor, and not later than wished.
    fn start(&self, after: Option<DeliveryCursor>) -> DeliveryCursor {
        let before = self.created_before.map_or(NEWEST, |before| DeliveryCursor {
            created_at: before,
            id: Uuid::nil(),
        });
        let after = after.unwrap_or(NEWEST);
        if (before.created_at, before.id) < (after.created_at, after.id) {
            before
        } else {
            after
        }
    }
}

/// A day with something in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    day: Day,
    /// Deliveries in the states that are possible.
    possible: i64,
    /// Deliveries that are walked over, at most.
    walked: i64,
}

impl Store {
    /// A page of a webhook's deliveries, newest first, beginning after `after`; see
    /// [`Store::search_deliveries`].
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
        let filter = DeliveryFilter {
            webhook: Some(webhook),
            states: state.into_iter().collect(),
            ..DeliveryFilter::default()
        };
        self.search_deliveries(workspace, &filter, page_size, after)
            .await
    }

    /// A page of the deliveries that match, newest first, beginning after `after`. `page_size` is
    /// capped at [`MAX_PAGE`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn search_deliveries(
        &self,
        workspace: Uuid,
        filter: &DeliveryFilter,
        page_size: u32,
        after: Option<DeliveryCursor>,
    ) -> Result<DeliveryPage, StoreError> {
        let size = usize::try_from(page_size.min(MAX_PAGE)).unwrap_or(usize::MAX);
        let mut tx = self
            .pool
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        let search = Search {
            workspace,
            filter,
            size,
        };
        let page = if filter.is_pointed() {
            search.pointed(&mut tx, after).await?
        } else {
            search.walked(&mut tx, after).await?
        };
        tx.commit().await?;
        Ok(page)
    }
}

#[derive(Clone, Copy)]
struct Search<'a> {
    workspace: Uuid,
    filter: &'a DeliveryFilter,
    size: usize,
}

impl Search<'_> {
    /// One more row than the page holds tells whether another page follows.
    fn wanted(&self, have: usize) -> i64 {
        i64::try_from(self.size + 1 - have).unwrap_or(i64::MAX)
    }

    fn page(
        &self,
        mut rows: Vec<DeliveryRow>,
        stopped: Option<DeliveryCursor>,
        (total, total_is_lower_bound): (i64, bool),
    ) -> DeliveryPage {
        let full = rows.len() > self.size;
        rows.truncate(self.size);
        let next = if full {
            rows.last().map(DeliveryRow::cursor)
        } else {
            stopped
        };
        DeliveryPage {
            rows,
            total,
            total_is_lower_bound,
            more: next.is_some(),
            next,
        }
    }

    async fn walked(
        &self,
        connection: &mut PgConnection,
        after: Option<DeliveryCursor>,
    ) -> Result<DeliveryPage, StoreError> {
        let counts = self.counts(connection).await?;
        let total = self.total(connection, &counts).await?;
        let (mut found, mut stopped) = (Vec::new(), None);
        let mut budget = MAX_EXAMINED;
        for (counts, from) in days_to_search(&counts, self.filter, after) {
            let passes_over = self.filter.passes_over();
            let window = budget.max(LEAST_A_DAY);
            let mut wanted = self.wanted(found.len());
            // The search for a rare state ends with its last row, if the day is searched whole.
            let begun = after.is_some_and(|after| Day::of_delivery(after.id) == counts.day);
            let knows_all = self.filter.is_counted() && !begun && self.filter.has_whole(counts.day);
            if self.filter.is_counted() {
                wanted = wanted.min(counts.possible);
            }
            let mut sql = QueryBuilder::new("SELECT ");
            sql.push(SHOWN).push(" FROM (SELECT ");
            // What is undelivered lies far apart: rows are passed over by what the index has of them,
            // and only those that match are read.
            let by_index = self.filter.is_of_undelivered();
            if by_index {
                sql.push("id AS found_id FROM (SELECT id, created_at, ")
                    .push(self.filter.columns_of_rest());
            } else {
                sql.push("*");
            }
            sql.push(" FROM deliveries WHERE ");
            self.filter.push_walk(&mut sql, self.workspace, counts.day);
            push_before(&mut sql, from);
            // A limit of its own is what the planner cannot look through: the rows are read in the
            // order of time, and no more of them, whatever it thinks of the conditions outside.
            sql.push(" ORDER BY created_at DESC, id DESC LIMIT ")
                .push_bind(if passes_over { window } else { wanted })
                .push(") walked WHERE true");
            self.filter.push_passed_over(&mut sql);
            sql.push(" ORDER BY created_at DESC, id DESC LIMIT ")
                .push_bind(wanted);
            if by_index {
                // One by one: a join might read the day for a page.
                sql.push(
                    ") found CROSS JOIN LATERAL (SELECT * FROM deliveries WHERE workspace_id = ",
                )
                .push_bind(self.workspace)
                .push(" AND day = ")
                .push_bind(counts.day)
                .push(" AND id = found_id LIMIT 1) shown ORDER BY created_at DESC, id DESC");
            }
            let of_day = rows(sql, connection).await?;
            let all_found = knows_all && i64::try_from(of_day.len()).is_ok_and(|n| n >= wanted);
            found.extend(of_day);
            if passes_over && !all_found && found.len() <= self.size && counts.walked > window {
                stopped = self.last_of(connection, counts.day, from, window).await?;
            }
            if found.len() > self.size || stopped.is_some() {
                break;
            }
            if passes_over {
                budget = (budget - counts.walked).max(0);
            }
        }
        Ok(self.page(found, stopped, total))
    }

    /// The last of so many rows of a day, if the day has more.
    async fn last_of(
        &self,
        connection: &mut PgConnection,
        day: Day,
        from: DeliveryCursor,
        window: i64,
    ) -> Result<Option<DeliveryCursor>, StoreError> {
        let mut sql = QueryBuilder::new("SELECT created_at, id FROM deliveries WHERE ");
        self.filter.push_walk(&mut sql, self.workspace, day);
        push_before(&mut sql, from);
        sql.push(" ORDER BY created_at DESC, id DESC LIMIT 2 OFFSET ")
            .push_bind(window - 1);
        let rows = sql.build().fetch_all(connection).await?;
        // The second tells that the day has more.
        let [row, _] = rows.as_slice() else {
            return Ok(None);
        };
        Ok(Some(DeliveryCursor {
            created_at: crate::pg::micros(row, "created_at")?,
            id: row.try_get("id")?,
        }))
    }

    /// How many match, and whether there may be more.
    async fn total(
        &self,
        connection: &mut PgConnection,
        counts: &[Counts],
    ) -> Result<(i64, bool), StoreError> {
        let (mut total, mut examined) = (0, 0);
        for (counts, from) in days_to_search(counts, self.filter, None) {
            if self.filter.is_counted() && self.filter.has_whole(counts.day) {
                total += counts.possible;
                continue;
            }
            let left = MAX_EXAMINED - examined;
            if left <= 0 || total >= MAX_COUNTED {
                return Ok((total, true));
            }
            let mut sql = QueryBuilder::new(
                "SELECT count(*) FILTER (WHERE matches), count(*) FROM (SELECT true",
            );
            self.filter.push_passed_over(&mut sql);
            sql.push(" AS matches FROM deliveries WHERE ");
            self.filter.push_walk(&mut sql, self.workspace, counts.day);
            push_before(&mut sql, from);
            sql.push(" ORDER BY created_at DESC, id DESC LIMIT ")
                .push_bind(left + 1)
                .push(") window_of_rows");
            let row = sql.build().fetch_one(&mut *connection).await?;
            let (matches, seen): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            total += matches;
            examined += seen;
            if seen > left {
                return Ok((total.min(MAX_COUNTED), true));
            }
        }
        Ok((total, false))
    }

    /// What the counters say of each day, newest day first.
    async fn counts(&self, connection: &mut PgConnection) -> Result<Vec<Counts>, StoreError> {
        let sum = |states: &[DeliveryState]| {
            let columns: Vec<_> = states.iter().map(|state| tally::column(*state)).collect();
            if columns.is_empty() {
                "0::bigint".to_owned()
            } else {
                format!("sum({})::bigint", columns.join(" + "))
            }
        };
        let walked: Vec<_> = DeliveryState::ALL
            .into_iter()
            .filter(|state| *state != DeliveryState::Delivered || !self.filter.is_of_undelivered())
            .collect();
        let mut sql = QueryBuilder::new("SELECT day, ");
        sql.push(sum(&self.filter.possible()))
            .push(" AS possible, ")
            .push(sum(&walked))
            .push(" AS walked FROM delivery_counts WHERE workspace_id = ")
            .push_bind(self.workspace);
        if let Some(webhook) = self.filter.webhook {
            sql.push(" AND webhook_id = ").push_bind(webhook);
        }
        sql.push(" GROUP BY day ORDER BY day DESC");
        let rows = sql.build().fetch_all(connection).await?;
        rows.iter()
            .map(|row| {
                Ok(Counts {
                    day: row.try_get("day")?,
                    possible: row.try_get("possible")?,
                    walked: row.try_get("walked")?,
                })
            })
            .collect()
    }
}

impl DeliveryFilter {
    /// Whether all of a day lies in the range of time.
    fn has_whole(&self, day: Day) -> bool {
        // A delivery's day is that of its millisecond, and its time that of its microsecond: the
        // same day, so the edges of the day decide.
        self.created_from
            .is_none_or(|from| Day::of_micros(from.saturating_sub(1)) < day)
            && self
                .created_before
                .is_none_or(|before| Day::of_micros(before) > day)
    }

    fn may_have(&self, day: Day) -> bool {
        self.created_from
            .is_none_or(|from| Day::of_micros(from) <= day)
            && self
                .created_before
                .is_none_or(|before| Day::of_micros(before) >= day)
    }
}

fn push_before(sql: &mut QueryBuilder<Postgres>, from: DeliveryCursor) {
    sql.push(" AND (created_at, id) < (")
        .push_bind(Micros(from.created_at))
        .push(", ")
        .push_bind(from.id)
        .push(")");
}

async fn rows(
    mut sql: QueryBuilder<Postgres>,
    connection: &mut PgConnection,
) -> Result<Vec<DeliveryRow>, StoreError> {
    let rows = sql.build().fetch_all(connection).await?;
    rows.iter().map(DeliveryRow::of).collect()
}

/// Which days to search, newest first, and where each begins. Days without any match are left out;
/// so at most as many are searched as retention keeps.
fn days_to_search<'a>(
    counts: &'a [Counts],
    filter: &'a DeliveryFilter,
    after: Option<DeliveryCursor>,
) -> impl Iterator<Item = (Counts, DeliveryCursor)> + 'a {
    let last = after.map_or(Day::LAST, |after| Day::of_delivery(after.id));
    let start = filter.start(after);
    counts
        .iter()
        .filter(move |counts| {
            counts.day <= last && counts.possible > 0 && filter.may_have(counts.day)
        })
        .map(move |counts| (*counts, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000_000;

    fn id(day: i64) -> Uuid {
        webhooks_domain::ids::delivery_id(Uuid::nil(), "e", Uuid::nil(), day * DAY)
    }

    fn day(n: i64) -> Day {
        Day::of_micros(n * DAY)
    }

    fn counts(n: i64, possible: i64) -> Counts {
        Counts {
            day: day(n),
            possible,
            walked: 50,
        }
    }

    #[test]
    fn days_are_searched_from_the_cursor_back_and_empty_ones_not_at_all() {
        let at = |n: i64| DeliveryCursor {
            created_at: n * DAY,
            id: id(n),
        };
        let all = [counts(9, 5), counts(8, 0), counts(7, 50)];
        let filter = DeliveryFilter::default();
        let days = |after| {
            days_to_search(&all, &filter, after)
                .map(|(counts, from)| (counts.day, from))
                .collect::<Vec<_>>()
        };
        assert_eq!(days(None), [(day(9), NEWEST), (day(7), NEWEST)]);
        assert_eq!(days(Some(at(9))), [(day(9), at(9)), (day(7), at(9))]);
        assert_eq!(days(Some(at(8))), [(day(7), at(8))]);
        assert_eq!(days(Some(at(6))), []);
    }

    #[test]
    fn a_range_of_time_leaves_days_out_and_tells_whole_ones_from_parts() {
        let filter = DeliveryFilter {
            created_from: Some(7 * DAY + 1),
            created_before: Some(9 * DAY),
            ..DeliveryFilter::default()
        };
        let all = [counts(9, 1), counts(8, 1), counts(7, 1), counts(6, 1)];
        let days: Vec<_> = days_to_search(&all, &filter, None)
            .map(|(counts, from)| (counts.day, from.created_at))
            .collect();
        assert_eq!(
            days,
            [(day(9), 9 * DAY), (day(8), 9 * DAY), (day(7), 9 * DAY)]
        );
        assert!(filter.has_whole(day(8)));
        assert!(!filter.has_whole(day(7)), "one microsecond is missing");
        assert!(!filter.has_whole(day(9)));
        let exact = DeliveryFilter {
            created_from: Some(7 * DAY),
            ..DeliveryFilter::default()
        };
        assert!(exact.has_whole(day(7)));
    }

    #[test]
    fn a_class_or_a_failing_status_excludes_what_was_delivered() {
        let possible = |class, status| {
            let filter = DeliveryFilter {
                class,
                status,
                ..DeliveryFilter::default()
            };
            filter.possible().contains(&DeliveryState::Delivered)
        };
        assert!(possible(None, None) && possible(None, Some((200, 299))));
        assert!(!possible(None, Some((500, 599))));
        assert!(!possible(Some(FailureClass::Temporary), None));
    }
}
