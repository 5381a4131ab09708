//! Compiles `/proto` with a pure-Rust compiler (no `protoc` on the machine) and keeps the
//! descriptor set for gRPC reflection.

use prost::Message as _;
use std::{env, fs, path::PathBuf};

const FILES: [&str; 8] = [
    "linkbreakers/webhooks/v1/events.proto",
    "linkbreakers/webhooks/v1/webhooks.proto",
    "linkbreakers/webhooks/v1/deliveries.proto",
    "linkbreakers/webhooks/v1/operations.proto",
    "linkbreakers/webhooks/v1/access.proto",
    "linkbreakers/webhooks/v1/operator.proto",
    "linkbreakers/webhooks/internal/v1/bus.proto",
    "linkbreakers/webhooks/internal/v1/reports.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".linkbreakers")
        // Sorted, so that the same request has the same bytes.
        .btree_map(".linkbreakers")
        .compile_fds(descriptors)?;
    Ok(())
}
