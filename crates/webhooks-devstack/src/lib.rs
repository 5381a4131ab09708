//! `webhooks-devstack`: real servers as child processes, for `make run`, tests and benchmarks.
//!
//! No Docker and no root: nats-server and PostgreSQL come from pinned packages inside the clone
//! (`make tools`, [`Tools`]), listen on free loopback ports, keep their data in a folder they are
//! given, and can be killed and started again on the same port with the same data. That is what the
//! crash tests are made of.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use webhooks_devstack::{NatsServer, Postgres};
//!
//! let mut nats = NatsServer::builder("data/nats").start().await?;
//! let postgres = Postgres::builder("data/postgres").start().await?;
//! let database_url = postgres.create_database("webhooks").await?;
//! nats.kill().await?; // SIGKILL
//! nats.start().await?; // same port, same data
//! # drop(database_url); Ok(())
//! # }
//! ```
//!
//! Nothing outlives its owner: dropping a server kills it, and when this process itself is killed,
//! the kernel (or a watchdog) kills the children; [`Process`] says how. What is *not* guaranteed:
//! that a port stays ours while its server is down. Ports are taken outside of the range the kernel
//! hands out by itself, so in practice they do.

pub mod floods;
mod http;
mod keep;
mod leash;
mod line;
mod logs;
mod nats;
pub mod nonsense;
mod ports;
mod postgres;
mod process;
mod routes;
mod search;
mod spawner;
mod supervisor;
mod tools;
mod tree;
mod wait;

pub use rustix::process::Signal;

pub use self::{
    http::{HTTP_BODY_MAX_BYTES, http_get},
    keep::{KEEP_VARIABLE, Kept, is_kept, keep_own_log, kept_output, note_answer, note_secret},
    line::{Course, Line},
    logs::LOG_MAX_BYTES,
    nats::{NatsBuilder, NatsServer, SyncInterval},
    ports::free_port,
    postgres::{Postgres, PostgresBuilder},
    process::{Process, Spec},
    routes::Routes,
    search::{Searched, search},
    supervisor::{ChildState, RESTART_PAUSE, SettingsRefused, Supervisor},
    tools::Tools,
    tree::is_running,
    wait::wait_until,
};
