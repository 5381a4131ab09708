//! Log files that last through restarts and do not grow for ever.
//!
//! A child writes to its file by itself, in append mode, so the file cannot be taken from under it.
//! What is too large is therefore copied to `<name>.log.1` (which replaces the one before) and the
//! file emptied; the child's next line begins it anew. A line written between the two steps is lost,
//! which development can bear.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// How large a log may become before it is put aside.
pub const LOG_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// How often a supervisor looks at the logs of what it runs.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Puts the log aside if it has more than `max` bytes. Whether it did. A log that is not there is small.
///
/// # Errors
/// A file cannot be read or written.
pub(crate) fn rotate(log: &Path, max: u64) -> io::Result<bool> {
    let mut from = match File::open(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    if from.metadata()?.len() <= max {
        return Ok(false);
    }
    let partial = beside(log, ".1.partial");
    let mut to = File::create(&partial)?;
    io::copy(&mut from, &mut to)?;
    // What came meanwhile: as little as possible shall stand between reading and emptying.
    io::copy(&mut from, &mut to)?;
    OpenOptions::new().write(true).open(log)?.set_len(0)?;
    fs::rename(&partial, beside(log, ".1"))?;
    Ok(true)
}

/// The length of a log at this moment; 0 when it is not there.
pub(crate) fn length(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |metadata| metadata.len())
}

fn beside(log: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(log);
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_log_is_put_aside_when_it_is_too_large_and_its_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("service.log");
        assert!(!rotate(&log, 10).unwrap(), "there is none yet");
        let mut writer = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        writer.write_all(b"0123456789").unwrap();
        assert!(!rotate(&log, 10).unwrap(), "it fits");
        writer.write_all(b"!").unwrap();
        assert!(rotate(&log, 10).unwrap());
        writer.write_all(b"next").unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(
            (read("service.log"), read("service.log.1")),
            ("next".to_owned(), "0123456789!".to_owned())
        );
        writer.write_all(b", and again").unwrap();
        assert!(rotate(&log, 10).unwrap());
        assert_eq!(read("service.log.1"), "next, and again", "one is kept");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
