//! The dispatcher against a real nats-server and real receivers. There is no management here, so
//! every report goes to the REPORTS stream, as it does in production while management is away.

mod cancelled;
mod challenges;
mod delivery;
mod edited;
mod health;
mod held;
mod limits;
mod moving;
mod ordering;
mod parking;
mod poison;
mod policy;
mod scripted;
mod status;
mod support;
