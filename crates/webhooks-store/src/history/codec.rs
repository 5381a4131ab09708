//! How bytes are kept: as they are, or as an LZ4 block.
//!
//! PostgreSQL's own compression costs several times LZ4's time and begins at rows of 2 kB; so what
//! is worth it is compressed here, and the columns are told to leave it alone.

use std::borrow::Cow;

use bytes::Bytes;

use super::RenditionRecord;
use crate::error::StoreError;

/// Stored as it is.
const PLAIN: i16 = 0;
/// LZ4 block behind its length (4 bytes, little endian).
const LZ4: i16 = 1;

/// Shorter ones gain nothing that the row would notice.
const WORTH_IT: usize = 512;

/// Most bytes that are unpacked: far above an event in all profiles, far below trouble.
const MAX_UNPACKED: usize = 16 << 20;

/// The codec and the bytes to store.
pub(super) fn pack(bytes: &[u8]) -> (i16, Cow<'_, [u8]>) {
    if bytes.len() < WORTH_IT {
        return (PLAIN, Cow::Borrowed(bytes));
    }
    let packed = lz4_flex::block::compress_prepend_size(bytes);
    if packed.len() < bytes.len() {
        (LZ4, Cow::Owned(packed))
    } else {
        (PLAIN, Cow::Borrowed(bytes))
    }
}

/// The bytes that [`pack`] was given.
pub(super) fn unpack(codec: i16, bytes: &[u8]) -> Result<Bytes, StoreError> {
    let corrupt = |why: String| StoreError::corrupt("packed bytes", why);
    match codec {
        PLAIN => Ok(Bytes::copy_from_slice(bytes)),
        LZ4 => {
            let (length, block) = lz4_flex::block::uncompressed_size(bytes)
                .map_err(|error| corrupt(error.to_string()))?;
            if length > MAX_UNPACKED {
                return Err(corrupt(format!("{length} bytes are over the limit")));
            }
            let plain = lz4_flex::block::decompress(block, length)
                .map_err(|error| corrupt(error.to_string()))?;
            Ok(plain.into())
        }
        other => Err(corrupt(format!("unknown codec {other}"))),
    }
}

/// All renditions of an event in one value, before packing: each field behind its length (4 bytes,
/// little endian). Together they compress to little more than one of them, for they say the same.
pub(super) fn frame(renditions: &[RenditionRecord]) -> Vec<u8> {
    let mut framed = Vec::new();
    for rendition in renditions {
        for field in [
            rendition.profile.as_bytes(),
            &rendition.head,
            &rendition.tail,
        ] {
            let length = u32::try_from(field.len()).expect("a rendition is below 4 GiB");
            framed.extend_from_slice(&length.to_le_bytes());
            framed.extend_from_slice(field);
        }
    }
    framed
}

/// The renditions that [`frame`] was given.
pub(super) fn unframe(mut framed: Bytes) -> Result<Vec<RenditionRecord>, StoreError> {
    let mut renditions = Vec::new();
    while !framed.is_empty() {
        let profile = String::from_utf8(field(&mut framed)?.to_vec())
            .map_err(|error| StoreError::corrupt("renditions", error))?;
        renditions.push(RenditionRecord {
            profile,
            head: field(&mut framed)?,
            tail: field(&mut framed)?,
        });
    }
    Ok(renditions)
}

fn field(framed: &mut Bytes) -> Result<Bytes, StoreError> {
    let short = || StoreError::corrupt("renditions", "the value ends early");
    let length = framed.first_chunk::<4>().ok_or_else(short)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| short())?;
    let mut rest = framed.split_off(4);
    if rest.len() < length {
        return Err(short());
    }
    let field = rest.split_to(length);
    *framed = rest;
    Ok(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rendition(profile: &str, head: &[u8], tail: &[u8]) -> RenditionRecord {
        RenditionRecord {
            profile: profile.into(),
            head: Bytes::copy_from_slice(head),
            tail: Bytes::copy_from_slice(tail),
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_unpacks(unit in prop::collection::vec(any::<u8>(), 1..40), times in 0usize..200) {
            let bytes = unit.repeat(times);
            let (codec, packed) = pack(&bytes);
            prop_assert!(packed.len() <= bytes.len());
            prop_assert_eq!(unpack(codec, &packed).unwrap(), bytes);
        }

        #[test]
        fn what_is_framed_unframes(parts in prop::collection::vec(("[a-z]{0,8}", prop::collection::vec(any::<u8>(), 0..50)), 0..4)) {
            let renditions: Vec<_> = parts.iter().map(|(name, bytes)| rendition(name, bytes, b"}")).collect();
            prop_assert_eq!(unframe(frame(&renditions).into()).unwrap(), renditions);
        }

        #[test]
        fn any_bytes_are_survived(codec in 0i16..3, bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(plain) = unpack(codec, &bytes) {
                prop_assert!(plain.len() <= MAX_UNPACKED);
                let _unframed: Result<_, StoreError> = unframe(plain);
            }
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_memory_is_taken() {
        let mut bytes = u32::MAX.to_le_bytes().to_vec();
        bytes.push(0);
        assert!(unpack(LZ4, &bytes).is_err());
    }
}
