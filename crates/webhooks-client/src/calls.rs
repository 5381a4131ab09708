//! Every call that has one answer.

use tonic::{Code, transport::Channel};
use uuid::Uuid;
use webhooks_proto::v1::{
    self, delivery_service_client::DeliveryServiceClient,
    event_history_service_client::EventHistoryServiceClient,
    event_service_client::EventServiceClient, job_service_client::JobServiceClient,
    metrics_service_client::MetricsServiceClient, operator_service_client::OperatorServiceClient,
    webhook_service_client::WebhookServiceClient, workspace_service_client::WorkspaceServiceClient,
    workspace_token_service_client::WorkspaceTokenServiceClient,
};

use crate::{Client, Error, MAX_ANSWER_BYTES};

/// A request that makes something, once for each key.
trait Keyed {
    fn key(&mut self) -> &mut String;

    fn with_key(mut self) -> Self
    where
        Self: Sized,
    {
        let key = self.key();
        if key.is_empty() {
            *key = Uuid::new_v4().to_string();
        }
        self
    }
}

macro_rules! services {
    ($($name:ident: $client:ident;)*) => {
        impl Client {
            $(
                pub(crate) fn $name(&self) -> $client<Channel> {
                    $client::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
                }
            )*
        }
    };
}

/// Calls that can be repeated as they are: they only look, or a second time changes nothing.
macro_rules! calls {
    ($($(#[$doc:meta])* $service:ident.$name:ident($request:ident) -> $answer:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// The server refuses the call or cannot be reached.
                pub async fn $name(&self, request: v1::$request) -> Result<v1::$answer, Error> {
                    self.repeat(request, |request| {
                        let mut service = self.$service();
                        async move { service.$name(request).await }
                    })
                    .await
                }
            )*
        }
    };
}

/// Calls that make something: with a key they can be repeated too.
macro_rules! keyed_calls {
    ($($(#[$doc:meta])* $service:ident.$name:ident($request:ident) -> $answer:ident;)*) => {
        $(
            impl Keyed for v1::$request {
                fn key(&mut self) -> &mut String {
                    &mut self.idempotency_key
                }
            }
        )*
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// The server refuses the call or cannot be reached.
                pub async fn $name(&self, request: v1::$request) -> Result<v1::$answer, Error> {
                    self.repeat(request.with_key(), |request| {
                        let mut service = self.$service();
                        async move { service.$name(request).await }
                    })
                    .await
                }
            )*
        }
    };
}

/// Deletions: what a repetition finds gone, the try before has deleted.
macro_rules! deletions {
    ($($(#[$doc:meta])* $service:ident.$name:ident($request:ident) -> $answer:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// There is no such thing, or the server refuses the call or cannot be reached.
                pub async fn $name(&self, request: v1::$request) -> Result<v1::$answer, Error> {
                    let done = self
                        .repeat(request, |request| {
                            let mut service = self.$service();
                            async move { service.$name(request).await }
                        })
                        .await;
                    match done {
                        Err(Error::Refused(refusal))
                            if refusal.code == Code::NotFound && refusal.tries > 1 =>
                        {
                            Ok(v1::$answer::default())
                        }
                        done => done,
                    }
                }
            )*
        }
    };
}

services! {
    webhook_service: WebhookServiceClient;
    delivery_service: DeliveryServiceClient;
    event_history_service: EventHistoryServiceClient;
    job_service: JobServiceClient;
    metrics_service: MetricsServiceClient;
    workspace_token_service: WorkspaceTokenServiceClient;
    workspace_service: WorkspaceServiceClient;
    operator_service: OperatorServiceClient;
    event_service: EventServiceClient;
}

calls! {
    /// One webhook.
    webhook_service.get_webhook(GetWebhookRequest) -> GetWebhookResponse;
    /// A page of webhooks; see [`Client::webhooks`].
    webhook_service.list_webhooks(ListWebhooksRequest) -> ListWebhooksResponse;
    /// The signing secrets of a webhook, masked.
    webhook_service.list_webhook_secrets(ListWebhookSecretsRequest) -> ListWebhookSecretsResponse;
    /// How a webhook's deliveries fare.
    webhook_service.get_webhook_health(GetWebhookHealthRequest) -> GetWebhookHealthResponse;
    /// The workspace's own certificate authorities.
    webhook_service.get_certificate_authorities(GetCertificateAuthoritiesRequest) -> GetCertificateAuthoritiesResponse;
    /// Takes the workspace's own certificate authorities away. None at all is fine.
    webhook_service.delete_certificate_authorities(DeleteCertificateAuthoritiesRequest) -> DeleteCertificateAuthoritiesResponse;
    /// A page of deliveries; see [`Client::deliveries`].
    delivery_service.list_deliveries(ListDeliveriesRequest) -> ListDeliveriesResponse;
    /// One delivery with its attempts.
    delivery_service.get_delivery(GetDeliveryRequest) -> GetDeliveryResponse;
    /// The request as it would be sent now.
    delivery_service.get_delivery_request_content(GetDeliveryRequestContentRequest) -> PreparedRequest;
    /// Sample payloads.
    delivery_service.list_samples(ListSamplesRequest) -> ListSamplesResponse;
    /// One event with a verdict for every webhook.
    event_history_service.get_event(GetEventRequest) -> GetEventResponse;
    /// A page of events; see [`Client::events`].
    event_history_service.list_events(ListEventsRequest) -> ListEventsResponse;
    /// One job.
    job_service.get_job(GetJobRequest) -> GetJobResponse;
    /// A page of jobs; see [`Client::jobs`].
    job_service.list_jobs(ListJobsRequest) -> ListJobsResponse;
    /// Figures over time.
    metrics_service.get_metrics(GetMetricsRequest) -> GetMetricsResponse;
    /// Events and deliveries of each day.
    metrics_service.get_usage(GetUsageRequest) -> GetUsageResponse;
    /// One access token, without its secret.
    workspace_token_service.get_workspace_token(GetWorkspaceTokenRequest) -> GetWorkspaceTokenResponse;
    /// A page of access tokens; see [`Client::workspace_tokens`].
    workspace_token_service.list_workspace_tokens(ListWorkspaceTokensRequest) -> ListWorkspaceTokensResponse;
    /// The scopes that tokens can hold.
    workspace_service.list_api_scopes(ListApiScopesRequest) -> ListApiScopesResponse;
    /// The plans and their limits.
    workspace_service.list_pricing_plans(ListPricingPlansRequest) -> ListPricingPlansResponse;
    /// Where requests to endpoints come from.
    workspace_service.get_source_ips(GetSourceIpsRequest) -> GetSourceIpsResponse;
    /// The keys of a webhook's `v1a` signatures.
    workspace_service.get_webhook_public_keys(GetWebhookPublicKeysRequest) -> GetWebhookPublicKeysResponse;
    /// What the workspace is allowed.
    workspace_service.list_allowances(ListAllowancesRequest) -> ListAllowancesResponse;
    /// A page of the audit log.
    workspace_service.list_audit_log(ListAuditLogRequest) -> ListAuditLogResponse;
    /// One workspace; for the operator.
    operator_service.get_workspace(GetWorkspaceRequest) -> GetWorkspaceResponse;
    /// A page of workspaces; see [`Client::workspaces`].
    operator_service.list_workspaces(ListWorkspacesRequest) -> ListWorkspacesResponse;
    /// A delivery of any workspace; for the operator.
    operator_service.inspect_delivery(InspectDeliveryRequest) -> InspectDeliveryResponse;
}

