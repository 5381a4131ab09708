//! A small disk of its own, in memory.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

/// A mounted tmpfs; gone when it is dropped.
#[derive(Debug)]
pub(super) struct SmallDisk {
    at: PathBuf,
}

/// What fills the disk.
const BALLAST: &str = "ballast";

impl SmallDisk {
    /// Mounts one of `megabytes` at a folder, which is made. `Err` = this machine does not let us.
    pub(super) fn mount(at: &Path, megabytes: u32) -> Result<Self, String> {
        std::fs::create_dir_all(at).map_err(|error| error.to_string())?;
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "webhooks-scenario"])
            .arg(at)
            .output()
            .map_err(|error| format!("no disk can be mounted here: {error}"))?;
        if mounted.status.success() {
            Ok(Self { at: at.to_owned() })
        } else {
            let reason = String::from_utf8_lossy(&mounted.stderr);
            Err(format!("no disk can be mounted here: {}", reason.trim()))
        }
    }

    /// Leaves `left` bytes of room.
    pub(super) fn fill(&self, left: u64) -> anyhow::Result<()> {
        let output = Command::new("df")
            .args(["--output=avail", "--block-size=1"])
            .arg(&self.at)
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let free: u64 = text
            .lines()
            .nth(1)
            .context("df says nothing")?
            .trim()
            .parse()?;
        let size = free.saturating_sub(left).to_string();
        let filled = Command::new("fallocate")
            .args(["--length", &size])
            .arg(self.at.join(BALLAST))
            .status()?;
        ensure!(filled.success(), "the disk cannot be filled");
        Ok(())
    }

    /// Makes room again.
    pub(super) fn free(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.at.join(BALLAST))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server may still have a file open at this moment. One that stays is seen by `mount`
        // and goes with the machine.
        Command::new("umount")
            .arg("--lazy")
            .arg(&self.at)
            .status()
            .ok();
    }
}
