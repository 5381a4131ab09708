//! Keeping what a test run writes, so that it can be searched for what must not be in it.
//!
//! With `WEBHOOKS_TEST_KEEP=FOLDER` every stack of every test leaves there what it wrote: the output of
//! each process and of each server (`logs`), the files of JetStream (`streams`), a dump of each
//! PostgreSQL when it ends (`dumps`), the log of the test's own process, in which services may run, at
//! TRACE (`logs/test-…`), and the secrets that callers were shown (`known`). Tests keep their temporary
//! folders: logs and streams lie in the kept folder and links to them where they would have been.
//! Without the variable nothing of this happens. `webhooks-devstack search FOLDER` searches.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, Once, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tracing::Level;
use tracing_subscriber::{
    Layer as _, filter::filter_fn, fmt::format::FmtSpan, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// The variable that names the folder.
pub const KEEP_VARIABLE: &str = "WEBHOOKS_TEST_KEEP";

/// Before bytes in hex, in a file of known secrets.
pub(crate) const BYTES: &str = "hex:";

/// What is kept, each in a folder of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// Output of processes.
    Logs,
    /// Files of JetStream.
    Streams,
    /// Databases as SQL.
    Dumps,
    /// Secrets that callers were shown: what is searched for.
    Known,
}

impl Kept {
    /// Its folder's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Streams => "streams",
            Self::Dumps => "dumps",
            Self::Known => "known",
        }
    }
}

/// The folder, when things are to be kept.
fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = std::env::var_os(KEEP_VARIABLE).filter(|folder| !folder.is_empty())?;
            std::path::absolute(folder).ok()
        })
        .as_deref()
}

/// Where something is kept under the name that its own path makes.
fn place(kept: Kept, path: &Path) -> io::Result<Option<PathBuf>> {
    let Some(folder) = folder() else {
        return Ok(None);
    };
    let folder = folder.join(kept.as_str());
    fs::create_dir_all(&folder)?;
    let path = std::path::absolute(path)?;
    let name = path.to_string_lossy().replace('/', "-");
    Ok(Some(folder.join(name.trim_start_matches('-'))))
}

/// Lets a log that is not there yet be written into the kept folder.
pub(crate) fn log(path: &Path) -> io::Result<()> {
    let Some(kept) = place(Kept::Logs, path)? else {
        return Ok(());
    };
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    OpenOptions::new().create(true).append(true).open(&kept)?;
    symlink(kept, path)
}

/// Lets a folder that is not there yet lie in the kept one.
pub(crate) fn streams(path: &Path) -> io::Result<()> {
    let Some(kept) = place(Kept::Streams, path)? else {
        return Ok(());
    };
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    fs::create_dir_all(&kept)?;
    symlink(kept, path)
}

/// Dumps every database of a running PostgreSQL.
pub(crate) fn dump(program: &Path, url: &str, path: &Path) -> anyhow::Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}.sql"));
    let Some(file) = place(Kept::Dumps, Path::new(&name))? else {
        return Ok(());
    };
    let output = Command::new(program)
        .args(["--dbname", url, "--file"])
        .arg(&file)
        .env_remove("PGPASSWORD")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    ensure!(
        output.status.success(),
        "no dump: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Where a process that a test starts by itself writes to: nowhere, unless things are kept.
///
/// # Errors
/// The kept folder cannot be written.
pub fn kept_output(name: &str) -> io::Result<Stdio> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("/{name}-{}-{number}.log", std::process::id());
    match place(Kept::Logs, Path::new(&name))? {
        None => Ok(Stdio::null()),
        Some(file) => Ok(OpenOptions::new()
            .create(true)
            .append(true)
            .open(file)?
            .into()),
    }
}

/// Keeps what this process itself logs, at TRACE (libraries less, as in the programs), from now on: services may run in it.
pub fn keep_own_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = own_log() {
            tracing::warn!(error = %format_args!("{error:#}"), "this process's log is not kept");
        }
    });
}

fn own_log() -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let name = format!("/test-{name}-{}.log", std::process::id());
    let Some(file) = place(Kept::Logs, Path::new(&name))? else {
        return Ok(());
    };
    let file = OpenOptions::new().create(true).append(true).open(file)?;
    // As the programs log, with what their spans hold besides: that is what traces would carry.
    let layer = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
        .with_writer(Mutex::new(file))
        .with_filter(filter_fn(|metadata| {
            let target = metadata.target();
            if target.starts_with("webhooks") {
                return true;
            }
            let most = if target.starts_with("async_nats") {
                Level::INFO
            } else {
                Level::DEBUG
            };
            metadata.is_event() && *metadata.level() <= most
        }));
    Ok(tracing_subscriber::registry().with(layer).try_init()?)
}

