//! What answers tell of what is secret: nothing, but for those that are there to show it once.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderMap;
use prost::Message as _;
use prost_types::{DescriptorProto, field_descriptor_proto::Type};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Map, Value, json};
use tonic::{Response, Status};
use webhooks_domain::{sealing::Purpose, webhook::Plan};
use webhooks_proto::v1::{
    self,
    endpoint_auth::{Bearer, Kind},
};

use super::{call, prepared, token_of, unary};
use crate::{
    document::{self, Operation, Stage},
    methods::{Method, messages},
    nonsense::ENDS,
    options::{configured, open},
    support::{ENCRYPTION_KEYS, INTERNAL_TOKEN, OPERATOR_TOKEN, World},
};

const HEADER: &str = "canary-header-7d2f9b4c1e6a";
const BEARER: &str = "canary-bearer-3e8a5c0d7f1b";

/// Methods that make a secret, and show it this once.
const SHOW: [&str; 4] = [
    "CreateWebhook",
    "CreateWorkspaceToken",
    "IssueWorkspaceToken",
    "RotateWebhookSecret",
];

/// Something that must not be seen.
struct Known {
    what: String,
    /// As it is, in base64, in hex.
    forms: Vec<Vec<u8>>,
}

impl Known {
    fn new(what: &str, value: &[u8]) -> Self {
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            what: what.to_owned(),
            forms: vec![
                value.to_vec(),
                STANDARD.encode(value).into_bytes(),
                hex.into_bytes(),
            ],
        }
    }

    /// A signing secret or an access token, as it was shown.
    fn shown(what: &str, text: &str) -> Vec<Self> {
        match text.strip_prefix("whsec_") {
            // Of the text its beginning: one that is cut off is a secret too.
            Some(key) => {
                let mut all = vec![Self::new(what, &key.as_bytes()[..32])];
                let bytes = STANDARD.decode(key).ok();
                all.extend(bytes.map(|bytes| Self::new(what, &bytes)));
                all
            }
            // Its id is no secret.
            None => vec![Self::new(what, &text.as_bytes()["lbk_test_".len() + 12..])],
        }
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.forms.iter().any(|form| {
            bytes
                .windows(form.len())
                .any(|part| part == form.as_slice())
        })
    }
}

/// Whole signing secrets and access tokens, which are told by their form. Masks are shorter.
fn told_by_form(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut found = Vec::new();
    for mark in ["whsec_", "lbk_live_", "lbk_test_"] {
        for (at, _) in text.match_indices(mark) {
            let rest = &text[at + mark.len()..];
            let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            if end >= 32 {
                found.push(format!("{mark}{}", &rest[..end]));
            }
        }
    }
    found
}

/// A stage whose webhook has every secret that one can have.
struct Guarded {
    stage: Stage,
    known: Vec<Known>,
    /// The client certificate, and its key.
    certificate: String,
    key: String,
}

impl Guarded {
    async fn set(world: &World) -> Self {
        let stage = Stage::set(world).await;
        let (token, id) = (stage.workspace.token.as_str(), stage.webhook.to_string());
        let pair = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&pair).unwrap().pem();
        let key = pair.serialize_pem();
        webhooks_devstack::note_secret(key.as_bytes());
        let wish = json!({
            "headers": [{ "name": "X-Key", "value": HEADER }],
            "auth": { "type": "bearer", "token": BEARER },
            "clientCertificate": { "certificate": certificate, "privateKey": key },
        });
        let changed = world.patch(&id, token, &wish).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        let path = format!("/v1/webhooks/{id}/secret/rotate");
        let rotated = world
            .write(reqwest::Method::POST, &path, token, &[], &json!({}))
            .await;
        assert_eq!(rotated.status, 200, "{:?}", rotated.body["codeType"]);

