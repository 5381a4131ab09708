//! Code generated from `/proto`, and nothing else.

/// The public API, `linkbreakers.webhooks.v1`.
pub mod v1 {
    tonic::include_proto!("linkbreakers.webhooks.v1");
}

/// What travels between our own services, `linkbreakers.webhooks.internal.v1`.
pub mod internal {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("linkbreakers.webhooks.internal.v1");
    }
}

/// The descriptor set of every file, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
