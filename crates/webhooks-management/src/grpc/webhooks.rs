//! `WebhookService`.

use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::{Request, Response, Status, async_trait, metadata::MetadataValue};
use webhooks_egress::CertificateFacts;
use webhooks_proto::v1::{self, webhook_service_server::WebhookService};

use super::{Grpc, convert, health, webhook_id};
use crate::{
    error::{ManagementError, Violation},
    page::page_size_of,
    rest::{READ, WRITE},
    service::{Face, IfMatch, Mutated, Once},
    words::{STATUS_UNSPECIFIED, ShownStatus},
};

/// How this face puts the answers that are kept. Refusals are not: a status does not survive as
/// bytes, and judging the same request again gives the same one.
const FACE: Face = Face {
    encode: encode_mutated,
    refuse: None,
};

/// Longest idempotency key, in characters.
const MAX_KEY_CHARS: usize = 255;

#[async_trait]
impl WebhookService for Grpc {
    async fn create_webhook(
        &self,
        request: Request<v1::CreateWebhookRequest>,
    ) -> Result<Response<v1::CreateWebhookResponse>, Status> {
        self.call(
            "CreateWebhook",
            WRITE,
            request,
            |caller, request| async move {
                let once = once_of("CreateWebhook", &request.idempotency_key, &request)?;
                let draft = Ok(convert::draft_of_creation(&request));
                let answer = self
                    .management
                    .create_webhook(caller, draft, once, FACE)
                    .await?;
                let body = v1::CreateWebhookResponse::decode(answer.body.as_slice())
                    .map_err(ManagementError::internal)?;
                Ok(replayed(body, answer.replayed))
            },
        )
        .await
    }

