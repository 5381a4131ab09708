//! The REST face: the vendor's API, which its client must find unchanged.
//!
//! One function answers every request, in the order in which things may be known: who is calling,
//! whether the caller may call so often, whether the scope allows it, what the body says. Success is
//! 200 and nothing else; every refusal has the flat body. What each route is and takes stands in
//! [`routes`]; what the words mean is the service's business.

mod access_view;
mod answer;
mod body;
mod history;
mod object;
mod openapi;
mod operator;
mod query;
mod request;
mod routes;
mod serve;
mod tenancy;
mod webhooks;
mod well_known;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{ConnectInfo, RawPathParams, Request, rejection::RawPathParamsRejection},
    response::Response,
    routing::on,
};
use http::{Method, StatusCode, header::AUTHORIZATION};
use serde_json::json;
use tokio::time::Instant;
use tracing::{Instrument as _, Span, field::Empty};
use uuid::Uuid;
use webhooks_domain::clock::Clock;
use webhooks_runtime::{
    error_chain,
    rate::{Payer, RateLimiter, Standing},
    request_id::REQUEST_ID,
    telemetry::set_parent,
};
use webhooks_store::Actor;

use crate::{
    auth::{Authenticator, Caller},
    error::{ManagementError, Problems},
    origin::Visit,
    rate::write_standing,
    service::Management,
    source_ips::SourceIps,
    view::{DeliveryView, WebhookView},
};

use self::{
    answer::{encode, json as json_answer, nothing, refusal},
    query::ListQuery,
    request::path_id,
    routes::{Action, OPERATOR, ROUTES, Route},
};

pub(crate) use self::access_view::{plan_id, plan_name};
pub(crate) use self::history::{status_word, success_rate};
pub(crate) use self::routes::{ANALYTICS, READ, TOKENS_READ, TOKENS_WRITE, WORKSPACE_READ, WRITE};
pub(crate) use self::serve::serve;
pub(crate) use self::well_known::KEYS_MAX_AGE_SECONDS;

/// Who asks.
enum Who {
    /// Someone for whom the route needs no credentials.
    Anyone,
    /// A workspace, through one of its tokens.
    Caller(Caller),
    /// The operator.
    Operator(Actor),
}

/// What the face needs.
#[derive(Clone)]
pub(crate) struct Rest {
    pub(crate) management: Management,
    pub(crate) authenticator: Authenticator,
    pub(crate) limiter: Arc<RateLimiter>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) source_ips: Arc<SourceIps>,
}

