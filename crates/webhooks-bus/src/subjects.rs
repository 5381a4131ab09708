//! Names of streams, buckets, consumers, subjects and headers.
//!
//! `workflow.events.v1.<workspace>.step.completed` is a contract with publishers; everything that
//! starts with `wh.` is ours alone. Ids stand in subjects as 32 hex digits, so no value that a
//! stranger chose ever becomes a token.

use uuid::Uuid;

/// Stream, bucket and consumer names.
pub mod names {
    /// Raw events from NATS publishers.
    pub const INTAKE: &str = "INTAKE";
    /// Validated events, in order of acceptance.
    pub const EVENTS: &str = "EVENTS";
    /// Which webhooks each event matched.
    pub const VERDICTS: &str = "VERDICTS";
    /// What paused and auto-disabled webhooks are owed.
    pub const HELD: &str = "HELD";
    /// Attempt reports that gRPC could not take.
    pub const REPORTS: &str = "REPORTS";
    /// What our services could not process.
    pub const DEAD: &str = "DEAD";
    /// What publishers put on INTAKE and what is no event.
    pub const REFUSED: &str = "REFUSED";
    /// Bucket: the read model.
    pub const CONFIG: &str = "CONFIG";
    /// Bucket: counters for the payload's snapshot.
    pub const STATS: &str = "STATS";
    /// Operational events: what happens to webhooks themselves.
    pub const OPS: &str = "OPS";
    /// Bucket: what deliveries tell of each endpoint.
    pub const HEALTH: &str = "HEALTH";
    /// Bucket: members and partition owners.
    pub const LEASES: &str = "LEASES";
    /// Bucket: deliveries that a person took back.
    pub const CANCELLED: &str = "CANCELLED";
    /// Management's consumer on OPS.
    pub const OPS_CONSUMER: &str = "management";
    /// Ingest's consumer on INTAKE.
    pub const INTAKE_CONSUMER: &str = "ingest";
    /// Fan-out's consumer on EVENTS.
    pub const EVENTS_CONSUMER: &str = "fanout";
    /// Management's consumer on VERDICTS.
    pub const VERDICTS_CONSUMER: &str = "history";
    /// Management's consumer on REPORTS.
    pub const REPORTS_CONSUMER: &str = "history";

    /// Partitions that one DELIVERIES or RETRIES stream holds. More partitions are more streams: a
    /// stream slows down with every consumer on it.
    pub const PARTITIONS_PER_STREAM: u16 = 16;

    /// The stream of a partition's deliveries.
    #[must_use]
    pub fn deliveries(partition: u16) -> String {
        format!("DELIVERIES-{}", partition / PARTITIONS_PER_STREAM)
    }

    /// The stream of a partition's retries.
    #[must_use]
    pub fn retries(partition: u16) -> String {
        format!("RETRIES-{}", partition / PARTITIONS_PER_STREAM)
    }

    /// The consumer of a partition, on both of its streams.
    #[must_use]
    pub fn partition_consumer(partition: u16) -> String {
        format!("p{partition}")
    }
}

/// Header names. NATS headers are case sensitive.
pub mod headers {
    /// JetStream's deduplication id.
    pub const MSG_ID: &str = "Nats-Msg-Id";
    /// The event's id.
    pub const EVENT_ID: &str = "Wh-Event-Id";
    /// The event's workspace.
    pub const WORKSPACE: &str = "Wh-Workspace";
    /// When ingest accepted the event: microseconds since the epoch, decimal.
    pub const ACCEPTED_AT: &str = "Wh-Accepted-At";
    /// On a second copy of an event that fell through: the place of the first on EVENTS, decimal.
    pub const AGAIN: &str = "Wh-Again";
    /// How many deliveries lie behind the event, decimal; absent = none.
    pub const HOP: &str = "Wh-Hop";
    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// When a schedule fires: `@at <RFC 3339>`.
    pub const SCHEDULE: &str = "Nats-Schedule";
    /// The subject a schedule fires into.
    pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";
    /// Time to live of one message.
    pub const TTL: &str = "Nats-TTL";
    /// The schedule that a message is the firing of.
    pub const SCHEDULER: &str = "Nats-Scheduler";
    /// `purge`: the schedule goes in the same step as its message is stored.
    pub const SCHEDULE_NEXT: &str = "Nats-Schedule-Next";
    /// The subject that [`EXPECTED_LAST_SUBJECT_SEQUENCE`] is about, when it is another.
    pub const EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT: &str =
        "Nats-Expected-Last-Subject-Sequence-Subject";
    /// Compare-and-set on the subject's last sequence.
    pub const EXPECTED_LAST_SUBJECT_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
}

