//! Every unary method of gRPC, asked for what it is there for: how it is asked, what it leaves in the
//! audit log, and what it tells.

mod audited;
mod secrets;

use std::collections::BTreeMap;

use http::uri::PathAndQuery;
use prost_types::Timestamp;
use tonic::{Request, Response, Status, client::Grpc, transport::Channel};
use uuid::Uuid;
use webhooks_proto::v1;

use crate::{
    document::Stage,
    methods::{Method, Raw, methods},
    parity::authorities::authority,
    support::{OPERATOR_TOKEN, with_token},
};

/// A call that is answered with what it asks for.
struct Ask {
    message: Vec<u8>,
    /// A method that has to have been called.
    after: Option<&'static str>,
    /// What it writes into the audit log; `None` = it only looks.
    trace: Option<Trace>,
}

/// A row of the audit log.
struct Trace {
    action: &'static str,
    sides: Sides,
    /// The id of what is changed; empty = of what the answer tells of for the first time.
    subject: String,
}

/// Whether a row tells what there was, and whether it tells what there is.
type Sides = (bool, bool);

const NEW: Sides = (false, true);
const BOTH: Sides = (true, true);
const GONE: Sides = (true, false);

impl Ask {
    fn looks(message: &impl prost::Message) -> Self {
        Self {
            message: message.encode_to_vec(),
            after: None,
            trace: None,
        }
    }

    fn changes(
        message: &impl prost::Message,
        action: &'static str,
        sides: Sides,
        subject: &str,
    ) -> Self {
        let subject = subject.to_owned();
        Self {
            trace: Some(Trace {
                action,
                sides,
                subject,
            }),
            ..Self::looks(message)
        }
    }

    fn after(self, method: &'static str) -> Self {
        Self {
            after: Some(method),
            ..self
        }
    }
}

/// Every method that answers once.
fn unary() -> Vec<Method> {
    let (streams, unary): (Vec<_>, Vec<_>) = methods().into_iter().partition(|one| one.streams);
    let streams: Vec<_> = streams.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(streams, ["TailDeliveries"], "no other answers for ever");
    unary
}

/// How every unary method is asked about what is on the stage.
fn asks(stage: &Stage) -> BTreeMap<&'static str, Ask> {
    let mut all = asks_of_webhooks(stage);
    for more in [
        asks_of_deliveries(stage),
        asks_of_jobs_and_figures(stage),
        asks_of_workspaces(stage),
        asks_of_operators(stage),
    ] {
        for (name, ask) in more {
            assert!(all.insert(name, ask).is_none(), "{name} is there twice");
        }
    }
    let mut declared: Vec<_> = unary().into_iter().map(|method| method.name).collect();
    declared.sort_unstable();
    let known: Vec<_> = all.keys().copied().collect();
    assert_eq!(known, declared, "how each method is asked, and no other");
    all
}

fn asks_of_webhooks(stage: &Stage) -> BTreeMap<&'static str, Ask> {
    let id = stage.webhook.to_string();
    let workspace = stage.workspace.id.to_string();
    let create = v1::CreateWebhookRequest {
        name: "new".into(),
        endpoint_url: "https://example.com/new".into(),
        ..v1::CreateWebhookRequest::default()
    };
    let get = v1::GetWebhookRequest { id: id.clone() };
    let update = v1::UpdateWebhookRequest {
        id: id.clone(),
        name: Some("renamed".into()),
        ..v1::UpdateWebhookRequest::default()
    };
    let delete = v1::DeleteWebhookRequest {
        id: id.clone(),
        ..v1::DeleteWebhookRequest::default()
    };
    let secrets = v1::ListWebhookSecretsRequest {
        webhook_id: id.clone(),
    };
    let rotate = v1::RotateWebhookSecretRequest {
        webhook_id: id.clone(),
        ..v1::RotateWebhookSecretRequest::default()
    };
    let health = v1::GetWebhookHealthRequest {
        webhook_id: id.clone(),
    };
    let set = v1::SetCertificateAuthoritiesRequest {
        certificates: authority(),
        ..v1::SetCertificateAuthoritiesRequest::default()
    };
    let take_away = v1::DeleteCertificateAuthoritiesRequest {};
    BTreeMap::from([
        (
            "CreateWebhook",
            Ask::changes(&create, "webhook.create", NEW, ""),
        ),
        ("GetWebhook", Ask::looks(&get)),
        (
            "ListWebhooks",
            Ask::looks(&v1::ListWebhooksRequest::default()),
        ),
        (
            "UpdateWebhook",
            Ask::changes(&update, "webhook.update", BOTH, &id),
        ),
        (
            "DeleteWebhook",
            Ask::changes(&delete, "webhook.delete", GONE, &id),
        ),
        ("ListWebhookSecrets", Ask::looks(&secrets)),
        (
            "RotateWebhookSecret",
            Ask::changes(&rotate, "webhook.secret_rotate", BOTH, &id),
        ),
        (
            "GetCertificateAuthorities",
            Ask::looks(&v1::GetCertificateAuthoritiesRequest {}),
        ),
        (
            "SetCertificateAuthorities",
            Ask::changes(&set, "authorities.set", NEW, &workspace),
        ),
        (
            "DeleteCertificateAuthorities",
            Ask::changes(&take_away, "authorities.delete", BOTH, &workspace)
                .after("SetCertificateAuthorities"),
        ),
        ("GetWebhookHealth", Ask::looks(&health)),
    ])
}

