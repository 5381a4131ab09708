//! What all partitions of a dispatcher share.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;
use webhooks_bus::{
    Bus, CancelledMirror, ConfigMirror, HealthMirror, HealthStore, Leases, SteadyClock,
};
use webhooks_domain::health::HealthPolicy;
use webhooks_egress::Egress;
use webhooks_runtime::Clock;

use crate::{
    budget::Budget, fair::Places, finished::Finished, floor::FannedOut, pace::Pace, panics::Panics,
    registry::Registry, reporter::Reporter, settings::Limits, stall::Stalls,
};

/// The settings that partitions use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartitionSettings {
    pub(crate) limits: Limits,
    pub(crate) health: HealthPolicy,
    /// How long a delivery is held.
    pub(crate) hold_max_age: Duration,
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
    /// What is kept of every endpoint's health.
    pub(crate) health: HealthMirror,
    pub(crate) health_store: HealthStore,
    /// Whether the clock can be believed.
    pub(crate) steady: Arc<SteadyClock>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: PartitionSettings,
    /// Requests on the wire in all, shared between workspaces.
    pub(crate) places: Arc<Places>,
    /// Deliveries that a person took back.
    pub(crate) cancelled: CancelledMirror,
    /// What ordered webhooks wait for.
    pub(crate) fanned_out: FannedOut,
    /// Bytes of deliveries in memory.
    pub(crate) budget: Arc<Budget>,
    /// How fast deliveries are put aside.
    pub(crate) pace: Pace,
    /// Attempts that were finished here.
    pub(crate) finished: Finished,
    /// Deliveries whose handling panicked here.
    pub(crate) panics: Panics,
    /// When this process stood still.
    pub(crate) stalls: Stalls,
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
        health: HealthMirror,
        steady: Arc<SteadyClock>,
        settings: PartitionSettings,
    ) -> Self {
        let places = Places::new(settings.limits.in_flight);
        Self {
            health,
            health_store: HealthStore::new(&bus),
            clock: steady.clone(),
            steady,
            name,
            bus,
            egress,
            registry,
            mirror,
            reporter,
            leases,
            budget: Budget::new(settings.limits.max_bytes),
            pace: Pace::default(),
            finished: Finished::default(),
            panics: Panics::default(),
            stalls: Stalls::default(),
            settings,
            places,
            fanned_out: FannedOut::default(),
            on_the_wire: Mutex::default(),
            cancelled: CancelledMirror::default(),
        }
    }

    /// The same, knowing which deliveries a person took back.
    pub(crate) fn with_cancelled(self, cancelled: CancelledMirror) -> Self {
        Self { cancelled, ..self }
    }

    /// Whether a request of `partition` may start at this moment: the partition is ours, our view of
    /// the configuration is young enough that a disabled webhook is not called, and our clock can be
    /// believed.
    pub(crate) fn may_start(&self, partition: u16) -> bool {
        let fresh = self
            .mirror
            .fresh_as_of()
            .is_some_and(|at| Instant::now() - at < self.settings.limits.stale_after);
        fresh && self.leases.may_send(partition) && self.steady.holds()
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
