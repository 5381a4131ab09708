//! Reading a request's body within its limits.
//!
//! The limit depends on what the body is: its first byte tells one event (`{`) from many (`[`).
//! Never more than the limit is held; what is too large is thrown away as it arrives (up to
//! [`DISCARD_BYTES`]), because a client that is still sending would otherwise meet a reset
//! connection instead of the answer.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    budget::BLOCK_BYTES,
    refusal::{Refusal, RefusalKind},
};

/// Longest time a body may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of an array of events.
pub const MANY_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Most bytes that are read only to be thrown away.
const DISCARD_BYTES: usize = 16 * 1024 * 1024;

/// Longest time spent on throwing away.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// What the head of a request says of its body.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Announced {
    /// The Content-Length, which may lie.
    pub(crate) length: Option<u64>,
    /// The client waits for permission (`Expect: 100-continue`) and has sent nothing yet.
    pub(crate) waits: bool,
}

/// A body in memory. Its share of the budget is given back when this is dropped.
pub(crate) struct Taken {
    pub(crate) bytes: Bytes,
    /// An array: its first byte that is no blank is `[`.
    pub(crate) many: bool,
    _share: Option<OwnedSemaphorePermit>,
}

/// Reads a body of at most `one_max` bytes (one event) or [`MANY_MAX_BYTES`] (an array).
pub(crate) async fn read(
    body: Body,
    announced: Announced,
    one_max: usize,
    budget: &Arc<Semaphore>,
) -> Result<Taken, Refusal> {
    let reading = read_within(body, announced, one_max, budget);
    tokio::time::timeout(BODY_TIMEOUT, reading)
        .await
        .unwrap_or_else(|_| {
            Err(Refusal::new(
                RefusalKind::SlowBody,
                format!(
                    "the body did not arrive within {} s",
                    BODY_TIMEOUT.as_secs()
                ),
            ))
        })
}

async fn read_within(
    mut body: Body,
    announced: Announced,
    one_max: usize,
    budget: &Arc<Semaphore>,
) -> Result<Taken, Refusal> {
    let declared = announced
        .length
        .map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
    let mut buffer = BytesMut::with_capacity(declared.min(BLOCK_BYTES));
    let mut share: Option<OwnedSemaphorePermit> = None;
    let mut many = None;
    // A length beyond every limit needs no look at the first byte.
    let mut fits = declared <= MANY_MAX_BYTES.max(one_max);
    let sends = fits || !announced.waits;
    while fits {
        let Some(frame) = body.frame().await else {
            break;
        };
        let frame = frame.map_err(|_| {
            Refusal::new(
                RefusalKind::BrokenBody,
                "the connection broke within the body",
            )
        })?;
        // Trailers are no part of the event.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        many = many.or_else(|| first_byte(&data).map(|byte| byte == b'['));
        let limit = if many == Some(true) {
            MANY_MAX_BYTES
        } else {
            one_max
        };
        let length = buffer.len() + data.len();
        fits = length <= limit && (many.is_none() || declared <= limit);
        if fits {
            enlarge(&mut share, length, budget)?;
            buffer.extend_from_slice(&data);
        }
    }
    let many = many.unwrap_or(false);
    if !fits {
        if sends {
            discard(body).await;
        }
        return Err(too_large(many, one_max));
    }
    Ok(Taken {
        bytes: buffer.freeze(),
        many,
        _share: share,
    })
}

/// Takes blocks from the budget until the share covers `length` bytes.
fn enlarge(
    share: &mut Option<OwnedSemaphorePermit>,
    length: usize,
    budget: &Arc<Semaphore>,
) -> Result<(), Refusal> {
    let held = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let more = length.div_ceil(BLOCK_BYTES).saturating_sub(held);
    if more == 0 {
        return Ok(());
    }
    let more = u32::try_from(more).unwrap_or(u32::MAX);
    let permit = Arc::clone(budget)
        .try_acquire_many_owned(more)
        .map_err(|_| {
            Refusal::new(
                RefusalKind::Overloaded,
                "too many large requests at this moment",
            )
        })?;
    match share {
        Some(share) => share.merge(permit),
        None => *share = Some(permit),
    }
    Ok(())
}

