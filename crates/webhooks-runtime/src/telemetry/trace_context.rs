//! W3C trace context (`traceparent`), pure.
//!
//! A receiver always gets a valid `traceparent`, whether or not this installation exports traces:
//! with it, the customer can tie a request to their own trace. Without an exporter we record
//! nothing, so the header we mint says *not sampled*; one that came in is continued with its flag.

use std::fmt::{self, Write as _};

/// The bytes of randomness [`next_traceparent`] wants: a trace id and a span id.
pub const TRACE_RANDOM_BYTES: usize = 24;

const VERSION_00_LENGTH: usize = 55;
const SAMPLED: u8 = 0x01;

/// What a `traceparent` header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The whole trace; never all zero.
    pub trace_id: [u8; 16],
    /// The caller's span; never all zero.
    pub parent_id: [u8; 8],
    /// Whether the caller may have recorded it.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a header. `None` for anything the specification calls invalid; such a header is to be
    /// ignored and a new trace begun. Versions above 00 are read by their first four fields.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let bytes = header.as_bytes();
        let separated =
            bytes.len() >= VERSION_00_LENGTH && [2, 35, 52].iter().all(|&at| bytes[at] == b'-');
        if !separated {
            return None;
        }
        let [version] = hex::<1>(&bytes[..2])?;
        let length_fits = match version {
            0x00 => bytes.len() == VERSION_00_LENGTH,
            0xff => false,
            _ => bytes.len() == VERSION_00_LENGTH || bytes[VERSION_00_LENGTH] == b'-',
        };
        let trace_id = hex::<16>(&bytes[3..35])?;
        let parent_id = hex::<8>(&bytes[36..52])?;
        let [flags] = hex::<1>(&bytes[53..55])?;
        let valid = length_fits && trace_id != [0; 16] && parent_id != [0; 8];
        valid.then_some(Self {
            trace_id,
            parent_id,
            sampled: flags & SAMPLED != 0,
        })
    }

    /// Our own step in this trace: a new span id under the same trace and flag.
    #[must_use]
    pub fn child(self, span_id: [u8; 8]) -> Self {
        Self {
            parent_id: not_zero(span_id),
            ..self
        }
    }
}

impl fmt::Display for TraceContext {
    /// The header, version 00.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("00-")?;
        self.trace_id
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))?;
        formatter.write_char('-')?;
        self.parent_id
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))?;
        write!(formatter, "-{:02x}", u8::from(self.sampled))
    }
}

/// The `traceparent` to send on: continues a valid incoming one, or begins a new, unsampled trace.
#[must_use]
pub fn next_traceparent(incoming: Option<&str>, random: [u8; TRACE_RANDOM_BYTES]) -> String {
    let mut trace_id = [0; 16];
    let mut span_id = [0; 8];
    trace_id.copy_from_slice(&random[..16]);
    span_id.copy_from_slice(&random[16..]);
    let context = incoming
        .and_then(TraceContext::parse)
        .unwrap_or(TraceContext {
            trace_id: not_zero(trace_id),
            parent_id: [0; 8],
            sampled: false,
        });
    context.child(span_id).to_string()
}

/// The specification forbids ids of zeros only.
fn not_zero<const N: usize>(mut id: [u8; N]) -> [u8; N] {
    if id == [0; N] {
        id[N - 1] = 1;
    }
    id
}

/// Lower-case hex only, as the specification has it.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{TRACE_RANDOM_BYTES, TraceContext, next_traceparent};

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_survives_reading_and_writing() {
        let context = TraceContext::parse(EXAMPLE).unwrap();
        assert!(context.sampled);
        assert_eq!(context.to_string(), EXAMPLE);
        let unsampled = EXAMPLE.replace("-01", "-00");
        assert_eq!(
            TraceContext::parse(&unsampled).unwrap().to_string(),
            unsampled
        );
    }

    #[test]
    fn unknown_flags_and_later_versions_are_read_by_what_is_known() {
        let context = TraceContext::parse(&EXAMPLE.replace("-01", "-ff")).unwrap();
        assert_eq!(context.to_string(), EXAMPLE);
        let later = format!("cc{}-what-the-future-brings", &EXAMPLE[2..]);
        assert_eq!(TraceContext::parse(&later).unwrap().to_string(), EXAMPLE);
        assert!(TraceContext::parse(&format!("cc{}", &EXAMPLE[2..])).is_some());
    }

    #[test]
    fn what_the_specification_forbids_is_refused() {
        for bad in [
            "",
            "00",
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replace("00-0", "ff-0"),
            &EXAMPLE.replace(
                "0af7651916cd43dd8448eb211c80319c",
                "00000000000000000000000000000000",
            ),
            &EXAMPLE.replace("b7ad6b7169203331", "0000000000000000"),
            &EXAMPLE.replace("b7ad", "b7xd"),
            &EXAMPLE.replace("-b7", "_b7"),
            &format!("{EXAMPLE}-more"),
            &format!("cc{}more", &EXAMPLE[2..]),
            &EXAMPLE[..54],
            "00-ééééééééééééééééé6cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_incoming_trace_goes_on_with_a_new_span() {
        let next = next_traceparent(Some(EXAMPLE), [7; TRACE_RANDOM_BYTES]);
        assert_eq!(
            next,
            "00-0af7651916cd43dd8448eb211c80319c-0707070707070707-01"
        );
    }

    #[test]
    fn without_a_valid_one_a_new_trace_begins() {
        let expected = "00-07070707070707070707070707070707-0707070707070707-00";
        assert_eq!(next_traceparent(None, [7; TRACE_RANDOM_BYTES]), expected);
        assert_eq!(
            next_traceparent(Some("nonsense"), [7; TRACE_RANDOM_BYTES]),
            expected
        );
        let zeros = next_traceparent(None, [0; TRACE_RANDOM_BYTES]);
        assert!(TraceContext::parse(&zeros).is_some(), "{zeros}");
    }
}
