//! `WebhookService`.

use prost::Message as _;
use tonic::{Request, Response, Status, async_trait};
use webhooks_egress::CertificateFacts;
use webhooks_proto::v1::{self, webhook_service_server::WebhookService};

use super::{
    Grpc, convert, health,
    once::{answered, once_of},
    status::refuse,
    webhook_id,
};
use crate::{
    error::{ManagementError, Problems, Violation},
    page::page_size_of,
    service::{AuthoritiesFace, Face, IfMatch, Mutated, NewKey, OwnAuthorities},
    words::{STATUS_UNSPECIFIED, ShownStatus},
};

/// How this face puts the answers that are kept.
const FACE: Face = Face {
    encode: encode_mutated,
    refuse: Some(refuse),
};

/// How this face puts a workspace's authorities.
const AUTHORITIES: AuthoritiesFace = AuthoritiesFace {
    encode: encode_authorities,
    refuse: Some(refuse),
};

#[async_trait]
impl WebhookService for Grpc {
    async fn create_webhook(
        &self,
        request: Request<v1::CreateWebhookRequest>,
    ) -> Result<Response<v1::CreateWebhookResponse>, Status> {
        self.call(request, |caller, request| async move {
            let once = once_of("CreateWebhook", &request.idempotency_key, &request)?;
            let draft = Ok(convert::draft_of_creation(&request));
            let answer = self
                .management
                .create_webhook(caller, draft, once, FACE)
                .await?;
            answered(&answer)
        })
        .await
    }

    async fn get_webhook(
        &self,
        request: Request<v1::GetWebhookRequest>,
    ) -> Result<Response<v1::GetWebhookResponse>, Status> {
        self.call(request, |caller, request| async move {
            let row = self
                .management
                .get_webhook(&caller, webhook_id(&request.id)?)
                .await?;
            let webhook = Some(convert::webhook(&row));
            Ok(Response::new(v1::GetWebhookResponse { webhook }))
        })
        .await
    }

    async fn list_webhooks(
        &self,
        request: Request<v1::ListWebhooksRequest>,
    ) -> Result<Response<v1::ListWebhooksResponse>, Status> {
        self.call(request, |caller, request| async move {
            let mut problems = Problems::default();
            let status = problems.take(status_filter(request.status));
            let size = problems.take(page_size_of(request.page_size));
            problems.verdict()?;
            let page = self
                .management
                .list_webhooks(&caller, status, size, &request.page_token)
                .await?;
            Ok(Response::new(v1::ListWebhooksResponse {
                webhooks: page.rows.iter().map(convert::webhook).collect(),
                next_page_token: page.next.unwrap_or_default(),
                total_count: i64::try_from(page.total).unwrap_or(i64::MAX),
            }))
        })
        .await
    }

    async fn update_webhook(
        &self,
        request: Request<v1::UpdateWebhookRequest>,
    ) -> Result<Response<v1::UpdateWebhookResponse>, Status> {
        self.call(request, |caller, request| async move {
            let id = webhook_id(&request.id)?;
            let once = once_of("UpdateWebhook", &request.idempotency_key, &request)?;
            let seen = if_match(request.expected_revision);
            let draft = Ok(convert::draft_of_update(request));
            let answer = self
                .management
                .update_webhook(caller, Some(id), draft, seen, once, FACE)
                .await?;
            answered(&answer)
        })
        .await
    }

    async fn delete_webhook(
        &self,
        request: Request<v1::DeleteWebhookRequest>,
    ) -> Result<Response<v1::DeleteWebhookResponse>, Status> {
        self.call(request, |caller, request| async move {
            self.management
                .delete_webhook(
                    &caller,
                    webhook_id(&request.id)?,
                    if_match(request.expected_revision),
                )
                .await?;
            Ok(Response::new(v1::DeleteWebhookResponse {}))
        })
        .await
    }

    async fn list_webhook_secrets(
        &self,
        request: Request<v1::ListWebhookSecretsRequest>,
    ) -> Result<Response<v1::ListWebhookSecretsResponse>, Status> {
        self.call(request, |caller, request| async move {
            let id = webhook_id(&request.webhook_id)?;
            let secrets = self.management.list_secrets(&caller, id).await?;
            Ok(Response::new(v1::ListWebhookSecretsResponse {
                secrets: secrets.iter().map(convert::secret).collect(),
            }))
        })
        .await
    }

    async fn get_webhook_health(
        &self,
        request: Request<v1::GetWebhookHealthRequest>,
    ) -> Result<Response<v1::GetWebhookHealthResponse>, Status> {
        self.call(request, |caller, request| async move {
            let id = webhook_id(&request.webhook_id)?;
            let found = self.management.webhook_health(&caller, id).await?;
            let health = Some(health::health(&found));
            Ok(Response::new(v1::GetWebhookHealthResponse { health }))
        })
        .await
    }

