//! `OperatorService`.

use prost::Message as _;
use tonic::{Request, Response, Status, async_trait};
use uuid::Uuid;
use webhooks_domain::token::Token;
use webhooks_proto::v1::{self, operator_service_server::OperatorService};
use webhooks_store::WorkspaceRow;

use super::{
    Grpc,
    access::time,
    convert::{self, timestamp},
    once::{answered, once_of},
    status::refuse,
};
use crate::{
    error::{ManagementError, parse_id},
    page::page_size_of,
    service::{IssueFace, LimitsDraft, TokenDraft, WorkspaceDraft, WorkspaceFace},
    violations::Violations,
};

#[async_trait]
impl OperatorService for Grpc {
    async fn create_workspace(
        &self,
        request: Request<v1::CreateWorkspaceRequest>,
    ) -> Result<Response<v1::CreateWorkspaceResponse>, Status> {
        self.call_operator(request, |actor, request| async move {
            let once = once_of("CreateWorkspace", &request.idempotency_key, &request)?;
            let given = |text: String| Some(text).filter(|text| !text.is_empty());
            let draft = WorkspaceDraft {
                id: given(request.id),
                name: given(request.name),
                plan: given(request.plan),
                owner_member: given(request.owner_member),
                sandbox: Some(request.sandbox),
                notification_emails: Some(request.notification_emails),
                limits: request.limits.map(limits_draft),
                endpoint_verification: Some(request.endpoint_verification),
                exempt_hosts: Some(request.verification_exempt_hosts),
                problems: Violations::default(),
            };
            let face = WorkspaceFace {
                encode: |row, count| {
                    let workspace = Some(workspace(row, count));
                    Ok(v1::CreateWorkspaceResponse { workspace }.encode_to_vec())
                },
                refuse: Some(refuse),
            };
            let answer = self
                .management
                .create_workspace(actor, Ok(draft), once, face);
            answered(&answer.await?)
        })
        .await
    }

    async fn get_workspace(
        &self,
        request: Request<v1::GetWorkspaceRequest>,
    ) -> Result<Response<v1::GetWorkspaceResponse>, Status> {
        self.call_operator(request, |actor, request| async move {
            let operator = self.management.operator(actor);
            let row = operator.workspace(workspace_id(&request.id)?).await?;
            let count = operator.webhook_count(row.id).await?;
            let workspace = Some(workspace(&row, count));
            Ok(Response::new(v1::GetWorkspaceResponse { workspace }))
        })
        .await
    }

    async fn list_workspaces(
        &self,
        request: Request<v1::ListWorkspacesRequest>,
    ) -> Result<Response<v1::ListWorkspacesResponse>, Status> {
        self.call_operator(request, |_, request| async move {
            let size = page_size_of(request.page_size)?;
            let page = self
                .management
                .list_workspaces(size, &request.page_token)
                .await?;
            let rows = page.rows.iter();
            Ok(Response::new(v1::ListWorkspacesResponse {
                workspaces: rows.map(|(row, count)| workspace(row, *count)).collect(),
                next_page_token: page.next.unwrap_or_default(),
                total_count: i64::try_from(page.total).unwrap_or(i64::MAX),
            }))
        })
        .await
    }

    async fn update_workspace(
        &self,
        request: Request<v1::UpdateWorkspaceRequest>,
    ) -> Result<Response<v1::UpdateWorkspaceResponse>, Status> {
        self.call_operator(request, |actor, request| async move {
            let once = once_of("UpdateWorkspace", &request.idempotency_key, &request)?;
            let id = workspace_id(&request.id)?;
            let draft = WorkspaceDraft {
                name: request.name,
                plan: request.plan,
                sandbox: request.sandbox,
                notification_emails: request.notification_emails.map(|list| list.emails),
                limits: request.limits.map(limits_draft),
                endpoint_verification: request.endpoint_verification,
                exempt_hosts: request.verification_exempt_hosts.map(|list| list.hosts),
                ..WorkspaceDraft::default()
            };
            let operator = self.management.operator(actor);
            let work = Box::pin(async move {
                let row = operator.change_workspace(id, draft).await?;
                let count = operator.webhook_count(row.id).await?;
                let workspace = Some(workspace(&row, count));
                let answer = v1::UpdateWorkspaceResponse { workspace };
                Ok::<_, ManagementError>(answer.encode_to_vec())
            });
            let answer = self.management.operate_once(once, Some(refuse), work);
            answered(&answer.await?)
        })
        .await
    }

