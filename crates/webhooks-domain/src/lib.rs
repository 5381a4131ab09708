//! `webhooks-domain`: the rules of webhook delivery, and nothing else.
//!
//! Everything here is pure: no tokio, sqlx, reqwest or async-nats. Time and randomness arrive as
//! arguments, so each rule can be tested as a table or a property. The services around it only
//! load, ask these functions, and act.

pub mod challenge;
pub mod clock;
pub mod content_type;
pub mod cursor;
pub mod delivery;
pub mod endpoint;
pub mod event;
pub mod health;
pub mod hop;
pub mod ids;
pub mod matching;
pub mod oauth2;
pub mod ownership;
pub mod rate;
pub mod retry;
pub mod sealing;
pub mod signing;
pub mod token;
pub mod webhook;
