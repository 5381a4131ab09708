//! `webhooks-fanout`: turns each accepted event into the deliveries it owes.
//!
//! Events come from the EVENTS stream in batches. Once for each batch fan-out asks the read
//! model's leader how far it is and waits until its own index is there, so a webhook that was
//! created before an event was published is never missed. Each event is matched, sanitised and
//! rendered once for each profile in use; what matched is recorded as a verdict, and every match
//! becomes one message on the stream of its webhook's partition, body included and frozen.
//!
//! Fan-out calls no endpoint, keeps nothing, and may be killed at any moment: what it had in hand
//! is handed over again, and the second run says the same as the first.

mod config;
mod confirm;
mod event;
mod fair;
mod fanout;
mod index;
mod job;
mod publisher;
mod service;
mod verdict;

pub use self::{
    config::{Config, EVENT_SHARE},
    event::{AcceptedEvent, Poison},
    index::{BadId, SharedIndex, Subscriber},
    job::{BadVerdict, Job, JobMaker},
    service::{FanoutError, FanoutService},
    verdict::{DrawnUp, PART_MAX_BYTES, PART_MAX_MATCHES, draw_up},
};