        let mut known = vec![
            Known::new("the header's value", HEADER.as_bytes()),
            Known::new("the endpoint's bearer token", BEARER.as_bytes()),
        ];
        // The last line of a key may be its public half.
        let lines: Vec<&str> = key
            .lines()
            .filter(|one| !one.starts_with("-----"))
            .collect();
        for line in &lines[..lines.len() - 1] {
            known.push(Known::new("a line of the private key", line.as_bytes()));
        }
        let config = configured(world, stage.workspace.id, stage.webhook).await;
        let extras = open(&config, Purpose::Extras, config.extras.as_ref().unwrap());
        // There is something to be seen.
        for one in &known {
            assert!(one.is_in(&extras), "{} is not stored", one.what);
        }
        let seed = open(&config, Purpose::Ed25519, config.ed25519.as_ref().unwrap());
        webhooks_devstack::note_secret(&seed);
        let (_, sealing) = ENCRYPTION_KEYS.split_once(':').unwrap();
        known.extend([
            Known::new("the private key", &pair.serialize_der()),
            Known::new("the seed of v1a", &seed),
            Known::new("the operator's token", OPERATOR_TOKEN.as_bytes()),
            Known::new("the internal token", INTERNAL_TOKEN.as_bytes()),
            Known::new("the sealing key", &STANDARD.decode(sealing).unwrap()),
        ]);
        let second = rotated.body["secret"].as_str().unwrap();
        known.extend(Known::shown("the first signing secret", &stage.secret));
        known.extend(Known::shown("the second signing secret", second));
        known.extend(Known::shown("the workspace's token", token));
        Self {
            stage,
            known,
            certificate,
            key,
        }
    }

    /// What is known to be secret and is in what was told.
    fn seen_in(&self, told: &[u8]) -> Vec<&str> {
        let seen = self.known.iter().filter(|one| one.is_in(told));
        seen.map(|one| one.what.as_str()).collect()
    }

    /// Whether something shows whole secrets, which are known from now on.
    fn learn(&mut self, name: &str, told: &[u8]) -> bool {
        let shown = told_by_form(told);
        for text in &shown {
            self.known
                .extend(Known::shown(&format!("what {name} has shown"), text));
        }
        !shown.is_empty()
    }

    /// Secrets where they belong, and none of them as it has to be.
    fn broken(&self, method: &str) -> Option<Vec<u8>> {
        let id = self.stage.webhook.to_string();
        let secret = self.stage.secret[..self.stage.secret.len() - 1].to_owned();
        let endpoint_url = format!("https://us:{BEARER}@example.com/hook");
        let headers = vec![v1::Header {
            name: "X-Key".into(),
            value: format!("{HEADER}\n{HEADER}"),
        }];
        let auth = Some(v1::EndpointAuth {
            kind: Some(Kind::Bearer(Bearer {
                token: format!("{BEARER}\n{BEARER}"),
            })),
        });
        let client_certificate = Some(v1::ClientCertificate {
            certificate: self.certificate.clone(),
            private_key: self.broken_key(),
            ..v1::ClientCertificate::default()
        });
        match method {
            "CreateWebhook" => Some(
                v1::CreateWebhookRequest {
                    name: "broken".into(),
                    endpoint_url,
                    headers,
                    auth,
                    secret,
                    client_certificate,
                    ..v1::CreateWebhookRequest::default()
                }
                .encode_to_vec(),
            ),
            "UpdateWebhook" => Some(
                v1::UpdateWebhookRequest {
                    id,
                    endpoint_url: Some(endpoint_url),
                    headers: Some(v1::HeaderList { headers }),
                    auth,
                    client_certificate,
                    ..v1::UpdateWebhookRequest::default()
                }
                .encode_to_vec(),
            ),
            "RotateWebhookSecret" => Some(
                v1::RotateWebhookSecretRequest {
                    webhook_id: id,
                    secret,
                    ..v1::RotateWebhookSecretRequest::default()
                }
                .encode_to_vec(),
            ),
            _ => None,
        }
    }

    fn broken_key(&self) -> String {
        self.key.replacen("-----END", "-----AND", 1)
    }

    /// Bodies that no operation takes, with secrets in them.
    fn broken_bodies(&self, schema: &Value) -> Vec<String> {
        let text = self.stage.workspace.token.as_str();
        let secret = &self.stage.secret[..self.stage.secret.len() - 1];
        let members = schema["properties"].as_object().into_iter().flatten();
        let mut all: Map<String, Value> = members
            .map(|(name, _)| (name.clone(), json!(text)))
            .collect();
        all.insert("surprise".to_owned(), json!(text));
        let places = json!({
            "name": "broken",
            "endpointUrl": format!("https://us:{BEARER}@example.com/hook"),
            "secret": secret,
            "headers": [{ "name": "X-Key", "value": format!("{HEADER}\n{HEADER}") }],
            "auth": { "type": "bearer", "token": format!("{BEARER}\n{BEARER}") },
            "clientCertificate": {
                "certificate": self.certificate, "privateKey": self.broken_key(),
            },
            "surprise": { "key": text },
        });
        vec![
            text.to_owned(),
            format!("{{\"name\":\"{text}\""),
            json!(text).to_string(),
            json!([text]).to_string(),
            Value::Object(all).to_string(),
            places.to_string(),
        ]
    }
}

