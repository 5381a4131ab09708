//! The route table: what there is, and which scope it takes. The router is built from it, so a
//! route without a declared scope cannot exist.

use axum::routing::MethodFilter;

/// Read webhooks and their history.
pub(crate) const READ: &str = "webhooks:read";

/// Create, change and delete webhooks.
pub(crate) const WRITE: &str = "webhooks:write";

/// Read metrics and usage.
pub(crate) const ANALYTICS: &str = "analytics:read";

/// Read the workspace's tokens, never their secrets.
pub(crate) const TOKENS_READ: &str = "tokens:read";

/// Make, change and revoke tokens.
pub(crate) const TOKENS_WRITE: &str = "tokens:write";

/// Read the workspace, what it is allowed, and its audit log.
pub(crate) const WORKSPACE_READ: &str = "workspace:read";

/// No scope of a token: the installation's operator, by the operator's token.
pub(crate) const OPERATOR: &str = "operator";

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Name, version and links.
    Entry,
    /// Create a webhook.
    CreateWebhook,
    /// List webhooks.
    ListWebhooks,
    /// One webhook.
    GetWebhook,
    /// Change a webhook.
    UpdateWebhook,
    /// Delete a webhook.
    DeleteWebhook,
    /// The signing secrets of a webhook, masked.
    ListSecrets,
    /// A new signing secret for a webhook.
    RotateSecret,
    /// Something about deliveries, events, jobs and metrics.
    History(History),
    /// One delivery with its attempts.
    GetDelivery,
    /// Something about tokens, limits and the audit log.
    Tenancy(Tenancy),
    /// Something only an operator does.
    Operate(Operate),
    /// Something for receivers' machines.
    WellKnown(WellKnown),
}

/// What receivers look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WellKnown {
    /// Where requests come from.
    SourceIps,
    /// The keys of a webhook's `v1a` signatures.
    PublicKeys,
}

/// What the routes about what was and will be delivered do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum History {
    /// The deliveries of the workspace.
    ListDeliveries,
    /// The deliveries of a webhook.
    ListDeliveriesOfWebhook,
    /// A delivery's request.
    GetRequest,
    /// Send a delivery again.
    RetryDelivery,
    /// Take a delivery back.
    CancelDelivery,
    /// What happens to deliveries from now on.
    TailDeliveries,
    /// Send a test.
    TestWebhook,
    /// Ask an endpoint whose it is.
    ChallengeWebhook,
    /// What a test would send.
    PreviewWebhook,
    /// Sample payloads.
    ListSamples,
    /// The workspace's events.
    ListEvents,
    /// One event with its verdicts.
    GetEvent,
    /// Make a bulk job.
    CreateJob,
    /// The jobs of a webhook.
    ListJobs,
    /// One job.
    GetJob,
    /// Pause a job.
    PauseJob,
    /// Let a job go on.
    ResumeJob,
    /// End a job.
    CancelJob,
    /// Figures of the workspace.
    GetMetrics,
    /// Figures of a webhook.
    GetMetricsOfWebhook,
    /// Events and deliveries of each day.
    GetUsage,
    /// How a webhook's deliveries fare.
    GetHealthOfWebhook,
}

/// What the routes about who may do what do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tenancy {
    /// This API, described for machines.
    OpenApi,
    /// The scopes that tokens can hold.
    ListApiScopes,
    /// The plans and their limits.
    ListPricingPlans,
    /// What the workspace is allowed.
    ListAllowances,
    /// Who changed what.
    ListAuditLog,
    /// The workspace's own certificate authorities.
    GetAuthorities,
    /// Set them anew.
    SetAuthorities,
    /// Take them away.
    DeleteAuthorities,
    /// Make a token.
    CreateToken,
    /// The workspace's tokens.
    ListTokens,
    /// One token.
    GetToken,
    /// Change a token.
    UpdateToken,
    /// Revoke a token.
    DeleteToken,
}

