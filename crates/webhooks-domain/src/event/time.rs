//! Times as the payload writes them: RFC 3339, UTC, `Z`, microseconds with trailing zeros cut.
//!
//! Written by hand because every delivery formats several, and because the contract's form
//! (`…:20.59916Z`, `…:45Z`) is none of the formats that libraries offer. A time is an `i64` of
//! microseconds since 1970-01-01T00:00:00Z throughout the domain.

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// Days from 0000-03-01 to 1970-01-01: the algorithms below count years from March, so that a
/// leap day is a year's last.
const EPOCH_SHIFT_DAYS: i64 = 719_468;
const DAYS_PER_ERA: i64 = 146_097;
/// Longest text taken for a time: nobody needs more digits.
const MAX_TEXT_BYTES: usize = 64;
/// 0000-01-01T00:00:00Z and 9999-12-31T23:59:59.999999Z: what four digits of year can say.
const FIRST_MICROS: i64 = -62_167_219_200 * MICROS_PER_SECOND;
const LAST_MICROS: i64 = 253_402_300_800 * MICROS_PER_SECOND - 1;

/// `micros` since the epoch as RFC 3339 in UTC, e.g. `2025-10-10T16:12:20.59916Z`. Times outside
/// the years 0000 to 9999 are clamped to them.
#[must_use]
pub fn format_micros(micros: i64) -> String {
    let mut out = Vec::with_capacity(27);
    push_micros(&mut out, micros);
    out.into_iter().map(char::from).collect()
}

/// Appends what [`format_micros`] gives.
pub(crate) fn push_micros(out: &mut Vec<u8>, micros: i64) {
    let micros = micros.clamp(FIRST_MICROS, LAST_MICROS);
    let seconds = micros.div_euclid(MICROS_PER_SECOND);
    let of_day = seconds.rem_euclid(SECONDS_PER_DAY);
    let (year, month, day) = date_of(seconds.div_euclid(SECONDS_PER_DAY));
    push_digits(out, year, 4);
    for (separator, value) in [
        (b'-', month),
        (b'-', day),
        (b'T', of_day / 3_600),
        (b':', of_day / 60 % 60),
        (b':', of_day % 60),
    ] {
        out.push(separator);
        push_digits(out, value, 2);
    }
    let fraction = micros.rem_euclid(MICROS_PER_SECOND);
    if fraction != 0 {
        out.push(b'.');
        push_digits(out, fraction, 6);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
    out.push(b'Z');
}

/// Appends `value` with exactly `width` decimal digits.
fn push_digits(out: &mut Vec<u8>, mut value: i64, width: usize) {
    let start = out.len();
    out.resize(start + width, b'0');
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// The time that an RFC 3339 text names, in microseconds since the epoch; digits past the sixth
/// of a fraction are cut. `None` for anything that is not RFC 3339: no offset, a space for the
/// `T`, a day that does not exist. A leap second counts as the second after it.
#[must_use]
pub fn parse_rfc3339_micros(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() > MAX_TEXT_BYTES {
        return None;
    }
    let (head, mut rest) = bytes.split_at_checked(19)?;
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(at, byte)| head[at] != byte) || !matches!(head[10], b'T' | b't') {
        return None;
    }
    let year = digits(&head[0..4])?;
    let month = digits(&head[5..7]).filter(|month| (1..=12).contains(month))?;
    let day = digits(&head[8..10]).filter(|day| (1..=days_in(year, month)).contains(day))?;
    let hour = digits(&head[11..13]).filter(|hour| *hour < 24)?;
    let minute = digits(&head[14..16]).filter(|minute| *minute < 60)?;
    let second = digits(&head[17..19]).filter(|second| *second <= 60)?;

    let mut fraction = 0;
    if let Some((b'.', after)) = rest.split_first() {
        let length = after
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if length == 0 {
            return None;
        }
        for place in 0..6 {
            let digit = after[..length].get(place).map_or(0, |byte| byte - b'0');
            fraction = fraction * 10 + i64::from(digit);
        }
        rest = &after[length..];
    }
    let seconds = day_of(year, month, day) * SECONDS_PER_DAY + hour * 3_600 + minute * 60 + second
        - offset_seconds(rest)?;
    Some(seconds * MICROS_PER_SECOND + fraction)
}

/// `Z`, or hours and minutes east of UTC.
fn offset_seconds(text: &[u8]) -> Option<i64> {
    match text {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let hours = digits(&[*h1, *h2]).filter(|hours| *hours < 24)?;
            let minutes = digits(&[*m1, *m2]).filter(|minutes| *minutes < 60)?;
            let seconds = hours * 3_600 + minutes * 60;
            Some(if *sign == b'+' { seconds } else { -seconds })
        }
        _ => None,
    }
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit()
            .then(|| value * 10 + i64::from(byte - b'0'))
    })
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since the epoch of a date in the Gregorian calendar.
fn day_of(year: i64, month: i64, day: i64) -> i64 {
    let march_month = (month + 9) % 12;
    let march_year = year - i64::from(month <= 2);
    let era = march_year.div_euclid(400);
    let year_of_era = march_year.rem_euclid(400);
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_ERA + day_of_era - EPOCH_SHIFT_DAYS
}

