//! The admin port: `/livez`, `/readyz`, `/metrics`.
//!
//! It is for the orchestrator and the scraper, on an address of its own that is never public. It
//! stays up through the drain, so that the drain can be watched, and ends with the process.

use std::{io, net::SocketAddr};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{metrics::Metrics, readiness::Readiness};

/// A bound admin port.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
}

#[derive(Clone)]
struct Shared {
    readiness: Readiness,
    metrics: Metrics,
}

impl AdminServer {
    /// Takes the port.
    ///
    /// # Errors
    /// The address is taken or not of this machine.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// The listener fails for good.
    pub async fn serve(self, readiness: Readiness, metrics: Metrics) -> io::Result<()> {
        let router = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(render))
            .with_state(Shared { readiness, metrics });
        axum::serve(self.listener, router).await
    }
}

/// Answers as long as the event loop turns; looks at nothing else.
async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    let state = shared.readiness.state();
    let status = if state.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(json!({ "ready": state.is_ready(), "missing": state.missing() })),
    )
}

async fn render(State(shared): State<Shared>) -> impl IntoResponse {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        shared.metrics.render(),
    )
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::{AdminServer, Metrics, Readiness};

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            body.to_owned(),
        )
    }

    #[tokio::test]
    async fn it_tells_life_readiness_and_metrics() {
        let server = AdminServer::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let address = server.address();
        let readiness = Readiness::new();
        readiness.fail("nats", "disconnected");
        let metrics = Metrics::install(None).unwrap();
        let serving = server.serve(readiness.clone(), metrics);
        let asking = async {
            assert_eq!(get(address, "/livez").await, (200, "ok\n".to_owned()));
            let (status, body) = get(address, "/readyz").await;
            assert_eq!(status, 503);
            assert_eq!(body, r#"{"missing":["nats: disconnected"],"ready":false}"#);
            readiness.ok("nats");
            assert_eq!(
                get(address, "/readyz").await,
                (200, r#"{"missing":[],"ready":true}"#.to_owned())
            );
            metrics::counter!("test_admin_total").increment(1);
            let (status, body) = get(address, "/metrics").await;
            assert_eq!(status, 200);
            assert!(body.contains("test_admin_total 1"), "{body}");
            assert_eq!(get(address, "/").await.0, 404);
        };
        tokio::select! {
            ended = serving => panic!("it serves for ever: {ended:?}"),
            () = asking => {}
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error() {
        let first = AdminServer::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        AdminServer::bind(first.address()).await.unwrap_err();
    }
}
