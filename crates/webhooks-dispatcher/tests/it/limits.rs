//! Memory, and our own faults.

use std::time::{Duration, Instant};

use anyhow::ensure;
use uuid::Uuid;
use webhooks_bus::names;
use webhooks_devstack::wait_until;
use webhooks_domain::ids;
use webhooks_proto::internal::v1::{DeliveryJob, SealedSecret, Status};

use crate::{
    scripted::{Answer, Scripted},
    support::{World, check, ensure_eq},
};

#[test]
fn large_bodies_are_pulled_only_as_far_as_the_byte_budget_goes() {
    check(async {
        const COUNT: usize = 150;
        const BODY: usize = 200 * 1024;
        let world = World::start().await?;
        let webhook = Uuid::new_v4();
        let endpoint = Scripted::start(|_, _| Answer {
            status: 200,
            after: Duration::from_millis(150),
        })
        .await?;
        world
            .webhook_with(webhook, &endpoint.url(), Status::Active, |config| {
                config.max_in_flight = 4;
            })
            .await?;
        for n in 0..COUNT {
            let job = DeliveryJob {
                body: format!(r#"{{"event":"e{n}","x":"{}"}}"#, "x".repeat(BODY)).into(),
                ..world.job(webhook, &format!("e{n}"))
            };
            world.owe_job(&job).await?;
        }
        // All there is, is there from the start.
        let _dispatcher = world
            .dispatcher(&[("WEBHOOKS_DISPATCHER_MAX_BYTES", "8388608")])
            .await?;
        let partition = ids::partition_of(webhook, 16);
        let (stream, consumer) = (
            names::deliveries(partition),
            names::partition_consumer(partition),
        );
        let (mut most, mut looks) = (0, 0);
        wait_until("all of them", Duration::from_secs(60), async || {
            let state = world.bus.consumer_state(&stream, &consumer).await;
            let state = state.map_err(|error| error.to_string())?;
            most = most.max(state.unacknowledged);
            looks += 1;
            let seen = endpoint.seen().len();
            if seen >= COUNT {
                Ok(())
            } else {
                Err(format!("{seen}"))
            }
        })
        .await?;
        // 8 MiB in hand, and what two pulls of 1 MiB have asked for ahead.
        ensure!(most <= 60, "{most} in hand at a time, in {looks} looks");
        ensure!(most >= 8, "nothing was seen: {most}, in {looks} looks");
        world.until_settled().await?;
        ensure_eq(endpoint.seen().len(), COUNT)
    });
}

#[test]
fn a_webhook_that_we_cannot_serve_costs_an_attempt_at_a_time_and_goes_at_once_when_we_can() {
    check(async {
        const COUNT: usize = 300;
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook_with(webhook, "/ok", Status::Active, |config| {
                let unreadable = |secret: SealedSecret| SealedSecret {
                    key_id: "lost".to_owned(),
                    ..secret
                };
                config.secrets = config.secrets.drain(..).map(unreadable).collect();
            })
            .await?;
        world.owe_many(webhook, COUNT).await?;
        let began = Instant::now();
        wait_until("ten seconds", Duration::from_secs(20), async || {
            if began.elapsed() > Duration::from_secs(10) {
                Ok(())
            } else {
                Err(())
            }
        })
        .await?;
        // The first eight, then one after 1, 2, 4 s.
        let made = world.bus.last_seq(names::REPORTS).await?;
        ensure!((3..=20).contains(&made), "{made} attempts in ten seconds");
        ensure_eq(world.receiver.count(), 0)?;
        world.webhook(webhook, "/ok", Status::Active).await?;
        let began = Instant::now();
        // A rest that has begun may last 30 s.
        wait_until(
            "all of them",
            Duration::from_secs(60),
            async || match world.receiver.count() {
                seen if seen >= COUNT as u64 => Ok(()),
                seen => Err(seen),
            },
        )
        .await?;
        let took = began.elapsed();
        ensure!(took < Duration::from_secs(45), "{took:?}");
        world.until_settled().await?;
        ensure_eq(world.receiver.count(), COUNT as u64)
    });
}