/// All subjects of INTAKE.
pub const INTAKE_FILTER: &str = "workflow.events.v1.>";
/// Prefix of INTAKE's subjects; the workspace follows.
pub const INTAKE_PREFIX: &str = "workflow.events.v1.";

/// Link partitions on EVENTS: several fan-outs could each take some and keep a link's order.
pub const LINK_PARTITIONS: u16 = 16;

/// Where a NATS publisher of `workspace` publishes.
#[must_use]
pub fn intake(workspace: Uuid) -> String {
    format!("{INTAKE_PREFIX}{workspace}.step.completed")
}

/// The workspace token of an INTAKE subject: what the publisher was authorised for.
#[must_use]
pub fn intake_workspace(subject: &str) -> Option<Uuid> {
    let rest = subject.strip_prefix(INTAKE_PREFIX)?;
    let (workspace, kind) = rest.split_once('.')?;
    (kind == "step.completed")
        .then(|| Uuid::try_parse(workspace).ok())
        .flatten()
}

/// An accepted event.
#[must_use]
pub fn event(workspace: Uuid, link: Uuid) -> String {
    let partition = webhooks_domain::ids::partition_of(link, LINK_PARTITIONS);
    format!("wh.evt.{partition}.{}", workspace.simple())
}

/// A verdict record. Few subjects on purpose: one per event would cost memory for a week.
#[must_use]
pub fn verdict(workspace: Uuid) -> String {
    format!("wh.vrd.{}", workspace.simple())
}

/// A delivery owed now.
#[must_use]
pub fn delivery(partition: u16, endpoint: Uuid, delivery: Uuid) -> String {
    format!(
        "wh.dlv.{partition}.{}.{}",
        endpoint.simple(),
        delivery.simple()
    )
}

/// All deliveries of a partition that are owed now.
#[must_use]
pub fn deliveries_of(partition: u16) -> String {
    format!("wh.dlv.{partition}.>")
}

/// A delivery owed later. Never the same subject twice: a schedule that fires late purges whatever
/// is stored on its subject, so reuse loses messages.
#[must_use]
pub fn schedule(partition: u16, endpoint: Uuid, delivery: Uuid, attempt: u32, park: u32) -> String {
    format!(
        "wh.sched.{partition}.{}.{}.{attempt}.{park}",
        endpoint.simple(),
        delivery.simple()
    )
}

/// A delivery that waits for room at its endpoint, under the rules of [`schedule`]: unlike a retry,
/// it may go before its time.
#[must_use]
pub fn parked(partition: u16, endpoint: Uuid, delivery: Uuid, attempt: u32, park: u32) -> String {
    format!(
        "wh.sched.{partition}.{}.parked.{}.{attempt}.{park}",
        endpoint.simple(),
        delivery.simple()
    )
}

/// Every delivery of an endpoint that waits for room.
#[must_use]
pub fn parked_of(partition: u16, endpoint: Uuid) -> String {
    format!("wh.sched.{partition}.{}.parked.>", endpoint.simple())
}

/// Everything of an endpoint that is owed later, parked or retried.
#[must_use]
pub fn schedules_of(partition: u16, endpoint: Uuid) -> String {
    format!("wh.sched.{partition}.{}.>", endpoint.simple())
}

