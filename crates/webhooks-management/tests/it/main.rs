//! The service as a black box: real PostgreSQL, real nats-server, HTTP and gRPC over sockets.

// `cfg(test)` tells clippy that helpers are tests too.
#[cfg(test)]
mod access;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod background;
#[cfg(test)]
mod bytes;
#[cfg(test)]
mod challenges;
#[cfg(test)]
mod document;
#[cfg(test)]
mod every_method;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod health;
#[cfg(test)]
mod history;
#[cfg(test)]
mod looks;
#[cfg(test)]
mod methods;
#[cfg(test)]
mod nonsense;
#[cfg(test)]
mod operator;
#[cfg(test)]
mod options;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod repair;
#[cfg(test)]
mod reseal;
#[cfg(test)]
mod rest;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod support;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod well_known;
