//! The whole system, end to end.

mod canary;
mod demo;
mod faults;
mod vendor_client;

use std::path::PathBuf;

/// Where this test's own build put the programs: `target/<profile>`, above `deps`.
fn bin_dir() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows where it is");
    own.ancestors()
        .nth(2)
        .expect("a test lies in target/<profile>/deps")
        .to_owned()
}
