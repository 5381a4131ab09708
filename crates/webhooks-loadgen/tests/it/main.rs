//! The receiver, the peers and the publishers against real sockets and a real nats-server.

mod peers;
mod receiver;
