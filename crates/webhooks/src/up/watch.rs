//! Telling the person who dies and comes back.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::sleep;
use webhooks_devstack::{ChildState, Supervisor};

use super::Refused;
use crate::console::say;

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Watches for ever. The supervisor restarts; this only tells.
///
/// # Errors
/// A service that was started again refuses its settings, and so stays dead.
pub(crate) async fn watch(supervisor: &Supervisor) -> anyhow::Result<()> {
    let mut known = look(supervisor);
    loop {
        sleep(LOOK_EVERY).await;
        let seen = look(supervisor);
        for line in news(&known, &seen) {
            say(line);
        }
        known = seen;
        let refused = supervisor.refused();
        if !refused.is_empty() {
            return Err(Refused(refused).into());
        }
    }
}

fn look(supervisor: &Supervisor) -> BTreeMap<String, ChildState> {
    let names = supervisor.names().into_iter();
    names
        .filter_map(|name| supervisor.state(&name).map(|state| (name, state)))
        .collect()
}

/// What is different, in words.
fn news(known: &BTreeMap<String, ChildState>, seen: &BTreeMap<String, ChildState>) -> Vec<String> {
    let before = |name: &String| known.get(name).copied().unwrap_or_default();
    let mut lines = Vec::new();
    for (name, now) in seen {
        let before = before(name);
        let exit = now
            .last_exit
            .map_or_else(String::new, |exit| format!(" ({exit})"));
        match now.pid {
            None if before.pid.is_some() => {
                lines.push(format!("{name} has ended{exit}; starting it again"))
            }
            Some(pid) if now.starts > before.starts && before.pid.is_some() => {
                lines.push(format!(
                    "{name} has ended{exit} and was started again: pid {pid}"
                ));
            }
            Some(pid) if now.starts > before.starts => {
                lines.push(format!("{name} was started again: pid {pid}"))
            }
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{BTreeMap, ChildState, news};

    #[test]
    fn a_death_and_a_restart_are_told_once() {
        let at = |pid: Option<u32>, starts: u32| {
            BTreeMap::from([(
                "ingest".to_owned(),
                ChildState {
                    pid,
                    starts,
                    last_exit: None,
                },
            )])
        };
        assert!(news(&at(Some(1), 1), &at(Some(1), 1)).is_empty());
        assert_eq!(
            news(&at(Some(1), 1), &at(None, 1)),
            ["ingest has ended; starting it again"]
        );
        assert_eq!(
            news(&at(None, 1), &at(Some(2), 2)),
            ["ingest was started again: pid 2"]
        );
        assert_eq!(
            news(&at(Some(1), 1), &at(Some(2), 2)),
            ["ingest has ended and was started again: pid 2"]
        );
    }
}