fn asks_of_deliveries(stage: &Stage) -> BTreeMap<&'static str, Ask> {
    let (webhook_id, id) = (stage.webhook.to_string(), stage.delivery.to_string());
    let get = v1::GetDeliveryRequest { id: id.clone() };
    let content = v1::GetDeliveryRequestContentRequest { id: id.clone() };
    let retry = v1::RetryDeliveryRequest {
        id: id.clone(),
        ..v1::RetryDeliveryRequest::default()
    };
    let cancel = v1::CancelDeliveryRequest {
        id: id.clone(),
        ..v1::CancelDeliveryRequest::default()
    };
    let test = v1::TestWebhookRequest {
        webhook_id: webhook_id.clone(),
        event_id: stage.event.clone(),
        ..v1::TestWebhookRequest::default()
    };
    let challenge = v1::ChallengeWebhookRequest {
        webhook_id: webhook_id.clone(),
        ..v1::ChallengeWebhookRequest::default()
    };
    let preview = v1::PreviewWebhookRequest {
        webhook_id: webhook_id.clone(),
        event_id: stage.event.clone(),
        ..v1::PreviewWebhookRequest::default()
    };
    let event = v1::GetEventRequest {
        id: stage.event.clone(),
    };
    BTreeMap::from([
        (
            "ListDeliveries",
            Ask::looks(&v1::ListDeliveriesRequest::default()),
        ),
        ("GetDelivery", Ask::looks(&get)),
        ("GetDeliveryRequestContent", Ask::looks(&content)),
        (
            "RetryDelivery",
            Ask::changes(&retry, "delivery.retry", NEW, &id),
        ),
        (
            "CancelDelivery",
            Ask::changes(&cancel, "delivery.cancel", BOTH, &id),
        ),
        (
            "TestWebhook",
            Ask::changes(&test, "webhook.test", NEW, &webhook_id),
        ),
        (
            "ChallengeWebhook",
            Ask::changes(&challenge, "webhook.challenge", NEW, &webhook_id),
        ),
        ("PreviewWebhook", Ask::looks(&preview)),
        (
            "ListSamples",
            Ask::looks(&v1::ListSamplesRequest::default()),
        ),
        ("GetEvent", Ask::looks(&event)),
        ("ListEvents", Ask::looks(&v1::ListEventsRequest::default())),
    ])
}

fn asks_of_jobs_and_figures(stage: &Stage) -> BTreeMap<&'static str, Ask> {
    let (webhook_id, id) = (stage.webhook.to_string(), stage.job.clone());
    let create = v1::CreateJobRequest {
        webhook_id: webhook_id.clone(),
        r#type: v1::JobType::Replay.into(),
        since: Some(Timestamp {
            seconds: 1,
            nanos: 0,
        }),
        dry_run: true,
        ..v1::CreateJobRequest::default()
    };
    let list = v1::ListJobsRequest {
        webhook_id,
        ..v1::ListJobsRequest::default()
    };
    let get = v1::GetJobRequest { id: id.clone() };
    let pause = v1::PauseJobRequest {
        id: id.clone(),
        ..v1::PauseJobRequest::default()
    };
    let resume = v1::ResumeJobRequest {
        id: id.clone(),
        ..v1::ResumeJobRequest::default()
    };
    let cancel = v1::CancelJobRequest {
        id: id.clone(),
        ..v1::CancelJobRequest::default()
    };
    BTreeMap::from([
        ("CreateJob", Ask::changes(&create, "job.create", NEW, "")),
        ("GetJob", Ask::looks(&get)),
        ("ListJobs", Ask::looks(&list)),
        ("PauseJob", Ask::changes(&pause, "job.update", BOTH, &id)),
        (
            "ResumeJob",
            Ask::changes(&resume, "job.update", BOTH, &id).after("PauseJob"),
        ),
        ("CancelJob", Ask::changes(&cancel, "job.update", BOTH, &id)),
        ("GetMetrics", Ask::looks(&v1::GetMetricsRequest::default())),
        ("GetUsage", Ask::looks(&v1::GetUsageRequest::default())),
    ])
}

