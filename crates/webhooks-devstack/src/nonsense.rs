//! Messages that nobody means, made from the declaration of what is meant: fields of the wrong kind,
//! words and numbers that are none, a hundred thousand of what may be repeated, and bytes that end
//! early.

use std::collections::BTreeMap;

use prost::{
    DecodeError, Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

/// How often what may be repeated is.
pub const MANY: usize = 100_000;

/// How deep messages in messages go.
const DEPTH: u32 = 4;

/// What texts are made of.
const TEXTS: [&str; 18] = [
    "",
    "a",
    "0",
    "-1",
    "null",
    "\0",
    "'; DROP TABLE webhooks; --",
    "%",
    "wh.>",
    "https://example.com/",
    "http://127.0.0.1:1/",
    "https://[::1]/",
    "javascript:alert(1)",
    "KIND_EXIT",
    "2026-01-15T12:00:00Z",
    "\u{202e}\u{200b}",
    "\u{1f600}",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
];

/// Every message that a package declares, by the name that fields call it.
///
/// # Errors
/// These are no descriptors.
pub fn messages(
    descriptors: &[u8],
    package: &str,
) -> Result<BTreeMap<String, DescriptorProto>, DecodeError> {
    let files = FileDescriptorSet::decode(descriptors)?.file.into_iter();
    let files = files.filter(|file| file.package() == package);
    Ok(files
        .flat_map(|file| file.message_type)
        .map(|message| (format!(".{package}.{}", message.name()), message))
        .collect())
}

/// A message as gRPC frames it.
///
/// # Panics
/// It has 4 GiB or more.
#[must_use]
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("less than 4 GiB");
    [&[0], length.to_be_bytes().as_slice(), message].concat()
}

/// A message that holds a field [`MANY`] times, each time empty or zero, whether it may be repeated
/// or not.
#[must_use]
pub fn many(field: &FieldDescriptorProto) -> Vec<u8> {
    let mut one = Vec::new();
    let wire = match field.r#type() {
        Type::String | Type::Bytes | Type::Message => WireType::LengthDelimited,
        _ => WireType::Varint,
    };
    encode_key(field.number().unsigned_abs(), wire, &mut one);
    encode_varint(0, &mut one);
    one.repeat(MANY)
}

/// A message in which a field that may be repeated is so [`MANY`] times; `None` where none may.
#[must_use]
pub fn flood(of: &DescriptorProto) -> Option<Vec<u8>> {
    let mut fields = of.field.iter();
    fields
        .find(|field| field.label() == Label::Repeated)
        .map(many)
}

/// Makes messages.
#[derive(Debug)]
pub struct Maker {
    random: StdRng,
    messages: BTreeMap<String, DescriptorProto>,
    ids: Vec<String>,
    bodies: Vec<Vec<u8>>,
}