/// The date (year, month, day) of a day since the epoch.
fn date_of(days: i64) -> (i64, i64, i64) {
    let shifted = days + EPOCH_SHIFT_DAYS;
    let era = shifted.div_euclid(DAYS_PER_ERA);
    let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use ::time::OffsetDateTime;
    use ::time::format_description::well_known::Rfc3339;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_written_as_in_the_sample() {
        let table = [
            (0, "1970-01-01T00:00:00Z"),
            (1, "1970-01-01T00:00:00.000001Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (1_760_112_740_599_160, "2025-10-10T16:12:20.59916Z"),
            (1_760_112_740_500_000, "2025-10-10T16:12:20.5Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00Z"),
            (i64::MAX, "9999-12-31T23:59:59.999999Z"),
            (i64::MIN, "0000-01-01T00:00:00Z"),
        ];
        for (micros, text) in table {
            assert_eq!(format_micros(micros), text);
        }
    }

    #[test]
    fn rfc_3339_is_read_and_nothing_else() {
        let good = [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t01:00:00+01:00", 0),
            ("1969-12-31T23:30:00.25-00:30", 250_000),
            ("1970-01-01T00:00:00.1234569z", 123_456),
            ("1970-01-01T00:00:00.000000000Z", 0),
            ("1970-01-01T00:00:60Z", 60_000_000),
            ("2025-10-10T16:12:28.161007Z", 1_760_112_748_161_007),
        ];
        for (text, micros) in good {
            assert_eq!(parse_rfc3339_micros(text), Some(micros), "{text}");
        }
        let bad = [
            "",
            "now",
            "2025-10-10",
            "2025-10-10T16:12:28",
            "2025-10-10 16:12:28Z",
            "2025-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2025-13-01T00:00:00Z",
            "2025-00-01T00:00:00Z",
            "2025-01-00T00:00:00Z",
            "2025-04-31T00:00:00Z",
            "2025-01-01T24:00:00Z",
            "2025-01-01T00:60:00Z",
            "2025-01-01T00:00:61Z",
            "2025-01-01T00:00:00.Z",
            "2025-01-01T00:00:00+0100",
            "2025-01-01T00:00:00+24:00",
            "2025-01-01T00:00:00Zz",
            "2025-1-1T00:00:00Z",
            "+025-01-01T00:00:00Z",
            "2025-01-01T00:00:00.-1Z",
            "\u{e9}025-01-01T00:00:00Z",
            "1760112740",
        ];
        for text in bad {
            assert_eq!(parse_rfc3339_micros(text), None, "{text}");
        }
        let long = format!("2025-01-01T00:00:00.{}Z", "1".repeat(60));
        assert_eq!(parse_rfc3339_micros(&long), None);
    }

    proptest! {
        #[test]
        fn times_read_back_and_agree_with_the_time_crate(micros in FIRST_MICROS..=LAST_MICROS) {
            let text = format_micros(micros);
            prop_assert_eq!(parse_rfc3339_micros(&text), Some(micros));
            let other = OffsetDateTime::parse(&text, &Rfc3339).expect("RFC 3339");
            prop_assert_eq!(other.unix_timestamp_nanos(), i128::from(micros) * 1_000);
        }

        #[test]
        fn what_is_accepted_the_time_crate_accepts_too(
            text in "(19|20)[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:[0-6][0-9])"
        ) {
            let theirs = OffsetDateTime::parse(&text, &Rfc3339)
                .ok()
                .map(|time| time.unix_timestamp_nanos().div_euclid(1_000));
            prop_assert_eq!(parse_rfc3339_micros(&text).map(i128::from), theirs);
        }
    }
}