    async fn delete_workspace(
        &self,
        request: Request<v1::DeleteWorkspaceRequest>,
    ) -> Result<Response<v1::DeleteWorkspaceResponse>, Status> {
        self.call_operator(request, |actor, request| async move {
            let id = workspace_id(&request.id)?;
            let deleted = self.management.delete_workspace(actor, id).await;
            self.authenticator.forget_workspace(id);
            deleted?;
            Ok(Response::new(v1::DeleteWorkspaceResponse {}))
        })
        .await
    }

    async fn inspect_delivery(
        &self,
        request: Request<v1::InspectDeliveryRequest>,
    ) -> Result<Response<v1::InspectDeliveryResponse>, Status> {
        self.call_operator(request, |actor, request| async move {
            let id = parse_id(&request.id).ok_or(ManagementError::DeliveryNotFound)?;
            let (row, attempts) = self.management.operator(actor).delivery(id).await?;
            let attempts = attempts.iter().map(|attempt| v1::InspectedAttempt {
                attempt: Some(convert::attempt(attempt)),
                remote_ip: attempt.remote_ip.clone(),
                dispatcher: attempt.dispatcher.clone(),
            });
            Ok(Response::new(v1::InspectDeliveryResponse {
                workspace_id: row.workspace_id.to_string(),
                delivery: Some(convert::delivery(&row)),
                attempts: attempts.collect(),
            }))
        })
        .await
    }

    async fn issue_workspace_token(
        &self,
        request: Request<v1::IssueWorkspaceTokenRequest>,
    ) -> Result<Response<v1::IssueWorkspaceTokenResponse>, Status> {
        self.call_operator(request, |actor, request| async move {
            let once = once_of("IssueWorkspaceToken", &request.idempotency_key, &request)?;
            let (expires_at, problems) = time("expiresAt", request.expires_at);
            let draft = TokenDraft {
                name: Some(request.name),
                scopes: Some(request.scopes),
                expires_at: expires_at.map(Some),
                member_email: Some(request.member_email).filter(|email| !email.is_empty()),
                problems: problems.into(),
                ..TokenDraft::default()
            };
            let id = workspace_id(&request.workspace_id);
            let face = IssueFace {
                encode: encode_issued,
                refuse: Some(refuse),
            };
            let issued = self
                .management
                .issue_once(actor, id, Ok(draft), once, face)
                .await?;
            answered(&issued)
        })
        .await
    }
}

fn encode_issued(token: &Token) -> Result<Vec<u8>, ManagementError> {
    Ok(v1::IssueWorkspaceTokenResponse {
        access_token: token.reveal().to_owned(),
        token_id: token.id().to_owned(),
    }
    .encode_to_vec())
}

fn workspace_id(text: &str) -> Result<Uuid, ManagementError> {
    parse_id(text).ok_or(ManagementError::WorkspaceNotFound)
}

fn limits_draft(limits: v1::WorkspaceLimits) -> LimitsDraft {
    let long = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    LimitsDraft {
        webhooks: limits.webhooks.map(i64::from),
        retry_max_attempts: limits.retry_max_attempts.map(i64::from),
        retry_max_age_seconds: limits.retry_max_age_seconds.map(long),
        events_per_second: limits.events_per_second.map(i64::from),
        held_per_webhook: limits.held_per_webhook.map(i64::from),
    }
}

fn workspace(row: &WorkspaceRow, webhook_count: i64) -> v1::Workspace {
    let settings = &row.settings;
    v1::Workspace {
        id: row.id.to_string(),
        name: row.name.clone(),
        plan: row.plan.as_str().to_owned(),
        owner_member: row.owner_member.to_string(),
        sandbox: settings.sandbox,
        notification_emails: settings.notification_emails.clone(),
        limits: Some(v1::WorkspaceLimits {
            webhooks: settings.limits.webhooks,
            retry_max_attempts: settings.limits.retry_max_attempts,
            retry_max_age_seconds: settings.limits.retry_max_age_seconds,
            events_per_second: settings.limits.events_per_second,
            held_per_webhook: settings.limits.held_per_webhook,
        }),
        webhook_count,
        created_at: Some(timestamp(row.created_at)),
        updated_at: Some(timestamp(row.updated_at)),
        endpoint_verification: settings.endpoint_verification,
        verification_exempt_hosts: settings.verification_exempt_hosts.clone(),
    }
}
