//! Partitions that move from one dispatcher to another.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use prost::Message as _;
use uuid::Uuid;
use webhooks_bus::StoredMessage;
use webhooks_devstack::wait_until;
use webhooks_proto::{
    internal::v1::{DeliveryJob, PartitionLease, Status},
    v1::DeliveryState,
};

use crate::support::{LIMIT, World, check, end, ensure_eq, go_on, numbers, stand_still};

#[test]
fn a_dispatcher_that_leaves_finishes_what_it_sent_and_the_other_takes_over_at_once() {
    check(async {
        let world = World::start().await?;
        let first = world.dispatcher(&[]).await?;
        let slow = Uuid::new_v4();
        world.webhook(slow, "/hang/4", Status::Active).await?;
        let mut owed = Vec::new();
        for n in 0..12 {
            owed.push(world.owe(slow, &format!("slow-{n}")).await?);
        }
        world.until_count(8).await?;
        let second = world.dispatcher(&[]).await?;
        let began = Instant::now();
        let stopping = first.stop();
        let others = async {
            // Every partition delivers again within 5 s, while the leaver still finishes.
            for _ in 0..48 {
                let webhook = Uuid::new_v4();
                world.webhook(webhook, "/ok/other", Status::Active).await?;
                let delivery = world.owe(webhook, "e").await?;
                world
                    .until_state(delivery, DeliveryState::Delivered)
                    .await?;
            }
            anyhow::Ok(began.elapsed())
        };
        let (stopped, took) = tokio::join!(stopping, others);
        stopped?;
        ensure!(
            took? < Duration::from_secs(30),
            "48 webhooks over 16 partitions"
        );
        for delivery in owed {
            world
                .until_state(delivery, DeliveryState::Delivered)
                .await?;
        }
        world.until_settled().await?;
        let slow_requests = world
            .receiver
            .requests()
            .iter()
            .filter(|request| request.path == "/hang/4")
            .count();
        ensure_eq(slow_requests, 12)?;
        second.stop().await
    });
}

/// Waits until one member, and not `before`, has every partition; tells its name.
async fn the_only_owner(world: &World, before: &str) -> anyhow::Result<String> {
    wait_until("one owner of everything", LIMIT, async || {
        let owners = world.owners().await?;
        match owners.iter().next() {
            Some((name, 16)) if name != before => Ok(name.clone()),
            _ => Err(format!("{owners:?}")),
        }
    })
    .await
}

#[test]
fn what_an_owner_still_finishes_is_left_to_it_however_often_its_partition_moves_on() {
    check(async {
        let world = World::start().await?;
        let first = world.dispatcher(&[]).await?;
        let slow = Uuid::new_v4();
        world.webhook(slow, "/hang/16", Status::Active).await?;
        let mut owed = Vec::new();
        for n in 0..8 {
            owed.push(world.owe(slow, &format!("slow-{n}")).await?);
        }
        world.until_count(8).await?;
        let name = the_only_owner(&world, "").await?;
        let second = world.dispatcher(&[]).await?;
        let began = Instant::now();
        // Everything goes to the second and from it to a third, while the first waits for its answers.
        let moves = async {
            let name = the_only_owner(&world, &name).await?;
            let third = world.dispatcher(&[]).await?;
            second.stop().await?;
            the_only_owner(&world, &name).await?;
            anyhow::Ok((third, began.elapsed()))
        };
        let (stopped, moved) = tokio::join!(first.stop(), moves);
        stopped?;
        let (third, took) = moved?;
        ensure!(
            took < Duration::from_secs(15),
            "too late to show anything: {took:?}"
        );
        for delivery in owed {
            world
                .until_state(delivery, DeliveryState::Delivered)
                .await?;
        }
        world.until_settled().await?;
        ensure_eq(world.receiver.requests().len(), 8)?;
        third.stop().await
    });
}

#[test]
fn a_partition_that_is_lost_and_comes_back_leaves_to_the_task_before_what_that_has_in_hand() {
    check(async {
        let world = World::start().await?;
        let dispatcher = world.dispatcher(&[]).await?;
        let slow = Uuid::new_v4();
        world.webhook(slow, "/hang/4", Status::Active).await?;
        let mut owed = Vec::new();
        for n in 0..12 {
            owed.push(world.owe(slow, &format!("slow-{n}")).await?);
        }
        world.until_count(8).await?;
        // Twice in a row, while eight requests hang.
        for _ in 0..2 {
            world.lose_all_partitions().await?;
        }
        for delivery in owed {
            world
                .until_state(delivery, DeliveryState::Delivered)
                .await?;
        }
        world.until_settled().await?;
        ensure_eq(world.receiver.requests().len(), 12)?;
        dispatcher.stop().await
    });
}

