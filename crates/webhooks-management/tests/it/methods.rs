//! Every public method of gRPC, found in the descriptors and called by its path: what it takes, what
//! it says to strangers, and that what the transport refuses is put as the API puts it.

use std::{collections::BTreeMap, time::Duration};

use axum::body::Body;
use bytes::{Buf as _, BufMut as _};
use http::{HeaderMap, uri::PathAndQuery};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use prost_types::{
    DescriptorProto, FileDescriptorProto, FileDescriptorSet, field_descriptor_proto::Type,
};
use tokio::{net::TcpStream, time::Instant};
use tonic::{
    Code, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};
use tonic_types::StatusExt as _;
use uuid::Uuid;
use webhooks_devstack::{
    nonsense::{self, framed},
    wait_until,
};
use webhooks_domain::webhook::Plan;
use webhooks_proto::FILE_DESCRIPTOR_SET;

use crate::{
    document::Stage,
    support::{LIMIT, OPERATOR_TOKEN, World, with_token},
};

/// The public API.
const PACKAGE: &str = "linkbreakers.webhooks.v1";

/// Methods that need no credentials.
const PUBLIC: [&str; 4] = [
    "GetSourceIps",
    "GetWebhookPublicKeys",
    "ListApiScopes",
    "ListPricingPlans",
];

/// Methods whose webhook is a filter, which may name one that is gone.
const FILTERS: [&str; 1] = ["ListDeliveries"];

/// What REST calls otherwise.
const OTHERWISE: [(&str, &str); 1] = [("GetDeliveryRequestContent", "getDeliveryRequest")];

/// A method as it is declared.
pub(crate) struct Method {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) operator: bool,
    /// Its answer has no end.
    pub(crate) streams: bool,
    pub(crate) request: DescriptorProto,
}

/// The files that declare the public API.
fn files() -> Vec<FileDescriptorProto> {
    let mut files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file;
    files.retain(|file| file.package() == PACKAGE);
    files
}

/// Every message of the public API, by the name that fields call it.
pub(crate) fn messages() -> BTreeMap<String, DescriptorProto> {
    nonsense::messages(FILE_DESCRIPTOR_SET, PACKAGE).unwrap()
}

/// Every public method that management serves.
pub(crate) fn methods() -> Vec<Method> {
    let (files, messages) = (files(), messages());
    let mut all = Vec::new();
    for service in files.iter().flat_map(|file| &file.service) {
        // Ingest's own door.
        if service.name() == "EventService" {
            continue;
        }
        for method in &service.method {
            all.push(Method {
                name: method.name().to_owned(),
                path: format!(
                    "/linkbreakers.webhooks.v1.{}/{}",
                    service.name(),
                    method.name()
                ),
                operator: service.name() == "OperatorService",
                streams: method.server_streaming(),
                request: messages[method.input_type()].clone(),
            });
        }
    }
    assert!(all.len() > 40, "{} methods", all.len());
    all
}

impl Method {
    /// Whether a request names something.
    fn has_id(&self) -> bool {
        let mut fields = self.request.field.iter();
        fields.any(|field| ["id", "webhook_id", "workspace_id"].contains(&field.name()))
    }

    /// A request about this, and with nothing else in it.
    fn about(&self, id: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in &self.request.field {
            let is_id = ["id", "webhook_id", "workspace_id"].contains(&field.name());
            if is_id && field.r#type() == Type::String {
                let number = u32::try_from(field.number()).unwrap();
                prost::encoding::string::encode(number, &id.to_owned(), &mut bytes);
            }
        }
        bytes
    }
}

/// Messages as their bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut all = vec![0; from.remaining()];
        from.copy_to_slice(&mut all);
        Ok(Some(all))
    }
}

async fn call(
    channel: &Channel,
    method: &Method,
    id: &str,
    token: &str,
) -> Result<Vec<u8>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::try_from(method.path.as_str()).unwrap();
    let request = match token {
        "" => tonic::Request::new(method.about(id)),
        token => with_token(token, method.about(id)),
    };
    let answer = grpc.unary(request, path, Raw).await?;
    Ok(answer.into_inner())
}

/// What a caller learns from an answer.
fn learnt(answer: &Result<Vec<u8>, Status>) -> (Code, String, Vec<u8>) {
    match answer {
        Ok(body) => (Code::Ok, String::new(), body.clone()),
        Err(status) => (
            status.code(),
            status.message().to_owned(),
            status.details().to_vec(),
        ),
    }
}