impl Maker {
    /// Makes always the same of the same seed. `ids`, one at least, are texts that mean something.
    #[must_use]
    pub fn new(seed: u64, messages: BTreeMap<String, DescriptorProto>, ids: Vec<String>) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            messages,
            ids,
            bodies: Vec::new(),
        }
    }

    /// With bytes that mean something: half of the fields that hold bytes hold some of these.
    #[must_use]
    pub fn with_bodies(mut self, bodies: Vec<Vec<u8>>) -> Self {
        self.bodies = bodies;
        self
    }

    /// A message of a kind, broken in one of four.
    ///
    /// # Panics
    /// There are no ids.
    pub fn request(&mut self, of: &DescriptorProto) -> Vec<u8> {
        let mut bytes = self.message(of, DEPTH);
        if !bytes.is_empty() && self.random.random_range(0..4) == 0 {
            let place = self.random.random_range(0..bytes.len());
            match self.random.random() {
                true => bytes.truncate(place),
                false => bytes[place] = self.random.random(),
            }
        }
        bytes
    }

    fn message(&mut self, of: &DescriptorProto, depth: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in &of.field {
            let times = match self.random.random_range(0..20) {
                0..8 => 0,
                8..17 => 1,
                17..19 => 3,
                _ => 40,
            };
            for _ in 0..times {
                self.field(field, depth, &mut bytes);
            }
        }
        bytes
    }

    fn field(&mut self, field: &FieldDescriptorProto, depth: u32, out: &mut Vec<u8>) {
        let number = field.number().unsigned_abs();
        let kind = match self.random.random_range(0..12) {
            // Not what was declared.
            0 => *one_of(
                &mut self.random,
                &[Type::String, Type::Int64, Type::Double, Type::Fixed32],
            ),
            _ => field.r#type(),
        };
        let mut long = |bytes: &[u8]| {
            encode_key(number, WireType::LengthDelimited, out);
            encode_varint(bytes.len() as u64, out);
            out.extend_from_slice(bytes);
        };
        match kind {
            Type::Message => {
                let of = self.messages.get(field.type_name()).cloned();
                let inner = match of {
                    Some(of) if depth > 0 => self.message(&of, depth - 1),
                    // A well-known one, or deep enough: what comes.
                    _ => self.bytes(),
                };
                long(&inner);
            }
            Type::String => {
                let text = self.text();
                long(&text);
            }
            Type::Bytes => {
                let body = self.body();
                long(&body);
            }
            Type::Double | Type::Fixed64 | Type::Sfixed64 => {
                encode_key(number, WireType::SixtyFourBit, out);
                out.extend_from_slice(&self.random.random::<[u8; 8]>());
            }
            Type::Float | Type::Fixed32 | Type::Sfixed32 => {
                encode_key(number, WireType::ThirtyTwoBit, out);
                out.extend_from_slice(&self.random.random::<[u8; 4]>());
            }
            _ => {
                encode_key(number, WireType::Varint, out);
                let any = self.random.random();
                let values = [0, 1, 2, 1_000, u64::MAX, i64::MAX as u64, 1 << 31, any];
                encode_varint(*one_of(&mut self.random, &values), out);
            }
        }
    }

    fn text(&mut self) -> Vec<u8> {
        match self.random.random_range(0..10) {
            0..4 => one_of(&mut self.random, &self.ids).clone().into_bytes(),
            4..8 => one_of(&mut self.random, &TEXTS).as_bytes().to_vec(),
            8 => vec![b'x'; self.random.random_range(0..3_000)],
            // No UTF-8 at all.
            _ => self.bytes(),
        }
    }

    fn body(&mut self) -> Vec<u8> {
        if !self.bodies.is_empty() && self.random.random() {
            one_of(&mut self.random, &self.bodies).clone()
        } else {
            self.bytes()
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.random.random_range(0..40);
        (0..length).map(|_| self.random.random()).collect()
    }
}

fn one_of<'a, T>(random: &mut StdRng, all: &'a [T]) -> &'a T {
    all.choose(random).expect("there is one to choose")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(name: &str, number: i32, kind: Type, label: Label) -> FieldDescriptorProto {
        FieldDescriptorProto {
            name: Some(name.to_owned()),
            number: Some(number),
            r#type: Some(kind.into()),
            label: Some(label.into()),
            ..FieldDescriptorProto::default()
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_and_only_what_may_be_repeated_floods() {
        let mut of = DescriptorProto {
            name: Some("Thing".to_owned()),
            field: vec![
                declared("id", 1, Type::String, Label::Optional),
                declared("body", 2, Type::Bytes, Label::Optional),
            ],
            ..DescriptorProto::default()
        };
        let make = || {
            let maker = Maker::new(1, BTreeMap::new(), vec!["an-id".to_owned()]);
            let mut maker = maker.with_bodies(vec![b"a body".to_vec()]);
            let made: Vec<_> = (0..100).map(|_| maker.request(&of)).collect();
            made
        };
        let made = make();
        assert_eq!(made, make());
        for known in [&b"an-id"[..], b"a body"] {
            let has = |message: &Vec<u8>| message.windows(known.len()).any(|part| part == known);
            assert!(made.iter().any(has), "{known:?}");
        }
        assert_eq!(flood(&of), None);
        of.field
            .push(declared("more", 3, Type::Message, Label::Repeated));
        let flooded = flood(&of).unwrap();
        assert_eq!(flooded, [0x1a_u8, 0].repeat(MANY));
        assert_eq!(framed(&[7, 8]), [0, 0, 0, 0, 2, 7, 8]);
    }
}
