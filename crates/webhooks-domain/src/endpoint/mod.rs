//! Where a webhook may point: the pure half of the guard against server-side request forgery.
//!
//! A customer's URL makes our own machines send requests, so it could make them talk to what only
//! they can reach: metadata services, databases, each other. Two questions decide, and both are
//! answered here without touching the network:
//!
//! 1. *May this text be an endpoint?* [`EndpointUrl::parse`] looks at the raw text before any
//!    parser smooths it over, then at scheme, name, port and (if the host is a literal) address.
//! 2. *May this address be dialled?* [`vet_addresses`] looks at everything a name resolved to and
//!    refuses the whole name for one forbidden answer.
//!
//! The name rules are hygiene and good error messages. **The address rule is the boundary**, and it
//! only holds where the socket is opened: the egress crate asks it again for every attempt. IPv4 is
//! judged by a deny table, IPv6 by one allow rule, because most of IPv6 is either unassigned or
//! another spelling of IPv4.
//!
//! What is *not* guaranteed: that an allowed address is harmless. A public address may forward
//! inwards; the network policy of the deployment is the second wall.

mod address;
mod cidr;
pub mod headers;
pub mod outcome;
mod policy;
mod refusal;
mod url;

pub use address::{AddressClass, classify, forbidden_ranges};
pub use cidr::{Cidr, CidrError};
pub use headers::{CustomHeaders, HeaderRefusal};
pub use outcome::{FailureClass, Outcome, UnknownWord, classify_response};
pub use policy::{AddressPolicy, vet_addresses};
pub use refusal::EndpointRefusal;
pub use url::{EndpointUrl, MAX_URL_BYTES, url_for_record};
