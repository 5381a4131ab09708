//! Clients that no library makes: floods of frames of HTTP/2, and heads that come byte by byte.
//!
//! Frames are made by hand (RFC 9113) and sent as fast as they are taken, while answers are read. Each
//! batch of a flood ends with a ping that is marked: once that is answered, the server has read all
//! of the batch.

use std::{cell::Cell, io, iter, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpSocket, TcpStream, tcp::OwnedReadHalf},
    time::timeout,
};

/// Frames in a flood, or pairs of them.
pub const FRAMES: usize = 10_000;

/// Most bytes that [`sent_unread`] sends to a server that does not say that it is enough.
pub const MOST: usize = 64 * 1024 * 1024;

/// How often [`Drips::drip`] has something for each connection.
pub const DRIPS: usize = 20;

/// Longest time for a flood. Generous: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(30);

/// Who takes nothing for so long has stopped to read.
const STALL: Duration = Duration::from_secs(2);

/// What a client begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a marked ping holds.
const MARK: [u8; 8] = *b"the mark";

// Kinds of frames, and one that is none.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const NO_KIND: u8 = 0x42;

// Flags.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

// Reasons.
const NO_ERROR: u32 = 0;
const REFUSED: u32 = 7;
const CANCEL: u32 = 8;

/// Calls that are given up in the middle: so many times so many at once. At once are fewer than a
/// server may call abuse.
const GIVEN_UP: (usize, usize) = (40, 10);

/// Frames to send.
#[derive(Debug)]
pub struct Flood {
    /// For people.
    pub what: &'static str,
    /// Each is sent when the one before it has been read.
    batches: Vec<Vec<u8>>,
    /// Answers that it asks for.
    acks: usize,
    /// No server may take it to its end.
    is_abuse: bool,
}

/// What a server did about a flood.
#[derive(Debug, Default)]
pub struct Answered {
    /// The server ended the connection.
    pub is_over: bool,
    /// Why, if it said so.
    reason: Option<u32>,
    /// Pings and settings that it acknowledged, the mark's aside.
    acks: usize,
    /// Calls that it refused as too many.
    pub refused: usize,
    /// Calls at once that it allows.
    pub most_calls: Option<u32>,
}

impl Flood {
    fn abuse(what: &'static str, frames: Vec<u8>) -> Self {
        Self {
            what,
            batches: vec![frames],
            acks: 0,
            is_abuse: true,
        }
    }

    fn allowed(what: &'static str, acks: usize, frames: Vec<u8>) -> Self {
        Self {
            what,
            batches: vec![frames],
            acks,
            is_abuse: false,
        }
    }

    /// Calls that are begun and never finished.
    #[must_use]
    pub fn of_calls(head: &[u8], count: usize) -> Self {
        let calls = streams(count).flat_map(|stream| frame(HEADERS, END_HEADERS, stream, head));
        Self::allowed("calls that are not finished", 0, calls.collect())
    }

    /// Calls that are given up while they are worked on.
    fn given_up(head: &[u8], body: &[u8]) -> Self {
        let (times, at_once) = GIVEN_UP;
        let all: Vec<u32> = streams(times * at_once).collect();
        let batches = all.chunks(at_once).flat_map(|some| {
            let begin = |stream: &u32| {
                let data = frame(DATA, END_STREAM, *stream, body);
                [frame(HEADERS, END_HEADERS, *stream, head), data].concat()
            };
            let begun: Vec<u8> = some.iter().flat_map(begin).collect();
            let ended: Vec<u8> = some.iter().flat_map(|stream| reset(*stream)).collect();
            [begun, ended]
        });
        Self {
            batches: batches.collect(),
            ..Self::allowed("calls that are given up", 0, Vec::new())
        }
    }

    /// Sends it over a connection of its own, and reads the answers meanwhile.
    ///
    /// # Errors
    /// Nobody listens there, or neither is everything read nor the connection ended in 30 s.
    pub async fn send(&self, address: SocketAddr) -> io::Result<Answered> {
        let all = async {
            let (read, mut write) = TcpStream::connect(address).await?.into_split();
            let mut read = BufReader::new(read);
            let mut answered = Answered::default();
            let opening = opening();
            for batch in iter::once(&opening).chain(&self.batches) {
                let bytes = [batch.as_slice(), &frame(PING, 0, 0, &MARK)].concat();
                let sending = async {
                    // Who is cut off is told so by what he reads.
                    drop(write.write_all(&bytes).await);
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = answered.read(&mut read) => {}
                    () = sending => unreachable!("it waits for ever"),
                }
                if answered.is_over {
                    break;
                }
            }
            Ok::<_, io::Error>(answered)
        };
        timeout(LIMIT, all).await?
    }

    /// Whether a server that answered so kept to its limits: it ended what is abuse, and of the rest
    /// it answered each frame once, or said that it is enough.
    #[must_use]
    pub fn is_endured(&self, answered: &Answered) -> bool {
        // Those of the opening too.
        let asked = self.acks + 1;
        if answered.is_over {
            answered.acks <= asked && answered.reason != Some(NO_ERROR)
        } else {
            answered.acks == asked && !self.is_abuse
        }
    }
}

