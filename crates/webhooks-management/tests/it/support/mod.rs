//! A running service with servers of its own, and a client.

mod deliveries;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tonic::{Request, Status, transport::Channel};
use tonic_types::StatusExt as _;
use uuid::Uuid;
use webhooks_bus::{Bus, BusSettings, ConfigWriter};
use webhooks_devstack::{NatsServer, Postgres, wait_until};
use webhooks_domain::{token::TokenEnvironment, webhook::Plan};
use webhooks_management::{
    Config,
    operator::{Operator, TokenWish},
};
use webhooks_runtime::{Clock as _, Context, Env, OnError, Settings as _, SystemClock};
use webhooks_store::{Day, Store, StoreSettings};

pub(crate) use self::deliveries::{delivered, delivery, owed, tell, verdict};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);
pub(crate) const INTERNAL_TOKEN: &str = "canary-internal-token-for-tests";
pub(crate) const OPERATOR_TOKEN: &str = "canary-operator-token-for-tests-of-32-bytes";
pub(crate) const ENCRYPTION_KEYS: &str = "k1:Y2FuYXJ5LXNlYWxpbmcta2V5LW9mLTMyLWJ5dGVzLSE=";

struct Server {
    postgres: Postgres,
    databases: AtomicU32,
    _folder: tempfile::TempDir,
}

/// One PostgreSQL for the tests that run at the same time; the last one to end takes it down.
static SERVER: Mutex<Weak<Server>> = Mutex::const_new(Weak::new());

async fn shared_postgres() -> Arc<Server> {
    let mut shared = SERVER.lock().await;
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let folder = tempfile::tempdir().unwrap();
    let builder = Postgres::builder(folder.path()).fast().max_connections(300);
    let postgres = builder.start().await.unwrap();
    let server = Arc::new(Server {
        postgres,
        databases: AtomicU32::new(0),
        _folder: folder,
    });
    *shared = Arc::downgrade(&server);
    server
}

/// A service and what it needs.
pub(crate) struct World {
    pub(crate) nats: NatsServer,
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    pub(crate) operator: Operator,
    pub(crate) context: Context,
    variables: Vec<(String, String)>,
    http: reqwest::Client,
    _folder: tempfile::TempDir,
    _postgres: Option<(Arc<Server>, String)>,
}

