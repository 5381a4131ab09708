//! The dispatcher against a real nats-server and real receivers. There is no management here, so
//! every report goes to the REPORTS stream, as it does in production while management is away.

mod delivery;
mod moving;
mod status;
mod support;