#[tokio::test]
async fn every_method_takes_its_scope_the_same_as_over_rest() {
    let world = World::start().await;
    let channel = world.channel().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let scopes = [
        "analytics:read",
        "events:write",
        "tokens:read",
        "tokens:write",
        "webhooks:read",
        "webhooks:write",
        "workspace:read",
    ];
    let document = world.get("/openapi.json", "").await.body;
    let rest: BTreeMap<_, _> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values())
        .map(|operation| {
            let scope = operation["security"][0]["workspaceToken"][0].as_str();
            (operation["operationId"].as_str().unwrap(), scope)
        })
        .collect();
    let nothing = world.token(workspace.id, &["publishable"]).await;
    let unknown = Uuid::new_v4().to_string();
    for method in methods() {
        let name = method.name.as_str();
        let nobody = call(&channel, &method, &unknown, "").await;
        if PUBLIC.contains(&name) {
            assert_ne!(learnt(&nobody).0, Code::Unauthenticated, "{name}");
            continue;
        }
        assert_eq!(learnt(&nobody).0, Code::Unauthenticated, "{name}");
        if method.operator {
            let refused = call(&channel, &method, &unknown, &workspace.token).await;
            assert_eq!(learnt(&refused).0, Code::Unauthenticated, "{name}");
            let admitted = learnt(&call(&channel, &method, &unknown, OPERATOR_TOKEN).await).0;
            assert_ne!(admitted, Code::Unauthenticated, "{name}");
            continue;
        }
        let refused = call(&channel, &method, &unknown, &nothing)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{name}");
        let details = refused.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.reason, "MISSING_SCOPE", "{name}");
        let scope = info.metadata["scope"].clone();
        // One service behind two faces: the same scope on both.
        let otherwise = OTHERWISE.iter().find(|(grpc, _)| *grpc == name);
        let lower = format!("{}{}", name[..1].to_lowercase(), &name[1..]);
        let operation = otherwise.map_or(lower.as_str(), |(_, rest)| rest);
        let told = rest.get(operation);
        let told = told.unwrap_or_else(|| panic!("{name}: REST has no {operation}"));
        assert_eq!(*told, Some(scope.as_str()), "{name}");
        // Every scope but those that grant it.
        let resource = scope.split(':').next().unwrap();
        let others: Vec<&str> = scopes
            .into_iter()
            .filter(|other| {
                let same = other.split(':').next().unwrap() == resource;
                !same || (scope.ends_with(":write") && other.ends_with(":read"))
            })
            .collect();
        let lacking = world.token(workspace.id, &others).await;
        let refused = call(&channel, &method, &unknown, &lacking).await;
        assert_eq!(learnt(&refused).0, Code::PermissionDenied, "{name}");
        let having = world.token(workspace.id, &[scope.as_str()]).await;
        let admitted = learnt(&call(&channel, &method, &unknown, &having).await).0;
        // A token grants what it holds, and this one holds one scope.
        let allowed = name == "CreateWorkspaceToken"
            || ![Code::Unauthenticated, Code::PermissionDenied].contains(&admitted);
        assert!(allowed, "{name} with {scope}: {admitted:?}");
    }
}

#[tokio::test]
async fn a_strangers_id_is_answered_like_an_unknown_one_by_every_method() {
    let world = World::start().await;
    let channel = world.channel().await;
    let owner = Stage::set(&world).await;
    let stranger = world.workspace(Plan::Enterprise).await;
    let mut count = 0;
    for method in methods() {
        let name = method.name.as_str();
        if method.operator || PUBLIC.contains(&name) || !method.has_id() {
            continue;
        }
        let unknown = Uuid::new_v4().to_string();
        let expected = learnt(&call(&channel, &method, &unknown, &stranger.token).await);
        let filters = FILTERS.contains(&name);
        let code = if filters { Code::Ok } else { Code::NotFound };
        assert_eq!(expected.0, code, "{name}: {expected:?}");
        for id in owner.all() {
            // A filter takes ids of one kind.
            if filters && id != owner.webhook.to_string() {
                continue;
            }
            let reply = learnt(&call(&channel, &method, &id, &stranger.token).await);
            assert_eq!(reply, expected, "{name} of {id}");
            count += 1;
        }
    }
    assert!(count > 100, "{count} calls");
    // Nothing of the owner's has changed.
    let token = owner.workspace.token.as_str();
    for (path, member, expected) in [
        (
            format!("/v1/webhooks/{}", owner.webhook),
            "/webhook/revision",
            "1",
        ),
        (
            format!("/v1/deliveries/{}", owner.delivery),
            "/delivery/state",
            "\"PENDING\"",
        ),
        (
            format!("/v1/jobs/{}", owner.job),
            "/job/state",
            "\"PENDING\"",
        ),
        (
            format!("/v1/workspace-tokens/{}", owner.token),
            "/token/fullAccess",
            "false",
        ),
    ] {
        let shown = world.get(&path, token).await.body;
        let value = shown.pointer(member).map(ToString::to_string);
        assert_eq!(value.as_deref(), Some(expected), "{path}");
    }
}

