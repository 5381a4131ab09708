//! Looks at the processes of a stack while something goes on.

use std::{collections::BTreeMap, path::Path, time::Duration};

use crate::stack::{Part, Stack};

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// How long a stack rests before its memory at rest is read.
const REST: Duration = Duration::from_secs(3);

const MIB: u64 = 1_024 * 1_024;

/// Memory of each part, in MiB.
pub(super) type Memory = BTreeMap<Part, u64>;

/// The most that was seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch {
    most: Memory,
    most_files: usize,
}

impl Watch {
    /// Looks on until `work` is done.
    pub(super) async fn during<T>(&mut self, stack: &Stack, work: impl Future<Output = T>) -> T {
        let mut tick = tokio::time::interval(EVERY);
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = tick.tick() => self.look(stack),
            }
        }
    }

    fn look(&mut self, stack: &Stack) {
        for (part, now) in memory_now(stack) {
            let most = self.most.entry(part).or_default();
            *most = now.max(*most);
        }
        let files = stack
            .pid(Part::Dispatcher(1))
            .map_or(0, |pid| entries(&format!("/proc/{pid}/fd")));
        self.most_files = self.most_files.max(files);
    }

    pub(super) fn most(&self, part: Part) -> u64 {
        self.most.get(&part).copied().unwrap_or(0)
    }

    /// Most files that a dispatcher had open, sockets included.
    pub(super) fn most_files(&self) -> usize {
        self.most_files
    }

    /// All of it, for people.
    pub(super) fn shown(&self) -> String {
        shown(&self.most)
    }
}

/// Memory at rest.
pub(super) async fn at_rest(stack: &Stack) -> Memory {
    tokio::time::sleep(REST).await;
    memory_now(stack)
}

pub(super) fn shown(memory: &Memory) -> String {
    let parts: Vec<String> = memory
        .iter()
        .map(|(part, mib)| format!("{part} {mib}"))
        .collect();
    format!("{} MiB", parts.join(", "))
}

fn memory_now(stack: &Stack) -> Memory {
    let usage = stack.usage();
    stack
        .parts()
        .into_iter()
        .filter_map(|part| Some((part, usage.resident_bytes(part)? / MIB)))
        .collect()
}

/// What a folder takes on the disk, in MiB.
pub(super) fn on_disk(folder: &Path) -> u64 {
    fn bytes(folder: &Path) -> u64 {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return 0;
        };
        // What goes while we look takes nothing.
        entries
            .flatten()
            .map(|entry| match entry.metadata() {
                Ok(found) if found.is_dir() => bytes(&entry.path()),
                Ok(found) => found.len(),
                Err(_) => 0,
            })
            .sum()
    }
    bytes(folder) / MIB
}

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_measured_with_what_is_below_it() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("below");
        std::fs::create_dir(&below).unwrap();
        for place in [folder.path(), &below] {
            let length = usize::try_from(MIB).unwrap();
            std::fs::write(place.join("file"), vec![0; length]).unwrap();
        }
        assert_eq!(on_disk(folder.path()), 2);
        assert_eq!(on_disk(&below.join("none")), 0);
        assert_eq!(
            shown(&[(Part::Nats, 7)].into_iter().collect()),
            "nats 7 MiB"
        );
    }
}
