//! An endpoint whose answers a test dictates one by one.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// What to answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Say {
    pub(crate) status: u16,
    pub(crate) body: &'static str,
    /// A header line, or nothing.
    pub(crate) header: &'static str,
}

impl Say {
    pub(crate) const fn new(status: u16, body: &'static str) -> Self {
        Self {
            status,
            body,
            header: "",
        }
    }
}

/// Listens on loopback until it is dropped.
#[derive(Debug)]
pub(crate) struct Hook {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    /// What is said when nothing is dictated.
    usual: Say,
    next: Mutex<VecDeque<Say>>,
    arrived: Mutex<Vec<Arrived>>,
}

impl Hook {
    pub(crate) async fn start(usual: Say) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            usual,
            next: Mutex::default(),
            arrived: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        let of_tasks = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&of_tasks);
                // A sender may hang up as it likes.
                connections.spawn(async move { serve(stream, &shared).await.ok() });
            }
        });
        Ok(Self {
            address,
            shared,
            _tasks: tasks,
        })
    }

    /// The next answers, in this order, before the usual one is given again.
    pub(crate) fn dictate(&self, answers: &[Say]) {
        let mut next = self.shared.next.lock();
        let next = next.as_deref_mut().expect("no test has panicked here");
        next.extend(answers);
    }

    /// Everything that came, oldest first.
    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        let arrived = self.shared.arrived.lock();
        arrived.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length");
        let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let arrived = Arrived {
            path,
            headers,
            body,
        };
        let say = {
            let mut all = shared
                .arrived
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let mut next = shared.next.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(arrived);
            next.pop_front().unwrap_or(shared.usual)
        };
        let answer = format!(
            "HTTP/1.1 {} -\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n{}{}\r\n{}",
            say.status,
            say.body.len(),
            say.header,
            if say.header.is_empty() { "" } else { "\r\n" },
            say.body
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}