    async fn rotate_webhook_secret(
        &self,
        request: Request<v1::RotateWebhookSecretRequest>,
    ) -> Result<Response<v1::RotateWebhookSecretResponse>, Status> {
        self.call(request, |caller, request| async move {
            let id = webhook_id(&request.webhook_id)?;
            let once = once_of("RotateWebhookSecret", &request.idempotency_key, &request)?;
            let seen = if_match(request.expected_revision);
            let draft = Ok(convert::rotation(&request));
            let answer = self
                .management
                .rotate_secret(caller, Some(id), draft, seen, once, FACE)
                .await?;
            answered(&answer)
        })
        .await
    }

    async fn get_certificate_authorities(
        &self,
        request: Request<v1::GetCertificateAuthoritiesRequest>,
    ) -> Result<Response<v1::GetCertificateAuthoritiesResponse>, Status> {
        self.call(request, |caller, _| async move {
            let found = self.management.authorities(&caller).await?;
            Ok(Response::new(v1::GetCertificateAuthoritiesResponse {
                authorities: found.facts.iter().map(authority).collect(),
                certificates: found.pem,
            }))
        })
        .await
    }

    async fn set_certificate_authorities(
        &self,
        request: Request<v1::SetCertificateAuthoritiesRequest>,
    ) -> Result<Response<v1::SetCertificateAuthoritiesResponse>, Status> {
        self.call(request, |caller, request| async move {
            let key = request.idempotency_key.clone();
            let once = once_of("SetCertificateAuthorities", &key, &request)?;
            let wish = Ok(Some(request.certificates));
            let answer = self
                .management
                .set_authorities(caller, wish, once, AUTHORITIES)
                .await?;
            answered(&answer)
        })
        .await
    }

    async fn delete_certificate_authorities(
        &self,
        request: Request<v1::DeleteCertificateAuthoritiesRequest>,
    ) -> Result<Response<v1::DeleteCertificateAuthoritiesResponse>, Status> {
        self.call(request, |caller, _| async move {
            self.management.delete_authorities(&caller).await?;
            Ok(Response::new(v1::DeleteCertificateAuthoritiesResponse {}))
        })
        .await
    }
}

fn authority(facts: &CertificateFacts) -> v1::CertificateAuthority {
    let time = |seconds: i64| Some(convert::timestamp(seconds.saturating_mul(1_000_000)));
    v1::CertificateAuthority {
        subject: facts.subject.clone(),
        fingerprint: facts.fingerprint.clone(),
        not_before: time(facts.not_before),
        not_after: time(facts.not_after),
    }
}

fn encode_authorities(set: &OwnAuthorities) -> Result<Vec<u8>, ManagementError> {
    Ok(v1::SetCertificateAuthoritiesResponse {
        authorities: set.facts.iter().map(authority).collect(),
    }
    .encode_to_vec())
}

/// 0 = whichever revision there is.
fn if_match(expected_revision: i64) -> Option<IfMatch> {
    (expected_revision != 0).then(|| IfMatch(vec![expected_revision]))
}

fn encode_mutated(mutated: &Mutated<'_>) -> Result<Vec<u8>, ManagementError> {
    Ok(match mutated {
        Mutated::Created { row, secret } => v1::CreateWebhookResponse {
            webhook: Some(convert::webhook(row)),
            secret: (*secret).to_owned(),
        }
        .encode_to_vec(),
        Mutated::Rotated { row, key } => {
            let (secret, public_key) = match *key {
                NewKey::Secret(secret) => (secret, ""),
                NewKey::Public(public_key) => ("", public_key),
            };
            v1::RotateWebhookSecretResponse {
                webhook: Some(convert::webhook(row)),
                secret: secret.to_owned(),
                public_key: public_key.to_owned(),
            }
            .encode_to_vec()
        }
        Mutated::Changed { row } => v1::UpdateWebhookResponse {
            webhook: Some(convert::webhook(row)),
        }
        .encode_to_vec(),
    })
}

fn status_filter(number: i32) -> Result<Option<ShownStatus>, ManagementError> {
    let word = convert::written_status(number);
    if word == STATUS_UNSPECIFIED {
        return Ok(None);
    }
    let status = ShownStatus::parse(&word);
    status.map(Some).ok_or_else(|| {
        ManagementError::Invalid(vec![Violation::new(
            "status",
            "unknown_value",
            "is no status",
        )])
    })
}
