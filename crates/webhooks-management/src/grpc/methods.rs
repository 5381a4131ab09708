//! The method table: every public method, and what it takes to call it. The layer around all calls
//! looks a method up here before anything else happens, so one without a row cannot be called; and
//! `Grpc::call` takes the scope from here and from nowhere else.

use crate::rest::{ANALYTICS, READ, TOKENS_READ, TOKENS_WRITE, WORKSPACE_READ, WRITE};

/// The path before the methods that customers and operators call.
pub(super) const PUBLIC: &str = "/linkbreakers.webhooks.v1.";

/// What a method takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing.
    Anyone,
    /// A workspace's token with this scope.
    Scope(&'static str),
    /// The operator's token.
    Operator,
}

/// One method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Method {
    /// `WebhookService/CreateWebhook`
    path: &'static str,
    /// What it takes.
    pub(super) access: Access,
}

impl Method {
    /// The method at a path of the request line; `None` = there is none.
    pub(super) fn at(path: &str) -> Option<&'static Self> {
        let path = path.strip_prefix(PUBLIC)?;
        METHODS.iter().find(|method| method.path == path)
    }

    /// `CreateWebhook`
    pub(super) fn name(&self) -> &'static str {
        self.path.split_once('/').map_or(self.path, |parts| parts.1)
    }
}

const fn method(path: &'static str, access: Access) -> Method {
    Method { path, access }
}

const fn scope(path: &'static str, scope: &'static str) -> Method {
    method(path, Access::Scope(scope))
}

/// Every method.
const METHODS: &[Method] = &[
    scope("WebhookService/CreateWebhook", WRITE),
    scope("WebhookService/GetWebhook", READ),
    scope("WebhookService/ListWebhooks", READ),
    scope("WebhookService/UpdateWebhook", WRITE),
    scope("WebhookService/DeleteWebhook", WRITE),
    scope("WebhookService/ListWebhookSecrets", READ),
    scope("WebhookService/RotateWebhookSecret", WRITE),
    scope("WebhookService/GetCertificateAuthorities", READ),
    scope("WebhookService/SetCertificateAuthorities", WRITE),
    scope("WebhookService/DeleteCertificateAuthorities", WRITE),
    scope("WebhookService/GetWebhookHealth", READ),
    scope("DeliveryService/ListDeliveries", READ),
    scope("DeliveryService/GetDelivery", READ),
    scope("DeliveryService/GetDeliveryRequestContent", READ),
    scope("DeliveryService/RetryDelivery", WRITE),
    scope("DeliveryService/CancelDelivery", WRITE),
    scope("DeliveryService/TailDeliveries", READ),
    scope("DeliveryService/TestWebhook", WRITE),
    scope("DeliveryService/ChallengeWebhook", WRITE),
    scope("DeliveryService/PreviewWebhook", WRITE),
    scope("DeliveryService/ListSamples", READ),
    scope("EventHistoryService/GetEvent", READ),
    scope("EventHistoryService/ListEvents", READ),
    scope("JobService/CreateJob", WRITE),
    scope("JobService/GetJob", READ),
    scope("JobService/ListJobs", READ),
    scope("JobService/PauseJob", WRITE),
    scope("JobService/ResumeJob", WRITE),
    scope("JobService/CancelJob", WRITE),
    scope("MetricsService/GetMetrics", ANALYTICS),
    scope("MetricsService/GetUsage", ANALYTICS),
    scope("WorkspaceTokenService/CreateWorkspaceToken", TOKENS_WRITE),
    scope("WorkspaceTokenService/GetWorkspaceToken", TOKENS_READ),
    scope("WorkspaceTokenService/ListWorkspaceTokens", TOKENS_READ),
    scope("WorkspaceTokenService/UpdateWorkspaceToken", TOKENS_WRITE),
    scope("WorkspaceTokenService/DeleteWorkspaceToken", TOKENS_WRITE),
    method("WorkspaceService/ListApiScopes", Access::Anyone),
    method("WorkspaceService/ListPricingPlans", Access::Anyone),
    method("WorkspaceService/GetSourceIps", Access::Anyone),
    method("WorkspaceService/GetWebhookPublicKeys", Access::Anyone),
    scope("WorkspaceService/ListAllowances", WORKSPACE_READ),
    scope("WorkspaceService/ListAuditLog", WORKSPACE_READ),
    method("OperatorService/CreateWorkspace", Access::Operator),
    method("OperatorService/GetWorkspace", Access::Operator),
    method("OperatorService/ListWorkspaces", Access::Operator),
    method("OperatorService/UpdateWorkspace", Access::Operator),
    method("OperatorService/DeleteWorkspace", Access::Operator),
    method("OperatorService/IssueWorkspaceToken", Access::Operator),
    method("OperatorService/InspectDelivery", Access::Operator),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_public_method_has_a_row_and_every_row_a_method() {
        let files = FileDescriptorSet::decode(webhooks_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut declared = BTreeSet::new();
        for file in &files.file {
            if file.package() != "linkbreakers.webhooks.v1" {
                continue;
            }
            // Ingest's own door.
            let services = file
                .service
                .iter()
                .filter(|one| one.name() != "EventService");
            for service in services {
                let methods = service.method.iter();
                declared.extend(methods.map(|one| format!("{}/{}", service.name(), one.name())));
            }
        }
        let rows: Vec<_> = METHODS.iter().map(|row| row.path.to_owned()).collect();
        let listed: BTreeSet<_> = rows.iter().cloned().collect();
        assert_eq!(listed.len(), rows.len(), "a row is there twice");
        assert_eq!(listed, declared);
    }

    #[test]
    fn a_path_without_a_row_is_no_method() {
        let at = |path: &str| Method::at(path).map(|method| (method.name(), method.access));
        assert_eq!(
            at("/linkbreakers.webhooks.v1.WebhookService/GetWebhook"),
            Some(("GetWebhook", Access::Scope(READ)))
        );
        for none in [
            "/linkbreakers.webhooks.v1.WebhookService/GetWebhooks",
            "/linkbreakers.webhooks.v1.EventService/PublishEvent",
            "/linkbreakers.webhooks.internal.v1.ReportService/Report",
            "WebhookService/GetWebhook",
        ] {
            assert_eq!(at(none), None, "{none}");
        }
    }
}