keyed_calls! {
    /// Makes a webhook. The answer has its signing secret, this once.
    webhook_service.create_webhook(CreateWebhookRequest) -> CreateWebhookResponse;
    /// Changes a webhook.
    webhook_service.update_webhook(UpdateWebhookRequest) -> UpdateWebhookResponse;
    /// Makes a new signing secret. The answer has it, this once.
    webhook_service.rotate_webhook_secret(RotateWebhookSecretRequest) -> RotateWebhookSecretResponse;
    /// Sets the workspace's own certificate authorities anew.
    webhook_service.set_certificate_authorities(SetCertificateAuthoritiesRequest) -> SetCertificateAuthoritiesResponse;
    /// Takes back what was not sent yet.
    delivery_service.cancel_delivery(CancelDeliveryRequest) -> CancelDeliveryResponse;
    /// The request that a test would send, without sending it.
    delivery_service.preview_webhook(PreviewWebhookRequest) -> PreparedRequest;
    /// Sends the same bytes again as a new delivery.
    delivery_service.retry_delivery(RetryDeliveryRequest) -> RetryDeliveryResponse;
    /// Sends a test.
    delivery_service.test_webhook(TestWebhookRequest) -> TestWebhookResponse;
    /// Asks an endpoint to show that it belongs to who holds the secret.
    delivery_service.challenge_webhook(ChallengeWebhookRequest) -> ChallengeWebhookResponse;
    /// Makes a bulk job.
    job_service.create_job(CreateJobRequest) -> CreateJobResponse;
    /// Pauses a job.
    job_service.pause_job(PauseJobRequest) -> GetJobResponse;
    /// Lets a job go on.
    job_service.resume_job(ResumeJobRequest) -> GetJobResponse;
    /// Ends a job.
    job_service.cancel_job(CancelJobRequest) -> GetJobResponse;
    /// Makes a workspace; for the operator.
    operator_service.create_workspace(CreateWorkspaceRequest) -> CreateWorkspaceResponse;
    /// Changes a workspace; for the operator.
    operator_service.update_workspace(UpdateWorkspaceRequest) -> UpdateWorkspaceResponse;
    /// Makes a token of a workspace, such as its first; for the operator. The answer has it, this once.
    operator_service.issue_workspace_token(IssueWorkspaceTokenRequest) -> IssueWorkspaceTokenResponse;
    /// Makes an access token. The answer has it, this once.
    workspace_token_service.create_workspace_token(CreateWorkspaceTokenRequest) -> CreateWorkspaceTokenResponse;
    /// Changes an access token.
    workspace_token_service.update_workspace_token(UpdateWorkspaceTokenRequest) -> UpdateWorkspaceTokenResponse;
}

deletions! {
    /// Deletes a webhook. Its history stays.
    webhook_service.delete_webhook(DeleteWebhookRequest) -> DeleteWebhookResponse;
    /// Revokes an access token.
    workspace_token_service.delete_workspace_token(DeleteWorkspaceTokenRequest) -> DeleteWorkspaceTokenResponse;
    /// Deletes a workspace: its deliveries stop at once; for the operator.
    operator_service.delete_workspace(DeleteWorkspaceRequest) -> DeleteWorkspaceResponse;
}

impl Client {
    /// Publishes an event; for a client of ingest's address. It may be repeated, since the same
    /// bytes are the same event, with an id or without.
    ///
    /// # Errors
    /// The server refuses the event or cannot be reached.
    pub async fn publish_event(
        &self,
        request: v1::PublishEventRequest,
    ) -> Result<v1::PublishEventResponse, Error> {
        self.repeat(request, |request| {
            let mut service = self.event_service();
            async move { service.publish_event(request).await }
        })
        .await
    }
}
