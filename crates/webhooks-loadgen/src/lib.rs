//! `webhooks-loadgen`: load, a receiver, peers to compare with, and a crash test with outside ledgers.
//!
//! Everything here looks at the system from outside, as a publisher and as a customer do, and writes
//! down what it sees in ledgers of its own: a publisher notes every event with one of three outcomes
//! ([`ledger::Outcome`]), a receiver notes every request before it answers. A claim such as "nothing
//! was lost" is then a comparison of these ledgers with what Postgres says ([`check`]), and never the
//! system's own word.
//!
//! | module | what |
//! | --- | --- |
//! | [`receiver`] | an HTTP sink that behaves well or badly by path, verifies signatures, keeps a ledger |
//! | [`publish`] | publishers over HTTP, gRPC and NATS, paced or at full speed |
//! | [`peers`] | the upper limits that a benchmark figure stands beside |
//! | [`check`] | the invariants, as a pure function over parsed ledgers |
//! | [`stack`] | the whole system as child processes |
//! | [`faults`] | kills by seed, then the check |
//! | [`scenario`] | one kind of fault each, then the same check |
//! | [`bench`] | the benchmark table |
//! | [`search`] | lists and searches over a long history |
//! | [`soak`] | very many endpoints and retries, bad neighbours |
//!
//! All traffic is plain HTTP on loopback.

pub mod bench;
pub mod check;
pub mod client;
pub mod faults;
pub mod ledger;
pub mod peers;
pub mod publish;
pub mod receiver;
pub mod sample;
pub mod scenario;
pub mod search;
pub mod soak;
pub mod stack;

use webhooks_domain::clock::Clock as _;

/// The wall clock, in microseconds since the epoch.
pub(crate) fn now_micros() -> i64 {
    webhooks_runtime::SystemClock.now_micros()
}
