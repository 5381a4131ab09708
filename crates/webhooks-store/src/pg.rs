//! How times, days and text cross into PostgreSQL.
//!
//! Everything here is total: whatever a report claims, the value that is bound can be stored. Times
//! are clamped to the years 1 to 9999, and text loses what PostgreSQL's `text` cannot hold.

use std::{borrow::Cow, fmt};

use sqlx::{
    Decode, Encode, Postgres, Row as _, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgRow, PgTypeInfo, PgValueRef},
};

use crate::error::StoreError;

const MICROS_A_DAY: i64 = 86_400_000_000;
/// 2000-01-01, from which PostgreSQL counts, in days since 1970-01-01.
const PG_EPOCH_DAYS: i32 = 10_957;
const PG_EPOCH_MICROS: i64 = 10_957 * MICROS_A_DAY;
/// 0001-01-01 and 9999-12-31 in days since 1970-01-01.
const FIRST_DAY: i32 = -719_162;
const LAST_DAY: i32 = 2_932_896;
const FIRST_MICROS: i64 = -719_162 * MICROS_A_DAY;
const LAST_MICROS: i64 = 2_932_897 * MICROS_A_DAY - 1;

/// A `timestamptz`: microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Micros(pub(crate) i64);

impl Type<Postgres> for Micros {
    fn type_info() -> PgTypeInfo {
        <time::OffsetDateTime as Type<Postgres>>::type_info()
    }
}

impl PgHasArrayType for Micros {
    fn array_type_info() -> PgTypeInfo {
        <time::OffsetDateTime as PgHasArrayType>::array_type_info()
    }
}

impl Encode<'_, Postgres> for Micros {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let micros = clamped(self.0) - PG_EPOCH_MICROS;
        Encode::<Postgres>::encode(micros, buf)
    }

    fn size_hint(&self) -> usize {
        size_of::<i64>()
    }
}

impl<'r> Decode<'r, Postgres> for Micros {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let micros = <i64 as Decode<Postgres>>::decode(value)?;
        Ok(Self(micros.saturating_add(PG_EPOCH_MICROS)))
    }
}

/// The rows of a page, and whether there are more: one more was asked for than the page holds.
pub(crate) fn page<T>(
    found: &[PgRow],
    page_size: u32,
    of: impl Fn(&PgRow) -> Result<T, StoreError>,
) -> Result<(Vec<T>, bool), StoreError> {
    let size = usize::try_from(page_size).unwrap_or(usize::MAX);
    let rows: Result<_, _> = found.iter().take(size).map(of).collect();
    Ok((rows?, found.len() > size))
}

/// A UTC day, by which history is partitioned. Ordered by time; printed as `2026-01-15`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i32);

impl Day {
    /// The first day a date column holds here.
    pub const FIRST: Self = Self(FIRST_DAY);
    /// The last day a date column holds here.
    pub const LAST: Self = Self(LAST_DAY);

    /// The day of a moment (microseconds since the Unix epoch), within the years 1 to 9999.
    #[must_use]
    pub fn of_micros(micros: i64) -> Self {
        let days = clamped(micros).div_euclid(MICROS_A_DAY);
        Self(i32::try_from(days).expect("clamped to the years 1 to 9999"))
    }

    /// The day that holds a delivery's row, told by its id.
    #[must_use]
    pub fn of_delivery(id: uuid::Uuid) -> Self {
        Self::of_micros(webhooks_domain::ids::millis_of(id).saturating_mul(1_000))
    }

    /// The day so many days later (earlier when negative), within the years 1 to 9999.
    #[must_use]
    pub fn plus(self, days: i32) -> Self {
        Self(self.0.saturating_add(days).clamp(FIRST_DAY, LAST_DAY))
    }

    /// When it begins, in microseconds since the Unix epoch.
    #[must_use]
    pub fn start(self) -> i64 {
        i64::from(self.0) * MICROS_A_DAY
    }

    fn date(self) -> time::Date {
        time::Date::from_julian_day(self.0 + 2_440_588).expect("a day of the years 1 to 9999")
    }

    /// The end of the name of this day's partitions: `20260115`.
    pub(crate) fn suffix(self) -> String {
        let date = self.date();
        format!(
            "{:04}{:02}{:02}",
            date.year(),
            u8::from(date.month()),
            date.day()
        )
    }

    /// Reads what [`Self::suffix`] wrote.
    pub(crate) fn of_suffix(text: &str) -> Option<Self> {
        let format = time::macros::format_description!("[year][month][day]");
        let date = time::Date::parse(text, format).ok()?;
        Some(Self(date.to_julian_day() - 2_440_588))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = self.date();
        write!(
            f,
            "{:04}-{:02}-{:02}",
            date.year(),
            u8::from(date.month()),
            date.day()
        )
    }
}

