//! A real nats-server, ingest in this process, and callers for its three doors.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::transport::Channel;
use uuid::Uuid;
use webhooks_bus::{
    Bus, BusSettings, ConfigWriter, Outgoing, PublishError, Stored, StoredMessage, headers, names,
    subjects,
};
use webhooks_devstack::{NatsServer, wait_until};
use webhooks_domain::{
    event::EventLimits,
    token::{MINT_BYTES, Token, TokenEnvironment},
};
use webhooks_ingest::{AcceptSettings, BODY_MEMORY, Config, Ingest};
use webhooks_proto::{
    internal::v1::{DeadLetter, TokenConfig},
    v1::event_service_client::EventServiceClient,
};
use webhooks_runtime::{Context, OnError, callers::CallerSettings, tls::GrpcServerTls};

/// Generous: the machine may be busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const WORKSPACE: Uuid = Uuid::from_u128(0xa39d_bbfb_be5e_41c8_b49a_7c9a_da52_0fa4);
pub(crate) const OTHER: Uuid = Uuid::from_u128(0xb000);
pub(crate) const LINK: Uuid = Uuid::from_u128(0xa333);

pub(crate) struct Stack {
    pub(crate) nats: NatsServer,
    pub(crate) bus: Bus,
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) token: Token,
    pub(crate) ctx: Context,
    _folder: TempDir,
}

/// What a test changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) bus: BusSettings,
    pub(crate) quota_per_second: u32,
    pub(crate) body_memory: Option<usize>,
    pub(crate) callers: Option<CallerSettings>,
    /// Long, so that a machine that stands still for a moment makes no 503 of a 202.
    pub(crate) publish_timeout: Option<Duration>,
}

impl Stack {
    pub(crate) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nats = NatsServer::builder(folder.path()).start().await.unwrap();
        let settings = BusSettings {
            url: nats.url(),
            ..options.bus.clone()
        };
        let bus = Bus::connect(settings.clone(), "test").await.unwrap();
        wait_until("the connection", LIMIT, async || {
            if bus.is_connected() {
                Ok(())
            } else {
                Err("away")
            }
        })
        .await
        .unwrap();
        wait_until("the streams", LIMIT, async || bus.apply_topology().await)
            .await
            .unwrap();
        let ctx = Context::for_tests();
        let ingest = Ingest::build(config(settings, &options), &ctx)
            .await
            .unwrap();
        let (http, grpc) = (ingest.http_address(), ingest.grpc_address());
        let inner = ctx.clone();
        ctx.tasks.spawn("ingest", OnError::StopService, async move {
            ingest.run(inner).await
        });
        let stack = Self {
            nats,
            bus,
            http,
            grpc,
            token: token(1),
            ctx,
            _folder: folder,
        };
        stack.put_token(&stack.token, &[]).await;
        stack.ready().await;
        stack
    }

    pub(crate) async fn put_token(&self, token: &Token, scopes: &[&str]) {
        let config = TokenConfig {
            id: token.id().to_owned(),
            workspace_id: Bytes::copy_from_slice(WORKSPACE.as_bytes()),
            hash: Bytes::copy_from_slice(&token.hash()),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            expires_at: 0,
            events_per_second: 0,
            revision: 1,
        };
        ConfigWriter::new(&self.bus)
            .put_token(&config)
            .await
            .unwrap();
    }

    /// Waits until ingest says it is ready, and knows the token.
    pub(crate) async fn ready(&self) {
        wait_until("readiness", LIMIT, async || {
            let state = self.ctx.readiness.state();
            if state.is_ready() {
                Ok(())
            } else {
                Err(state.missing())
            }
        })
        .await
        .unwrap();
        wait_until("the token to be known", LIMIT, async || {
            let answer = self.post("{}").await;
            if answer.status == 400 {
                Ok(())
            } else {
                Err(answer)
            }
        })
        .await
        .unwrap();
    }

    /// Stops ingest as SIGTERM would.
    pub(crate) async fn stop(self) {
        self.ctx.shutdown.cancel();
        self.ctx.tasks.drain(LIMIT).await.unwrap();
        assert!(self.ctx.tasks.take_fatal().is_none());
    }

    pub(crate) async fn post(&self, body: impl Into<Vec<u8>>) -> Answer {
        self.post_with(&[], body).await
    }

    pub(crate) async fn post_with(
        &self,
        extra: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        post_to(self.http, &self.token, extra, body).await
    }

    pub(crate) async fn grpc(&self) -> EventServiceClient<Channel> {
        EventServiceClient::connect(format!("http://{}", self.grpc))
            .await
            .unwrap()
    }

    pub(crate) fn authorised<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let value = format!("Bearer {}", self.token.reveal()).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        request
    }

    /// Publishes as a NATS publisher would.
    pub(crate) async fn publish(&self, id: &str, payload: &str) -> Result<Stored, PublishError> {
        self.publish_to(subjects::intake(WORKSPACE), id, payload)
            .await
    }

    pub(crate) async fn publish_to(
        &self,
        subject: String,
        id: &str,
        payload: &str,
    ) -> Result<Stored, PublishError> {
        let message = Outgoing::new(subject, id, Bytes::copy_from_slice(payload.as_bytes()));
        self.bus.publish(message, LIMIT).await
    }

    /// Waits until EVENTS holds this many, and returns them.
    pub(crate) async fn events(&self, count: u64) -> Vec<StoredMessage> {
        self.messages(names::EVENTS, count).await
    }

    /// Waits until so many dead letters are kept, and returns them.
    pub(crate) async fn dead_letters(&self, count: u64) -> Vec<DeadLetter> {
        use prost::Message as _;
        let messages = self.messages(names::REFUSED, count).await;
        messages
            .into_iter()
            .map(|message| DeadLetter::decode(message.payload).unwrap())
            .collect()
    }

    pub(crate) async fn empty(&self, stream: &str) {
        wait_until(&format!("{stream} to be empty"), LIMIT, async || match self
            .bus
            .message_count(stream)
            .await
        {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap();
    }

    async fn messages(&self, stream: &str, count: u64) -> Vec<StoredMessage> {
        wait_until(
            &format!("{count} messages on {stream}"),
            LIMIT,
            async || match self.bus.message_count(stream).await {
                Ok(found) if found == count => Ok(()),
                other => Err(format!("{other:?}")),
            },
        )
        .await
        .unwrap();
        let mut messages = Vec::new();
        let mut next = 1;
        while let Some(message) = self.bus.get_next(stream, ">", next).await.unwrap() {
            next = message.seq + 1;
            messages.push(message);
        }
        messages
    }
}

fn config(bus: BusSettings, options: &Options) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Config {
        bus,
        http_address: any,
        grpc_address: any,
        grpc_tls: GrpcServerTls::default(),
        // A token that ingest has not heard of yet counts as a wrong one, and tests wait for theirs.
        callers: options.callers.clone().unwrap_or(CallerSettings {
            failures_per_minute: 1_000_000,
            ..CallerSettings::default()
        }),
        max_connections: 64,
        intake_concurrency: 64,
        body_memory: options.body_memory.unwrap_or(BODY_MEMORY),
        accept: AcceptSettings {
            publish_timeout: options.publish_timeout.unwrap_or(Duration::from_secs(8)),
            max_in_flight: 1_024,
            quota_per_second: options.quota_per_second,
            limits: EventLimits::DEFAULT,
        },
    }
}

