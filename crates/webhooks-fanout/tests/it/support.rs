//! A real nats-server and fan-out in this process; the test plays ingest, management and dispatcher.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use prost::Message as _;
use tempfile::TempDir;
use uuid::Uuid;
use webhooks_bus::{
    Bus, BusSettings, ConfigWriter, Outgoing, StoredMessage, headers, names, subjects,
};
use webhooks_devstack::{NatsServer, wait_until};
use webhooks_fanout::{Config, FanoutService};
use webhooks_proto::internal::v1::{DeliveryJob, Status, Verdict, WebhookConfig};
use webhooks_runtime::{Clock as _, Context, OnError, SystemClock};

/// Generous: the machine may be busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) const WORKSPACE: Uuid = Uuid::from_u128(0xa39d_bbfb_be5e_41c8_b49a_7c9a_da52_0fa4);
pub(crate) const OTHER: Uuid = Uuid::from_u128(0xb000);
pub(crate) const LINK: Uuid = Uuid::from_u128(0xa333);

pub(crate) struct Stack {
    pub(crate) nats: NatsServer,
    pub(crate) bus: Bus,
    pub(crate) config: ConfigWriter,
    settings: BusSettings,
    _folder: TempDir,
}

/// Fan-out, running.
pub(crate) struct Running {
    pub(crate) ctx: Context,
}

impl Running {
    /// Stops it as SIGTERM would.
    pub(crate) async fn stop(self) {
        self.ctx.shutdown.cancel();
        self.ctx.tasks.drain(LIMIT).await.unwrap();
        assert!(self.ctx.tasks.take_fatal().is_none());
    }

    pub(crate) async fn ready(&self) {
        wait_until("readiness", LIMIT, async || {
            let state = self.ctx.readiness.state();
            if state.is_ready() {
                Ok(())
            } else {
                Err(state.missing())
            }
        })
        .await
        .unwrap();
    }
}

impl Stack {
    pub(crate) async fn start() -> Self {
        Self::with(BusSettings::default()).await
    }

    pub(crate) async fn with(settings: BusSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nats = NatsServer::builder(folder.path()).start().await.unwrap();
        let settings = BusSettings {
            url: nats.url(),
            ..settings
        };
        let bus = Bus::connect(settings.clone(), "test").await.unwrap();
        let stack = Self {
            config: ConfigWriter::new(&bus),
            nats,
            bus,
            settings,
            _folder: folder,
        };
        stack.apply_topology().await;
        stack
    }

    pub(crate) async fn apply_topology(&self) {
        wait_until("the topology", LIMIT, async || {
            self.bus
                .apply_topology()
                .await
                .map_err(|error| error.to_string())
        })
        .await
        .unwrap();
    }

    pub(crate) async fn fanout(&self) -> Running {
        let ctx = Context::for_tests();
        let config = Config {
            bus: self.settings.clone(),
            concurrency: 256,
            publish_window: 1_024,
        };
        let service = FanoutService::build(config, &ctx).await.unwrap();
        let inner = ctx.clone();
        ctx.tasks.spawn("fanout", OnError::StopService, async move {
            service.run(inner).await
        });
        let running = Running { ctx };
        running.ready().await;
        running
    }

    /// Publishes as ingest does.
    pub(crate) async fn publish(&self, workspace: Uuid, link: Uuid, id: &str) -> Bytes {
        let payload = payload(workspace, link, id);
        let message = Outgoing::new(
            subjects::event(workspace, link),
            &format!("{workspace}:{id}"),
            payload.clone(),
        )
        .header(headers::EVENT_ID, id)
        .header(headers::WORKSPACE, &workspace.to_string())
        .header(headers::ACCEPTED_AT, &SystemClock.now_micros().to_string());
        self.bus.publish(message, LIMIT).await.unwrap();
        payload
    }

    /// Waits until a stream holds this many, and returns them.
    pub(crate) async fn messages(&self, stream: &str, count: u64) -> Vec<StoredMessage> {
        wait_until(
            &format!("{count} messages on {stream}"),
            LIMIT,
            async || match self.bus.message_count(stream).await {
                Ok(found) if found == count => Ok(()),
                other => Err(format!("{other:?}")),
            },
        )
        .await
        .unwrap();
        let mut messages = Vec::new();
        let mut next = 1;
        while messages.len() < usize::try_from(count).unwrap() {
            let message = self.bus.get_next(stream, ">", next).await.unwrap().unwrap();
            next = message.seq + 1;
            messages.push(message);
        }
        messages
    }

    pub(crate) async fn jobs(&self, stream: &str, count: u64) -> Vec<DeliveryJob> {
        let messages = self.messages(stream, count).await;
        messages
            .into_iter()
            .map(|message| DeliveryJob::decode(message.payload).unwrap())
            .collect()
    }

    /// The bodies of all deliveries that are owed, by delivery id.
    pub(crate) async fn bodies(&self, count: u64) -> BTreeMap<Bytes, Bytes> {
        let jobs = self.jobs("DELIVERIES-0", count).await;
        let bodies: BTreeMap<_, _> = jobs
            .into_iter()
            .map(|job| (job.delivery.unwrap().delivery_id, job.body))
            .collect();
        assert_eq!(
            bodies.len(),
            usize::try_from(count).unwrap(),
            "each delivery is there once"
        );
        bodies
    }

    pub(crate) async fn verdicts(&self, count: u64) -> Vec<Verdict> {
        let messages = self.messages(names::VERDICTS, count).await;
        messages
            .into_iter()
            .map(|message| Verdict::decode(message.payload).unwrap())
            .collect()
    }

    /// Waits until every event is acknowledged.
    pub(crate) async fn all_acknowledged(&self) {
        wait_until("every event to be acknowledged", LIMIT, async || {
            let stream = self
                .bus
                .jetstream()
                .get_stream(names::EVENTS)
                .await
                .map_err(|error| error.to_string())?;
            let info = stream
                .consumer_info(names::EVENTS_CONSUMER)
                .await
                .map_err(|error| error.to_string())?;
            let left = (info.num_pending, info.num_ack_pending);
            if left == (0, 0) {
                Ok(())
            } else {
                Err(format!("pending, unacknowledged: {left:?}"))
            }
        })
        .await
        .unwrap();
    }
}

/// A webhook for the whole workspace and every kind.
pub(crate) fn webhook(id: u128, workspace: Uuid) -> WebhookConfig {
    WebhookConfig {
        id: bytes(Uuid::from_u128(id)),
        workspace_id: bytes(workspace),
        name: format!("Webhook {id}"),
        endpoint_url: format!("https://example.com/{id}"),
        status: Status::Active.into(),
        source: "LINKBREAKERS".to_owned(),
        created_at: 1_000_000,
        updated_at: 1_000_000,
        revision: 1,
        profile: "standard".to_owned(),
        ..WebhookConfig::default()
    }
}

pub(crate) fn bytes(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

pub(crate) fn payload(workspace: Uuid, link: Uuid, id: &str) -> Bytes {
    let text = format!(
        r#"{{"id":"{id}","event":{{"id":"visit","workspaceId":"{workspace}","linkId":"{link}"}},"workflowStep":{{"id":"step","kind":"KIND_EXIT","payload":{{"b":1e5,"a":18446744073709551616}}}},"timestamp":"2025-10-10T16:12:28.161007Z","type":"step.completed","lbid":"2VqK"}}"#
    );
    text.into_bytes().into()
}