impl Answered {
    /// Reads until the mark is answered, or the connection ends.
    async fn read(&mut self, from: &mut BufReader<OwnedReadHalf>) {
        while let Ok((kind, flags, payload)) = next_frame(from).await {
            if (kind, flags) == (PING, ACK) && payload == MARK {
                return;
            }
            self.saw(kind, flags, &payload);
        }
        // In order or not: what was sent may lie unread.
        self.is_over = true;
    }

    fn saw(&mut self, kind: u8, flags: u8, payload: &[u8]) {
        match kind {
            PING | SETTINGS if flags == ACK => self.acks += 1,
            SETTINGS => {
                let mut settings = payload.chunks_exact(6);
                let most = settings.find_map(|setting| setting.strip_prefix(&[0_u8, 3]));
                self.most_calls = most.and_then(number).or(self.most_calls);
            }
            RST_STREAM if number(payload) == Some(REFUSED) => self.refused += 1,
            // After the last stream that was looked at.
            GOAWAY => self.reason = payload.get(4..).and_then(number),
            _ => {}
        }
    }
}

/// Every flood there is, of calls to a method that takes them.
#[must_use]
pub fn floods(head: &[u8], body: &[u8]) -> Vec<Flood> {
    let call = |stream| frame(HEADERS, END_HEADERS, stream, head);
    let resets = streams(FRAMES).flat_map(|stream| [call(stream), reset(stream)].concat());
    // A window that grows beyond what there is.
    let beyond = |stream| frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
    let mistakes = streams(FRAMES).flat_map(|stream| [call(stream), beyond(stream)].concat());
    // Read to its end, it would be 10 MB.
    let more = field("x-flood", &"x".repeat(100)).repeat(9);
    let endless = |more: &[u8]| {
        let more = frame(CONTINUATION, 0, 1, more).repeat(FRAMES);
        [frame(HEADERS, 0, 1, head), more].concat()
    };
    // The window of a call, as it is anyhow.
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]);
    let window = frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes());
    let data = [call(1), frame(DATA, 0, 1, &[]).repeat(FRAMES)].concat();
    vec![
        Flood::abuse("calls and their resets", resets.collect()),
        Flood::abuse("a head without an end", endless(&more)),
        Flood::abuse("a head that goes on with nothing", endless(&[])),
        Flood::allowed("calls that have to be reset", 0, mistakes.collect()),
        Flood::allowed("pings", FRAMES, frame(PING, 0, 0, &[0; 8]).repeat(FRAMES)),
        Flood::allowed("settings", FRAMES, settings.repeat(FRAMES)),
        Flood::allowed("windows", 0, window.repeat(FRAMES)),
        Flood::allowed(
            "priorities",
            0,
            frame(PRIORITY, 0, 1, &[0; 5]).repeat(FRAMES),
        ),
        Flood::allowed(
            "frames of no kind",
            0,
            frame(NO_KIND, 0, 0, &[0; 8]).repeat(FRAMES),
        ),
        Flood::allowed("data with nothing in it", 0, data),
        Flood::given_up(head, body),
    ]
}

/// Sends pings and reads no answer, until nothing more is taken: how many bytes were.
///
/// # Errors
/// Nobody listens there.
pub async fn sent_unread(address: SocketAddr) -> io::Result<usize> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // What the kernel holds of the answers is not what the server holds.
    socket.set_recv_buffer_size(64 * 1024)?;
    socket.set_send_buffer_size(64 * 1024)?;
    let mut stream = socket.connect(address).await?;
    stream.write_all(&opening()).await?;
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(4_096);
    let mut sent = 0;
    while sent < MOST {
        match timeout(STALL, stream.write_all(&pings)).await {
            Ok(Ok(())) => sent += pings.len(),
            // Cut off, or read no more.
            Ok(Err(_)) | Err(_) => break,
        }
    }
    Ok(sent)
}

/// Connections whose heads come byte by byte, and to no end.
#[derive(Debug)]
pub struct Drips(Vec<(TcpStream, std::vec::IntoIter<u8>)>);

impl Drips {
    /// Begins so many: one of three speaks HTTP/1.1, one does not get as far as to say that it speaks
    /// HTTP/2, and one does and begins a call.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn begin(address: SocketAddr, count: usize) -> io::Result<Self> {
        let call = frame(HEADERS, END_HEADERS, 1, &head("GET", "/", &[]));
        let kinds = [
            (Vec::new(), &b"GET / HTTP/1.1\r\nhost: test\r\nx: x"[..]),
            (Vec::new(), PREFACE),
            (opening(), call.as_slice()),
        ];
        let mut all = Vec::new();
        for (at_once, slowly) in kinds.iter().cycle().take(count) {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(at_once).await?;
            all.push((stream, Vec::from(&slowly[..DRIPS]).into_iter()));
        }
        Ok(Self(all))
    }

    /// One byte more on each.
    pub async fn drip(&mut self) {
        for (stream, bytes) in &mut self.0 {
            if let Some(byte) = bytes.next() {
                // Who was cut off is no longer slow.
                drop(stream.write_all(&[byte]).await);
            }
        }
    }
}

