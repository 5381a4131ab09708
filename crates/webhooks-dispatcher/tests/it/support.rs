//! A nats-server, dispatchers in this process, a receiver, and the read model.

use std::{collections::BTreeMap, future::Future, time::Duration};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    task::JoinHandle,
};
use uuid::Uuid;
use webhooks_bus::{Bus, BusSettings, ConfigWriter, Outgoing, names, subjects};
use webhooks_devstack::{NatsServer, wait_until};
use webhooks_dispatcher::Config;
use webhooks_domain::{
    clock::Clock as _,
    ids,
    sealing::{Binding, Keyring, SEAL_RANDOM_BYTES},
    signing::SigningKey,
};
use webhooks_loadgen::receiver::{Receiver, ReceiverOptions};
use webhooks_proto::{
    internal::v1::{
        DeliveryJob, DeliveryRef, DeliveryReport, PartitionLease, SealedSecret, Status,
        WebhookConfig,
    },
    v1::{DeliveryState, Trigger},
};
use webhooks_runtime::{Context, Env, Settings as _, SystemClock};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) bus: Bus,
    pub(crate) receiver: Receiver,
    pub(crate) workspace: Uuid,
    writer: ConfigWriter,
    revision: std::sync::atomic::AtomicI64,
    nats: NatsServer,
    _dir: TempDir,
}

pub(crate) struct Dispatcher {
    pub(crate) ctx: Context,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Dispatcher {
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.ctx.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(40), self.task)
            .await
            .context("it does not stop")??
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ctx.readiness.state().is_ready()
    }
}

pub(crate) fn keyring_text() -> String {
    format!(
        "k1:{}",
        STANDARD.encode(b"canary-sealing-key-of-32-bytes-!")
    )
}

pub(crate) fn key() -> SigningKey {
    SigningKey::from_random(*b"canary-signing-key-of-32-bytes-!")
}