fn asks_of_workspaces(stage: &Stage) -> BTreeMap<&'static str, Ask> {
    let id = stage.token.clone();
    let create = v1::CreateWorkspaceTokenRequest {
        key_type: v1::WorkspaceTokenKeyType::Secret.into(),
        name: "new".into(),
        ..v1::CreateWorkspaceTokenRequest::default()
    };
    let get = v1::GetWorkspaceTokenRequest { id: id.clone() };
    let update = v1::UpdateWorkspaceTokenRequest {
        id: id.clone(),
        name: Some("renamed".into()),
        ..v1::UpdateWorkspaceTokenRequest::default()
    };
    let delete = v1::DeleteWorkspaceTokenRequest { id: id.clone() };
    let keys = v1::GetWebhookPublicKeysRequest {
        webhook_id: stage.webhook.to_string(),
    };
    BTreeMap::from([
        (
            "CreateWorkspaceToken",
            Ask::changes(&create, "token.create", NEW, ""),
        ),
        ("GetWorkspaceToken", Ask::looks(&get)),
        (
            "ListWorkspaceTokens",
            Ask::looks(&v1::ListWorkspaceTokensRequest::default()),
        ),
        (
            "UpdateWorkspaceToken",
            Ask::changes(&update, "token.update", BOTH, &id),
        ),
        (
            "DeleteWorkspaceToken",
            Ask::changes(&delete, "token.revoke", BOTH, &id),
        ),
        ("ListApiScopes", Ask::looks(&v1::ListApiScopesRequest {})),
        (
            "ListPricingPlans",
            Ask::looks(&v1::ListPricingPlansRequest {}),
        ),
        ("ListAllowances", Ask::looks(&v1::ListAllowancesRequest {})),
        (
            "ListAuditLog",
            Ask::looks(&v1::ListAuditLogRequest::default()),
        ),
        ("GetSourceIps", Ask::looks(&v1::GetSourceIpsRequest {})),
        ("GetWebhookPublicKeys", Ask::looks(&keys)),
    ])
}

fn asks_of_operators(stage: &Stage) -> BTreeMap<&'static str, Ask> {
    let (id, new) = (stage.workspace.id.to_string(), Uuid::new_v4().to_string());
    let create = v1::CreateWorkspaceRequest {
        id: new.clone(),
        name: "new".into(),
        ..v1::CreateWorkspaceRequest::default()
    };
    let get = v1::GetWorkspaceRequest { id: id.clone() };
    let update = v1::UpdateWorkspaceRequest {
        id: id.clone(),
        name: Some("renamed".into()),
        ..v1::UpdateWorkspaceRequest::default()
    };
    let delete = v1::DeleteWorkspaceRequest { id: id.clone() };
    let issue = v1::IssueWorkspaceTokenRequest {
        workspace_id: id.clone(),
        name: "issued".into(),
        ..v1::IssueWorkspaceTokenRequest::default()
    };
    let inspect = v1::InspectDeliveryRequest {
        id: stage.delivery.to_string(),
    };
    BTreeMap::from([
        (
            "CreateWorkspace",
            Ask::changes(&create, "workspace.create", NEW, &new),
        ),
        ("GetWorkspace", Ask::looks(&get)),
        (
            "ListWorkspaces",
            Ask::looks(&v1::ListWorkspacesRequest::default()),
        ),
        (
            "UpdateWorkspace",
            Ask::changes(&update, "workspace.update", BOTH, &id),
        ),
        (
            "DeleteWorkspace",
            Ask::changes(&delete, "workspace.delete", BOTH, &id),
        ),
        (
            "IssueWorkspaceToken",
            Ask::changes(&issue, "token.create", NEW, ""),
        ),
        ("InspectDelivery", Ask::looks(&inspect)),
    ])
}

/// Whom a method is called by.
fn token_of<'a>(method: &Method, stage: &'a Stage) -> &'a str {
    match method.operator {
        true => OPERATOR_TOKEN,
        false => &stage.workspace.token,
    }
}

/// Calls a method; the call's id is the method's name.
async fn call(
    channel: &Channel,
    method: &Method,
    token: &str,
    message: Vec<u8>,
) -> Result<Response<Vec<u8>>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::try_from(method.path.as_str()).unwrap();
    let mut request = match token {
        "" => Request::new(message),
        token => with_token(token, message),
    };
    let id = method.name.parse().unwrap();
    request.metadata_mut().insert("x-request-id", id);
    grpc.unary(request, path, Raw).await
}

/// How a method is asked, after whatever has to have been called for it was called.
async fn prepared(channel: &Channel, method: &Method, stage: &Stage) -> Ask {
    let mut asks = asks(stage);
    let ask = asks.remove(method.name.as_str()).unwrap();
    if let Some(name) = ask.after {
        let first = unary().into_iter().find(|one| one.name == name).unwrap();
        let message = asks.remove(name).unwrap().message;
        let answer = call(channel, &first, token_of(&first, stage), message).await;
        assert!(answer.is_ok(), "{name}: {:?}", answer.err());
    }
    ask
}