/// The router over the route table.
pub(crate) fn router(rest: Rest) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
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
        let visit = self.authenticator.visit(Some(peer), request.headers());
        let span = span_of(&route, &request, &visit);
        let answering = self.answer_visit(route, params, &visit, request);
        let mut response = Box::pin(answering).instrument(span.clone()).await;
        span.record("http.response.status_code", response.status().as_u16());
        let id = visit.request_id_header();
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }

    async fn answer_visit(
        &self,
        route: Result<&'static Route, ManagementError>,
        params: Result<RawPathParams, RawPathParamsRejection>,
        visit: &Visit,
        request: Request,
    ) -> Response {
        let started = Instant::now();
        let verb = known_verb(request.method());
        let scope = route.as_ref().ok().and_then(|route| route.scope);
        let header = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let who = match scope {
            None => Ok(Who::Anyone),
            Some(OPERATOR) => {
                let operator = self.authenticator.operator(header, visit);
                operator.map(Who::Operator)
            }
            Some(_) => {
                let caller = self.authenticator.caller(header, visit).await;
                caller.map(Who::Caller)
            }
        };
        let payer = match &who {
            Ok(Who::Caller(caller)) => Payer::Token(caller.token_id.clone()),
            Ok(Who::Operator(_)) => Payer::Token(OPERATOR.to_owned()),
            _ => visit.payer(),
        };
        let standing = self.limiter.spend(payer, started);
        let known = match &who {
            Ok(Who::Caller(caller)) => Some(caller.clone()),
            _ => None,
        };
        let path = path_of(&route);
        let result = self.admitted(standing, route, who, params, request).await;
        let mut response = result.unwrap_or_else(|error| {
            report(&error);
            refusal(&error)
        });
        let now_seconds = self.clock.now_micros() / 1_000_000;
        write_standing(standing, response.headers_mut(), now_seconds);
        let asked = (verb, path, visit.origin.request_id.as_str());
        record(asked, response.status(), started, known.as_ref());
        response
    }

    async fn admitted(
        &self,
        standing: Standing,
        route: Result<&'static Route, ManagementError>,
        who: Result<Who, ManagementError>,
        params: Result<RawPathParams, RawPathParamsRejection>,
        request: Request,
    ) -> Result<Response, ManagementError> {
        standing.admit()?;
        if matches!(route, Err(ManagementError::MethodNotAllowed))
            && request.method() == Method::OPTIONS
        {
            // The router adds what is allowed.
            return Ok(nothing());
        }
        let route = route?;
        let caller = match (who?, route.action) {
            (Who::Anyone, Action::Tenancy(what)) => return self.public(what),
            (Who::Anyone, Action::WellKnown(what)) => {
                return self.well_known(what, params, request.headers()).await;
            }
            (Who::Anyone, _) => return json_body(&entry()),
            (Who::Operator(actor), Action::Operate(what)) => {
                return Box::pin(self.operate(what, route, actor, params, request)).await;
            }
            (Who::Operator(_), _) => return Err(ManagementError::Unauthenticated),
            (Who::Caller(caller), _) => caller,
        };
        let scope = route.scope.ok_or(ManagementError::RouteNotFound)?;
        caller.require(scope)?;
        if let Action::Tenancy(what) = route.action {
            return self.tenancy(what, route, caller, params, request).await;
        }
        if let Action::History(what) = route.action {
            return Box::pin(self.history(what, route, caller, params, request)).await;
        }
        let id = path_id(params);
        if route.writes() {
            return self.write(route, caller, id, request).await;
        }
        if route.action == Action::DeleteWebhook {
            return self.delete_webhook(&caller, id, request.headers()).await;
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
                let mut problems = Problems::default();
                let status = problems.take(query.status());
                let size = problems.take(query.page_size());
                problems.verdict()?;
                let page = self
                    .management
                    .list_webhooks(caller, status, size, query.page_token())
                    .await?;
                let views: Vec<_> = page.rows.iter().map(WebhookView::of).collect();
                list_body("webhooks", &views, page.next, page.total)
            }
            Action::GetWebhook => self.show_webhook(caller, webhook()?).await,
            Action::ListSecrets => self.show_secrets(caller, webhook()?).await,
            Action::GetDelivery => {
                let id = id.ok_or(ManagementError::DeliveryNotFound)?;
                let (row, attempts) = self.management.get_delivery(caller, id).await?;
                json_body(&json!({ "delivery": DeliveryView::with_attempts(&row, &attempts) }))
            }
            Action::Entry
            | Action::CreateWebhook
            | Action::UpdateWebhook
            | Action::DeleteWebhook
            | Action::RotateSecret
            | Action::History(_)
            | Action::Tenancy(_)
            | Action::Operate(_)
            | Action::WellKnown(_) => Err(ManagementError::RouteNotFound),
        }
    }
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
        "links": {
            "self": "/v1",
            "openapi": "/openapi.json",
            "webhooks": "/v1/webhooks",
            "deliveries": "/v1/deliveries",
            "events": "/v1/events",
            "metrics": "/v1/metrics",
            "workspaceTokens": "/v1/workspace-tokens",
        },
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

/// A span in the caller's trace, if it told one.
fn span_of(
    route: &Result<&'static Route, ManagementError>,
    request: &Request,
    visit: &Visit,
) -> Span {
    let span = tracing::info_span!(
        "api.request",
        otel.kind = "server",
        http.request.method = known_verb(request.method()),
        http.route = path_of(route),
        http.response.status_code = Empty,
        request.id = visit.origin.request_id.as_str(),
    );
    let parent = request.headers().get("traceparent");
    if let Some(parent) = parent.and_then(|value| value.to_str().ok()) {
        set_parent(&span, parent);
    }
    span
}

fn path_of(route: &Result<&'static Route, ManagementError>) -> &'static str {
    route.as_ref().map_or("unmatched", |route| route.path)
}

/// A method is the caller's text: what is no method of ours counts as one.
fn known_verb(method: &Method) -> &'static str {
    ["GET", "POST", "PATCH", "DELETE", "HEAD", "PUT", "OPTIONS"]
        .into_iter()
        .find(|known| *known == method.as_str())
        .unwrap_or("OTHER")
}

/// One wide line and two metrics a request, which is told by its method, path and id.
fn record(
    (verb, path, id): (&'static str, &'static str, &str),
    status: StatusCode,
    started: Instant,
    caller: Option<&Caller>,
) {
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
        request.id = id,
        "api.request"
    );
}
