//! The service as a black box: real PostgreSQL, real nats-server, HTTP and gRPC over sockets.

// `cfg(test)` tells clippy that helpers are tests too.
#[cfg(test)]
mod background;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod rest;
#[cfg(test)]
mod support;