/// A message with this text in every field for texts, but for those of these names.
fn careless(
    of: &DescriptorProto,
    messages: &BTreeMap<String, DescriptorProto>,
    text: &str,
    but: &[&str],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in &of.field {
        if but.contains(&field.name()) {
            continue;
        }
        let number = u32::try_from(field.number()).unwrap();
        match field.r#type() {
            Type::String => prost::encoding::string::encode(number, &text.to_owned(), &mut bytes),
            Type::Message => {
                let inner = messages.get(field.type_name());
                let inner = inner.map(|inner| careless(inner, messages, text, but));
                if let Some(inner) = inner.filter(|inner| !inner.is_empty()) {
                    prost::encoding::bytes::encode(number, &inner, &mut bytes);
                }
            }
            _ => {}
        }
    }
    bytes
}

/// All that an answer tells, its headers too.
fn told(answer: &Result<Response<Vec<u8>>, Status>) -> Vec<u8> {
    let (body, metadata) = match answer {
        Ok(response) => (response.get_ref().clone(), response.metadata()),
        Err(status) => {
            let parts = [status.message().as_bytes(), status.details()];
            (parts.join(&b'\n'), status.metadata())
        }
    };
    with_headers(body, &metadata.clone().into_headers())
}

fn with_headers(mut told: Vec<u8>, headers: &HeaderMap) -> Vec<u8> {
    for value in headers.values() {
        told.push(b'\n');
        told.extend_from_slice(value.as_bytes());
    }
    told
}

/// What makes secrets comes first, so that they are known to whoever comes later; what ends something
/// comes last.
fn turn(method: &Method) -> u8 {
    let name = method.name.as_str();
    match (SHOW.contains(&name), ends(name)) {
        (true, _) => 0,
        (false, false) => 1,
        (false, true) => 2,
    }
}

fn ends(method: &str) -> bool {
    ENDS.iter().any(|word| method.starts_with(word))
}