#[test]
fn who_slept_through_the_loss_of_a_partition_makes_no_retry() {
    check(async {
        // The retry after the first attempt waits in memory, the one after the second on RETRIES, after
        // the third there is none.
        for attempt in [1, 2, 3] {
            let world = World::start().await?;
            let sleeper = world.process(&[("WEBHOOKS_ATTEMPT_TIMEOUT", "6s")])?;
            let webhook = Uuid::new_v4();
            world.webhook(webhook, "/hang/20", Status::Active).await?;
            let job = world.job(webhook, "e");
            let delivery = world.owe_job(&DeliveryJob { attempt, ..job }).await?;
            world.until_count(1).await?;
            stand_still(&sleeper).await?;
            // Another takes over, and sends the delivery to an endpoint that is well by now.
            world.webhook(webhook, "/ok", Status::Active).await?;
            let other = world.dispatcher(&[]).await?;
            world
                .until_state(delivery, DeliveryState::Delivered)
                .await?;
            go_on(&sleeper).await?;
            // It records that it was not there when its attempt ended, and that is all: nothing is owed,
            // and nobody is blamed.
            let reports = wait_until("the sleeper's report", LIMIT, async || {
                let reports = world.reports(delivery).await;
                let reports = reports.map_err(|error| error.to_string())?;
                match reports.last() {
                    Some(last) if last.state() != DeliveryState::Delivered => Ok(reports),
                    other => Err(format!("{other:?}")),
                }
            })
            .await?;
            ensure_eq(numbers(&reports), vec![attempt, attempt])?;
            let ended = reports.last().context("a report")?;
            ensure_eq(ended.state(), DeliveryState::Retrying)?;
            let told = ended.attempt.as_ref().context("an attempt")?;
            ensure_eq(told.error.as_str(), "stood_still")?;
            end(sleeper).await?;
            world.until_settled().await?;
            ensure_eq(world.receiver.count(), 2)?;
            other.stop().await?;
        }
        Ok(())
    });
}

#[test]
fn what_the_only_dispatcher_had_on_the_wire_when_it_stood_still_is_sent_again() {
    check(async {
        let world = World::start().await?;
        let sleeper = world.process(&[("WEBHOOKS_ATTEMPT_TIMEOUT", "6s")])?;
        let webhook = Uuid::new_v4();
        world.webhook(webhook, "/hang/20", Status::Active).await?;
        // Its last attempt: had it failed, that would be the end.
        let job = DeliveryJob {
            attempt: 3,
            ..world.job(webhook, "e")
        };
        let delivery = world.owe_job(&job).await?;
        world.until_count(1).await?;
        let name = the_only_owner(&world, "").await?;
        stand_still(&sleeper).await?;
        // Its membership lives for 3 s without it, and its attempt may take as long as it wants.
        let key = format!("$KV.LEASES.m.{name}");
        wait_until("the end of its membership", LIMIT, async || {
            match world.bus.get_last("KV_LEASES", &key).await {
                Ok(found) if found.as_ref().is_none_or(StoredMessage::is_end_of_key) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        world.webhook(webhook, "/ok", Status::Active).await?;
        go_on(&sleeper).await?;
        let reports = world
            .until_state(delivery, DeliveryState::Delivered)
            .await?;
        ensure_eq(numbers(&reports), vec![3, 3])?;
        world.until_settled().await?;
        ensure_eq(world.receiver.count(), 2)?;
        end(sleeper).await
    });
}

#[test]
fn what_a_process_has_finished_it_knows_when_a_partition_comes_back_to_it() {
    check(async {
        let world = World::start().await?;
        let dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        world.webhook(webhook, "/ok", Status::Active).await?;
        let job = world.job(webhook, "e");
        let delivery = world.owe_job(&job).await?;
        world
            .until_state(delivery, DeliveryState::Delivered)
            .await?;
        // Its message comes once more, and nobody is there who could say what was recorded.
        let again = DeliveryJob {
            recheck: true,
            ..job.clone()
        };
        world.owe_job(&again).await?;
        world.until_settled().await?;
        world.lose_all_partitions().await?;
        world.owe_job(&again).await?;
        world.owe_job(&job).await?;
        world.until_settled().await?;
        ensure_eq(world.receiver.count(), 1)?;
        dispatcher.stop().await
    });
}

#[test]
fn two_dispatchers_share_the_partitions_evenly() {
    check(async {
        let world = World::start().await?;
        let first = world.dispatcher(&[]).await?;
        let second = world.dispatcher(&[]).await?;
        let owners = async || {
            let owners = world.owners().await?;
            let counts: Vec<usize> = owners.values().copied().collect();
            if counts == [8, 8] {
                Ok(())
            } else {
                Err(format!("{owners:?}"))
            }
        };
        wait_until("eight partitions each", LIMIT, owners).await?;
        first.stop().await?;
        second.stop().await
    });
}

#[test]
fn the_key_of_a_dead_member_that_never_expires_holds_no_partitions() {
    check(async {
        let world = World::start().await?;
        // As the server leaves them after some restarts: no time to live, and old.
        let old =
            webhooks_bus::Outgoing::new("$KV.LEASES.m.ghost".to_owned(), "ghost", "active".into());
        world.bus.publish(old, LIMIT).await?;
        let dispatcher = world.dispatcher(&[]).await?;
        let all = async || {
            let mut mine = 0;
            for partition in 0..16 {
                let subject = format!("$KV.LEASES.p.{partition}");
                let found = world
                    .bus
                    .get_last("KV_LEASES", &subject)
                    .await
                    .map_err(|error| error.to_string())?;
                let lease = found.map(|found| PartitionLease::decode(found.payload));
                mine +=
                    usize::from(lease.is_some_and(|lease| {
                        lease.is_ok_and(|lease| lease.owner.starts_with("d-"))
                    }));
            }
            if mine == 16 {
                Ok(())
            } else {
                Err(format!("{mine} of 16"))
            }
        };
        wait_until("every partition owned", LIMIT, all).await?;
        dispatcher.stop().await
    });
}
