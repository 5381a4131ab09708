//! The admin port: `/livez`, `/readyz`, `/metrics`.
//!
//! It is for the orchestrator and the scraper, on an address of its own that is never public. It
//! stays up through the drain, so that the drain can be watched, and ends with the process.
//!
//! It answers also when the process has no file descriptor left, which is when it is needed most: one
//! is kept in reserve and given up for the connection that finds no other.

use std::{fs::File, io, net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use crate::{metrics::Metrics, readiness::Readiness};

/// Pause after the system refused to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the reserve is kept as: something that is always there to be opened.
const RESERVE: &str = "/dev/null";

/// A bound admin port.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
    spare: Spare,
}

/// A file descriptor in reserve.
#[derive(Debug)]
struct Spare(Option<File>);

impl Spare {
    fn new() -> Self {
        let mut spare = Self(None);
        spare.fill();
        spare
    }

    /// Takes one, unless there is one. When none is left, later.
    fn fill(&mut self) {
        if self.0.is_none() {
            self.0 = File::open(RESERVE).ok();
        }
    }

    /// Whether there was one to give up.
    fn give_up(&mut self) -> bool {
        self.0.take().is_some()
    }
}

/// The next connection, however few descriptors there are.
async fn accept_with<T, F>(spare: &mut Spare, mut accept: impl FnMut() -> F) -> T
where
    F: Future<Output = io::Result<T>>,
{
    loop {
        spare.fill();
        let mut accepted = accept().await;
        if accepted.as_ref().is_err_and(is_exhausted) && spare.give_up() {
            accepted = accept().await;
        }
        match accepted {
            Ok(connection) => return connection,
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin port could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// No descriptors left, of the process or of the system.
fn is_exhausted(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// The port's connections, for axum.
struct Connections {
    listener: TcpListener,
    spare: Spare,
}

impl axum::serve::Listener for Connections {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        let listener = &self.listener;
        accept_with(&mut self.spare, || listener.accept()).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
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
        Ok(Self {
            listener,
            address,
            spare: Spare::new(),
        })
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
        let connections = Connections {
            listener: self.listener,
            spare: self.spare,
        };
        axum::serve(connections, router).await
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
    use std::{io, net::SocketAddr, time::Instant};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::{ACCEPT_PAUSE, AdminServer, Metrics, Readiness, Spare, accept_with};

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
    async fn f_29_the_reserve_is_given_up_for_a_connection_that_finds_no_descriptor() {
        let exhausted = || Err(io::Error::from_raw_os_error(24));
        let mut spare = Spare::new();
        assert!(spare.0.is_some());
        let mut script = vec![exhausted(), Ok(1), exhausted(), exhausted(), Ok(2)].into_iter();
        let mut accept = || {
            let next = script.next().expect("asked too often");
            async { next }
        };
        let began = Instant::now();
        assert_eq!(accept_with(&mut spare, &mut accept).await, 1);
        assert!(began.elapsed() < ACCEPT_PAUSE, "at once");
        assert!(spare.0.is_none(), "it is in use");
        // It is taken again for the next; when that is not enough, it is waited a little.
        assert_eq!(accept_with(&mut spare, &mut accept).await, 2);
        assert!(began.elapsed() >= ACCEPT_PAUSE);
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error() {
        let first = AdminServer::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        AdminServer::bind(first.address()).await.unwrap_err();
    }
}
