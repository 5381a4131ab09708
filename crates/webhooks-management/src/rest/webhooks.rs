//! What the routes of webhooks answer: one webhook, with its entity tag, and its secrets.
//!
//! The tag is the revision of the configuration. It does not move when deliveries are counted, so a
//! webhook under load can be changed with `If-Match`.

use axum::{extract::Request, response::Response};
use http::{HeaderMap, HeaderValue, StatusCode, header::ETAG};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::{
    auth::Caller,
    error::ManagementError,
    service::{Answer, Face, Mutated, NewKey},
    view::{SecretView, WebhookView},
};

use super::{
    Rest,
    answer::{encode, json as json_answer, refusal_body},
    body::{Purpose, read_draft, read_rotation},
    json_body,
    request::{if_match, read_once},
    routes::{Action, Route},
};

/// How this face puts the answers that are kept.
const FACE: Face = Face {
    encode: encode_mutated,
    refuse: Some(refusal_body),
};

impl Rest {
    /// One webhook.
    pub(super) async fn show_webhook(
        &self,
        caller: &Caller,
        id: Uuid,
    ) -> Result<Response, ManagementError> {
        let row = self.management.get_webhook(caller, id).await?;
        let mut response = json_body(&json!({ "webhook": WebhookView::of(&row) }))?;
        tag(&mut response, row.revision);
        Ok(response)
    }

    /// The signing secrets of a webhook, masked.
    pub(super) async fn show_secrets(
        &self,
        caller: &Caller,
        id: Uuid,
    ) -> Result<Response, ManagementError> {
        let secrets = self.management.list_secrets(caller, id).await?;
        let views: Vec<_> = secrets.iter().map(SecretView::of).collect();
        json_body(&json!({ "secrets": views }))
    }

    /// Deletes a webhook.
    pub(super) async fn delete_webhook(
        &self,
        caller: &Caller,
        id: Option<Uuid>,
        headers: &HeaderMap,
    ) -> Result<Response, ManagementError> {
        let id = id.ok_or(ManagementError::WebhookNotFound)?;
        let if_match = if_match(headers)?;
        self.management.delete_webhook(caller, id, if_match).await?;
        json_body(&json!({}))
    }

    /// Creates, changes, or rotates a key of a webhook.
    pub(super) async fn write(
        &self,
        route: &Route,
        caller: Caller,
        id: Option<Uuid>,
        request: Request,
    ) -> Result<Response, ManagementError> {
        let if_match = if_match(request.headers())?;
        let (body, once) = read_once(route, request).await?;
        let management = &self.management;
        let answer = match route.action {
            Action::CreateWebhook => {
                let draft = read_draft(&body, Purpose::Create);
                management.create_webhook(caller, draft, once, FACE).await?
            }
            Action::RotateSecret => {
                let draft = read_rotation(&body);
                let rotated = management.rotate_secret(caller, id, draft, if_match, once, FACE);
                rotated.await?
            }
            _ => {
                let draft = read_draft(&body, Purpose::Update);
                let changed = management.update_webhook(caller, id, draft, if_match, once, FACE);
                changed.await?
            }
        };
        Ok(answered(answer))
    }
}

/// Of an answer that was kept, only the bytes are at hand.
#[derive(Deserialize)]
struct Tagged {
    webhook: Revision,
}

#[derive(Deserialize)]
struct Revision {
    revision: i64,
}

/// An answer as the service kept it, with the entity tag of the webhook that it holds, if it does.
pub(super) fn answered(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    // A refusal has no webhook, and no tag.
    let tagged = serde_json::from_slice::<Tagged>(&answer.body);
    let mut response = json_answer(status, answer.body);
    if let Ok(tagged) = tagged {
        tag(&mut response, tagged.webhook.revision);
    }
    if answer.replayed {
        response
            .headers_mut()
            .insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    response
}

fn tag(response: &mut Response, revision: i64) {
    let value = HeaderValue::try_from(format!("\"{revision}\""));
    let value = value.expect("digits and quotes are visible ASCII");
    response.headers_mut().insert(ETAG, value);
}

fn encode_mutated(mutated: &Mutated<'_>) -> Result<Vec<u8>, ManagementError> {
    let body = match mutated {
        Mutated::Created { row, secret } => {
            json!({ "webhook": WebhookView::with_secret(row, (*secret).to_owned()) })
        }
        Mutated::Rotated { row, key } => {
            let webhook = WebhookView::of(row);
            match key {
                NewKey::Secret(secret) => json!({ "webhook": webhook, "secret": secret }),
                NewKey::Public(key) => json!({ "webhook": webhook, "publicKey": key }),
            }
        }
        Mutated::Changed { row } => json!({ "webhook": WebhookView::of(row) }),
    };
    encode(&body)
}