    async fn get_webhook(
        &self,
        request: Request<v1::GetWebhookRequest>,
    ) -> Result<Response<v1::GetWebhookResponse>, Status> {
        self.call("GetWebhook", READ, request, |caller, request| async move {
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
        self.call(
            "ListWebhooks",
            READ,
            request,
            |caller, request| async move {
                let status = status_filter(request.status)?;
                let size = page_size_of(request.page_size)?;
                let page = self
                    .management
                    .list_webhooks(&caller, status, size, &request.page_token)
                    .await?;
                Ok(Response::new(v1::ListWebhooksResponse {
                    webhooks: page.rows.iter().map(convert::webhook).collect(),
                    next_page_token: page.next.unwrap_or_default(),
                    total_count: i64::try_from(page.total).unwrap_or(i64::MAX),
                }))
            },
        )
        .await
    }

    async fn update_webhook(
        &self,
        request: Request<v1::UpdateWebhookRequest>,
    ) -> Result<Response<v1::UpdateWebhookResponse>, Status> {
        self.call(
            "UpdateWebhook",
            WRITE,
            request,
            |caller, request| async move {
                let id = webhook_id(&request.id)?;
                let once = once_of("UpdateWebhook", &request.idempotency_key, &request)?;
                let seen = if_match(request.expected_revision);
                let draft = Ok(convert::draft_of_update(request));
                let answer = self
                    .management
                    .update_webhook(caller, Some(id), draft, seen, once, FACE)
                    .await?;
                let body = v1::UpdateWebhookResponse::decode(answer.body.as_slice())
                    .map_err(ManagementError::internal)?;
                Ok(replayed(body, answer.replayed))
            },
        )
        .await
    }

    async fn delete_webhook(
        &self,
        request: Request<v1::DeleteWebhookRequest>,
    ) -> Result<Response<v1::DeleteWebhookResponse>, Status> {
        self.call(
            "DeleteWebhook",
            WRITE,
            request,
            |caller, request| async move {
                self.management
                    .delete_webhook(
                        &caller,
                        webhook_id(&request.id)?,
                        if_match(request.expected_revision),
                    )
                    .await?;
                Ok(Response::new(v1::DeleteWebhookResponse {}))
            },
        )
        .await
    }

    async fn list_webhook_secrets(
        &self,
        request: Request<v1::ListWebhookSecretsRequest>,
    ) -> Result<Response<v1::ListWebhookSecretsResponse>, Status> {
        self.call(
            "ListWebhookSecrets",
            READ,
            request,
            |caller, request| async move {
                let id = webhook_id(&request.webhook_id)?;
                let secrets = self.management.list_secrets(&caller, id).await?;
                Ok(Response::new(v1::ListWebhookSecretsResponse {
                    secrets: secrets.iter().map(convert::secret).collect(),
                }))
            },
        )
        .await
    }

    async fn get_webhook_health(
        &self,
        request: Request<v1::GetWebhookHealthRequest>,
    ) -> Result<Response<v1::GetWebhookHealthResponse>, Status> {
        self.call(
            "GetWebhookHealth",
            READ,
            request,
            |caller, request| async move {
                let id = webhook_id(&request.webhook_id)?;
                let found = self.management.webhook_health(&caller, id).await?;
                let health = Some(health::health(&found));
                Ok(Response::new(v1::GetWebhookHealthResponse { health }))
            },
        )
        .await
    }

    async fn rotate_webhook_secret(
        &self,
        request: Request<v1::RotateWebhookSecretRequest>,
    ) -> Result<Response<v1::RotateWebhookSecretResponse>, Status> {
        self.call(
            "RotateWebhookSecret",
            WRITE,
            request,
            |caller, request| async move {
                let id = webhook_id(&request.webhook_id)?;
                let once = once_of("RotateWebhookSecret", &request.idempotency_key, &request)?;
                let draft = Ok(convert::rotation(&request));
                let answer = self
                    .management
                    .rotate_secret(caller, Some(id), draft, once, FACE)
                    .await?;
                let body = v1::RotateWebhookSecretResponse::decode(answer.body.as_slice())
                    .map_err(ManagementError::internal)?;
                Ok(replayed(body, answer.replayed))
            },
        )
        .await
    }

    async fn get_certificate_authorities(
        &self,
        request: Request<v1::GetCertificateAuthoritiesRequest>,
    ) -> Result<Response<v1::GetCertificateAuthoritiesResponse>, Status> {
        self.call(
            "GetCertificateAuthorities",
            READ,
            request,
            |caller, _| async move {
                let found = self.management.authorities(&caller).await?;
                Ok(Response::new(v1::GetCertificateAuthoritiesResponse {
                    authorities: found.facts.iter().map(authority).collect(),
                    certificates: found.pem,
                }))
            },
        )
        .await
    }

    async fn set_certificate_authorities(
        &self,
        request: Request<v1::SetCertificateAuthoritiesRequest>,
    ) -> Result<Response<v1::SetCertificateAuthoritiesResponse>, Status> {
        self.call(
            "SetCertificateAuthorities",
            WRITE,
            request,
            |caller, request| async move {
                let wish = Some(request.certificates);
                let set = self.management.set_authorities(&caller, wish).await?;
                Ok(Response::new(v1::SetCertificateAuthoritiesResponse {
                    authorities: set.facts.iter().map(authority).collect(),
                }))
            },
        )
        .await
    }

    async fn delete_certificate_authorities(
        &self,
        request: Request<v1::DeleteCertificateAuthoritiesRequest>,
    ) -> Result<Response<v1::DeleteCertificateAuthoritiesResponse>, Status> {
        self.call(
            "DeleteCertificateAuthorities",
            WRITE,
            request,
            |caller, _| async move {
                self.management.delete_authorities(&caller).await?;
                Ok(Response::new(v1::DeleteCertificateAuthoritiesResponse {}))
            },
        )
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

pub(super) fn replayed<T>(body: T, replayed: bool) -> Response<T> {
    let mut response = Response::new(body);
    if replayed {
        let replayed = MetadataValue::from_static("true");
        response
            .metadata_mut()
            .insert("idempotent-replayed", replayed);
    }
    response
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
        Mutated::Rotated { row, secret } => v1::RotateWebhookSecretResponse {
            webhook: Some(convert::webhook(row)),
            secret: (*secret).to_owned(),
        }
        .encode_to_vec(),
        Mutated::Changed { row } => v1::UpdateWebhookResponse {
            webhook: Some(convert::webhook(row)),
        }
        .encode_to_vec(),
    })
}

/// What makes a call repeatable: its key, and the request itself, whose bytes are the same for the
/// same request (maps are sorted).
pub(super) fn once_of(
    method: &str,
    key: &str,
    request: &impl Message,
) -> Result<Option<Once>, ManagementError> {
    let key = key.to_owned();
    if key.is_empty() {
        return Ok(None);
    }
    if key.chars().count() > MAX_KEY_CHARS {
        let message = format!("has at most {MAX_KEY_CHARS} characters");
        return Err(ManagementError::Invalid(vec![Violation::new(
            "idempotencyKey",
            "too_long",
            message,
        )]));
    }
    let mut hash = Sha256::new();
    hash.update(format!("grpc {method}\0"));
    hash.update(request.encode_to_vec());
    Ok(Some(Once {
        key,
        hash: hash.finalize().into(),
    }))
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