/// All schedules of one delivery: its retries, and where it is parked.
#[must_use]
pub fn later_of(partition: u16, endpoint: Uuid, delivery: Uuid) -> [String; 2] {
    let (endpoint, delivery) = (endpoint.simple(), delivery.simple());
    ["", "parked."].map(|lane| format!("wh.sched.{partition}.{endpoint}.{lane}{delivery}.>"))
}

/// Where a partition's schedules fire into.
#[must_use]
pub fn due(partition: u16, endpoint: Uuid) -> String {
    format!("wh.due.{partition}.{}", endpoint.simple())
}

/// All fired schedules of a partition.
#[must_use]
pub fn due_of(partition: u16) -> String {
    format!("wh.due.{partition}.>")
}

/// What a paused webhook is owed.
#[must_use]
pub fn held(partition: u16, endpoint: Uuid) -> String {
    format!("wh.held.{partition}.{}", endpoint.simple())
}

/// A spooled attempt report.
#[must_use]
pub fn report(partition: u16) -> String {
    format!("wh.rpt.{partition}")
}

/// What happens to a workspace's deliveries, for whoever looks on. Not on a stream: nobody is owed
/// this.
#[must_use]
pub fn tail(workspace: Uuid) -> String {
    format!("wh.tail.{}", workspace.simple())
}

/// Somebody looks on at a workspace. Its last token is the workspace.
#[must_use]
pub fn tail_wanted(workspace: Uuid) -> String {
    format!("wh.tail.want.{}", workspace.simple())
}

/// Every workspace's [`tail_wanted`].
pub const TAIL_WANTED: &str = "wh.tail.want.>";

/// All operational events. A contract with whoever subscribes.
pub const OPS_FILTER: &str = "webhooks.ops.v1.>";

/// An operational event of a webhook.
#[must_use]
pub fn ops(workspace: Uuid, webhook: Uuid, kind: &str) -> String {
    format!("webhooks.ops.v1.{workspace}.{webhook}.{kind}")
}

/// A dead letter of one service.
#[must_use]
pub fn dead(source: &str) -> String {
    format!("wh.dead.{source}")
}

/// All of REFUSED.
pub const REFUSED_FILTER: &str = "wh.refused.>";

/// A message of a workspace's publisher that is no event.
#[must_use]
pub fn refused(workspace: Uuid) -> String {
    format!("wh.refused.{}", workspace.simple())
}

/// Key of a webhook in CONFIG.
#[must_use]
pub fn webhook_key(workspace: Uuid, webhook: Uuid) -> String {
    format!("w.{workspace}.{webhook}")
}

/// Reads a key made by [`webhook_key`].
#[must_use]
pub fn parse_webhook_key(key: &str) -> Option<(Uuid, Uuid)> {
    let (workspace, webhook) = key.strip_prefix("w.")?.split_once('.')?;
    Some((
        Uuid::try_parse(workspace).ok()?,
        Uuid::try_parse(webhook).ok()?,
    ))
}

/// Key of a workspace's certificate authorities in CONFIG.
#[must_use]
pub fn trust_key(workspace: Uuid) -> String {
    format!("a.{workspace}")
}

/// Reads a key made by [`trust_key`].
#[must_use]
pub fn parse_trust_key(key: &str) -> Option<Uuid> {
    Uuid::try_parse(key.strip_prefix("a.")?).ok()
}

/// Key of a token in CONFIG.
#[must_use]
pub fn token_key(id: &str) -> String {
    format!("t.{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_publishers_subject_names_its_workspace() {
        let ws = Uuid::from_u128(5);
        assert_eq!(intake_workspace(&intake(ws)), Some(ws));
        for foreign in [
            "workflow.events.v1.x.step.completed",
            "workflow.events.v1",
            "workflow.events.v1.00000000-0000-0000-0000-000000000005.other",
            "wh.evt.1",
        ] {
            assert_eq!(intake_workspace(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn keys_round_trip() {
        let (ws, wh) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(parse_webhook_key(&webhook_key(ws, wh)), Some((ws, wh)));
        assert_eq!(parse_webhook_key("t.abc"), None);
    }
}