/// A workspace with a token that may do everything.
pub(crate) struct Workspace {
    pub(crate) id: Uuid,
    pub(crate) token: String,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With settings beside the usual ones.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        let server = shared_postgres().await;
        let name = format!("test_{}", server.databases.fetch_add(1, Ordering::Relaxed));
        let url = server.postgres.create_database(&name).await.unwrap();
        let mut world = Self::on(url, settings).await;
        world._postgres = Some((server, name));
        world
    }

    /// On a database that somebody else keeps.
    pub(crate) async fn on(database_url: String, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nats = NatsServer::builder(folder.path().join("nats"))
            .start()
            .await
            .unwrap();
        let store = Store::connect(&StoreSettings::new(&database_url)).unwrap();
        store.migrate().await.unwrap();
        // The service makes them beside its work, and what is written at that moment is put off.
        let today = Day::of_micros(now());
        wait_until("today's tables", LIMIT, async || {
            store.ensure_partitions(today, 1).await
        })
        .await
        .unwrap();
        let bus_settings = BusSettings {
            url: nats.url(),
            ..BusSettings::default()
        };
        let bus = Bus::connect(bus_settings, "test").await.unwrap();
        wait_until("the streams", LIMIT, async || bus.apply_topology().await)
            .await
            .unwrap();
        let mut variables: Vec<(String, String)> = [
            ("WEBHOOKS_DATABASE_URL", database_url.as_str()),
            ("WEBHOOKS_NATS_URL", &nats.url()),
            ("WEBHOOKS_ENCRYPTION_KEYS", ENCRYPTION_KEYS),
            ("WEBHOOKS_INTERNAL_TOKEN", INTERNAL_TOKEN),
            ("WEBHOOKS_RATE_LIMIT", "100000"),
            ("WEBHOOKS_RATE_LIMIT_ANONYMOUS", "100000"),
            ("WEBHOOKS_AUTH_FAILURES", "100000"),
            ("WEBHOOKS_OPERATOR_TOKEN", OPERATOR_TOKEN),
            ("WEBHOOKS_DATABASE_CONNECTIONS", "10"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        variables.extend(
            settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let mut world = Self {
            operator: Operator::new(store.clone(), &bus, Arc::new(SystemClock)),
            nats,
            store,
            bus,
            context: Context::for_tests(),
            variables,
            http: reqwest::Client::builder().timeout(LIMIT).build().unwrap(),
            _folder: folder,
            _postgres: None,
        };
        world.start_service().await;
        world
    }

    /// What a statement says, past the service: for looking at tables.
    pub(crate) async fn sql(&self, statement: &str) -> String {
        let (server, database) = self._postgres.as_ref().expect("a database of its own");
        server.postgres.sql(database, statement).await.unwrap()
    }

    /// Changes a setting for the next start.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the service (again), and waits until it is ready.
    pub(crate) async fn start_service(&mut self) {
        self.begin_service();
        self.wait_ready().await;
    }

    /// Starts the service, which is to end by itself, and tells why it did.
    pub(crate) async fn start_in_vain(&mut self) -> String {
        self.begin_service();
        wait_until("the end of the service", LIMIT, async || {
            let missing = self.context.readiness.state().missing();
            let ended = missing.iter().find(|one| one.starts_with("task.service"));
            ended.cloned().ok_or(missing)
        })
        .await
        .unwrap()
    }

    /// A setting as it is now.
    pub(crate) fn setting(&self, name: &str) -> String {
        let last = self.variables.iter().rev().find(|(known, _)| known == name);
        last.expect("it is set").1.clone()
    }

    fn begin_service(&mut self) {
        self.context = Context::for_tests();
        // Later variables win, so a test can overrule.
        let mut env = Env::from_vars(self.variables.clone());
        let config = Config::read(&mut env);
        env.finish().unwrap();
        let service = webhooks_management::serve(config, self.context.clone());
        self.context
            .tasks
            .spawn("service", OnError::Log, Box::pin(service));
    }

    /// Stops the service as SIGTERM does, and waits for its end.
    pub(crate) async fn stop_service(&self) {
        self.context.shutdown.cancel();
        self.context.tasks.drain(LIMIT).await.unwrap();
    }

    pub(crate) async fn wait_ready(&self) {
        wait_until("readiness", LIMIT, async || {
            let state = self.context.readiness.state();
            if state.is_ready() {
                Ok(())
            } else {
                Err(state.missing())
            }
        })
        .await
        .unwrap();
    }

    pub(crate) async fn workspace(&self, plan: Plan) -> Workspace {
        let id = Uuid::new_v4();
        self.operator
            .create_workspace(id, "demo", plan, Uuid::new_v4())
            .await
            .unwrap();
        Workspace {
            id,
            token: self.token(id, &[]).await,
        }
    }

    pub(crate) async fn token(&self, workspace: Uuid, scopes: &[&str]) -> String {
        self.member_token(workspace, scopes, None).await
    }

    /// A token whose member reads mail at an address.
    pub(crate) async fn member_token(
        &self,
        workspace: Uuid,
        scopes: &[&str],
        email: Option<&str>,
    ) -> String {
        let wish = TokenWish {
            workspace,
            name: "test".to_owned(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            member: None,
            member_email: email.map(str::to_owned),
            environment: TokenEnvironment::Test,
            expires_at: None,
        };
        let token = self.operator.create_token(wish).await.unwrap();
        webhooks_devstack::note_answer(token.reveal().as_bytes());
        token.reveal().to_owned()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.context.announcer.addresses()["api"])
    }

    /// A request of any kind.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Reply {
        let mut request = self.http.request(method, self.url(path));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        assert_eq!(headers["content-type"], "application/json", "{path}");
        let bytes = response.bytes().await.unwrap();
        webhooks_devstack::note_answer(&bytes);
        Reply {
            status,
            headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Reply {
        self.send(Method::GET, path, token, &[], None).await
    }

    pub(crate) async fn delete(&self, path: &str, token: &str) -> Reply {
        self.send(Method::DELETE, path, token, &[], None).await
    }

    pub(crate) async fn post(&self, token: &str, body: &Value) -> Reply {
        self.write(Method::POST, "/v1/webhooks", token, &[], body)
            .await
    }

    pub(crate) async fn patch(&self, id: &str, token: &str, body: &Value) -> Reply {
        self.write(
            Method::PATCH,
            &format!("/v1/webhooks/{id}"),
            token,
            &[],
            body,
        )
        .await
    }

    pub(crate) async fn write(
        &self,
        method: Method,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Reply {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.send(method, path, token, &all, Some(body.to_string()))
            .await
    }

    /// A webhook that has been created; its id.
    pub(crate) async fn webhook(&self, token: &str) -> Uuid {
        let reply = self.post(token, &webhook_body("a webhook")).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        id_of(&reply)
    }

    pub(crate) async fn channel(&self) -> Channel {
        let address = self.context.announcer.addresses()["grpc"];
        Channel::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    /// The revision of a webhook in the read model.
    pub(crate) async fn configured(&self, id: Uuid) -> Option<i64> {
        let all = ConfigWriter::new(&self.bus).webhooks().await.unwrap();
        all.into_iter()
            .find(|(_, found, _)| *found == id)
            .map(|(_, _, revision)| revision)
    }
}

pub(crate) fn webhook_body(name: &str) -> Value {
    json!({ "name": name, "endpointUrl": "https://example.com/hook" })
}

/// A webhook that signs both ways, so it has a public key.
pub(crate) fn signed_body(name: &str) -> Value {
    let mut body = webhook_body(name);
    body["signatures"] = json!(["v1", "v1a"]);
    body
}

pub(crate) fn id_of(reply: &Reply) -> Uuid {
    reply.body["webhook"]["id"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

/// The fields of a refusal, with their reasons.
pub(crate) fn refused(reply: &Reply, status: u16, code_type: &str) -> Vec<(String, String)> {
    assert_eq!(reply.status.as_u16(), status, "{reply:?}");
    assert_eq!(reply.body["codeType"], code_type, "{reply:?}");
    let details = reply.body["details"].as_array().unwrap();
    details
        .iter()
        .map(|one| {
            let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
            (text("field"), text("reason"))
        })
        .collect()
}

/// The machine word of a refusal over gRPC.
pub(crate) fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details
        .error_info()
        .map_or_else(String::new, |info| info.reason.clone())
}

/// The fields of a refusal over gRPC.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().into_iter();
    violations
        .flat_map(|bad| bad.field_violations.iter().map(|one| one.field.clone()))
        .collect()
}

/// A gRPC request with a bearer token.
pub(crate) fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

pub(crate) fn now() -> i64 {
    SystemClock.now_micros()
}

pub(crate) fn uuid(bytes: &[u8]) -> Uuid {
    Uuid::from_slice(bytes).unwrap()
}