/// Whether this run is kept, so that what is secret in it is worth noting.
#[must_use]
pub fn is_kept() -> bool {
    folder().is_some()
}

/// Notes the secrets in an answer that a caller was given: they are searched for afterwards.
pub fn note_answer(body: &[u8]) {
    if is_kept() {
        note(&secrets(body));
    }
}

/// Notes a secret that cannot be told by its looks: a key in PEM, or any bytes. Of PEM the lines are
/// searched for and the bytes that they stand for.
pub fn note_secret(secret: &[u8]) {
    if is_kept() {
        note(&lines_of(secret));
    }
}

/// Shorter lines are no secret by themselves.
const LINE_MIN_CHARS: usize = 32;

/// How a secret stands in the file of known ones: text as it is, bytes in hex behind [`BYTES`].
fn lines_of(secret: &[u8]) -> Vec<String> {
    let bytes = |bytes: &[u8]| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{BYTES}{hex}")
    };
    let text = std::str::from_utf8(secret).unwrap_or_default();
    if !text.starts_with("-----BEGIN ") {
        return vec![bytes(secret)];
    }
    let body: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("-----"))
        .collect();
    // The last line of a longer key may be no more than its public half, which everybody may see.
    let own = if body.len() > 2 {
        body.len() - 1
    } else {
        body.len()
    };
    let lines = body[..own].iter();
    let lines = lines.filter(|line| line.len() >= LINE_MIN_CHARS);
    let mut all: Vec<String> = lines.map(|line| (*line).to_owned()).collect();
    all.extend(STANDARD.decode(body.concat()).ok().map(|der| bytes(&der)));
    all
}

fn note(found: &[String]) {
    if found.is_empty() {
        return;
    }
    static FILE: Mutex<Option<fs::File>> = Mutex::new(None);
    let mut file = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let noted = (|| {
        if file.is_none() {
            let name = format!("/{}.txt", std::process::id());
            let path = place(Kept::Known, Path::new(&name))?.unwrap_or_default();
            *file = Some(OpenOptions::new().create(true).append(true).open(path)?);
        }
        let text = found.join("\n") + "\n";
        file.as_mut()
            .map_or(Ok(()), |file| file.write_all(text.as_bytes()))
    })();
    if let Err::<(), io::Error>(error) = noted {
        tracing::warn!(%error, "a secret is not noted");
    }
}

/// Signing secrets and tokens in a text. Shorter ones are masks.
fn secrets(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(body);
    let mut found = Vec::new();
    for prefix in ["whsec_", "lbk_live_", "lbk_test_"] {
        for (at, _) in text.match_indices(prefix) {
            let rest = &text[at + prefix.len()..];
            let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            if end >= 32 {
                found.push(format!("{prefix}{}", &rest[..end]));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{lines_of, secrets};

    #[test]
    fn a_key_in_pem_is_noted_by_its_lines_and_by_its_bytes() {
        let (first, second, last) = ("Q".repeat(64), "U".repeat(64), "V".repeat(56));
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{first}\n{second}\n{last}\n-----END PRIVATE KEY-----\n"
        );
        let [one, two, bytes] = &lines_of(pem.as_bytes())[..] else {
            panic!("two lines and the bytes: {:?}", lines_of(pem.as_bytes()));
        };
        assert_eq!((one, two), (&first, &second));
        // 184 characters of base64 are 138 bytes.
        assert!(
            bytes.starts_with("hex:41041041") && bytes.len() == 4 + 276,
            "{bytes}"
        );
        let short = format!("-----BEGIN PRIVATE KEY-----\n{first}\n-----END PRIVATE KEY-----\n");
        assert_eq!(lines_of(short.as_bytes()).len(), 2, "a line and the bytes");
        assert_eq!(lines_of(&[0xfe, 0x01]), ["hex:fe01"]);
    }

    #[test]
    fn secrets_are_told_from_their_masks() {
        let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAAAAAAAAAA=";
        let token = format!("lbk_test_{}", "a1".repeat(25));
        let body = format!(r#"{{"secret":"{key}","masked":"whsec_••••abcd","token":"{token}"}}"#);
        assert_eq!(secrets(body.as_bytes()), [key.to_owned(), token]);
        assert!(secrets(b"{}").is_empty());
    }
}
