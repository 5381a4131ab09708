//! The REST face: the vendor's API, which its client must find unchanged.
//!
//! One function answers every request, in the order in which things may be known: who is calling,
//! whether the caller may call so often, whether the scope allows it, what the body says. Success is
//! 200 and nothing else; every refusal has the flat body. What each route is and takes stands in
//! [`routes`]; what the words mean is the service's business.

mod answer;
mod body;
mod query;
mod request;
mod routes;
mod serve;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{ConnectInfo, RawPathParams, Request, rejection::RawPathParamsRejection},
    response::Response,
    routing::on,
};
use http::{HeaderValue, StatusCode, header::AUTHORIZATION};
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;
use webhooks_domain::clock::Clock;
use webhooks_runtime::error_chain;

use crate::{
    auth::{Authenticator, Caller},
    error::ManagementError,
    rate::{Payer, RateLimiter, Standing},
    service::{Answer, Face, Management, Mutated, Once},
    view::{DeliveryView, WebhookView},
};

use self::{
    answer::{encode, json as json_answer, refusal, refusal_body},
    body::{Purpose, read_draft},
    query::ListQuery,
    request::{idempotency_key, is_json, path_id, read_body, request_hash},
    routes::{Action, ROUTES, Route},
};

pub(crate) use self::routes::{READ, WRITE};
pub(crate) use self::serve::serve;

/// How this face puts the answers that are kept.
const FACE: Face = Face {
    encode: encode_mutated,
    refuse: Some(refusal_body),
};

/// What the face needs.
#[derive(Clone)]
pub(crate) struct Rest {
    pub(crate) management: Management,
    pub(crate) authenticator: Authenticator,
    pub(crate) limiter: Arc<RateLimiter>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The router over the route table.
pub(crate) fn router(rest: Rest) -> Router {
    let mut router = Router::new();
    for route in &ROUTES {
        let rest = rest.clone();
        let handler = move |params, peer, request| {
            let rest = rest.clone();
            async move { rest.answer(Ok(route), params, peer, request).await }
        };
        router = router.route(route.path, on(route.method, handler));
    }
    let (nowhere, no_method) = (rest.clone(), rest);
    router
        .fallback(move |params, peer, request| {
            let rest = nowhere.clone();
            async move {
                rest.answer(Err(ManagementError::RouteNotFound), params, peer, request)
                    .await
            }
        })
        .method_not_allowed_fallback(move |params, peer, request| {
            let rest = no_method.clone();
            async move {
                rest.answer(
                    Err(ManagementError::MethodNotAllowed),
                    params,
                    peer,
                    request,
                )
                .await
            }
        })
}

impl Rest {
    async fn answer(
        &self,
        route: Result<&'static Route, ManagementError>,
        params: Result<RawPathParams, RawPathParamsRejection>,
        ConnectInfo(peer): ConnectInfo<SocketAddr>,
        request: Request,
    ) -> Response {
        let started = Instant::now();
        let verb = request.method().clone();
        let scoped = route.as_ref().is_ok_and(|route| route.scope.is_some());
        let header = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let caller = match scoped {
            true => Some(self.authenticator.caller(header).await),
            false => None,
        };
        let payer = match &caller {
            Some(Ok(caller)) => Payer::Token(caller.token_id.clone()),
            _ => Payer::Address(peer.ip()),
        };
        let standing = self.limiter.spend(payer, started);
        let caller = caller.transpose();
        let known = caller.as_ref().ok().cloned().flatten();
        let path = route.as_ref().map_or("unmatched", |route| route.path);
        let result = self
            .admitted(standing, route, caller, params, request)
            .await;
        let mut response = result.unwrap_or_else(|error| {
            report(&error);
            refusal(&error)
        });
        let now_seconds = self.clock.now_micros() / 1_000_000;
        standing.write(response.headers_mut(), now_seconds);
        record(
            verb.as_str(),
            path,
            response.status(),
            started,
            known.as_ref(),
        );
        response
    }

    async fn admitted(
        &self,
        standing: Standing,
        route: Result<&'static Route, ManagementError>,
        caller: Result<Option<Caller>, ManagementError>,
        params: Result<RawPathParams, RawPathParamsRejection>,
        request: Request,
    ) -> Result<Response, ManagementError> {
        standing.admit()?;
        let route = route?;
        let Some(scope) = route.scope else {
            return json_body(&entry());
        };
        let caller = caller?.ok_or(ManagementError::Unauthenticated)?;
        caller.require(scope)?;
        let id = path_id(params);
        if route.writes() {
            return self.write(route, caller, id, request).await;
        }
        self.read(route, &caller, id, ListQuery::of(request.uri())?)
            .await
    }

