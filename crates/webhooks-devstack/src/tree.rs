//! Looking at processes that are not our direct children: the backends of a postmaster.

use std::{process::Command, time::Duration};

use anyhow::bail;
use rustix::process::{Pid, Signal, kill_process};

/// A process, recognised again by its start time where the system tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pid: u32,
    parent: u32,
    started: String,
    zombie: bool,
}

/// Whether a process with this id exists and has not ended. One that ended but was not yet collected
/// by its parent does not count.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    all().iter().any(|seen| seen.pid == pid && !seen.zombie)
}

/// Every process below `pid`, at this moment.
pub(crate) fn descendants(pid: u32) -> Vec<Seen> {
    let all = all();
    let mut parents = vec![pid];
    let mut found: Vec<Seen> = Vec::new();
    while let Some(parent) = parents.pop() {
        for seen in all.iter().filter(|seen| seen.parent == parent) {
            parents.push(seen.pid);
            found.push(seen.clone());
        }
    }
    found
}

/// Sends a signal to those of these that still run.
pub(crate) fn signal_all(processes: &[Seen], signal: Signal) -> anyhow::Result<()> {
    for seen in still_running(processes) {
        // It may end in this very moment.
        let pid = i32::try_from(seen.pid).ok().and_then(Pid::from_raw);
        if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal))
            && error != rustix::io::Errno::SRCH
        {
            bail!("cannot signal process {}: {error}", seen.pid);
        }
    }
    Ok(())
}

/// Kills these and waits until they are gone.
pub(crate) async fn kill_all(processes: &[Seen], limit: Duration) -> anyhow::Result<()> {
    signal_all(processes, Signal::KILL)?;
    crate::wait_until(
        "killed processes to be gone",
        limit,
        async || match still_running(processes) {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        },
    )
    .await
}

fn still_running(processes: &[Seen]) -> Vec<Seen> {
    let same = |seen: &Seen| {
        processes
            .iter()
            .any(|other| other.pid == seen.pid && other.started == seen.started)
    };
    all()
        .into_iter()
        .filter(|seen| !seen.zombie && same(seen))
        .collect()
}

/// Every process of the machine that we may see.
fn all() -> Vec<Seen> {
    match std::fs::read_dir("/proc") {
        Ok(entries) => entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter_map(|pid| {
                parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
            })
            .collect(),
        Err(_) => ps(),
    }
}

/// `/proc/PID/stat`: the name stands in brackets and may itself hold brackets and blanks.
fn parse_stat(stat: &str) -> Option<Seen> {
    let (head, tail) = stat.rsplit_once(')')?;
    let pid = head.split_once(' ')?.0.parse().ok()?;
    let mut fields = tail.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.to_owned();
    Some(Seen {
        pid,
        parent,
        started,
        zombie: matches!(state, "Z" | "X"),
    })
}

/// For systems without `/proc` (macOS).
fn ps() -> Vec<Seen> {
    let output = Command::new("ps")
        .args(["-A", "-o", "pid=,ppid=,stat=,lstart="])
        .output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    text.lines().filter_map(parse_ps).collect()
}

fn parse_ps(line: &str) -> Option<Seen> {
    let mut fields = line.split_whitespace();
    let pid = fields.next()?.parse().ok()?;
    let parent = fields.next()?.parse().ok()?;
    let zombie = fields.next()?.starts_with('Z');
    Some(Seen {
        pid,
        parent,
        started: fields.collect::<Vec<_>>().join(" "),
        zombie,
    })
}

#[cfg(test)]
mod tests {
    use super::{Seen, descendants, is_running, parse_ps, parse_stat};

    #[test]
    fn both_kinds_of_listing_are_read() {
        let stat = "7 (a b) c) S 3 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 98765 1 2";
        let expected = Seen {
            pid: 7,
            parent: 3,
            started: "98765".into(),
            zombie: false,
        };
        assert_eq!(parse_stat(stat), Some(expected));
        let line = "  7   3 Z    Mon Nov 23 19:11:02 2026";
        let expected = Seen {
            pid: 7,
            parent: 3,
            started: "Mon Nov 23 19:11:02 2026".into(),
            zombie: true,
        };
        assert_eq!(parse_ps(line), Some(expected));
    }

    #[test]
    fn this_process_runs_and_its_children_are_found() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        assert!(is_running(std::process::id()));
        assert!(
            descendants(std::process::id())
                .iter()
                .any(|seen| seen.pid == child.id())
        );
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_running(child.id()));
    }
}