/// What the operators' routes do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operate {
    /// Make a workspace.
    CreateWorkspace,
    /// All workspaces.
    ListWorkspaces,
    /// One workspace.
    GetWorkspace,
    /// Change a workspace.
    UpdateWorkspace,
    /// Delete a workspace.
    DeleteWorkspace,
    /// Make a token of a workspace.
    IssueToken,
    /// A delivery of any workspace, with the addresses its requests went to.
    InspectDelivery,
}

/// One route.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    /// The method.
    pub(crate) method: MethodFilter,
    /// The method's name, for the log.
    pub(crate) verb: &'static str,
    /// The path, with `{id}` where an id stands.
    pub(crate) path: &'static str,
    /// The scope it takes; `None` = no credentials.
    pub(crate) scope: Option<&'static str>,
    /// What it does.
    pub(crate) action: Action,
}

impl Route {
    /// Whether a call may have an `Idempotency-Key`: whatever is asked with POST, PUT or PATCH.
    pub(crate) fn is_keyed(&self) -> bool {
        ["POST", "PUT", "PATCH"].contains(&self.verb)
    }

    /// Whether a call has a body, or may have one.
    pub(crate) fn writes(&self) -> bool {
        matches!(
            self.action,
            Action::CreateWebhook
                | Action::UpdateWebhook
                | Action::RotateSecret
                | Action::History(
                    History::RetryDelivery
                        | History::TestWebhook
                        | History::ChallengeWebhook
                        | History::PreviewWebhook
                        | History::CreateJob
                        | History::CancelDelivery
                        | History::PauseJob
                        | History::ResumeJob
                        | History::CancelJob
                )
                | Action::Tenancy(
                    Tenancy::CreateToken | Tenancy::UpdateToken | Tenancy::SetAuthorities
                )
                | Action::Operate(
                    Operate::CreateWorkspace | Operate::UpdateWorkspace | Operate::IssueToken
                )
        )
    }
}

