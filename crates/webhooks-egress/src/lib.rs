//! `webhooks-egress`: the only way out.
//!
//! Every request to a customer's endpoint, deliveries and test events alike, goes through
//! [`Egress::send`]. It makes one HTTP/1.1 POST and reports what the endpoint did as data; it never
//! returns an error, because a broken endpoint is this crate's daily bread and not its failure.
//!
//! # Where the address check sits, and why there
//!
//! The rules are pure and live in [`webhooks_domain::endpoint`]. What this crate adds is the place
//! where they are asked:
//!
//! 1. **In `send`, for every attempt**, whatever was checked when the webhook was saved. Rows can be
//!    written around the API, and a name that was public yesterday may be private today. This also
//!    covers attempts that would ride on a connection from before the change.
//! 2. **Literals in `send`.** HTTP clients skip the resolver when the host is an address already
//!    (hyper-util, which is underneath, does): a guard that sits only in the resolver never hears of
//!    `https://127.0.0.1/`, in any of its spellings.
//! 3. **Names in the resolver that the dialler itself uses.** What was checked is what is dialled;
//!    there is no second lookup that could answer differently (DNS rebinding). All answers are
//!    judged, and one forbidden answer refuses the whole name.
//!
//! The resolver is our own, too: fully qualified names only, so no search domain turns
//! `hooks.example.com` into `hooks.example.com.cluster.local`; no hosts file; a time budget; a
//! bounded cache.
//!
//! # One attempt is at most one request
//!
//! Redirects are not followed (they would carry body and credentials to an unchecked place), nothing
//! is retried after a byte was sent, proxies in the environment are ignored, no `Referer`, no
//! cookies, no decompression (so no bombs), certificates always verified. One deadline covers DNS,
//! connect, TLS, head and body. The head decides: after a 2xx head, whatever happens to the body,
//! the attempt is a success, and the body is read for the log only, up to a cap.
//!
//! # What is not guaranteed
//!
//! That a receiver saw a request only once: it may have acted and died before it answered. And an
//! allowed address may forward inwards; a firewall around the dispatcher is the second wall.

mod attempt;
mod cache;
mod certificate;
mod client;
mod clients;
mod config;
mod diagnose;
mod dial;
mod failure;
mod resolver;
mod settings;
mod sockets;
mod tls;
mod token;
mod wire;

pub use attempt::{AttemptResult, OutboundRequest, ResponseHeaders, Timings};
pub use certificate::{CertificateFacts, certificate_facts};
pub use client::{Credentials, Egress};
pub use config::{EgressConfig, EgressError};
pub use failure::{Failure, TokenFailure};
pub use settings::{EgressSettings, PolicySettings};
pub use tls::{Authorities, ClientCertificate, TlsIdentity, TlsIdentityError};
pub use token::TokenSource;
