//! What panics: it is tried a few times and kept as a dead letter, and its neighbours notice nothing.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use prost::Message as _;
use uuid::Uuid;
use webhooks_bus::names;
use webhooks_devstack::wait_until;
use webhooks_proto::{
    internal::v1::{DeadLetter, DeliveryJob, DeliveryReport, Ordering, Status},
    v1::DeliveryState,
};

use crate::support::{World, check, ensure_eq, neighbours, numbers};

/// Three pauses of our own faults.
const LONG: Duration = Duration::from_secs(60);

impl World {
    async fn dead_letters(&self) -> anyhow::Result<Vec<DeadLetter>> {
        let last = self.bus.last_seq(names::DEAD).await?;
        let mut letters = Vec::new();
        for seq in 1..=last {
            if let Some(message) = self.bus.get(names::DEAD, seq).await? {
                letters.push(DeadLetter::decode(message.payload)?);
            }
        }
        Ok(letters)
    }

    /// Waits until a delivery has ended as a dead letter; returns the letter and all reports.
    async fn until_dead(
        &self,
        delivery: Uuid,
    ) -> anyhow::Result<(DeadLetter, Vec<DeliveryReport>)> {
        let reports = wait_until("a failed delivery", LONG, async || {
            let reports = self.reports(delivery).await;
            let reports = reports.map_err(|error| error.to_string())?;
            match reports.last() {
                Some(last) if last.state() == DeliveryState::Failed => Ok(reports),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        // Recorded first, then kept.
        let mut letters = wait_until("a dead letter", LONG, async || {
            let letters = self.dead_letters().await;
            let letters = letters.map_err(|error| error.to_string())?;
            (!letters.is_empty())
                .then_some(letters)
                .ok_or("none".to_owned())
        })
        .await?;
        ensure_eq(letters.len(), 1)?;
        let letter = letters.pop().context("a letter")?;
        let job = DeliveryJob::decode(letter.payload.clone())?;
        let named = job.delivery.context("it names a delivery")?.delivery_id;
        ensure!(named.as_ref() == delivery.as_bytes(), "of another delivery");
        ensure_eq(letter.reason.as_str(), "panicked")?;
        let owed = ["wh.dlv.", "wh.due."].map(|prefix| letter.subject.starts_with(prefix));
        ensure!(owed.contains(&true), "{}", letter.subject);
        Ok((letter, reports))
    }
}

#[test]
fn f_16_a_delivery_whose_settling_panics_becomes_a_dead_letter_and_its_neighbour_is_delivered() {
    check(async {
        let world = World::start().await?;
        let dispatcher = world.dispatcher(&[]).await?;
        let (paused, healthy) = neighbours();
        world.webhook(paused, "/ok", Status::Paused).await?;
        world.webhook(healthy, "/ok", Status::Active).await?;
        // It is to be held, as the one after the last that there can be.
        let poison = DeliveryJob {
            park: u32::MAX,
            ..world.job(paused, "poison")
        };
        let poison = world.owe_job(&poison).await?;
        let beside = world.owe(paused, "beside").await?;
        for n in 0..10 {
            let delivery = world.owe(healthy, &format!("e{n}")).await?;
            world
                .until_state(delivery, DeliveryState::Delivered)
                .await?;
        }
        world.until_state(beside, DeliveryState::Held).await?;
        let (_, reports) = world.until_dead(poison).await?;
        ensure_eq(
            reports.last().map(|report| report.reason.as_str()),
            Some("dead_letter"),
        )?;
        world.webhook(paused, "/ok", Status::Active).await?;
        world.until_state(beside, DeliveryState::Delivered).await?;
        world.until_settled().await?;
        dispatcher.stop().await
    });
}

#[test]
fn f_16_a_delivery_that_takes_its_partition_down_does_so_three_times_and_no_more() {
    check(async {
        let world = World::start().await?;
        let dispatcher = world.dispatcher(&[]).await?;
        let (ordered, healthy) = neighbours();
        world
            .webhook_with(ordered, "/ok", Status::Active, |config| {
                config.ordering = Ordering::Link.into();
            })
            .await?;
        world.webhook(healthy, "/ok", Status::Active).await?;
        let warm = world.owe(ordered, "warm").await?;
        world.until_state(warm, DeliveryState::Delivered).await?;
        // Older than time itself.
        let poison = world
            .owe_with(ordered, "poison", |reference| {
                reference.created_at = i64::MIN;
                reference.event_seq = 1_000;
            })
            .await?;
        world.until_dead(poison).await?;
        for webhook in [ordered, healthy] {
            let delivery = world.owe(webhook, "after").await?;
            world
                .until_state(delivery, DeliveryState::Delivered)
                .await?;
        }
        world.until_settled().await?;
        dispatcher.stop().await
    });
}

#[test]
fn f_16_a_delivery_whose_attempt_panics_each_time_is_given_up() {
    check(async {
        let world = World::start().await?;
        // The third attempt's time is beyond what can be reckoned.
        let dispatcher = world
            .dispatcher_with(&[], |config| {
                config.retry.base = Duration::from_secs(u64::MAX);
                config.retry.cap = Duration::from_secs(u64::MAX);
                // Whatever is drawn.
                config.retry.jitter = 0.0;
            })
            .await?;
        let (failing, healthy) = neighbours();
        world
            .webhook(failing, "/status/500", Status::Active)
            .await?;
        world.webhook(healthy, "/ok", Status::Active).await?;
        let poison = world.owe(failing, "poison").await?;
        let (_, reports) = world.until_dead(poison).await?;
        ensure_eq(numbers(&reports), vec![1, 2, 2, 2])?;
        let delivery = world.owe(healthy, "after").await?;
        world
            .until_state(delivery, DeliveryState::Delivered)
            .await?;
        world.until_settled().await?;
        ensure_eq(world.receiver.count(), 5)?;
        dispatcher.stop().await
    });
}
