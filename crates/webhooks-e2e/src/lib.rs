//! `webhooks-e2e`: tests of the whole system as a black box; there is nothing in the library.
//!
//! Real processes, real servers, real sockets: each test starts a stack of its own
//! ([`webhooks_loadgen::stack`]) and looks at it as publishers and customers do. The programs must
//! have been built (`make build`); the tests find them beside themselves.
//!
//! [`webhooks_loadgen::stack`]: ../webhooks_loadgen/stack/index.html
