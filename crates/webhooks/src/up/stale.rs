//! What a killed run may have left.
//!
//! Normally nothing: its children die with it. Should one be there nevertheless, it would hold ports
//! and data, so it is ended, but only if it surely is the one: the process of the pid file's number
//! must have been started in the seconds before that file was written, and must run a program of
//! ours. A number that was reused since then fails the first test, a stranger fails the second.
//! Without `/proc` neither can be known and nothing is ended.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use webhooks_devstack::is_running;

/// The programs that a run starts. `setpriv` and `unshare` become one of the others within moments.
const PROGRAMS: [&str; 7] = [
    "nats-server",
    "postgres",
    "webhooks-ingest",
    "webhooks-fanout",
    "webhooks-dispatcher",
    "webhooks-management",
    "webhooks-loadgen",
];

/// How much earlier than its pid file a process may have been started. The kernel counts starts in
/// hundredths of a second, from a boot time in whole seconds.
const STARTED_WITHIN_SECONDS: f64 = 10.0;

/// How much later it may seem to have been started, for the same reason.
const ROUNDING_SECONDS: f64 = 2.0;

/// What `/proc` counts starts in, on every Linux (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

const END_LIMIT: Duration = Duration::from_secs(10);

/// Ends what is left of an earlier run and removes its pid files. Says what it did, in lines.
///
/// # Errors
/// The folder cannot be read, or a process of ours does not end.
pub(crate) fn clean(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut told = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let file = entry?.path();
        if file.extension() != Some(OsStr::new("pid")) {
            continue;
        }
        if let Some(pid) = read_pid(&file) {
            if let Some(program) = ours(pid, &file) {
                told.push(format!(
                    "ending {} (pid {pid}) of an earlier run",
                    program.display()
                ));
                end(pid)?;
            } else if is_running(pid) {
                told.push(format!(
                    "leaving process {pid} alone: it is not the one that {} names",
                    file.display()
                ));
            }
        }
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    Ok(told)
}

fn read_pid(file: &Path) -> Option<u32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The program, if the process surely is the one that this pid file was written for.
fn ours(pid: u32, file: &Path) -> Option<PathBuf> {
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let written = fs::metadata(file)
        .and_then(|metadata| metadata.modified())
        .ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let started = started_at(
        &stat,
        &fs::read_to_string("/proc/stat").ok()?,
        TICKS_PER_SECOND,
    )?;
    is_the_one(&program, started, seconds(written)?).then_some(program)
}

/// The rule, of a program's path and two times in seconds since the epoch.
fn is_the_one(program: &Path, started: f64, written: f64) -> bool {
    let name = program
        .file_name()
        .and_then(OsStr::to_str)
        .unwrap_or_default();
    // A program that was built anew since then is shown like this.
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    let age = written - started;
    PROGRAMS.contains(&name) && (-ROUNDING_SECONDS..=STARTED_WITHIN_SECONDS).contains(&age)
}

/// When a process was started, from its own and the machine's `stat`.
fn started_at(process: &str, machine: &str, ticks_per_second: f64) -> Option<f64> {
    let ticks: f64 = process
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()?;
    let boot: f64 = machine
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Some(boot + ticks / ticks_per_second)
}

fn seconds(time: SystemTime) -> Option<f64> {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .map(|since| since.as_secs_f64())
}

fn end(pid: u32) -> anyhow::Result<()> {
    let id = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("not a process id")?;
    match kill_process(id, Signal::KILL).map_err(io::Error::from) {
        Err(error) if error.kind() != io::ErrorKind::NotFound && is_running(pid) => {
            return Err(error).with_context(|| format!("cannot end process {pid}"));
        }
        _ => {}
    }
    let since = Instant::now();
    while is_running(pid) {
        if since.elapsed() > END_LIMIT {
            bail!("process {pid} was killed but is not gone");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Path, clean, fs, is_running, is_the_one, started_at};

    #[test]
    fn number_start_time_and_program_must_all_match() {
        let ours = Path::new("/clone/target/debug/webhooks-ingest");
        assert!(is_the_one(ours, 1_000.0, 1_000.3));
        assert!(is_the_one(
            Path::new("/clone/target/debug/webhooks-ingest (deleted)"),
            1_000.0,
            1_001.0
        ));
        assert!(
            !is_the_one(ours, 1_100.0, 1_000.0),
            "started after the file was written: the number was reused"
        );
        assert!(!is_the_one(ours, 1_000.0, 1_100.0), "started long before");
        assert!(
            !is_the_one(Path::new("/usr/bin/sleep"), 1_000.0, 1_000.3),
            "a stranger"
        );
    }

    #[test]
    fn start_times_are_read() {
        let process = "7 (a b) c) S 3 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 250 1 2";
        assert_eq!(
            started_at(process, "cpu 1\nbtime 1000\nprocesses 3\n", 100.0),
            Some(1_002.5)
        );
        assert_eq!(started_at("nonsense", "btime 1\n", 100.0), None);
    }

    #[test]
    fn what_a_killed_run_left_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("nats-server");
        let sleep = ["/bin/sleep", "/usr/bin/sleep"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .unwrap();
        fs::copy(sleep, &program).unwrap();
        let mut left = std::process::Command::new(&program)
            .arg("60")
            .spawn()
            .unwrap();
        fs::write(folder.path().join("nats.pid"), format!("{}\n", left.id())).unwrap();
        let told = clean(folder.path()).unwrap();
        assert_eq!(told.len(), 1, "{told:?}");
        // Without `/proc` nobody can tell that it is ours.
        assert_eq!(is_running(left.id()), !Path::new("/proc/self/exe").exists());
        left.kill().unwrap();
        left.wait().unwrap();
    }

    #[test]
    fn a_stranger_with_the_number_lives_on_and_the_file_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut stranger = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        fs::write(
            folder.path().join("ingest.pid"),
            format!("{}\n", stranger.id()),
        )
        .unwrap();
        fs::write(folder.path().join("nonsense.pid"), "x").unwrap();
        let told = clean(folder.path()).unwrap();
        assert!(told[0].starts_with("leaving process "), "{told:?}");
        assert!(is_running(stranger.id()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