impl World {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let nats = NatsServer::builder(dir.path().join("nats")).start().await?;
        let bus = Bus::connect(
            BusSettings {
                url: nats.url(),
                ..BusSettings::default()
            },
            "test",
        )
        .await?;
        wait_until("the streams", LIMIT, async || {
            bus.apply_topology()
                .await
                .map_err(|error| error.to_string())
        })
        .await?;
        let receiver = Receiver::start(ReceiverOptions {
            secrets: vec![key()],
            ..ReceiverOptions::default()
        })
        .await?;
        let writer = ConfigWriter::new(&bus);
        Ok(Self {
            bus,
            receiver,
            workspace: Uuid::new_v4(),
            writer,
            revision: 0.into(),
            nats,
            _dir: dir,
        })
    }

    /// Quick retries, and settings of the test's own.
    fn vars(&self, settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut vars: BTreeMap<String, String> = [
            ("WEBHOOKS_NATS_URL", self.nats.url()),
            ("WEBHOOKS_EGRESS_ALLOW_HTTP", "true".to_owned()),
            ("WEBHOOKS_EGRESS_ALLOW_CIDRS", "127.0.0.0/8".to_owned()),
            ("WEBHOOKS_ENCRYPTION_KEYS", keyring_text()),
            (
                "WEBHOOKS_INTERNAL_TOKEN",
                "canary-internal-token".to_owned(),
            ),
            // Nobody listens there: reports are spooled.
            (
                "WEBHOOKS_MANAGEMENT_GRPC_URL",
                "http://127.0.0.1:1".to_owned(),
            ),
            ("WEBHOOKS_RETRY_BASE", "2s".to_owned()),
            ("WEBHOOKS_RETRY_IMMEDIATE", "100ms".to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        vars.extend(
            settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        vars
    }

    /// Starts a dispatcher that is a process of its own.
    pub(crate) fn process(&self, settings: &[(&str, &str)]) -> anyhow::Result<Child> {
        Ok(Command::new(env!("CARGO_BIN_EXE_webhooks-dispatcher"))
            .env_clear()
            .envs(self.vars(settings))
            .env("WEBHOOKS_ADMIN_ADDR", "127.0.0.1:0")
            .env(
                "WEBHOOKS_LOG",
                std::env::var("WEBHOOKS_LOG").unwrap_or_default(),
            )
            .stdout(webhooks_devstack::kept_output("dispatcher")?)
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()?)
    }

    /// Starts a dispatcher with quick retries and settings of the test's own.
    pub(crate) async fn dispatcher(&self, settings: &[(&str, &str)]) -> anyhow::Result<Dispatcher> {
        self.dispatcher_with(settings, |_| {}).await
    }

    /// A dispatcher with what no setting allows.
    pub(crate) async fn dispatcher_with(
        &self,
        settings: &[(&str, &str)],
        change: impl FnOnce(&mut Config),
    ) -> anyhow::Result<Dispatcher> {
        let vars = self.vars(settings);
        let mut env = Env::from_vars(vars);
        let mut config = Config::read(&mut env);
        env.finish()?;
        change(&mut config);
        let ctx = Context::for_tests();
        #[expect(clippy::disallowed_methods, reason = "the test waits for it")]
        let task = tokio::spawn(webhooks_dispatcher::run(config, ctx.clone()));
        let dispatcher = Dispatcher { ctx, task };
        wait_until("a ready dispatcher", LIMIT, async || {
            if dispatcher.is_ready() {
                Ok(())
            } else {
                Err(format!("{:?}", dispatcher.ctx.readiness.state()))
            }
        })
        .await?;
        Ok(dispatcher)
    }

    pub(crate) async fn webhook(&self, id: Uuid, path: &str, status: Status) -> anyhow::Result<()> {
        self.webhook_with(id, path, status, |_| {}).await
    }

    /// A webhook with options.
    pub(crate) async fn webhook_with(
        &self,
        id: Uuid,
        path: &str,
        status: Status,
        options: impl FnOnce(&mut WebhookConfig),
    ) -> anyhow::Result<()> {
        let binding = Binding {
            workspace: self.workspace,
            webhook: id,
            version: 1,
        };
        let sealed = Keyring::parse(&keyring_text())?.seal(
            binding,
            key().as_bytes(),
            [1; SEAL_RANDOM_BYTES],
        );
        let mut config = WebhookConfig {
            id: id.as_bytes().to_vec().into(),
            workspace_id: self.workspace.as_bytes().to_vec().into(),
            name: "test".to_owned(),
            endpoint_url: if path.starts_with("http") {
                path.to_owned()
            } else {
                self.receiver.url(path)
            },
            status: status.into(),
            revision: self
                .revision
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
                + 1,
            secrets: vec![SealedSecret {
                key_id: sealed.key_id,
                version: 1,
                nonce: sealed.nonce.to_vec().into(),
                ciphertext: sealed.ciphertext.into(),
                expires_at: 0,
            }],
            ..WebhookConfig::default()
        };
        options(&mut config);
        Ok(self.writer.put_webhook(&config).await?)
    }

    /// Takes every partition from its owner, and waits until dispatchers have taken them again.
    pub(crate) async fn lose_all_partitions(&self) -> anyhow::Result<()> {
        use prost::Message as _;
        for partition in 0..16 {
            let subject = format!("$KV.LEASES.p.{partition}");
            let found = self.bus.get_last("KV_LEASES", &subject).await?;
            let found = found.context("a partition without an owner")?;
            let mut lease = PartitionLease::decode(found.payload)?;
            lease.owner = "ghost".to_owned();
            lease.epoch += 1;
            let message = Outgoing::new(
                subject,
                &format!("ghost-{partition}-{}", lease.epoch),
                lease.encode_to_vec().into(),
            );
            self.bus.publish(message, LIMIT).await?;
        }
        wait_until("every partition taken again", LIMIT, async || {
            for partition in 0..16 {
                let subject = format!("$KV.LEASES.p.{partition}");
                let found = self.bus.get_last("KV_LEASES", &subject).await;
                let found = found.map_err(|error| error.to_string())?;
                let lease = found.map(|found| PartitionLease::decode(found.payload));
                if !lease.is_some_and(|one| one.is_ok_and(|one| one.owner.starts_with("d-"))) {
                    return Err(format!("partition {partition} is not taken"));
                }
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn delete(&self, id: Uuid) -> anyhow::Result<()> {
        Ok(self.writer.delete_webhook(self.workspace, id).await?)
    }

    /// Owes `webhook` an event; returns the delivery's id.
    pub(crate) async fn owe(&self, webhook: Uuid, event: &str) -> anyhow::Result<Uuid> {
        self.owe_with(webhook, event, |_| {}).await
    }

    /// Owes it an event with more to say of it.
    pub(crate) async fn owe_with(
        &self,
        webhook: Uuid,
        event: &str,
        facts: impl FnOnce(&mut DeliveryRef),
    ) -> anyhow::Result<Uuid> {
        let mut job = self.job(webhook, event);
        job.delivery.as_mut().map(facts);
        self.owe_job(&job).await
    }

    /// What an event makes for a webhook.
    pub(crate) fn job(&self, webhook: Uuid, event: &str) -> DeliveryJob {
        let now = SystemClock.now_micros();
        let delivery = ids::delivery_id(self.workspace, event, webhook, now);
        let reference = DeliveryRef {
            delivery_id: delivery.as_bytes().to_vec().into(),
            webhook_id: webhook.as_bytes().to_vec().into(),
            workspace_id: self.workspace.as_bytes().to_vec().into(),
            event_id: event.to_owned(),
            event_type: "step.completed".to_owned(),
            trigger: Trigger::Event.into(),
            created_at: now,
            ..DeliveryRef::default()
        };
        DeliveryJob {
            delivery: Some(reference),
            attempt: 1,
            message_id: ids::message_id(self.workspace, event, webhook),
            body: format!(r#"{{"event":"{event}","webhook":{{"id":"{webhook}"}}}}"#).into(),
            ..DeliveryJob::default()
        }
    }

    /// Owes this, as a message of its own each time.
    pub(crate) async fn owe_job(&self, job: &DeliveryJob) -> anyhow::Result<Uuid> {
        use prost::Message as _;
        let reference = job.delivery.as_ref().context("a delivery")?;
        let webhook = Uuid::from_slice(&reference.webhook_id)?;
        let delivery = Uuid::from_slice(&reference.delivery_id)?;
        let partition = ids::partition_of(webhook, self.bus.settings().partitions);
        let subject = subjects::delivery(partition, webhook, delivery);
        let id = Uuid::new_v4().to_string();
        let message = Outgoing::new(subject, &id, job.encode_to_vec().into());
        self.bus.publish(message, LIMIT).await?;
        Ok(delivery)
    }

    /// Every report of a delivery, oldest first.
    pub(crate) async fn reports(&self, delivery: Uuid) -> anyhow::Result<Vec<DeliveryReport>> {
        use prost::Message as _;
        let last = self.bus.last_seq(names::REPORTS).await?;
        let mut reports = Vec::new();
        for seq in 1..=last {
            let Some(message) = self.bus.get(names::REPORTS, seq).await? else {
                continue;
            };
            let report = DeliveryReport::decode(message.payload)?;
            if report
                .delivery
                .as_ref()
                .is_some_and(|d| d.delivery_id.as_ref() == delivery.as_bytes())
            {
                reports.push(report);
            }
        }
        // Two tasks may write them beside each other.
        reports.sort_by_key(|report| report.at);
        Ok(reports)
    }

    /// Waits until the last report of a delivery says `state`.
    pub(crate) async fn until_state(
        &self,
        delivery: Uuid,
        state: DeliveryState,
    ) -> anyhow::Result<Vec<DeliveryReport>> {
        wait_until(state.as_str_name(), LIMIT, async || {
            let reports = self
                .reports(delivery)
                .await
                .map_err(|error| error.to_string())?;
            match reports.last() {
                Some(last) if last.state() == state => Ok(reports),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// Waits for the first report of a delivery.
    pub(crate) async fn first_state(&self, delivery: Uuid) -> anyhow::Result<DeliveryState> {
        wait_until("a report", LIMIT, async || {
            let reports = self.reports(delivery).await;
            let reports = reports.map_err(|error| error.to_string())?;
            reports
                .first()
                .map(DeliveryReport::state)
                .ok_or_else(|| "none".to_owned())
        })
        .await
    }

    /// How many partitions each member has; an error while one of them has no owner.
    pub(crate) async fn owners(&self) -> Result<BTreeMap<String, usize>, String> {
        use prost::Message as _;
        let mut owners = BTreeMap::new();
        for partition in 0..16 {
            let subject = format!("$KV.LEASES.p.{partition}");
            let found = self.bus.get_last("KV_LEASES", &subject).await;
            let Some(found) = found.map_err(|error| error.to_string())? else {
                return Err(format!("partition {partition} has no owner"));
            };
            let lease = PartitionLease::decode(found.payload).map_err(|error| error.to_string())?;
            *owners.entry(lease.owner).or_default() += 1;
        }
        Ok(owners)
    }

    /// Waits until nothing is owed any more.
    pub(crate) async fn until_settled(&self) -> anyhow::Result<()> {
        wait_until("nothing owed", LIMIT, async || {
            let mut left = 0;
            // Twice what is held: it goes to the deliveries, perhaps between two looks.
            for stream in [
                names::HELD.to_owned(),
                names::deliveries(0),
                names::retries(0),
                names::HELD.to_owned(),
            ] {
                left += self
                    .bus
                    .message_count(&stream)
                    .await
                    .map_err(|error| error.to_string())?;
            }
            if left == 0 {
                Ok(())
            } else {
                Err(left.to_string())
            }
        })
        .await
    }

    /// Waits until everything that was owed is held, scheduled or done with, and acknowledged.
    pub(crate) async fn until_taken(&self) -> anyhow::Result<()> {
        wait_until("everything to be taken", LIMIT, async || {
            match self.bus.message_count(&names::deliveries(0)).await {
                Ok(0) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    pub(crate) async fn until_count(&self, count: u64) -> anyhow::Result<()> {
        wait_until("requests", LIMIT, async || {
            let seen = self.receiver.count();
            if seen >= count { Ok(()) } else { Err(seen) }
        })
        .await
    }
}

/// Stops a process, until every thread of it stands still.
pub(crate) async fn stand_still(process: &Child) -> anyhow::Result<()> {
    signal(process, "-STOP").await?;
    let tasks = format!("/proc/{}/task", process.id().context("a process")?);
    // A thread of its own has to be scheduled to stop the others.
    wait_until("the process to stand still", LIMIT, async || {
        for task in std::fs::read_dir(&tasks)? {
            let stat = std::fs::read_to_string(task?.path().join("stat"))?;
            // The state stands after the name, which may hold anything.
            let state = stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.chars().next());
            ensure!(state == Some('T'), "a thread is {state:?}");
        }
        Ok(())
    })
    .await
}

/// Lets it go on.
pub(crate) async fn go_on(process: &Child) -> anyhow::Result<()> {
    signal(process, "-CONT").await
}

/// Has it finish what it has in hand, and waits for its end.
pub(crate) async fn end(mut process: Child) -> anyhow::Result<()> {
    signal(&process, "-TERM").await?;
    let ended = tokio::time::timeout(Duration::from_secs(40), process.wait()).await;
    let status = ended.context("it does not stop")??;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

async fn signal(process: &Child, name: &str) -> anyhow::Result<()> {
    let pid = process.id().context("a process")?.to_string();
    let status = Command::new("kill").args([name, &pid]).status().await?;
    ensure!(status.success(), "kill {name}: {status}");
    Ok(())
}

/// Two webhooks of one partition.
pub(crate) fn neighbours() -> (Uuid, Uuid) {
    let first = Uuid::new_v4();
    let partition = ids::partition_of(first, 16);
    loop {
        let second = Uuid::new_v4();
        if second != first && ids::partition_of(second, 16) == partition {
            return (first, second);
        }
    }
}

/// Runs a test's future to its end.
pub(crate) fn check(test: impl Future<Output = anyhow::Result<()>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    webhooks_runtime::install_tls_provider();
    runtime.block_on(test).expect("the test holds");
}

pub(crate) fn numbers(reports: &[DeliveryReport]) -> Vec<u32> {
    reports
        .iter()
        .filter_map(|report| report.attempt.as_ref())
        .map(|attempt| attempt.number)
        .collect()
}

pub(crate) fn ensure_eq<T: PartialEq + std::fmt::Debug>(a: T, b: T) -> anyhow::Result<()> {
    ensure!(a == b, "{a:?} is not {b:?}");
    Ok(())
}
