//! The whole system, end to end.

mod any_order;
mod canary;
mod caught;
mod clients;
mod dead;
mod deleted_workspace;
mod demo;
#[path = "../../../webhooks-egress/tests/it/dns_server.rs"]
#[expect(
    dead_code,
    clippy::disallowed_methods,
    reason = "the tests of egress need more of it; it ends with its test"
)]
mod dns_server;
mod documents;
mod fanout_killed;
mod faults;
mod hooks;
mod integrations;
mod kubernetes;
mod loops;
mod moving;
mod ownership;
mod production;
mod publisher;
mod receiver_authentication;
mod ssrf;
mod up;
mod vendor_client;
mod vendor_rust;
mod verifiers;

use std::path::{Path, PathBuf};

/// Where this test's own build put the programs: `target/<profile>`, above `deps`.
fn bin_dir() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows where it is");
    own.ancestors()
        .nth(2)
        .expect("a test lies in target/<profile>/deps")
        .to_owned()
}

/// The root of the sources.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors()
        .nth(2)
        .expect("this crate lies two folders deep")
        .to_owned()
}
