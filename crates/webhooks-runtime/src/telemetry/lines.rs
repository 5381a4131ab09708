//! Lines of the log on their way to standard output.
//!
//! Whoever logs must never wait for whoever reads: a collector or a disk that stands still for some
//! seconds would stop every thread that runs tasks, and with them leases and answers. So lines go
//! through a queue to a thread of their own. When it is full they are lost, and counted
//! (`webhooks_log_lines_lost_total`). The thread writes what has gathered at once, so that many lines
//! cost few writes.

use std::{
    io::{self, Write},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// Most lines that wait; at some 600 bytes each 5 MB.
pub(super) const MAX_WAITING: usize = 8_192;

/// Most bytes that are written at once, but for a longer line.
const MOST_AT_ONCE: usize = 64 * 1_024;

/// How often a full queue is tried again for the last word.
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// Lines that were lost in this process.
static LOST: AtomicU64 = AtomicU64::new(0);

/// How many lines were lost since the process began.
pub(crate) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

enum Message {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// Takes lines; cheap to clone.
#[derive(Clone)]
pub(super) struct Lines {
    queue: SyncSender<Message>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

impl Lines {
    /// Starts the thread that writes, with room for so many lines. It ends with the last clone.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(sink: impl Write + Send + 'static, room: usize) -> io::Result<Self> {
        let (queue, lines) = mpsc::sync_channel(room);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&lines, sink))?;
        Ok(Self { queue })
    }

    /// Waits until what was logged before is written, for at most `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let (done, written) = mpsc::sync_channel(1);
        let mut last = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(last) {
            if Instant::now() >= until {
                return;
            }
            last = back;
            thread::sleep(TRY_AGAIN);
        }
        // Late or never: nobody reads standard output, so there is nobody to tell.
        written
            .recv_timeout(until.saturating_duration_since(Instant::now()))
            .unwrap_or_default();
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// A write is a whole line: the formatter makes one of each event.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(lines: &Receiver<Message>, mut sink: impl Write) {
    let mut gathered = Vec::new();
    while let Ok(first) = lines.recv() {
        let mut flushes = Vec::new();
        let mut count = 0;
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => {
                    gathered.extend_from_slice(&line);
                    count += 1;
                }
                Message::Flush(done) => flushes.push(done),
            }
            next = (gathered.len() < MOST_AT_ONCE)
                .then(|| lines.try_recv().ok())
                .flatten();
        }
        if sink
            .write_all(&gathered)
            .and_then(|()| sink.flush())
            .is_err()
        {
            LOST.fetch_add(count, Ordering::Relaxed);
        }
        gathered.clear();
        for done in flushes {
            // Whoever asked may have gone.
            done.try_send(()).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Condvar, Mutex};

    use super::*;

    #[derive(Default)]
    struct State {
        open: bool,
        asked: bool,
        written: Vec<u8>,
    }

    /// Writes when it may.
    #[derive(Clone, Default)]
    struct Sink(Arc<(Mutex<State>, Condvar)>);

    impl Sink {
        fn open(&self) {
            self.0.0.lock().unwrap().open = true;
            self.0.1.notify_all();
        }

        /// Waits until somebody wants to write.
        fn asked(&self) {
            let state = self.0.0.lock().unwrap();
            drop(self.0.1.wait_while(state, |state| !state.asked).unwrap());
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().written.clone()).unwrap()
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.0.lock().unwrap();
            state.asked = true;
            self.0.1.notify_all();
            let mut state = self.0.1.wait_while(state, |state| !state.open).unwrap();
            state.written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_arrive_whole_and_in_order() {
        let sink = Sink::default();
        sink.open();
        let lines = Lines::start(sink.clone(), 4_096).unwrap();
        let mut expected = String::new();
        for number in 0..3_000 {
            let line = format!("line {number}\n");
            lines.clone().write_all(line.as_bytes()).unwrap();
            expected.push_str(&line);
        }
        lines.flush(Duration::from_secs(20));
        assert_eq!(sink.text(), expected);
    }

    #[test]
    fn nobody_waits_for_a_reader_that_stands_still() {
        let sink = Sink::default();
        let lines = Lines::start(sink.clone(), 4).unwrap();
        let log = |text: &str| lines.clone().write_all(text.as_bytes()).unwrap();
        log("0\n");
        sink.asked();
        let before = lost();
        for number in 1..=100 {
            log(&format!("{number}\n"));
        }
        // Four wait. Had anybody waited for them, this were not reached.
        assert_eq!(lost() - before, 96);
        lines.flush(Duration::from_millis(20));
        sink.open();
        lines.flush(Duration::from_secs(20));
        log("after\n");
        lines.flush(Duration::from_secs(20));
        assert_eq!(sink.text(), "0\n1\n2\n3\n4\nafter\n");
    }
}
