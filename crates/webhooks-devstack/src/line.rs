//! A line of TCP that can be cut: over loopback, through this process.
//!
//! What a network does when it parts is neither to refuse nor to close: bytes are not delivered, and
//! nobody is told. That is [`Course::Silent`]; what was on its way arrives when the line is open again.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// What becomes of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It arrives.
    Open,
    /// It is kept, and arrives when the line is open again.
    Silent,
    /// Connections are closed, and new ones at once.
    Cut,
}

/// The line; it ends when this is dropped.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    course: watch::Sender<Course>,
    serving: AbortHandle,
}

impl Line {
    /// An open line to `target`, which need not listen yet.
    ///
    /// # Errors
    /// Loopback has no free port.
    pub async fn to(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (course, seen) = watch::channel(Course::Open);
        #[expect(clippy::disallowed_methods, reason = "ends when the line is dropped")]
        let serving = tokio::spawn(serve(listener, target, seen)).abort_handle();
        Ok(Self {
            address,
            course,
            serving,
        })
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn set(&self, course: Course) {
        self.course.send_replace(course);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, course: watch::Receiver<Course>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connect(stream, target, course.clone()));
                }
                // It was gone before it was taken; the next one may be better.
                Err(error) => tracing::debug!(%error, "a connection to a line"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(here: TcpStream, target: SocketAddr, mut course: watch::Receiver<Course>) {
    let mut ended = course.clone();
    let passing = async {
        course
            .wait_for(|course| *course == Course::Open)
            .await
            .ok()?;
        let there = TcpStream::connect(target).await.ok()?;
        let ((from_here, to_here), (from_there, to_there)) =
            (here.into_split(), there.into_split());
        // Whoever ends first ends both.
        tokio::select! {
            () = pass(from_here, to_there, course.clone()) => {}
            () = pass(from_there, to_here, course.clone()) => {}
        }
        Some(())
    };
    tokio::select! {
        _ = passing => {}
        _ = ended.wait_for(|course| *course == Course::Cut) => {}
    }
}

/// Passes on until one side ends, or the line is dropped.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut course: watch::Receiver<Course>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if course
            .wait_for(|course| *course == Course::Open)
            .await
            .is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// A line to somebody who says everything again.
    async fn echo() -> (Line, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let mut echoing = JoinSet::new();
        echoing.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (from, to) = stream.into_split();
                pass(from, to, watch::channel(Course::Open).1).await;
            }
        });
        (Line::to(target).await.unwrap(), echoing)
    }

    async fn hears(stream: &mut TcpStream, text: &[u8]) -> bool {
        let mut heard = vec![0; text.len()];
        let read = timeout(LIMIT, stream.read_exact(&mut heard)).await.unwrap();
        read.is_ok() && heard == text
    }

    #[tokio::test]
    async fn what_was_sent_while_it_was_silent_arrives_when_it_is_open_again() {
        let (line, _echoing) = echo().await;
        let mut stream = TcpStream::connect(line.address()).await.unwrap();
        stream.write_all(b"one").await.unwrap();
        assert!(hears(&mut stream, b"one").await);
        line.set(Course::Silent);
        stream.write_all(b"two").await.unwrap();
        let mut byte = [0];
        let nothing = timeout(Duration::from_millis(100), stream.read(&mut byte)).await;
        assert!(nothing.is_err(), "{nothing:?}");
        line.set(Course::Open);
        assert!(hears(&mut stream, b"two").await);
    }

    #[tokio::test]
    async fn what_is_cut_is_closed_and_a_dropped_line_is_gone() {
        let (line, _echoing) = echo().await;
        let mut stream = TcpStream::connect(line.address()).await.unwrap();
        stream.write_all(b"one").await.unwrap();
        assert!(hears(&mut stream, b"one").await);
        line.set(Course::Cut);
        assert!(!hears(&mut stream, b"x").await);
        let mut another = TcpStream::connect(line.address()).await.unwrap();
        assert!(!hears(&mut another, b"x").await);
        let address = line.address();
        drop(line);
        crate::wait_until("nobody there", LIMIT, async || {
            match TcpStream::connect(address).await {
                Ok(_) => Err(()),
                Err(_) => Ok(()),
            }
        })
        .await
        .unwrap();
    }
}
