//! An endpoint that answers as a test says, by what is in the request.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What one request is answered.
#[derive(Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) after: Duration,
}

/// A request that was answered.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) status: u16,
    /// The event's name, as the test gave it.
    pub(crate) event: String,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    open: usize,
    most_open: usize,
    times: HashMap<String, usize>,
}

/// The endpoint. Ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Scripted {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Whether requests may be answered.
    gate: watch::Sender<bool>,
}

impl Scripted {
    /// Answers each request as `script` says of its event and of how often that came, from 1.
    pub(crate) async fn start(
        script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let scripted = Self {
            address: listener.local_addr()?,
            state: Arc::default(),
            gate: watch::Sender::new(true),
        };
        let (shared, script) = (scripted.clone(), Arc::new(script));
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, script) = (shared.clone(), script.clone());
                tokio::spawn(async move {
                    // A connection that breaks is the dispatcher's to notice.
                    shared.serve(stream, script.as_ref()).await.ok();
                });
            }
        });
        Ok(scripted)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/scripted", self.address)
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every request that was answered, in the order of the answers.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.with(|state| state.seen.clone())
    }

    /// From now on nothing is answered.
    pub(crate) fn hold(&self) {
        self.gate.send_replace(false);
    }

    /// What was held is answered, each after its own while.
    pub(crate) fn let_go(&self) {
        self.gate.send_replace(true);
    }

    /// Requests that are open now.
    pub(crate) fn open(&self) -> usize {
        self.with(|state| state.open)
    }

    /// Most requests that were open at the same time, since the last call.
    pub(crate) fn most_open(&self) -> usize {
        self.with(|state| std::mem::replace(&mut state.most_open, state.open))
    }

    async fn serve(
        &self,
        mut stream: TcpStream,
        script: &(impl Fn(&str, usize) -> Answer + Send + Sync),
    ) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        loop {
            let head = loop {
                if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                    break end + 4;
                }
                if stream.read_buf(&mut bytes).await? == 0 {
                    return Ok(());
                }
            };
            let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .and_then(|value| value.trim().parse().ok())
                .unwrap_or(0);
            while bytes.len() < head + length {
                if stream.read_buf(&mut bytes).await? == 0 {
                    return Ok(());
                }
            }
            let body = String::from_utf8_lossy(&bytes[head..head + length]).into_owned();
            bytes.drain(..head + length);
            let event = body.split('"').nth(3).unwrap_or_default().to_owned();
            let times = self.with(|state| {
                state.open += 1;
                state.most_open = state.most_open.max(state.open);
                let times = state.times.entry(event.clone()).or_default();
                *times += 1;
                *times
            });
            let Answer { status, after } = script(&event, times);
            // It cannot fail: the sender is a part of this.
            self.gate.subscribe().wait_for(|open| *open).await.ok();
            tokio::time::sleep(after).await;
            self.with(|state| {
                state.open -= 1;
                state.seen.push(Seen {
                    at: Instant::now(),
                    status,
                    event,
                });
            });
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await?;
        }
    }
}
