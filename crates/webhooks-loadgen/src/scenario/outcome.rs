//! What a scenario came to.

use std::{collections::HashMap, fmt, path::PathBuf, time::Duration};

use crate::{check::Report, ledger::Received, publish::Door, publish::Tally};

/// One thing that had to hold meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// What.
    pub what: String,
    /// Whether it did.
    pub held: bool,
    /// What was seen.
    pub seen: String,
}

/// What it came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The scenario.
    pub name: &'static str,
    /// The rows it proves.
    pub rows: &'static str,
    /// Why it was not run; then nothing else is set.
    pub skipped: Option<String>,
    /// The check's verdict.
    pub report: Option<Report>,
    /// What had to hold meanwhile.
    pub expectations: Vec<Expectation>,
    /// What publishers were told.
    pub tallies: Vec<(Door, Tally)>,
    /// Requests at the receiver.
    pub repeats: Repeats,
    /// How often a dispatcher could not renew its membership in time and gave its partitions up: on a
    /// machine that has no time for it. What was on the wire then may be repeated, as after a kill.
    pub lapses: usize,
    /// The most requests that one dispatcher has on the wire: what one lapse may repeat.
    pub in_flight: usize,
    /// From the end of the load until nothing was under way.
    pub quiet_after: Option<Duration>,
    /// How long it took in all.
    pub took: Duration,
    /// Where to look, if it was kept.
    pub folder: Option<PathBuf>,
}

/// Requests, and how many of them said the same again to an endpoint that had answered 2xx.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Repeats {
    /// All requests.
    pub requests: usize,
    /// Those after the first that was answered 2xx, over all deliveries.
    pub extra: usize,
    /// The most of them for one delivery.
    pub most: usize,
}

impl Repeats {
    /// Counts them.
    #[must_use]
    pub fn of(received: &[Received]) -> Self {
        let mut taken: HashMap<(&str, &str), usize> = HashMap::new();
        for request in received
            .iter()
            .filter(|request| (200..300).contains(&request.status))
        {
            let key = (request.path.as_str(), request.message_id.as_str());
            *taken.entry(key).or_default() += 1;
        }
        Self {
            requests: received.len(),
            extra: taken.values().map(|count| count - 1).sum(),
            most: taken.values().map(|count| count - 1).max().unwrap_or(0),
        }
    }
}

impl Outcome {
    /// Not run, and why.
    #[must_use]
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self {
            skipped: Some(reason.into()),
            ..Self::default()
        }
    }

    /// One more thing that had to hold.
    pub(super) fn expect(&mut self, what: impl Into<String>, held: bool, seen: impl ToString) {
        self.expectations.push(Expectation {
            what: what.into(),
            held,
            seen: seen.to_string(),
        });
    }

    /// No request repeated what had been taken. (Where a membership lapsed, what was on the wire at
    /// that moment may be, once for each delivery: so many and no more.)
    pub(super) fn expect_no_repeats(&mut self) {
        let Repeats { extra, most, .. } = self.repeats;
        let allowed = self.lapses.saturating_mul(self.in_flight);
        let held = extra == 0 || (most == 1 && extra <= allowed);
        let seen = format!(
            "{extra}; {} memberships lapsed, which explains {allowed} at most",
            self.lapses
        );
        self.expect("no request repeats what was taken", held, seen);
    }

    /// Of each delivery, at most so many requests repeated what had been taken.
    pub(super) fn expect_most(&mut self, allowed: usize) {
        let most = self.repeats.most;
        self.expect(
            format!("at most {allowed} requests of a delivery repeat what was taken"),
            most <= allowed,
            most,
        );
    }

    /// Whether everything holds (a scenario that was not run has nothing to break).
    #[must_use]
    pub fn holds(&self) -> bool {
        self.skipped.is_some()
            || (self.report.as_ref().is_some_and(Report::holds)
                && self.quiet_after.is_some()
                && self.expectations.iter().all(|one| one.held))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.skipped {
            return write!(f, "SKIPPED {} ({}): {reason}", self.name, self.rows);
        }
        if let Some(report) = &self.report {
            writeln!(f, "{report}")?;
        }
        for one in &self.expectations {
            let word = if one.held { "held  " } else { "BROKEN" };
            writeln!(f, "{word} {}: {}", one.what, one.seen)?;
        }
        for (door, tally) in &self.tallies {
            writeln!(
                f,
                "published over {}: {} ok, {} refused, {} unknown",
                door.as_str(),
                tally.ok,
                tally.refused,
                tally.unknown
            )?;
        }
        let Repeats {
            requests,
            extra,
            most,
        } = self.repeats;
        writeln!(
            f,
            "{requests} requests, {extra} of them repeated what was taken, at most {most} for one delivery"
        )?;
        if self.lapses > 0 {
            writeln!(f, "memberships that lapsed: {}", self.lapses)?;
        }
        match self.quiet_after {
            Some(time) => writeln!(f, "quiet after {:.1} s", time.as_secs_f64())?,
            None => writeln!(f, "NOT quiet")?,
        }
        if let Some(folder) = &self.folder {
            writeln!(f, "logs and ledgers: {}", folder.display())?;
        }
        let verdict = if self.holds() { "PASS" } else { "FAIL" };
        write!(
            f,
            "{verdict} {} ({}) in {:.0} s",
            self.name,
            self.rows,
            self.took.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(path: &str, id: &str, status: u16) -> Received {
        Received {
            at: 0,
            monotonic: 0,
            path: path.to_owned(),
            message_id: id.to_owned(),
            attempt: 1,
            event: None,
            webhook: None,
            body_hash: 0,
            status,
            verified: None,
        }
    }

    #[test]
    fn only_what_was_taken_before_is_a_repeat() {
        let all = [
            received("/a", "1", 500),
            received("/a", "1", 200),
            received("/a", "1", 200),
            received("/a", "1", 204),
            received("/b", "1", 200),
        ];
        let expected = Repeats {
            requests: 5,
            extra: 2,
            most: 2,
        };
        assert_eq!(Repeats::of(&all), expected);
    }

    #[test]
    fn a_lapse_explains_what_was_on_the_wire_and_no_more() {
        let held = |extra, most, lapses| {
            let mut outcome = Outcome {
                repeats: Repeats {
                    requests: 1_000,
                    extra,
                    most,
                },
                lapses,
                in_flight: 16,
                ..Outcome::default()
            };
            outcome.expect_no_repeats();
            outcome.expectations[0].held
        };
        assert!(held(0, 0, 0) && held(16, 1, 1) && held(32, 1, 2));
        assert!(!held(1, 1, 0), "nothing explains it");
        assert!(!held(17, 1, 1), "more than was on the wire");
        assert!(!held(2, 2, 1), "twice the same");
    }

    #[test]
    fn what_broke_or_never_came_to_rest_does_not_hold() {
        assert!(Outcome::skipped("no disk").holds());
        assert!(!Outcome::default().holds(), "nothing was checked");
    }
}