fn first_byte(data: &[u8]) -> Option<u8> {
    data.iter()
        .copied()
        .find(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

fn too_large(many: bool, one_max: usize) -> Refusal {
    let message = if many {
        format!("an array of events has at most {MANY_MAX_BYTES} bytes")
    } else {
        format!("an event has at most {one_max} bytes (an array of events {MANY_MAX_BYTES})")
    };
    Refusal::of_field(RefusalKind::TooLarge, "$", "too_large", message)
}

/// Throws away what a client still sends, for a while.
pub(crate) async fn discard(mut body: Body) {
    let reading = async {
        let mut seen = 0;
        while seen < DISCARD_BYTES {
            match body.frame().await {
                Some(Ok(frame)) => seen += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) | None => return,
            }
        }
    };
    // Whether it ended or ran out of time: the answer comes now.
    drop(tokio::time::timeout(DISCARD_TIMEOUT, reading).await);
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    const ONE_MAX: usize = 1_000;

    fn chunked(chunks: Vec<Vec<u8>>) -> Body {
        Body::from_stream(stream::iter(
            chunks.into_iter().map(Ok::<_, std::io::Error>),
        ))
    }

    async fn take(body: Body, length: Option<u64>) -> Result<Taken, Refusal> {
        read(
            body,
            Announced {
                length,
                waits: false,
            },
            ONE_MAX,
            &crate::budget::budget_of(crate::budget::BODY_MEMORY),
        )
        .await
    }

    #[tokio::test]
    async fn the_first_byte_decides_between_one_and_many() {
        let check = async |chunks: &[&str], many: bool| {
            let body = chunked(
                chunks
                    .iter()
                    .map(|chunk| chunk.as_bytes().to_vec())
                    .collect(),
            );
            let taken = take(body, None).await.unwrap();
            assert_eq!(
                (taken.many, &taken.bytes[..]),
                (many, chunks.concat().as_bytes())
            );
        };
        check(&["{}"], false).await;
        check(&[" \n", "\t[", "]"], true).await;
        check(&[], false).await;
        check(&["   "], false).await;
        check(&["nonsense ["], false).await;
    }

    #[tokio::test]
    async fn limits_hold_whatever_the_length_header_says() {
        let too_large = async |body: Body, declared| {
            let refusal = take(body, declared).await.err().map(|refusal| refusal.kind);
            assert_eq!(refusal, Some(RefusalKind::TooLarge));
        };
        let many = |bytes: usize| {
            let mut text = vec![b' '; bytes];
            text[0] = b'[';
            text
        };
        assert!(take(Body::from(vec![b'x'; ONE_MAX]), None).await.is_ok());
        too_large(Body::from(vec![b'x'; ONE_MAX + 1]), None).await;
        too_large(Body::from(vec![b'x'; ONE_MAX + 1]), Some(1)).await;
        too_large(Body::from("{}"), Some(1_001)).await;
        too_large(Body::from("{}"), Some(u64::MAX)).await;
        too_large(chunked(vec![vec![b' '; 600], vec![b' '; 600]]), None).await;
        assert!(take(Body::from(many(MANY_MAX_BYTES)), None).await.is_ok());
        too_large(Body::from(many(MANY_MAX_BYTES + 1)), None).await;
    }

    #[tokio::test]
    async fn a_body_takes_its_share_of_the_budget_and_gives_it_back() {
        let budget = Arc::new(Semaphore::new(2));
        let large = || Body::from([b"[".as_slice(), &vec![b' '; BLOCK_BYTES]].concat());
        let held = read(large(), Announced::default(), ONE_MAX, &budget)
            .await
            .unwrap();
        assert_eq!(budget.available_permits(), 0);
        let refused = read(Body::from("{}"), Announced::default(), ONE_MAX, &budget)
            .await
            .err();
        assert_eq!(
            refused.map(|refusal| refusal.kind),
            Some(RefusalKind::Overloaded)
        );
        drop(held);
        assert_eq!(budget.available_permits(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_cut() {
        let drip = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
        });
        let refusal = take(Body::from_stream(drip), None).await.err();
        assert_eq!(
            refusal.map(|refusal| refusal.kind),
            Some(RefusalKind::SlowBody)
        );
    }

    #[tokio::test]
    async fn a_broken_connection_is_told_apart() {
        let broken = stream::iter([
            Ok(Bytes::from_static(b"{")),
            Err(std::io::Error::other("reset")),
        ]);
        let refusal = take(Body::from_stream(broken), None).await.err();
        assert_eq!(
            refusal.map(|refusal| refusal.kind),
            Some(RefusalKind::BrokenBody)
        );
    }
}
