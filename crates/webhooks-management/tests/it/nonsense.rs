//! Messages that nobody means, to every method of gRPC: fields of the wrong kind, words and numbers that
//! are none, a hundred thousand of what may be repeated, and bytes that end early.

use std::collections::BTreeMap;

use http::uri::PathAndQuery;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::{
    DescriptorProto, FieldDescriptorProto,
    field_descriptor_proto::{Label, Type},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tonic::{Code, Status, client::Grpc, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{
    document::Stage,
    methods::{Method, Raw, messages, methods},
    support::{OPERATOR_TOKEN, World, with_token},
};

/// Messages to each method.
const EACH: u32 = 150;

/// Methods after which something is not there any more: they come last, when everything else has been
/// asked about what is there.
const ENDS: [&str; 3] = ["Delete", "Revoke", "Cancel"];

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

/// Makes messages.
struct Maker {
    random: StdRng,
    messages: BTreeMap<String, DescriptorProto>,
    /// Ids of what is there.
    ids: Vec<String>,
}

impl Maker {
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
        let number = u32::try_from(field.number()).unwrap();
        let kind = match self.random.random_range(0..12) {
            // Not what was declared.
            0 => *[Type::String, Type::Int64, Type::Double, Type::Fixed32]
                .choose(&mut self.random)
                .unwrap(),
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
                let bytes = self.bytes();
                long(&bytes);
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
                encode_varint(*values.choose(&mut self.random).unwrap(), out);
            }
        }
    }

    fn text(&mut self) -> Vec<u8> {
        match self.random.random_range(0..10) {
            0..4 => self
                .ids
                .choose(&mut self.random)
                .unwrap()
                .clone()
                .into_bytes(),
            4..8 => TEXTS.choose(&mut self.random).unwrap().as_bytes().to_vec(),
            8 => vec![b'x'; self.random.random_range(0..3_000)],
            // No UTF-8 at all.
            _ => self.bytes(),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.random.random_range(0..40);
        (0..length).map(|_| self.random.random()).collect()
    }

    /// A message to a method, broken in one of four.
    fn request(&mut self, method: &Method) -> Vec<u8> {
        let mut bytes = self.message(&method.request, DEPTH);
        if !bytes.is_empty() && self.random.random_range(0..4) == 0 {
            let place = self.random.random_range(0..bytes.len());
            match self.random.random() {
                true => bytes.truncate(place),
                false => bytes[place] = self.random.random(),
            }
        }
        bytes
    }

    /// A message in which a field that may be repeated is so a hundred thousand times.
    fn flood(&mut self, method: &Method) -> Option<Vec<u8>> {
        let mut fields = method.request.field.iter();
        let field = fields.find(|field| field.label() == Label::Repeated)?;
        let number = u32::try_from(field.number()).unwrap();
        let mut one = Vec::new();
        let wire = match field.r#type() {
            Type::String | Type::Bytes | Type::Message => WireType::LengthDelimited,
            _ => WireType::Varint,
        };
        encode_key(number, wire, &mut one);
        // Empty, or zero.
        encode_varint(0, &mut one);
        Some(one.repeat(100_000))
    }
}

async fn send(
    channel: &Channel,
    method: &Method,
    token: &str,
    message: Vec<u8>,
) -> Result<Vec<u8>, Status> {
    let token = match method.operator {
        true => OPERATOR_TOKEN,
        false => token,
    };
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::try_from(method.path.as_str()).unwrap();
    let answer = grpc.unary(with_token(token, message), path, Raw).await?;
    Ok(answer.into_inner())
}

/// What an answer to nonsense may say: nothing that means a mistake of ours.
fn is_fair(answer: &Result<Vec<u8>, Status>) -> bool {
    let Err(status) = answer else { return true };
    let details = status.get_error_details();
    // The change is done; a machine that stands still has not told everybody in time.
    if details
        .error_info()
        .is_some_and(|info| info.reason == "CHANGE_PENDING")
    {
        return true;
    }
    let ours = [
        Code::Internal,
        Code::Unknown,
        Code::DataLoss,
        Code::Unavailable,
    ];
    !ours.contains(&status.code())
}

#[tokio::test]
async fn whatever_a_message_holds_no_method_fails_over_it() {
    let world = World::start().await;
    let channel = world.channel().await;
    let stage = Stage::set(&world).await;
    let token = stage.workspace.token.as_str();
    let mut maker = Maker {
        random: StdRng::seed_from_u64(23),
        messages: messages(),
        ids: vec![
            stage.webhook.to_string(),
            stage.delivery.to_string(),
            stage.event.clone(),
            stage.job.to_string(),
        ],
    };
    let (mut codes, mut floods) = (BTreeMap::<String, u32>::new(), 0);
    let mut methods = methods();
    methods.retain(|method| !method.streams);
    methods.sort_by_key(|method| ENDS.iter().any(|word| method.name.starts_with(word)));
    let mut found = 0;
    for method in &methods {
        let name = method.name.as_str();
        let mut has_found = false;
        for n in 0..EACH {
            let message = maker.request(method);
            let answer = send(&channel, method, token, message.clone()).await;
            assert!(
                is_fair(&answer),
                "{name} ({n}): {answer:?} to {message:02x?}"
            );
            let code = answer.map_or_else(|status| status.code(), |_| Code::Ok);
            has_found |= ![Code::InvalidArgument, Code::NotFound].contains(&code);
            *codes.entry(format!("{code:?}")).or_default() += 1;
        }
        found += u32::from(has_found);
        if let Some(message) = maker.flood(method) {
            let answer = send(&channel, method, token, message).await;
            assert!(is_fair(&answer), "{name}: a flood: {answer:?}");
            floods += 1;
        }
    }
    // Nonsense of all kinds: some was refused, some was harmless, and some did something.
    for code in ["InvalidArgument", "NotFound", "Ok"] {
        assert!(
            codes.get(code).is_some_and(|count| *count > 100),
            "{codes:?}"
        );
    }
    assert!(floods > 3, "{floods}");
    // Most came as far as to something that is there.
    let asked = u32::try_from(methods.len()).unwrap();
    assert!(found > asked / 2, "{found} of {asked} methods");
    let well = world.get("/v1/webhooks", token).await;
    assert_eq!(well.status, 200, "{well:?}");
}
