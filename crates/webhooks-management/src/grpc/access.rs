//! `WorkspaceTokenService` and `WorkspaceService`.

use prost::Message as _;
use prost_types::Timestamp;
use tonic::{Request, Response, Status, async_trait};
use webhooks_proto::v1::{
    self, workspace_service_server::WorkspaceService,
    workspace_token_service_server::WorkspaceTokenService,
};
use webhooks_store::{AuditFilter, AuditRow, TokenKeyType, TokenRow};

use super::{
    Grpc,
    convert::{self, timestamp},
    once::{answered, once_of},
    status::refuse,
    webhook_id,
};
use crate::{
    error::{ManagementError, Problems, Violation},
    page::page_size_of,
    rest::{KEYS_MAX_AGE_SECONDS, plan_id, plan_name},
    scopes::{SCOPES, held},
    service::{PlanLimits, TokenDraft, TokenFace, TokenMutated},
};

/// How this face puts the answers that are kept.
const FACE: TokenFace = TokenFace {
    encode: encode_token,
    refuse: Some(refuse),
};

#[async_trait]
impl WorkspaceTokenService for Grpc {
    async fn create_workspace_token(
        &self,
        request: Request<v1::CreateWorkspaceTokenRequest>,
    ) -> Result<Response<v1::CreateWorkspaceTokenResponse>, Status> {
        self.call(request, |caller, request| async move {
            let key = request.idempotency_key.clone();
            let once = once_of("CreateWorkspaceToken", &key, &request)?;
            let (expires_at, problems) = time("expiresAt", request.expires_at);
            let draft = TokenDraft {
                name: Some(request.name),
                key_type: Some(key_type_text(request.key_type)),
                scopes: Some(request.scopes),
                full_access: None,
                expires_at: expires_at.map(Some),
                member_email: Some(request.member_email).filter(|email| !email.is_empty()),
                problems: problems.into(),
            };
            let answer = self
                .management
                .create_token(caller, Ok(draft), once, FACE)
                .await?;
            answered(&answer)
        })
        .await
    }

    async fn get_workspace_token(
        &self,
        request: Request<v1::GetWorkspaceTokenRequest>,
    ) -> Result<Response<v1::GetWorkspaceTokenResponse>, Status> {
        self.call(request, |caller, request| async move {
            let row = self.management.get_token(&caller, &request.id).await?;
            let token = Some(token(&row));
            Ok(Response::new(v1::GetWorkspaceTokenResponse { token }))
        })
        .await
    }

    async fn list_workspace_tokens(
        &self,
        request: Request<v1::ListWorkspaceTokensRequest>,
    ) -> Result<Response<v1::ListWorkspaceTokensResponse>, Status> {
        self.call(request, |caller, request| async move {
            let size = page_size_of(request.page_size)?;
            let page = self
                .management
                .list_tokens(&caller, size, &request.page_token)
                .await?;
            Ok(Response::new(v1::ListWorkspaceTokensResponse {
                tokens: page.rows.iter().map(token).collect(),
                next_page_token: page.next.unwrap_or_default(),
                total_count: i64::try_from(page.total).unwrap_or(i64::MAX),
            }))
        })
        .await
    }

    async fn update_workspace_token(
        &self,
        request: Request<v1::UpdateWorkspaceTokenRequest>,
    ) -> Result<Response<v1::UpdateWorkspaceTokenResponse>, Status> {
        self.call(request, |caller, request| async move {
            let key = request.idempotency_key.clone();
            let once = once_of("UpdateWorkspaceToken", &key, &request)?;
            let (expires_at, mut problems) = time("expiresAt", request.expires_at);
            if request.clear_expires_at && request.expires_at.is_some() {
                let message = "excludes clearExpiresAt: give one of them";
                problems.push(Violation::new("expiresAt", "ambiguous", message));
            }
            let expires_at = match request.clear_expires_at {
                true => Some(None),
                false => expires_at.map(Some),
            };
            let draft = TokenDraft {
                name: request.name,
                key_type: None,
                scopes: request.scopes.map(|list| list.scopes),
                full_access: request.full_access,
                expires_at,
                member_email: None,
                problems: problems.into(),
            };
            let id = request.id;
            let answer = self
                .management
                .update_token(caller, id.clone(), Ok(draft), once, FACE)
                .await;
            self.authenticator.forget(&id);
            let answer = answer?;
            answered(&answer)
        })
        .await
    }

    async fn delete_workspace_token(
        &self,
        request: Request<v1::DeleteWorkspaceTokenRequest>,
    ) -> Result<Response<v1::DeleteWorkspaceTokenResponse>, Status> {
        self.call(request, |caller, request| async move {
            let deleted = self.management.delete_token(&caller, &request.id).await;
            self.authenticator.forget(&request.id);
            deleted?;
            Ok(Response::new(v1::DeleteWorkspaceTokenResponse {}))
        })
        .await
    }
}

