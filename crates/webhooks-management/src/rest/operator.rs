//! The operators' routes.

use axum::{
    extract::{RawPathParams, Request, rejection::RawPathParamsRejection},
    response::Response,
};
use serde_json::json;
use uuid::Uuid;
use webhooks_domain::token::Token;
use webhooks_store::Actor;

use super::{
    Rest,
    access_view::WorkspaceView,
    answer::{encode, refusal_body},
    json_body, list_body,
    object::ObjectReader,
    query::ListQuery,
    request::{path_id, read_once},
    routes::{Operate, Route},
    tenancy::read_token,
    webhooks::answered,
};
use crate::{
    error::ManagementError,
    service::{IssueFace, LimitsDraft, Management, WorkspaceDraft, WorkspaceFace},
    view::DeliveryView,
    violations::Violations,
};

/// Members of the workspace object that operators can read and never write.
const READ_ONLY: [&str; 3] = ["webhookCount", "createdAt", "updatedAt"];

impl Rest {
    /// Answers the operator.
    pub(super) async fn operate(
        &self,
        what: Operate,
        route: &Route,
        actor: Actor,
        params: Result<RawPathParams, RawPathParamsRejection>,
        request: Request,
    ) -> Result<Response, ManagementError> {
        let id = path_id(params).ok_or(ManagementError::WorkspaceNotFound);
        match what {
            Operate::ListWorkspaces => {
                let query = ListQuery::of(request.uri())?;
                let page = self
                    .management
                    .list_workspaces(query.page_size()?, query.page_token())
                    .await?;
                let rows = page.rows.iter();
                let views: Vec<_> = rows.map(|(row, n)| WorkspaceView::of(row, *n)).collect();
                list_body("workspaces", &views, page.next, page.total)
            }
            Operate::InspectDelivery => {
                let id = id.map_err(|_| ManagementError::DeliveryNotFound)?;
                let (row, attempts) = self.management.operator(actor).delivery(id).await?;
                json_body(&json!({
                    "workspaceId": row.workspace_id,
                    "delivery": DeliveryView::inspected(&row, &attempts),
                }))
            }
            Operate::GetWorkspace => {
                let operator = self.management.operator(actor);
                let row = operator.workspace(id?).await?;
                let count = operator.webhook_count(row.id).await?;
                json_body(&json!({ "workspace": WorkspaceView::of(&row, count) }))
            }
            Operate::DeleteWorkspace => {
                let id = id?;
                let deleted = self.management.delete_workspace(actor, id).await;
                self.authenticator.forget_workspace(id);
                deleted?;
                json_body(&json!({}))
            }
            Operate::CreateWorkspace => {
                let (body, once) = read_once(route, request).await?;
                let face = WorkspaceFace {
                    encode: |row, count| {
                        encode(&json!({ "workspace": WorkspaceView::of(row, count) }))
                    },
                    refuse: Some(refusal_body),
                };
                let draft = read_workspace(&body);
                let made = self.management.create_workspace(actor, draft, once, face);
                Ok(answered(made.await?))
            }
            Operate::UpdateWorkspace => {
                let (body, once) = read_once(route, request).await?;
                let work = Box::pin(update(self.management.clone(), actor, id, body));
                let work = self.management.operate_once(once, Some(refusal_body), work);
                Ok(answered(work.await?))
            }
            Operate::IssueToken => {
                let (body, once) = read_once(route, request).await?;
                let face = IssueFace {
                    encode: encode_issued,
                    refuse: Some(refusal_body),
                };
                let draft = read_token(&body);
                let issued = self.management.issue_once(actor, id, draft, once, face);
                Ok(answered(issued.await?))
            }
        }
    }
}

async fn update(
    management: Management,
    actor: Actor,
    id: Result<Uuid, ManagementError>,
    body: bytes::Bytes,
) -> Result<Vec<u8>, ManagementError> {
    let operator = management.operator(actor);
    let row = operator
        .change_workspace(id?, read_workspace(&body)?)
        .await?;
    let count = operator.webhook_count(row.id).await?;
    encode(&json!({ "workspace": WorkspaceView::of(&row, count) }))
}

fn encode_issued(token: &Token) -> Result<Vec<u8>, ManagementError> {
    encode(&json!({ "accessToken": token.reveal(), "tokenId": token.id() }))
}

fn read_workspace(body: &[u8]) -> Result<WorkspaceDraft, ManagementError> {
    let mut reader = ObjectReader::of(body)?;
    let mut draft = WorkspaceDraft {
        id: reader.text("id"),
        name: reader.text("name"),
        plan: reader.text("plan"),
        owner_member: reader.text("ownerMember"),
        sandbox: reader.boolean("sandbox"),
        notification_emails: reader.texts("notificationEmails"),
        limits: reader.object("limits", "limits.", |limits| LimitsDraft {
            webhooks: limits.integer("webhooks"),
            retry_max_attempts: limits.integer("retryMaxAttempts"),
            retry_max_age_seconds: limits.integer("retryMaxAgeSeconds"),
            events_per_second: limits.integer("eventsPerSecond"),
            held_per_webhook: limits.integer("heldPerWebhook"),
        }),
        endpoint_verification: reader.boolean("endpointVerification"),
        exempt_hosts: reader.texts("verificationExemptHosts"),
        problems: Violations::default(),
    };
    draft.problems = reader.finish(&READ_ONLY);
    Ok(draft)
}