    async fn read(
        &self,
        route: &Route,
        caller: &Caller,
        id: Option<Uuid>,
        query: ListQuery,
    ) -> Result<Response, ManagementError> {
        let webhook = || id.ok_or(ManagementError::WebhookNotFound);
        match route.action {
            Action::ListWebhooks => {
                let page = self
                    .management
                    .list_webhooks(
                        caller,
                        query.status()?,
                        query.page_size()?,
                        query.page_token(),
                    )
                    .await?;
                let views: Vec<_> = page.rows.iter().map(WebhookView::of).collect();
                list_body("webhooks", &views, page.next, page.total)
            }
            Action::GetWebhook => {
                let row = self.management.get_webhook(caller, webhook()?).await?;
                json_body(&json!({ "webhook": WebhookView::of(&row) }))
            }
            Action::DeleteWebhook => {
                self.management.delete_webhook(caller, webhook()?).await?;
                json_body(&json!({}))
            }
            Action::ListDeliveries => {
                let page = self
                    .management
                    .list_deliveries(
                        caller,
                        webhook()?,
                        query.state()?,
                        query.page_size()?,
                        query.page_token(),
                    )
                    .await?;
                let views: Vec<_> = page.rows.iter().map(DeliveryView::of).collect();
                list_body("deliveries", &views, page.next, page.total)
            }
            Action::GetDelivery => {
                let id = id.ok_or(ManagementError::DeliveryNotFound)?;
                let (row, attempts) = self.management.get_delivery(caller, id).await?;
                json_body(&json!({ "delivery": DeliveryView::with_attempts(&row, &attempts) }))
            }
            Action::Entry | Action::CreateWebhook | Action::UpdateWebhook => {
                Err(ManagementError::RouteNotFound)
            }
        }
    }

    async fn write(
        &self,
        route: &Route,
        caller: Caller,
        id: Option<Uuid>,
        request: Request,
    ) -> Result<Response, ManagementError> {
        let (parts, body) = request.into_parts();
        if !is_json(&parts.headers) {
            return Err(ManagementError::MediaType);
        }
        let key = idempotency_key(&parts.headers)?;
        let body = read_body(body).await?;
        let once = key.map(|key| Once {
            key,
            hash: request_hash(route.verb, parts.uri.path(), &body),
        });
        let answer = if route.action == Action::CreateWebhook {
            let draft = read_draft(&body, Purpose::Create);
            self.management
                .create_webhook(caller, draft, once, FACE)
                .await?
        } else {
            let draft = read_draft(&body, Purpose::Update);
            self.management
                .update_webhook(caller, id, draft, once, FACE)
                .await?
        };
        Ok(answered(answer))
    }
}

fn answered(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = json_answer(status, answer.body);
    if answer.replayed {
        response
            .headers_mut()
            .insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    response
}

fn encode_mutated(mutated: &Mutated<'_>) -> Result<Vec<u8>, ManagementError> {
    let view = match mutated {
        Mutated::Created { row, secret } => WebhookView::with_secret(row, (*secret).to_owned()),
        Mutated::Changed { row } => WebhookView::of(row),
    };
    encode(&json!({ "webhook": view }))
}

fn json_body(value: &serde_json::Value) -> Result<Response, ManagementError> {
    Ok(json_answer(StatusCode::OK, encode(value)?))
}

fn list_body<T: serde::Serialize>(
    name: &str,
    rows: &[T],
    next: Option<String>,
    total: u64,
) -> Result<Response, ManagementError> {
    let mut body = json!({ name: rows, "totalCount": total });
    if let Some(next) = next {
        body["nextPageToken"] = next.into();
    }
    json_body(&body)
}

fn entry() -> serde_json::Value {
    json!({
        "name": "Linkbreakers Webhooks API",
        "version": "v1",
        "links": { "self": "/v1", "webhooks": "/v1/webhooks" },
    })
}

/// Logs what only an operator can do something about.
pub(crate) fn report(error: &ManagementError) {
    match error {
        ManagementError::Internal(cause) => {
            tracing::error!(error = error_chain(cause.as_ref()), "api.failed");
        }
        ManagementError::Unavailable(Some(cause)) => {
            tracing::warn!(error = error_chain(cause.as_ref()), "api.unavailable");
        }
        ManagementError::Pending => {
            tracing::warn!("a change is stored and waits for the read model")
        }
        _ => {}
    }
}

/// One wide line and two metrics a request.
fn record(
    verb: &str,
    path: &'static str,
    status: StatusCode,
    started: Instant,
    caller: Option<&Caller>,
) {
    // A method is the caller's text: what is no method of ours is counted as one.
    let verb = ["GET", "POST", "PATCH", "DELETE", "HEAD", "PUT", "OPTIONS"]
        .into_iter()
        .find(|known| *known == verb)
        .unwrap_or("OTHER");
    let elapsed = started.elapsed();
    metrics::counter!("webhooks_api_requests_total", "method" => verb, "route" => path, "status" => status.as_u16().to_string())
        .increment(1);
    metrics::histogram!("webhooks_api_request_seconds", "route" => path)
        .record(elapsed.as_secs_f64());
    tracing::info!(
        http.method = verb,
        http.route = path,
        http.status = status.as_u16(),
        duration_ms = elapsed.as_secs_f64() * 1_000.0,
        workspace.id = caller.map(|caller| tracing::field::display(caller.workspace)),
        token.id = caller.map(|caller| caller.token_id.as_str()),
        "api.request"
    );
}