const fn route(
    (method, verb): (MethodFilter, &'static str),
    path: &'static str,
    scope: Option<&'static str>,
    action: Action,
) -> Route {
    Route {
        method,
        verb,
        path,
        scope,
        action,
    }
}

const GET: (MethodFilter, &str) = (MethodFilter::GET, "GET");
const POST: (MethodFilter, &str) = (MethodFilter::POST, "POST");
const PUT: (MethodFilter, &str) = (MethodFilter::PUT, "PUT");
const PATCH: (MethodFilter, &str) = (MethodFilter::PATCH, "PATCH");
const DELETE: (MethodFilter, &str) = (MethodFilter::DELETE, "DELETE");

/// Every route.
pub(crate) const ROUTES: &[Route] = &[
    route(GET, "/", None, Action::Entry),
    route(GET, "/v1", None, Action::Entry),
    route(
        GET,
        "/openapi.json",
        None,
        Action::Tenancy(Tenancy::OpenApi),
    ),
    route(
        GET,
        "/.well-known/webhook-source-ips.json",
        None,
        Action::WellKnown(WellKnown::SourceIps),
    ),
    route(
        GET,
        "/.well-known/webhook-public-keys/{id}",
        None,
        Action::WellKnown(WellKnown::PublicKeys),
    ),
    route(
        GET,
        "/v1/api-scopes",
        None,
        Action::Tenancy(Tenancy::ListApiScopes),
    ),
    route(
        GET,
        "/v1/pricing/plans",
        None,
        Action::Tenancy(Tenancy::ListPricingPlans),
    ),
    route(
        GET,
        "/v1/allowances",
        Some(WORKSPACE_READ),
        Action::Tenancy(Tenancy::ListAllowances),
    ),
    route(
        GET,
        "/v1/audit-log",
        Some(WORKSPACE_READ),
        Action::Tenancy(Tenancy::ListAuditLog),
    ),
    route(
        GET,
        "/v1/certificate-authorities",
        Some(READ),
        Action::Tenancy(Tenancy::GetAuthorities),
    ),
    route(
        PUT,
        "/v1/certificate-authorities",
        Some(WRITE),
        Action::Tenancy(Tenancy::SetAuthorities),
    ),
    route(
        DELETE,
        "/v1/certificate-authorities",
        Some(WRITE),
        Action::Tenancy(Tenancy::DeleteAuthorities),
    ),
    route(
        POST,
        "/v1/workspace-tokens",
        Some(TOKENS_WRITE),
        Action::Tenancy(Tenancy::CreateToken),
    ),
    route(
        GET,
        "/v1/workspace-tokens",
        Some(TOKENS_READ),
        Action::Tenancy(Tenancy::ListTokens),
    ),
    route(
        GET,
        "/v1/workspace-tokens/{id}",
        Some(TOKENS_READ),
        Action::Tenancy(Tenancy::GetToken),
    ),
    route(
        PATCH,
        "/v1/workspace-tokens/{id}",
        Some(TOKENS_WRITE),
        Action::Tenancy(Tenancy::UpdateToken),
    ),
    route(
        DELETE,
        "/v1/workspace-tokens/{id}",
        Some(TOKENS_WRITE),
        Action::Tenancy(Tenancy::DeleteToken),
    ),
    route(
        POST,
        "/v1/operator/workspaces",
        Some(OPERATOR),
        Action::Operate(Operate::CreateWorkspace),
    ),
    route(
        GET,
        "/v1/operator/workspaces",
        Some(OPERATOR),
        Action::Operate(Operate::ListWorkspaces),
    ),
    route(
        GET,
        "/v1/operator/workspaces/{id}",
        Some(OPERATOR),
        Action::Operate(Operate::GetWorkspace),
    ),
    route(
        PATCH,
        "/v1/operator/workspaces/{id}",
        Some(OPERATOR),
        Action::Operate(Operate::UpdateWorkspace),
    ),
    route(
        DELETE,
        "/v1/operator/workspaces/{id}",
        Some(OPERATOR),
        Action::Operate(Operate::DeleteWorkspace),
    ),
    route(
        POST,
        "/v1/operator/workspaces/{id}/tokens",
        Some(OPERATOR),
        Action::Operate(Operate::IssueToken),
    ),
    route(
        GET,
        "/v1/operator/deliveries/{id}",
        Some(OPERATOR),
        Action::Operate(Operate::InspectDelivery),
    ),
    route(POST, "/v1/webhooks", Some(WRITE), Action::CreateWebhook),
    route(GET, "/v1/webhooks", Some(READ), Action::ListWebhooks),
    route(GET, "/v1/webhooks/{id}", Some(READ), Action::GetWebhook),
    route(
        PATCH,
        "/v1/webhooks/{id}",
        Some(WRITE),
        Action::UpdateWebhook,
    ),
    route(
        DELETE,
        "/v1/webhooks/{id}",
        Some(WRITE),
        Action::DeleteWebhook,
    ),
    route(
        GET,
        "/v1/webhooks/{id}/secrets",
        Some(READ),
        Action::ListSecrets,
    ),
    route(
        POST,
        "/v1/webhooks/{id}/secret/rotate",
        Some(WRITE),
        Action::RotateSecret,
    ),
    route(
        GET,
        "/v1/webhooks/{id}/deliveries",
        Some(READ),
        Action::History(History::ListDeliveriesOfWebhook),
    ),
    route(
        GET,
        "/v1/webhooks/sample",
        Some(READ),
        Action::History(History::ListSamples),
    ),
    route(
        POST,
        "/v1/webhooks/{id}/test",
        Some(WRITE),
        Action::History(History::TestWebhook),
    ),
    route(
        POST,
        "/v1/webhooks/{id}/challenge",
        Some(WRITE),
        Action::History(History::ChallengeWebhook),
    ),
    route(
        POST,
        "/v1/webhooks/{id}/preview",
        Some(WRITE),
        Action::History(History::PreviewWebhook),
    ),
    route(
        POST,
        "/v1/webhooks/{id}/jobs",
        Some(WRITE),
        Action::History(History::CreateJob),
    ),
    route(
        GET,
        "/v1/webhooks/{id}/jobs",
        Some(READ),
        Action::History(History::ListJobs),
    ),
    route(
        GET,
        "/v1/webhooks/{id}/health",
        Some(READ),
        Action::History(History::GetHealthOfWebhook),
    ),
    route(
        GET,
        "/v1/webhooks/{id}/metrics",
        Some(ANALYTICS),
        Action::History(History::GetMetricsOfWebhook),
    ),
    route(
        GET,
        "/v1/metrics",
        Some(ANALYTICS),
        Action::History(History::GetMetrics),
    ),
    route(
        GET,
        "/v1/usage",
        Some(ANALYTICS),
        Action::History(History::GetUsage),
    ),
    route(
        GET,
        "/v1/jobs/{id}",
        Some(READ),
        Action::History(History::GetJob),
    ),
    route(
        POST,
        "/v1/jobs/{id}/pause",
        Some(WRITE),
        Action::History(History::PauseJob),
    ),
    route(
        POST,
        "/v1/jobs/{id}/resume",
        Some(WRITE),
        Action::History(History::ResumeJob),
    ),
    route(
        POST,
        "/v1/jobs/{id}/cancel",
        Some(WRITE),
        Action::History(History::CancelJob),
    ),
    route(
        GET,
        "/v1/events",
        Some(READ),
        Action::History(History::ListEvents),
    ),
    route(
        GET,
        "/v1/events/{id}",
        Some(READ),
        Action::History(History::GetEvent),
    ),
    route(
        GET,
        "/v1/deliveries",
        Some(READ),
        Action::History(History::ListDeliveries),
    ),
    route(
        GET,
        "/v1/deliveries/tail",
        Some(READ),
        Action::History(History::TailDeliveries),
    ),
    route(
        GET,
        "/v1/deliveries/{id}/request",
        Some(READ),
        Action::History(History::GetRequest),
    ),
    route(
        POST,
        "/v1/deliveries/{id}/retry",
        Some(WRITE),
        Action::History(History::RetryDelivery),
    ),
    route(
        POST,
        "/v1/deliveries/{id}/cancel",
        Some(WRITE),
        Action::History(History::CancelDelivery),
    ),
    route(GET, "/v1/deliveries/{id}", Some(READ), Action::GetDelivery),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_has_a_body_takes_a_key() {
        for route in ROUTES {
            assert!(route.is_keyed() || !route.writes(), "{}", route.path);
        }
    }

    #[test]
    fn every_route_but_the_entry_points_takes_the_scope_of_what_it_does() {
        for route in ROUTES {
            let expected = match (route.action, route.verb) {
                (Action::Entry | Action::WellKnown(_), _)
                | (
                    Action::Tenancy(
                        Tenancy::OpenApi | Tenancy::ListApiScopes | Tenancy::ListPricingPlans,
                    ),
                    _,
                ) => None,
                (Action::Tenancy(Tenancy::ListAllowances | Tenancy::ListAuditLog), _) => {
                    Some(WORKSPACE_READ)
                }
                (Action::Tenancy(Tenancy::GetAuthorities), _) => Some(READ),
                (Action::Tenancy(Tenancy::SetAuthorities | Tenancy::DeleteAuthorities), _) => {
                    Some(WRITE)
                }
                (Action::Tenancy(_), "GET") => Some(TOKENS_READ),
                (Action::Tenancy(_), _) => Some(TOKENS_WRITE),
                (Action::Operate(_), _) => Some(OPERATOR),
                (
                    Action::History(
                        History::GetMetrics | History::GetMetricsOfWebhook | History::GetUsage,
                    ),
                    _,
                ) => Some(ANALYTICS),
                (_, "GET") => Some(READ),
                _ => Some(WRITE),
            };
            assert_eq!(route.scope, expected, "{} {}", route.verb, route.path);
        }
    }
}
