//! The one thread that starts all child processes.
//!
//! The kernel ties a child to the *thread* that started it. Test threads and workers of a runtime
//! come and go; this thread stays for the life of the process. It is a global for that reason.

use std::{
    io,
    process::{Child, Command},
    sync::{OnceLock, mpsc},
};

use anyhow::Context as _;

struct Job {
    command: Command,
    reply: mpsc::SyncSender<io::Result<Child>>,
}

/// Starts a process from the spawner's thread.
pub(crate) fn spawn(command: Command) -> anyhow::Result<Child> {
    static SPAWNER: OnceLock<Option<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER
        .get_or_init(start)
        .as_ref()
        .context("the spawner thread could not be started")?;
    let (reply, answer) = mpsc::sync_channel(1);
    let program = command.get_program().to_owned();
    spawner
        .send(Job { command, reply })
        .context("the spawner thread has ended")?;
    let child = answer.recv().context("the spawner thread has ended")?;
    child.with_context(|| format!("cannot start {}", program.display()))
}

fn start() -> Option<mpsc::Sender<Job>> {
    // Unbounded, but every caller waits for its answer: never longer than there are callers.
    let (sender, jobs) = mpsc::channel::<Job>();
    let thread = std::thread::Builder::new()
        .name("devstack-spawner".to_owned())
        .spawn(move || {
            for mut job in jobs {
                if let Err(mpsc::SendError(Ok(mut orphan))) = job.reply.send(job.command.spawn()) {
                    // Nobody waits for it any more.
                    drop((orphan.kill(), orphan.wait()));
                }
            }
        });
    thread.ok().map(|_| sender)
}
