//! Making children die with us, even when we are killed without a chance to tidy up.
//!
//! The kernel can do it: `setpriv --pdeathsig KILL program` (util-linux) sets the parent death signal
//! and then becomes the program, so the process id stays. It survives `unshare -U`, so it works for
//! PostgreSQL started as root too. Two things to know. The signal is sent when the *thread* that
//! started the child ends, which is why all children are started from one thread that never does
//! (the spawner). And a parent that dies within the millisecond before `setpriv` has set it leaves
//! the child alone.
//!
//! Where there is no `setpriv` (macOS), a watchdog shell holds the reading end of a pipe whose other
//! end only we hold. When we die, however, the pipe closes and the watchdog kills the child.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use anyhow::Context as _;

/// Reads until told `done` or the end of the pipe; signals of the terminal do not stop it.
const WATCHDOG: &str =
    r#"trap '' HUP INT TERM; read -r word; [ "$word" = done ] || kill -KILL "$1""#;

/// How a child is tied to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leash {
    /// By the kernel, through `setpriv`.
    Kernel,
    /// By a shell that waits on a pipe.
    Watchdog,
}

impl Leash {
    /// The better one that this machine has.
    pub(crate) fn best() -> Self {
        static BEST: OnceLock<Leash> = OnceLock::new();
        *BEST.get_or_init(|| {
            let mut setpriv = Command::new("setpriv");
            setpriv
                .args(["--pdeathsig", "KILL", "true"])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let works = setpriv.status().is_ok_and(|status| status.success());
            if works { Self::Kernel } else { Self::Watchdog }
        })
    }

    /// The command that starts `program` so that its process id is the program's.
    pub(crate) fn command(self, program: &Path) -> Command {
        match self {
            Self::Kernel => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL"]).arg(program);
                command
            }
            Self::Watchdog => Command::new(program),
        }
    }

    /// What has to run beside the child.
    pub(crate) fn watchdog(self, pid: u32) -> anyhow::Result<Option<Watchdog>> {
        match self {
            Self::Kernel => Ok(None),
            Self::Watchdog => Watchdog::start(pid).map(Some),
        }
    }
}

/// The shell that kills a child when our end of its pipe closes.
#[derive(Debug)]
pub(crate) struct Watchdog(Child);

impl Watchdog {
    fn start(pid: u32) -> anyhow::Result<Self> {
        let child = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "watchdog", &pid.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start the watchdog of a child process")?;
        Ok(Self(child))
    }

    /// Sends it away. To be called after the child has ended and before its id is free for others.
    pub(crate) fn dismiss(mut self) {
        let told = self
            .0
            .stdin
            .take()
            .map(|mut pipe| pipe.write_all(b"done\n"));
        let ended = self.0.wait();
        if let (Some(Err(error)), _) | (_, Err(error)) = (told, ended) {
            tracing::warn!(error = %error, "a watchdog did not end as it should");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, Leash};

    #[test]
    fn a_watchdog_kills_its_child_when_the_pipe_closes() {
        let mut child = Leash::Watchdog
            .command("sleep".as_ref())
            .arg("60")
            .spawn()
            .unwrap();
        let mut watchdog = Leash::Watchdog.watchdog(child.id()).unwrap().unwrap();
        drop(watchdog.0.stdin.take());
        let status = child.wait().unwrap();
        assert!(!status.success(), "{status}");
        watchdog.0.wait().unwrap();
    }

    #[test]
    fn a_dismissed_watchdog_harms_nobody() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        Leash::Watchdog
            .watchdog(child.id())
            .unwrap()
            .unwrap()
            .dismiss();
        assert!(child.try_wait().unwrap().is_none(), "the child lives on");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
