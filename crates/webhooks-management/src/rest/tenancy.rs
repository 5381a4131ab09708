//! The routes about who may do what: tokens, scopes, limits, the audit log, and this API's own
//! description.

use axum::{
    extract::{RawPathParams, Request, rejection::RawPathParamsRejection},
    response::Response,
};
use serde_json::json;
use webhooks_store::AuditFilter;

use super::{
    Rest,
    access_view::{AuditView, TokenView, allowances, plans, scopes},
    answer::{encode, json as json_answer, refusal_body},
    history::found_body,
    json_body, list_body,
    object::ObjectReader,
    openapi,
    query::ListQuery,
    request::{path_text, read_once},
    routes::{Route, Tenancy},
    webhooks::answered,
};
use crate::{
    auth::Caller,
    error::{ManagementError, Problems},
    extras::shown_time,
    service::{AuthoritiesFace, OwnAuthorities, TokenDraft, TokenFace, TokenMutated},
    violations::Violations,
};

/// How this face puts answers about tokens.
const FACE: TokenFace = TokenFace {
    encode: encode_token,
    refuse: Some(refusal_body),
};

/// Members of the token object that callers can read and never write.
const READ_ONLY: [&str; 8] = [
    "id",
    "workspaceId",
    "createdBy",
    "createdAt",
    "updatedAt",
    "lastUsedAt",
    "scopeNames",
    "support",
];

impl Rest {
    /// Answers what needs no credentials.
    pub(super) fn public(&self, what: Tenancy) -> Result<Response, ManagementError> {
        match what {
            Tenancy::OpenApi => Ok(json_answer(http::StatusCode::OK, openapi::text().to_vec())),
            Tenancy::ListApiScopes => json_body(&scopes()),
            Tenancy::ListPricingPlans => json_body(&plans(&self.management.pricing_plans())),
            _ => Err(ManagementError::Unauthenticated),
        }
    }

    /// Answers a workspace.
    pub(super) async fn tenancy(
        &self,
        what: Tenancy,
        route: &Route,
        caller: Caller,
        params: Result<RawPathParams, RawPathParamsRejection>,
        request: Request,
    ) -> Result<Response, ManagementError> {
        let id = path_text(params).ok_or(ManagementError::TokenNotFound);
        match what {
            Tenancy::ListAllowances => {
                json_body(&allowances(self.management.allowances(&caller).await?))
            }
            Tenancy::ListAuditLog => {
                let query = ListQuery::of(request.uri())?;
                let mut problems = Problems::default();
                let filter = audit_filter(&query, &mut problems);
                let size = problems.take(query.page_size());
                problems.verdict()?;
                let found = self
                    .management
                    .list_audit_log(&caller, &filter, size, query.page_token())
                    .await?;
                found_body("entries", &found, AuditView::of)
            }
            Tenancy::GetAuthorities => {
                let found = self.management.authorities(&caller).await?;
                json_body(&authorities_view(&found))
            }
            Tenancy::SetAuthorities => {
                let (body, once) = read_once(route, request).await?;
                let wish = read_authorities(&body);
                let set = self
                    .management
                    .set_authorities(caller, wish, once, AUTHORITIES);
                Ok(answered(set.await?))
            }
            Tenancy::DeleteAuthorities => {
                self.management.delete_authorities(&caller).await?;
                json_body(&json!({}))
            }
            Tenancy::ListTokens => {
                let query = ListQuery::of(request.uri())?;
                let page = self
                    .management
                    .list_tokens(&caller, query.page_size()?, query.page_token())
                    .await?;
                let views: Vec<_> = page.rows.iter().map(TokenView::of).collect();
                list_body("tokens", &views, page.next, page.total)
            }
            Tenancy::GetToken => {
                let row = self.management.get_token(&caller, &id?).await?;
                json_body(&json!({ "token": TokenView::of(&row) }))
            }
            Tenancy::DeleteToken => {
                let id = id?;
                let deleted = self.management.delete_token(&caller, &id).await;
                self.authenticator.forget(&id);
                deleted?;
                json_body(&json!({}))
            }
            Tenancy::CreateToken => {
                let (body, once) = read_once(route, request).await?;
                let draft = read_token(&body);
                let answer = self
                    .management
                    .create_token(caller, draft, once, FACE)
                    .await?;
                Ok(answered(answer))
            }
            Tenancy::UpdateToken => {
                let id = id?;
                let (body, once) = read_once(route, request).await?;
                let draft = read_token(&body);
                let changed = self
                    .management
                    .update_token(caller, id.clone(), draft, once, FACE)
                    .await;
                self.authenticator.forget(&id);
                Ok(answered(changed?))
            }
            Tenancy::OpenApi | Tenancy::ListApiScopes | Tenancy::ListPricingPlans => {
                self.public(what)
            }
        }
    }
}

/// How this face puts a workspace's authorities.
const AUTHORITIES: AuthoritiesFace = AuthoritiesFace {
    encode: encode_authorities,
    refuse: Some(refusal_body),
};

fn encode_authorities(own: &OwnAuthorities) -> Result<Vec<u8>, ManagementError> {
    encode(&authorities_view(own))
}

fn read_authorities(body: &[u8]) -> Result<Option<String>, ManagementError> {
    let mut reader = ObjectReader::of(body)?;
    let wish = reader.text("certificates");
    reader.finish(&["authorities"]).verdict(wish)
}

fn authorities_view(own: &OwnAuthorities) -> serde_json::Value {
    let facts = own.facts.iter();
    let shown: Vec<_> = facts
        .map(|one| {
            json!({
                "subject": one.subject,
                "fingerprint": one.fingerprint,
                "notBefore": shown_time(one.not_before),
                "notAfter": shown_time(one.not_after),
            })
        })
        .collect();
    json!({ "authorities": shown, "certificates": own.pem })
}

/// Reads a token's body; the same members at creation and change, of which the rules then take
/// those that fit.
pub(super) fn read_token(body: &[u8]) -> Result<TokenDraft, ManagementError> {
    let mut reader = ObjectReader::of(body)?;
    let mut draft = TokenDraft {
        name: reader.text("name"),
        key_type: reader.text("keyType"),
        scopes: reader.texts("scopes"),
        full_access: reader.boolean("fullAccess"),
        expires_at: reader.time("expiresAt"),
        member_email: reader.text("memberEmail"),
        problems: Violations::default(),
    };
    draft.problems = reader.finish(&READ_ONLY);
    Ok(draft)
}

fn audit_filter(query: &ListQuery, problems: &mut Problems) -> AuditFilter {
    AuditFilter {
        action: query.text("action"),
        subject: query.text("subject"),
        actor: query.text("actor"),
        from: problems.take(query.time("from")),
        to: problems.take(query.time("to")),
    }
}

fn encode_token(mutated: &TokenMutated<'_>) -> Result<Vec<u8>, ManagementError> {
    match mutated {
        TokenMutated::Created { row, text } => {
            encode(&json!({ "accessToken": text, "token": TokenView::of(row) }))
        }
        TokenMutated::Changed { row } => encode(&json!({ "token": TokenView::of(row) })),
    }
}