#[async_trait]
impl WorkspaceService for Grpc {
    async fn list_api_scopes(
        &self,
        request: Request<v1::ListApiScopesRequest>,
    ) -> Result<Response<v1::ListApiScopesResponse>, Status> {
        self.call_public(request, |_| async {
            let scopes = SCOPES.iter().map(|scope| v1::ApiScope {
                name: scope.name.to_owned(),
                resource: scope.resource().to_owned(),
                access: scope.access().to_owned(),
                description: scope.description.to_owned(),
            });
            Ok(Response::new(v1::ListApiScopesResponse {
                scopes: scopes.collect(),
            }))
        })
        .await
    }

    async fn list_pricing_plans(
        &self,
        request: Request<v1::ListPricingPlansRequest>,
    ) -> Result<Response<v1::ListPricingPlansResponse>, Status> {
        self.call_public(request, |_| async {
            let plans = self.management.pricing_plans();
            Ok(Response::new(v1::ListPricingPlansResponse {
                plans: plans.iter().map(plan).collect(),
            }))
        })
        .await
    }

    async fn get_source_ips(
        &self,
        request: Request<v1::GetSourceIpsRequest>,
    ) -> Result<Response<v1::GetSourceIpsResponse>, Status> {
        self.call_public(request, |_| async {
            let published = self.source_ips.published(self.clock.now_micros());
            let planned = published.content.planned.into_iter();
            Ok(Response::new(v1::GetSourceIpsResponse {
                version: published.version,
                fixed: published.content.fixed,
                ranges: published.content.ranges,
                planned: planned
                    .map(|change| v1::SourceIpChange {
                        at: Some(timestamp(change.at_micros)),
                        add: change.add,
                        remove: change.remove,
                    })
                    .collect(),
                max_age_seconds: published.max_age,
            }))
        })
        .await
    }

    async fn get_webhook_public_keys(
        &self,
        request: Request<v1::GetWebhookPublicKeysRequest>,
    ) -> Result<Response<v1::GetWebhookPublicKeysResponse>, Status> {
        self.call_public(request, |request| async move {
            let id = webhook_id(&request.webhook_id)?;
            // A webhook that signs with its secret only is answered like none at all.
            let keys = self.management.public_keys(id).await?;
            Ok(Response::new(v1::GetWebhookPublicKeysResponse {
                webhook_id: id.to_string(),
                keys: keys.into_iter().map(convert::public_key).collect(),
                max_age_seconds: KEYS_MAX_AGE_SECONDS,
            }))
        })
        .await
    }

    async fn list_allowances(
        &self,
        request: Request<v1::ListAllowancesRequest>,
    ) -> Result<Response<v1::ListAllowancesResponse>, Status> {
        self.call(request, |caller, _| async move {
            let allowed = self.management.allowances(&caller).await?;
            Ok(Response::new(v1::ListAllowancesResponse {
                plan: plan_id(allowed.plan),
                limits: vec![v1::PlanLimit {
                    used: Some(allowed.webhooks_used),
                    ..limit(allowed.webhooks)
                }],
            }))
        })
        .await
    }

    async fn list_audit_log(
        &self,
        request: Request<v1::ListAuditLogRequest>,
    ) -> Result<Response<v1::ListAuditLogResponse>, Status> {
        self.call(request, |caller, request| async move {
            let given = |text: String| Some(text).filter(|text| !text.is_empty());
            let (from, mut wrong) = time("from", request.from);
            let (to, more) = time("to", request.to);
            wrong.extend(more);
            let mut problems = Problems::from(wrong);
            let size = problems.take(page_size_of(request.page_size));
            problems.verdict()?;
            let filter = AuditFilter {
                action: given(request.action),
                subject: given(request.subject),
                actor: given(request.actor),
                from,
                to,
            };
            let found = self
                .management
                .list_audit_log(&caller, &filter, size, &request.page_token)
                .await?;
            Ok(Response::new(v1::ListAuditLogResponse {
                entries: found.page.rows.iter().map(entry).collect(),
                next_page_token: found.page.next.unwrap_or_default(),
                total_count: i64::try_from(found.page.total).unwrap_or(i64::MAX),
                total_count_is_lower_bound: found.total_is_lower_bound,
            }))
        })
        .await
    }
}

