//! `webhooks-ingest`: takes events and makes them durable.
//!
//! Three doors lead in: HTTP (`POST /v1/events`), gRPC (`EventService`) and NATS (the INTAKE
//! stream). Behind all of them stands one function, [`Acceptor::accept`]: validate, check whose
//! event it is, publish to the EVENTS stream, answer when JetStream has acknowledged. Nothing is
//! kept here: kill this process at any time, and every event that was answered is in the stream.
//!
//! Ingest does not match events with webhooks, and it never changes a byte of them.

mod accept;
mod auth;
mod budget;
mod config;
mod connections;
mod grpc;
mod hops;
mod http;
mod intake;
mod quota;
mod refusal;
mod rich_status;
mod service;

pub use self::{
    accept::{AcceptSettings, Accepted, Acceptor, Door, Submission},
    auth::{PUBLISH_SCOPE, Permit, TokenDirectory},
    budget::BODY_MEMORY,
    config::Config,
    connections::{DRAIN, HEAD_MAX_BYTES, HEAD_TIMEOUT},
    grpc::{MESSAGE_MAX_BYTES, STREAM_MAX_EVENTS},
    http::{BODY_TIMEOUT, MANY_MAX_BYTES, MANY_MAX_EVENTS},
    intake::check_message,
    quota::{MAX_BUCKETS, Quota},
    refusal::{Refusal, RefusalKind},
    rich_status::ERROR_DOMAIN,
    service::{GRPC_CALL_TIMEOUT, GRPC_CALLS_PER_CONNECTION, Ingest, IngestError},
};