#[tokio::test]
async fn no_answer_of_grpc_shows_a_secret_but_creation_and_rotation() {
    let world = World::start().await;
    let channel = world.channel().await;
    let (mut methods, messages) = (unary(), messages());
    methods.sort_by_key(turn);
    let foreign = world.workspace(Plan::Enterprise).await;
    let mut guarded = Guarded::set(&world).await;
    let (mut wrong, mut shown) = (Vec::new(), BTreeSet::new());
    for method in &methods {
        let name = method.name.as_str();
        if ends(name) {
            guarded = Guarded::set(&world).await;
        }
        let ask = prepared(&channel, method, &guarded.stage).await;
        let changes = ask.trace.is_some();
        let own = token_of(method, &guarded.stage).to_owned();
        // What is asked, by whom, with what, and whether it is answered: `None` = it may be.
        let mut calls = vec![
            ("without a token", "", ask.message.clone(), None),
            (
                "with a foreign token",
                foreign.token.as_str(),
                ask.message.clone(),
                None,
            ),
            ("unreadable", own.as_str(), vec![0xff; 16], Some(false)),
        ];
        let ids = ["idempotency_key", "id", "webhook_id", "workspace_id"];
        for (how, but) in [
            ("with a token for each text", &ids[..1]),
            ("with a token for each text but ids", &ids[..]),
        ] {
            let token = guarded.stage.workspace.token.clone();
            let texts = careless(&method.request, &messages, &token, but);
            if !texts.is_empty() {
                let message = [ask.message.clone(), texts].concat();
                // What only looks may find nothing, and say so.
                let answered = changes.then_some(false);
                calls.push((how, own.as_str(), message, answered));
            }
        }
        if let Some(message) = guarded.broken(name) {
            calls.push(("with broken secrets", own.as_str(), message, Some(false)));
        }
        calls.push(("as it is meant", own.as_str(), ask.message, Some(true)));
        for (how, token, message, answered) in calls {
            let answer = call(&channel, method, token, message).await;
            let told = told(&answer);
            webhooks_devstack::note_answer(&told);
            let seen = guarded.seen_in(&told).into_iter();
            wrong.extend(seen.map(|what| format!("{name}, {how}: {what}")));
            if guarded.learn(name, &told) {
                shown.insert(name);
            }
            if let Some(answered) = answered {
                let code = answer.map_or_else(|status| status.code(), |_| tonic::Code::Ok);
                assert_eq!(code == tonic::Code::Ok, answered, "{name}, {how}: {code:?}");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(shown.into_iter().collect::<Vec<_>>(), SHOW);
}

/// What a part of the document stands for.
fn resolved<'a>(document: &'a Value, part: &'a Value) -> &'a Value {
    match part["$ref"].as_str() {
        Some(target) => document.pointer(target.strip_prefix('#').unwrap()).unwrap(),
        None => part,
    }
}

/// The names that an operation's query may hold.
fn query_names(document: &Value, operation: &Operation) -> Vec<String> {
    let all = operation.described["parameters"].as_array();
    let all = all.into_iter().flatten();
    let all = all.map(|one| resolved(document, one));
    let query = all.filter(|one| one["in"] == "query");
    query
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn no_refusal_of_rest_shows_a_secret() {
    let world = World::start().await;
    let (document, operations) = document::document(&world).await;
    let foreign = world.workspace(Plan::Enterprise).await;
    let guarded = Guarded::set(&world).await;
    let stage = &guarded.stage;
    let text = stage.workspace.token.as_str();
    let (mut wrong, mut bodies, mut queries) = (Vec::new(), 0, 0);
    for operation in operations.iter().filter(|one| one.is_json()) {
        let has_id = operation.path.contains("{id}");
        let path = match has_id {
            true => operation.path.replace("{id}", &stage.id(&operation.path)),
            false => operation.path.clone(),
        };
        let own = document::token_of(operation, &stage.workspace);
        let example = operation.example().map(|example| example.to_string());
        // As it may be answered, and as it may not.
        let mut asked = vec![
            (path.clone(), "", None, false),
            (path.clone(), foreign.token.as_str(), example, false),
        ];
        if has_id {
            asked.push((operation.path.replace("{id}", text), own, None, true));
        }
        let names = query_names(&document, operation);
        if !names.is_empty() {
            let query: Vec<_> = names.iter().map(|name| format!("{name}={text}")).collect();
            let path = format!("{path}?{}", query.join("&"));
            asked.push((path, own, None, true));
            queries += 1;
        }
        let content = &operation.described["requestBody"]["content"]["application/json"];
        if content.is_object() {
            let schema = resolved(&document, &content["schema"]);
            for body in guarded.broken_bodies(schema) {
                asked.push((path.clone(), own, Some(body), true));
            }
            bodies += 1;
        }
        for (path, token, body, refused) in asked {
            let json = [("content-type", "application/json")];
            let headers = match &body {
                Some(_) => &json[..],
                None => &json[..0],
            };
            let method = operation.method.clone();
            let reply = world.send(method, &path, token, headers, body).await;
            let status = reply.status;
            if refused && !status.is_client_error() {
                wrong.push(format!("{}: {status} for nonsense", operation.id));
            }
            let told = with_headers(reply.body.to_string().into_bytes(), &reply.headers);
            let seen = guarded.seen_in(&told).into_iter();
            wrong.extend(seen.map(|what| format!("{}: {status} shows {what}", operation.id)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        bodies > 15 && queries > 10,
        "{bodies} with a body, {queries} with a query"
    );
}
