//! Lists as streams, and the tail.

use futures::{Stream, TryStreamExt as _, stream};

use crate::{Client, Error, Refusal, v1};

/// Streams over pages. A stream begins at the request's page token, takes its page size, and ends
/// after the first error.
macro_rules! lists {
    ($($(#[$doc:meta])* $name:ident = $call:ident($request:ident).$rows:ident: $row:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                pub fn $name(
                    &self,
                    request: v1::$request,
                ) -> impl Stream<Item = Result<v1::$row, Error>> + Send + use<> {
                    let client = self.clone();
                    let pages = stream::try_unfold(Some(request), move |next| {
                        let client = client.clone();
                        async move {
                            let Some(mut request) = next else { return Ok(None) };
                            let page = client.$call(request.clone()).await?;
                            request.page_token = page.next_page_token;
                            let more = !request.page_token.is_empty();
                            Ok::<_, Error>(Some((page.$rows, more.then_some(request))))
                        }
                    });
                    pages
                        .map_ok(|rows| stream::iter(rows.into_iter().map(Ok)))
                        .try_flatten()
                }
            )*
        }
    };
}

lists! {
    /// The workspace's webhooks, oldest first.
    webhooks = list_webhooks(ListWebhooksRequest).webhooks: Webhook;
    /// The deliveries that match, newest first.
    deliveries = list_deliveries(ListDeliveriesRequest).deliveries: Delivery;
    /// The workspace's events, newest first.
    events = list_events(ListEventsRequest).events: Event;
    /// The jobs of a webhook, newest first.
    jobs = list_jobs(ListJobsRequest).jobs: Job;
    /// The workspace's access tokens, oldest first.
    workspace_tokens = list_workspace_tokens(ListWorkspaceTokensRequest).tokens: WorkspaceToken;
    /// All workspaces, oldest first; for the operator.
    workspaces = list_workspaces(ListWorkspacesRequest).workspaces: Workspace;
}

impl Client {
    /// What happens to the workspace's deliveries from now on, or to those of one webhook. Ends with
    /// the error when the connection or the server does; nothing is replayed.
    ///
    /// # Errors
    /// The tail cannot be opened.
    pub async fn tail(
        &self,
        request: v1::TailDeliveriesRequest,
    ) -> Result<impl Stream<Item = Result<v1::TailDeliveriesResponse, Error>> + Send + use<>, Error>
    {
        let mut service = self.delivery_service();
        let opened = service.tail_deliveries(self.request(request)).await;
        let reports = opened.map_err(|status| Refusal::of(status, 1))?;
        Ok(reports
            .into_inner()
            .map_err(|status| Refusal::of(status, 1).into()))
    }
}
