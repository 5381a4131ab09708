//! What processes cost, from `/proc`.

use std::{collections::BTreeMap, time::Duration};

use super::Part;
use crate::check::Held;

/// What one tick of `/proc/<pid>/stat` is: Linux shows hundredths of a second whatever its own clock.
const TICK: Duration = Duration::from_millis(10);

/// Kilobytes, as `/proc/<pid>/status` counts.
const KIB: u64 = 1_024;

/// Processor time and memory of a stack's processes at one moment. Empty where there is no `/proc`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    parts: BTreeMap<Part, Spent>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Spent {
    processor: Duration,
    resident_bytes: u64,
}

impl Usage {
    pub(super) fn of(processes: impl Iterator<Item = (Part, u32)>) -> Self {
        let all = all_processes();
        let parts = processes.map(|(part, pid)| (part, family(&all, pid)));
        Self {
            parts: parts.collect(),
        }
    }

    /// Processor time that all parts have spent between an earlier moment and this one. Parts that
    /// are not there at both are left out.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Duration {
        let spent = |(part, now): (&Part, &Spent)| {
            earlier.parts.get(part).map_or(Duration::ZERO, |then| {
                now.processor.saturating_sub(then.processor)
            })
        };
        self.parts.iter().map(spent).sum()
    }

    /// The same for each part.
    #[must_use]
    pub fn since_by_part(&self, earlier: &Self) -> Vec<(Part, Duration)> {
        let spent = |(part, now): (&Part, &Spent)| {
            earlier
                .parts
                .get(part)
                .map(|then| (*part, now.processor.saturating_sub(then.processor)))
        };
        self.parts.iter().filter_map(spent).collect()
    }

    /// Memory of a part that is in RAM, in bytes. For PostgreSQL, shared pages count once per process.
    #[must_use]
    pub fn resident_bytes(&self, part: Part) -> Option<u64> {
        self.parts.get(&part).map(|spent| spent.resident_bytes)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    pid: u32,
    parent: u32,
    ticks: u32,
}

/// A process with everything below it: PostgreSQL is one process per connection. Those that have
/// ended count too, in their parent's record.
fn family(all: &[Stat], pid: u32) -> Spent {
    let mut spent = Spent::default();
    let mut pids = vec![pid];
    while let Some(pid) = pids.pop() {
        if let Some(stat) = all.iter().find(|stat| stat.pid == pid) {
            spent.processor += TICK * stat.ticks;
            spent.resident_bytes += resident_bytes(pid);
        }
        pids.extend(
            all.iter()
                .filter(|stat| stat.parent == pid)
                .map(|stat| stat.pid),
        );
    }
    spent
}

fn all_processes() -> Vec<Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .collect()
}

/// The name stands in brackets and may itself hold brackets and blanks.
fn parse_stat(text: &str) -> Option<Stat> {
    let (head, tail) = text.rsplit_once(')')?;
    let pid = head.split_once(' ')?.0.parse().ok()?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u32>().ok();
    // State, parent, …; user and system time of its own and of children it has collected.
    Some(Stat {
        pid,
        parent: number(1)?,
        ticks: number(11)? + number(12)? + number(13)? + number(14)?,
    })
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .unwrap_or(0)
        * KIB
}

/// What a process holds at this moment; `None` when it is gone, or where there is no `/proc`.
pub(super) fn held(pid: u32) -> Option<Held> {
    let threads = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let threads = threads
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"))?;
    Some(Held {
        resident_bytes: resident_bytes(pid),
        descriptors: u64::try_from(std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
            .unwrap_or(u64::MAX),
        threads: threads.trim().parse().ok()?,
    })
}

/// Processor time of this process so far: the generator and the receiver in it.
#[must_use]
pub fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|text| parse_stat(&text));
    stat.map_or(Duration::ZERO, |stat| TICK * stat.ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name() {
        let text = "7 (a b) c) S 3 7 7 0 -1 4194560 1 0 0 0 150 50 4 6 20 0 1 0 98765 1 2";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                pid: 7,
                parent: 3,
                ticks: 210
            })
        );
        assert_eq!(parse_stat("7 (x) S"), None);
    }

    #[test]
    fn a_process_holds_memory_descriptors_and_threads_while_it_lives() {
        let held = held(std::process::id());
        if std::path::Path::new("/proc/self/status").exists() {
            let held = held.expect("this process lives");
            assert!(
                held.resident_bytes > KIB && held.descriptors > 2 && held.threads > 0,
                "{held:?}"
            );
        }
        assert_eq!(super::held(u32::MAX), None);
    }

    #[test]
    fn a_family_is_counted_whole_and_only_the_difference_matters() {
        let all = [
            Stat {
                pid: 1,
                parent: 0,
                ticks: 100,
            },
            Stat {
                pid: 2,
                parent: 1,
                ticks: 10,
            },
            Stat {
                pid: 3,
                parent: 2,
                ticks: 1,
            },
            Stat {
                pid: 4,
                parent: 0,
                ticks: 1_000,
            },
        ];
        assert_eq!(family(&all, 1).processor, Duration::from_millis(1_110));
        let usage = |part, ticks: u32| {
            let spent = Spent {
                processor: TICK * ticks,
                resident_bytes: 0,
            };
            Usage {
                parts: [(part, spent)].into_iter().collect(),
            }
        };
        let (early, late) = (usage(Part::Nats, 5), usage(Part::Nats, 25));
        assert_eq!(late.since(&early), Duration::from_millis(200));
        assert_eq!(early.since(&late), Duration::ZERO);
        assert_eq!(usage(Part::Ingest, 9).since(&early), Duration::ZERO);
    }
}
