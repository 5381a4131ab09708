//! What all partitions of a dispatcher share.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync::Semaphore, time::Instant};
use uuid::Uuid;
use webhooks_bus::{Bus, ConfigMirror, Leases};
use webhooks_domain::retry::RetryPolicy;
use webhooks_egress::Egress;
use webhooks_runtime::Clock;

use crate::{registry::Registry, reporter::Reporter, settings::Limits};

/// The settings that partitions use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartitionSettings {
    pub(crate) retry: RetryPolicy,
    pub(crate) limits: Limits,
}

/// What all partitions share.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) bus: Bus,
    pub(crate) egress: Egress,
    pub(crate) registry: Arc<Registry>,
    pub(crate) mirror: ConfigMirror,
    pub(crate) reporter: Reporter,
    pub(crate) leases: Leases,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: PartitionSettings,
    /// Requests on the wire in all.
    pub(crate) places: Arc<Semaphore>,
    /// Deliveries on the wire, across losing and regaining a partition in one process.
    on_the_wire: Mutex<HashSet<Uuid>>,
}

impl Shared {
    #[expect(
        clippy::too_many_arguments,
        reason = "one place gathers what the service built"
    )]
    pub(crate) fn new(
        name: String,
        bus: Bus,
        egress: Egress,
        registry: Arc<Registry>,
        mirror: ConfigMirror,
        reporter: Reporter,
        leases: Leases,
        clock: Arc<dyn Clock>,
        settings: PartitionSettings,
    ) -> Self {
        let places = Arc::new(Semaphore::new(settings.limits.in_flight));
        Self {
            name,
            bus,
            egress,
            registry,
            mirror,
            reporter,
            leases,
            clock,
            settings,
            places,
            on_the_wire: Mutex::default(),
        }
    }

    /// Whether a request of `partition` may start at this moment: the partition is ours, and our
    /// view of the configuration is young enough that a disabled webhook is not called.
    pub(crate) fn may_start(&self, partition: u16) -> bool {
        let fresh = self
            .mirror
            .fresh_as_of()
            .is_some_and(|at| Instant::now() - at < self.settings.limits.stale_after);
        fresh && self.leases.may_send(partition)
    }

    /// Marks a delivery as on the wire; false when it is already.
    pub(crate) fn enter_wire(&self, delivery: Uuid) -> bool {
        self.on_the_wire
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(delivery)
    }

    /// Unmarks it.
    pub(crate) fn leave_wire(&self, delivery: Uuid) {
        self.on_the_wire
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&delivery);
    }
}
