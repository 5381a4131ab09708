//! From lease events to running partitions.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use webhooks_bus::{Handover, LeaseEvent};
use webhooks_runtime::Context;

use crate::{
    kin::{Elder, Ending},
    partition::{Order, Partition},
    shared::Shared,
};

/// Longest wait at the end for requests that are still on the wire: an attempt's deadline and a
/// little for its record.
const DRAIN: Duration = Duration::from_secs(33);

/// The partitions that are ours.
struct Owner {
    shared: Arc<Shared>,
    /// Epoch and way to each partition's task.
    owned: HashMap<u16, (u64, mpsc::UnboundedSender<Order>)>,
    tasks: JoinSet<()>,
    /// Which partition a task was for.
    partitions: HashMap<Id, u16>,
    /// What those that come after a task of a partition may ask it.
    elders: HashMap<u16, Vec<Elder>>,
}

/// Starts a task for each partition that comes, ends it when the partition goes; at shutdown hands
/// all of them over and waits for what is on the wire. Whether everything was done in time.
pub(crate) async fn own_partitions(
    ctx: &Context,
    shared: &Arc<Shared>,
    mut events: mpsc::UnboundedReceiver<LeaseEvent>,
) -> bool {
    let mut owner = Owner {
        shared: shared.clone(),
        owned: HashMap::new(),
        tasks: JoinSet::new(),
        partitions: HashMap::new(),
        elders: HashMap::new(),
    };
    let mut deadline = None;
    loop {
        if deadline.is_some() && shared.leases.owned() == 0 && owner.tasks.is_empty() {
            return true;
        }
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => owner.obey(event).await,
                None => return false,
            },
            Some(ended) = owner.tasks.join_next_with_id() => owner.ended(ended).await,
            () = ctx.shutdown.cancelled(), if deadline.is_none() => {
                deadline = Some(Instant::now() + DRAIN);
                shared.leases.leave().await;
            }
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => return false,
        }
    }
}

impl Owner {
    async fn obey(&mut self, event: LeaseEvent) {
        match event {
            LeaseEvent::Gained {
                partition,
                epoch,
                handover,
            } => self.begin(partition, epoch, handover),
            LeaseEvent::Give { partition } => {
                if let Some((epoch, orders)) = self.owned.remove(&partition)
                    && orders.send(Order::Give).is_err()
                {
                    self.release(partition, epoch).await;
                }
            }
            LeaseEvent::Lost { partition } => {
                if let Some((_, orders)) = self.owned.remove(&partition) {
                    // A task that has ended needs no order.
                    orders.send(Order::Lost).ok();
                }
            }
        }
    }

    fn begin(&mut self, partition: u16, epoch: u64, handover: Handover) {
        let (orders, receiver) = mpsc::unbounded_channel();
        self.owned.insert(partition, (epoch, orders));
        let elders = self.elders.entry(partition).or_default();
        elders.retain(|elder| !elder.has_ended());
        let before = elders.clone();
        let (ending, elder) = Ending::new();
        elders.push(elder);
        let task = Partition::new(
            self.shared.clone(),
            partition,
            epoch,
            handover,
            (before, ending),
            receiver,
        );
        let handle = self.tasks.spawn(Box::pin(task.run()));
        self.partitions.insert(handle.id(), partition);
    }

    /// A partition whose task has panicked is given up, so that it starts anew somewhere.
    async fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let (Some(partition), Err(_)) = (self.partitions.remove(&id), ended) else {
            return;
        };
        // The error would repeat the panic's text, which may hold anything; its place is told already.
        tracing::error!(partition, "partition.panicked");
        metrics::counter!("webhooks_partition_panics_total").increment(1);
        if self
            .owned
            .get(&partition)
            .is_some_and(|(_, orders)| orders.is_closed())
            && let Some((epoch, _)) = self.owned.remove(&partition)
        {
            self.release(partition, epoch).await;
        }
    }

    async fn release(&self, partition: u16, epoch: u64) {
        if let Err(error) = self
            .shared
            .leases
            .release(partition, epoch, Vec::new())
            .await
        {
            tracing::warn!(partition, %error, "partition not released yet");
        }
    }
}
