//! The route table: what there is, and which scope it takes. The router is built from it, so a
//! route without a declared scope cannot exist.

use axum::routing::MethodFilter;

/// Read webhooks and their history.
pub(crate) const READ: &str = "webhooks:read";

/// Create, change and delete webhooks.
pub(crate) const WRITE: &str = "webhooks:write";

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
    /// The deliveries of a webhook.
    ListDeliveries,
    /// One delivery with its attempts.
    GetDelivery,
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
    /// Whether a call has a body and may have an `Idempotency-Key`.
    pub(crate) fn writes(&self) -> bool {
        matches!(self.action, Action::CreateWebhook | Action::UpdateWebhook)
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
const PATCH: (MethodFilter, &str) = (MethodFilter::PATCH, "PATCH");
const DELETE: (MethodFilter, &str) = (MethodFilter::DELETE, "DELETE");

/// Every route.
pub(crate) const ROUTES: [Route; 9] = [
    route(GET, "/", None, Action::Entry),
    route(GET, "/v1", None, Action::Entry),
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
        "/v1/webhooks/{id}/deliveries",
        Some(READ),
        Action::ListDeliveries,
    ),
    route(GET, "/v1/deliveries/{id}", Some(READ), Action::GetDelivery),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_but_the_entry_points_takes_the_scope_of_what_it_does() {
        for route in ROUTES {
            let expected = match (route.action, route.verb) {
                (Action::Entry, _) => None,
                (_, "GET") => Some(READ),
                _ => Some(WRITE),
            };
            assert_eq!(route.scope, expected, "{} {}", route.verb, route.path);
        }
    }
}