/// A call as bytes: the head of its answer.
async fn raw(world: &World, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> HeaderMap {
    let address = world.context.announcer.addresses()["grpc"];
    let stream = TcpStream::connect(address).await.unwrap();
    let executor = TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream))
            .await
            .unwrap();
    let mut request = http::Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body)).unwrap();
    let answer = async {
        let response = sender.send_request(request).await.unwrap();
        response.headers().clone()
    };
    tokio::select! {
        headers = answer => headers,
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

/// A message in its frame.
fn code(headers: &HeaderMap) -> Code {
    Code::from_bytes(headers["grpc-status"].as_bytes())
}

const LIST: &str = "/linkbreakers.webhooks.v1.WebhookService/ListWebhooks";
const CREATE: &str = "/linkbreakers.webhooks.v1.WebhookService/CreateWebhook";

#[tokio::test]
async fn a_deadline_that_is_over_ends_the_work_and_is_told_as_such() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let bearer = format!("Bearer {}", workspace.token);
    let with = |timeout: &'static str| {
        [
            ("authorization", bearer.as_str()),
            ("x-request-id", "mine"),
            ("grpc-timeout", timeout),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let ask = async |path: &str, timeout: &'static str, message: Vec<u8>| {
        let headers = with(timeout);
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        raw(&world, path, &headers, framed(&message)).await
    };
    let in_time = ask(LIST, "20S", Vec::new()).await;
    assert!(!in_time.contains_key("grpc-status"), "{in_time:?}");
    let late = ask(LIST, "1n", Vec::new()).await;
    assert_eq!(code(&late), Code::DeadlineExceeded, "{late:?}");
    assert_eq!(late["x-request-id"], "mine");
    assert!(late.contains_key("grpc-status-details-bin"));
    // Nobody reads webhooks while this lasts: the call ends at its deadline all the same.
    let lock = "DO $$ BEGIN LOCK TABLE webhooks IN ACCESS EXCLUSIVE MODE;
        FOR turn IN 1..1000 LOOP
          PERFORM pg_stat_clear_snapshot();
          EXIT WHEN EXISTS (SELECT 1 FROM webhook_stats WHERE success_count = 4711);
          PERFORM pg_sleep(0.01);
        END LOOP; END $$";
    let held =
        async {
            wait_until("the lock", LIMIT, async || {
                let locks = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock'
                AND relation = 'webhooks'::regclass AND granted";
                match world.sql(locks).await.trim() {
                    "1" => Ok(()),
                    other => Err(other.to_owned()),
                }
            })
            .await
            .unwrap();
            let begun = Instant::now();
            let late = ask(LIST, "300m", Vec::new()).await;
            let took = begun.elapsed();
            world
            .sql("INSERT INTO webhook_stats (webhook_id, success_count, failure_count, changed_by)
                VALUES (gen_random_uuid(), 4711, 0, pg_current_xact_id())")
            .await;
            (late, took)
        };
    let ((late, took), _) = tokio::join!(held, world.sql(lock));
    assert_eq!(code(&late), Code::DeadlineExceeded);
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_secs(8),
        "{took:?}"
    );
    // A change that comes too late is not begun.
    let wish = webhooks_proto::v1::CreateWebhookRequest {
        name: "late".into(),
        endpoint_url: "https://example.com/".into(),
        ..Default::default()
    };
    let late = ask(CREATE, "1n", wish.encode_to_vec()).await;
    assert_eq!(code(&late), Code::DeadlineExceeded);
    let list = world.get("/v1/webhooks", &workspace.token).await;
    assert_eq!(list.body["totalCount"], 0);
}

#[tokio::test]
async fn what_cannot_be_read_is_the_callers_mistake() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let bearer = format!("Bearer {}", workspace.token);
    let headers = [("authorization", bearer.as_str())];
    for (broken, expected) in [
        (framed(&[0xff; 16]), Code::InvalidArgument),
        (framed(b"\x0a\x05ab"), Code::InvalidArgument),
        // More than any method reads, and nothing of it is sent.
        (vec![0, 0x7f, 0xff, 0xff, 0xff], Code::ResourceExhausted),
        (framed(&vec![b'a'; 300 * 1024]), Code::ResourceExhausted),
        // Compressed, it says, and not how.
        (vec![1, 0, 0, 0, 0], Code::InvalidArgument),
    ] {
        let answer = raw(&world, CREATE, &headers, broken).await;
        assert_eq!(code(&answer), expected, "{answer:?}");
        assert!(answer.contains_key("grpc-status-details-bin"));
        assert!(answer.contains_key("x-request-id"));
    }
    let unknown = raw(
        &world,
        "/linkbreakers.webhooks.v1.WebhookService/Nothing",
        &headers,
        framed(&[]),
    )
    .await;
    assert_eq!(code(&unknown), Code::Unimplemented);
}