fn encode_token(mutated: &TokenMutated<'_>) -> Result<Vec<u8>, ManagementError> {
    Ok(match mutated {
        TokenMutated::Created { row, text } => v1::CreateWorkspaceTokenResponse {
            access_token: (*text).to_owned(),
            token: Some(token(row)),
        }
        .encode_to_vec(),
        TokenMutated::Changed { row } => v1::UpdateWorkspaceTokenResponse {
            token: Some(token(row)),
        }
        .encode_to_vec(),
    })
}

fn token(row: &TokenRow) -> v1::WorkspaceToken {
    let key_type = match row.key_type {
        TokenKeyType::Secret => v1::WorkspaceTokenKeyType::Secret,
        TokenKeyType::Publishable => v1::WorkspaceTokenKeyType::Publishable,
    };
    let held = held(&row.scopes);
    v1::WorkspaceToken {
        id: row.id.clone(),
        workspace_id: row.workspace_id.to_string(),
        name: row.name.clone(),
        key_type: key_type.into(),
        scopes: held.iter().map(|scope| scope.name.to_owned()).collect(),
        full_access: row.scopes.is_empty(),
        created_by: row.created_by.to_string(),
        created_at: Some(timestamp(row.created_at)),
        updated_at: Some(timestamp(row.updated_at)),
        last_used_at: row.last_used_at.map(timestamp),
        expires_at: row.expires_at.map(timestamp),
        member_email: row.member_email.clone().unwrap_or_default(),
    }
}

fn plan(plan: &PlanLimits) -> v1::PricingPlan {
    v1::PricingPlan {
        id: plan_id(plan.plan),
        name: plan_name(plan.plan).to_owned(),
        limits: vec![limit(plan.webhooks)],
    }
}

fn limit(webhooks: Option<u32>) -> v1::PlanLimit {
    let kind = match webhooks {
        Some(_) => "PLAN_LIMIT_KIND_TOTAL",
        None => "PLAN_LIMIT_KIND_UNLIMITED",
    };
    v1::PlanLimit {
        key: "PLAN_LIMIT_KEY_WEBHOOKS".to_owned(),
        kind: kind.to_owned(),
        value: webhooks.map(i64::from),
        used: None,
    }
}

fn entry(row: &AuditRow) -> v1::AuditEntry {
    let origin = row.origin.clone().unwrap_or_default();
    let text = |value: &Option<serde_json::Value>| {
        value.as_ref().map_or_else(String::new, ToString::to_string)
    };
    v1::AuditEntry {
        id: row.id.to_string(),
        at: Some(timestamp(row.at)),
        actor: row.actor.clone(),
        action: row.action.clone(),
        subject: row.subject.clone(),
        remote_ip: origin.remote_ip,
        user_agent: origin.user_agent,
        request_id: origin.request_id,
        before_json: text(&row.before),
        after_json: text(&row.after),
    }
}

/// The long word of a key type; a number that is none becomes a word that is none, and is refused
/// as such.
fn key_type_text(number: i32) -> String {
    v1::WorkspaceTokenKeyType::try_from(number).map_or_else(
        |_| number.to_string(),
        |key_type| key_type.as_str_name().to_owned(),
    )
}

/// A time in microseconds, and what is wrong with it.
pub(super) fn time(field: &'static str, given: Option<Timestamp>) -> (Option<i64>, Vec<Violation>) {
    let Some(given) = given else {
        return (None, Vec::new());
    };
    let fraction = i64::from(given.nanos).checked_div(1_000);
    let micros = given
        .seconds
        .checked_mul(1_000_000)
        .and_then(|micros| micros.checked_add(fraction?));
    match micros {
        Some(at) if (0..=LAST_MICROS).contains(&at) => (Some(at), Vec::new()),
        _ => {
            let message = "lies between 1970 and 9999";
            (None, vec![Violation::new(field, "not_a_time", message)])
        }
    }
}

/// The last moment that is stored: 9999-12-31.
const LAST_MICROS: i64 = 253_402_300_799_999_999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_beyond_time_is_named() {
        let at = |seconds, nanos| time("from", Some(Timestamp { seconds, nanos }));
        assert_eq!(at(1, 500_000_000), (Some(1_500_000), vec![]));
        assert_eq!(time("from", None), (None, vec![]));
        for (seconds, nanos) in [
            (-1, 0),
            (i64::MAX, 0),
            (i64::MIN, i32::MIN),
            (253_402_300_800, 0),
        ] {
            let (none, problems) = at(seconds, nanos);
            assert_eq!((none, problems[0].reason), (None, "not_a_time"));
        }
    }

    #[test]
    fn key_types_are_the_protocols() {
        for known in [TokenKeyType::Secret, TokenKeyType::Publishable] {
            let word = crate::service::key_type_word(known);
            assert!(v1::WorkspaceTokenKeyType::from_str_name(word).is_some());
        }
        assert_eq!(key_type_text(99), "99");
    }
}
