//! One event after another, through ingest's HTTP door.

use anyhow::{Context as _, ensure};
use http::{HeaderMap, Method, header};
use uuid::Uuid;
use webhooks_domain::hop;
use webhooks_loadgen::{
    client::{Answer, HttpClient},
    publish::Door,
    receiver::Captured,
    sample::{EventSpec, EventTemplate},
    stack::{Stack, Workspace},
};

/// A publisher of one workspace.
pub(crate) struct Publisher {
    client: HttpClient,
    headers: HeaderMap,
    workspace: Uuid,
    template: EventTemplate,
}

impl Publisher {
    pub(crate) fn new(stack: &Stack, workspace: &Workspace) -> anyhow::Result<Self> {
        let door = stack.door(Door::Http, workspace);
        let token = door.token.context("a door of HTTP takes a token")?;
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse()?);
        headers.insert(header::CONTENT_TYPE, "application/json".parse()?);
        Ok(Self {
            client: HttpClient::new(&door.url)?,
            headers,
            workspace: workspace.id,
            template: EventTemplate::new(),
        })
    }

    /// A step that has just ended a workflow; gives the event's id, once it is accepted.
    pub(crate) async fn publish(&mut self) -> anyhow::Result<Uuid> {
        self.publish_on(Uuid::new_v4()).await
    }

    /// The same on this link.
    pub(crate) async fn publish_on(&mut self, link: Uuid) -> anyhow::Result<Uuid> {
        #[expect(
            clippy::disallowed_methods,
            reason = "a publisher goes by its own machine's clock"
        )]
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let spec = EventSpec {
            id: Uuid::new_v4(),
            workspace: self.workspace,
            link,
            kind: "KIND_EXIT".to_owned(),
            timestamp_micros: i64::try_from(now.as_micros())?,
        };
        let body = self.template.render(&spec);
        let sent = self
            .client
            .send(Method::POST, "/v1/events", &self.headers, body);
        let answer = sent.await?;
        ensure!(
            answer.status == 202,
            "the event was answered {}: {:?}",
            answer.status,
            answer.body
        );
        Ok(spec.id)
    }

    /// Publishes what a receiver was sent, under an id of its own and with the request's hop.
    pub(crate) async fn pass_on(&mut self, request: &Captured) -> anyhow::Result<Answer> {
        let hop = request.headers.get(hop::HEADER).context("a hop")?;
        let mut headers = self.headers.clone();
        headers.insert(hop::HEADER, hop.clone());
        headers.insert("idempotency-key", Uuid::new_v4().to_string().parse()?);
        self.client
            .send(Method::POST, "/v1/events", &headers, request.body.clone())
            .await
    }
}