/// Does something while somebody asks for something else, again and again, and once more when it is
/// done.
pub async fn beside<T>(doing: impl Future<Output = T>, mut ask: impl AsyncFnMut()) -> T {
    let is_done = Cell::new(false);
    let doing = async {
        let result = doing.await;
        is_done.set(true);
        result
    };
    let asking = async {
        while !is_done.get() {
            ask().await;
        }
    };
    let (result, ()) = Box::pin(async { tokio::join!(doing, asking) }).await;
    Box::pin(ask()).await;
    result
}

/// The fields of a request's head, none of them compressed.
///
/// # Panics
/// A name or value has 127 bytes or more.
#[must_use]
pub fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let always = [
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
    ];
    let fields = always.iter().chain(more);
    fields
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

/// A field as it is, name and all (RFC 7541, section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
        bytes.push(length.expect("a short text"));
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
///
/// # Panics
/// The payload has 4 GiB or more.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

async fn next_frame(from: &mut BufReader<OwnedReadHalf>) -> io::Result<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    from.read_exact(&mut head).await?;
    let [high, middle, low, kind, flags, ..] = head;
    let length = u32::from_be_bytes([0, high, middle, low]);
    let mut payload = Vec::new();
    from.take(length.into()).read_to_end(&mut payload).await?;
    Ok((kind, flags, payload))
}

/// The number that bytes begin with.
fn number(bytes: &[u8]) -> Option<u32> {
    bytes
        .first_chunk::<4>()
        .map(|bytes| u32::from_be_bytes(*bytes))
}

/// The first streams that a client may open.
fn streams(count: usize) -> impl Iterator<Item = u32> {
    (1..).step_by(2).take(count)
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// A client's first bytes. What the server sets is acknowledged before it is read: nothing here
/// depends on it.
fn opening() -> Vec<u8> {
    let settings = [0, ACK].map(|flags| frame(SETTINGS, flags, 0, &[]));
    [PREFACE, &settings.concat()].concat()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What is made of a server that reads the opening and its mark, answers this and goes.
    async fn answered(frames: Vec<Vec<u8>>) -> Answered {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = vec![0; opening().len() + 17];
            stream.read_exact(&mut read).await.unwrap();
            assert!(read.starts_with(PREFACE));
            stream.write_all(&frames.concat()).await.unwrap();
        };
        let flood = Flood::of_calls(&[], 0);
        let ((), answered) = tokio::join!(server, flood.send(address));
        answered.unwrap()
    }

    #[tokio::test]
    async fn what_a_server_says_is_read_to_its_end() {
        let frames = vec![
            frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 1, 0]),
            frame(SETTINGS, ACK, 0, &[]),
            frame(RST_STREAM, 0, 3, &REFUSED.to_be_bytes()),
            frame(NO_KIND, 0, 0, &[0; 300]),
            frame(GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 11]),
        ];
        let seen = answered(frames).await;
        assert!(seen.is_over);
        assert_eq!((seen.reason, seen.acks), (Some(11), 1));
        assert_eq!((seen.refused, seen.most_calls), (1, Some(256)));
        assert!(Flood::abuse("", Vec::new()).is_endured(&seen));
        let goodbye = vec![frame(GOAWAY, 0, 0, &[0; 8])];
        let seen = answered(goodbye).await;
        assert!(!Flood::abuse("", Vec::new()).is_endured(&seen));
        // No HTTP/2 at all.
        let seen = answered(vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()]).await;
        assert!(seen.is_over && seen.most_calls.is_none());
    }

    #[test]
    fn who_takes_abuse_to_its_end_or_leaves_out_an_answer_does_not_endure() {
        let open = |acks| Answered {
            acks,
            ..Answered::default()
        };
        let pings = Flood::allowed("", 2, Vec::new());
        for (acks, is_endured) in [(2, false), (3, true), (4, false)] {
            assert_eq!(pings.is_endured(&open(acks)), is_endured, "{acks}");
        }
        assert!(!Flood::abuse("", Vec::new()).is_endured(&open(1)));
    }

    #[tokio::test]
    async fn somebody_asks_while_something_is_done_and_after_it() {
        let asked = Cell::new(0);
        let doing = async {
            while asked.get() < 3 {
                tokio::task::yield_now().await;
            }
            asked.get()
        };
        let ask = async || {
            asked.set(asked.get() + 1);
            tokio::task::yield_now().await;
        };
        let done_after = beside(doing, ask).await;
        assert!(done_after >= 3 && asked.get() > done_after, "{asked:?}");
    }

    #[test]
    fn frames_and_fields_are_as_the_standards_say() {
        let ping = frame(PING, ACK, 5, b"12345678");
        assert_eq!(ping, *b"\0\0\x08\x06\x01\0\0\0\x0512345678");
        assert_eq!(field("a", "bc"), *b"\0\x01a\x02bc");
        assert_eq!(streams(3).collect::<Vec<_>>(), [1, 3, 5]);
    }
}