impl Type<Postgres> for Day {
    fn type_info() -> PgTypeInfo {
        <time::Date as Type<Postgres>>::type_info()
    }
}

impl PgHasArrayType for Day {
    fn array_type_info() -> PgTypeInfo {
        <time::Date as PgHasArrayType>::array_type_info()
    }
}

impl Encode<'_, Postgres> for Day {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode(self.0 - PG_EPOCH_DAYS, buf)
    }

    fn size_hint(&self) -> usize {
        size_of::<i32>()
    }
}

impl<'r> Decode<'r, Postgres> for Day {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let days = <i32 as Decode<Postgres>>::decode(value)?;
        Ok(Self(
            days.saturating_add(PG_EPOCH_DAYS)
                .clamp(FIRST_DAY, LAST_DAY),
        ))
    }
}

/// A time as it can be stored: within the years 1 to 9999.
pub(crate) fn clamped(micros: i64) -> i64 {
    micros.clamp(FIRST_MICROS, LAST_MICROS)
}

/// Text as it can be stored: PostgreSQL's `text` and `jsonb` hold every character but NUL, which
/// becomes `␀` (U+2400, the symbol for it), so that a reader sees that something stood there.
#[must_use]
pub fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{2400}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// A time column.
pub(crate) fn micros(row: &PgRow, column: &str) -> Result<i64, StoreError> {
    Ok(row.try_get::<Micros, _>(column)?.0)
}

/// A time column that may be null.
pub(crate) fn optional_micros(row: &PgRow, column: &str) -> Result<Option<i64>, StoreError> {
    Ok(row.try_get::<Option<Micros>, _>(column)?.map(|at| at.0))
}

/// A column that holds a word of an enumeration.
pub(crate) fn word<T>(row: &PgRow, column: &'static str) -> Result<T, StoreError>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let word: &str = row.try_get(column)?;
    word.parse()
        .map_err(|error: T::Err| StoreError::corrupt(column, error))
}

/// A column that holds a word of an enumeration, or null.
pub(crate) fn optional_word<T>(row: &PgRow, column: &'static str) -> Result<Option<T>, StoreError>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let word: Option<&str> = row.try_get(column)?;
    word.map(|word| {
        word.parse()
            .map_err(|error: T::Err| StoreError::corrupt(column, error))
    })
    .transpose()
}

/// A number that never was negative, back from a signed column.
pub(crate) fn unsigned(row: &PgRow, column: &'static str) -> Result<u32, StoreError> {
    u32::try_from(row.try_get::<i32, _>(column)?)
        .map_err(|error| StoreError::corrupt(column, error))
}

/// A number for an `integer` column; what is larger is stored as the largest.
pub(crate) fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A number for a `bigint` column; what is larger is stored as the largest.
pub(crate) fn bigint(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_the_utc_day_and_survives_any_number() {
        assert_eq!(Day::of_micros(0).to_string(), "1970-01-01");
        assert_eq!(Day::of_micros(-1).to_string(), "1969-12-31");
        assert_eq!(
            Day::of_micros(1_768_521_599_999_999).to_string(),
            "2026-01-15"
        );
        assert_eq!(
            Day::of_micros(1_768_521_600_000_000).to_string(),
            "2026-01-16"
        );
        assert_eq!(Day::of_micros(i64::MAX), Day::LAST);
        assert_eq!(Day::of_micros(i64::MIN), Day::FIRST);
        assert_eq!(Day::LAST.to_string(), "9999-12-31");
        assert_eq!(Day::FIRST.to_string(), "0001-01-01");
        assert_eq!(Day::of_delivery(uuid::Uuid::max()), Day::LAST);
        assert_eq!(Day::LAST.plus(1), Day::LAST);
    }

    #[test]
    fn a_partitions_name_reads_back() {
        let day = Day::of_micros(1_768_521_600_000_000);
        assert_eq!(day.suffix(), "20260116");
        assert_eq!(Day::of_suffix("20260116"), Some(day));
        for other in ["default", "2026011", "20261301", "202601160"] {
            assert_eq!(Day::of_suffix(other), None, "{other}");
        }
    }

    #[test]
    fn nul_becomes_its_symbol_and_the_rest_is_untouched() {
        assert_eq!(storable("a\0b"), "a␀b");
        assert!(matches!(storable("é\u{1}\u{10FFFF}"), Cow::Borrowed(_)));
    }
}
