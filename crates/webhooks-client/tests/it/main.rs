//! The client over real sockets.

// `cfg(test)` tells clippy that helpers are tests too.
#[cfg(test)]
mod client;
