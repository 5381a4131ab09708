//! Medians, percentiles and how numbers are written.

use std::time::Duration;

/// The middle of some runs; the lower of two middles, so as not to flatter. 0 of none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get(sorted.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(0.0)
}

/// The value that this share (0.0 to 1.0) of the sorted values does not exceed. 0 of none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an index, bounded below"
)]
pub(super) fn percentile(sorted: &[i64], share: f64) -> i64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.clamp(1, sorted.len().max(1)) - 1)
        .copied()
        .unwrap_or(0)
}

/// A rate, without decimals and with thousands apart.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are positive and far below 2^53"
)]
pub(super) fn rate(per_second: f64) -> String {
    let digits = (per_second.max(0.0).round() as u64).to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Microseconds as milliseconds with one decimal.
#[expect(
    clippy::cast_precision_loss,
    reason = "times of a benchmark are far below 2^53"
)]
pub(super) fn millis(micros: i64) -> String {
    format!("{:.1}", micros as f64 / 1_000.0)
}

/// Processor time for each of `count`, in milliseconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a benchmark are far below 2^53"
)]
pub(super) fn millis_each(spent: Duration, count: u64) -> f64 {
    spent.as_secs_f64() * 1_000.0 / count.max(1) as f64
}

/// Bytes as MiB.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{}", bytes / (1_024 * 1_024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middles_and_percentiles_are_values_that_were_there() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[1.0, 9.0]), 1.0);
        assert_eq!(median(&[]), 0.0);
        let values: Vec<i64> = (1..=100).collect();
        assert_eq!(
            (
                percentile(&values, 0.5),
                percentile(&values, 0.99),
                percentile(&values, 1.0)
            ),
            (50, 99, 100)
        );
        assert_eq!((percentile(&[7], 0.01), percentile(&[], 0.5)), (7, 0));
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(
            (rate(1_234_567.4), rate(999.6), rate(-3.0)),
            ("1,234,567".into(), "1,000".into(), "0".into())
        );
        assert_eq!(millis(1_250), "1.2");
        assert!((millis_each(Duration::from_secs(1), 4_000) - 0.25).abs() < 1e-9);
        assert_eq!(mebibytes(64 * 1_024 * 1_024), "64");
    }
}