pub(crate) fn token(seed: u8) -> Token {
    Token::mint(TokenEnvironment::Test, &[seed; MINT_BYTES])
}

/// An event of the workspace. `mark` makes its body another one.
pub(crate) fn event(id: &str, mark: &str) -> String {
    event_of(WORKSPACE, id, mark)
}

pub(crate) fn event_of(workspace: Uuid, id: &str, mark: &str) -> String {
    format!(
        r#"{{"id":"{id}", "event":{{"id":"visit","workspaceId":"{workspace}","linkId":"{LINK}","eventCount":1.0}},"workflowStep":{{"id":"step","kind":"KIND_EXIT","payload":{{"mark":"{mark}","n":18446744073709551616}}}},"timestamp":"2025-10-10T16:12:28.161007Z","type":"step.completed","lbid":"2VqK"}}"#
    )
}

pub(crate) fn header<'m>(message: &'m StoredMessage, name: &str) -> &'m str {
    message.header(name).unwrap_or_default()
}

pub(crate) fn event_id(message: &StoredMessage) -> &str {
    header(message, headers::EVENT_ID)
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a string or number member, wherever it stands first.
    pub(crate) fn member(&self, name: &str) -> &str {
        let Some((_, rest)) = self.body.split_once(&format!("\"{name}\":")) else {
            return "";
        };
        let rest = rest.strip_prefix('"').unwrap_or(rest);
        rest.split(['"', ',', '}']).next().unwrap_or_default()
    }

    pub(crate) fn has_header(&self, line: &str) -> bool {
        self.head
            .lines()
            .any(|found| found.eq_ignore_ascii_case(line))
    }
}

pub(crate) async fn post_to(
    http: SocketAddr,
    token: &Token,
    extra: &[(&str, &str)],
    body: impl Into<Vec<u8>>,
) -> Answer {
    let authorization = format!("Bearer {}", token.reveal());
    let mut headers = vec![
        ("authorization", authorization.as_str()),
        ("content-type", "application/json"),
    ];
    headers.extend(extra);
    request(http, "POST", "/v1/events", &headers, &body.into()).await
}

pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    if !headers
        .iter()
        .any(|(name, _)| *name == "transfer-encoding" || *name == "content-length")
    {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    raw(address, &[head.as_bytes(), b"\r\n", body].concat()).await
}

pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    // Both at once: the server may answer before it has all.
    let sending = async {
        // A server that has seen enough may close; its answer is what counts.
        drop(write.write_all(bytes).await);
        write
    };
    let mut text = Vec::new();
    let (_, result) = tokio::join!(sending, read.read_to_end(&mut text));
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{result:?}: {text:?}"));
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}
