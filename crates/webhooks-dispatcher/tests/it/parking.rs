//! What is parked, and how it comes back.

use std::time::{Duration, Instant};

use anyhow::ensure;
use uuid::Uuid;
use webhooks_bus::names;
use webhooks_devstack::wait_until;
use webhooks_domain::ids;
use webhooks_proto::internal::v1::Status;

use crate::{
    scripted::{Answer, Scripted},
    support::{World, check, ensure_eq},
};

#[test]
fn the_backlog_of_a_recovered_endpoint_goes_at_once() {
    check(async {
        // Parked before the first that hang are answered: 250 go a second.
        const COUNT: usize = 1_000;
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let endpoint = Scripted::start(|_, _| Answer {
            status: 200,
            after: Duration::from_millis(2),
        })
        .await?;
        let webhook = Uuid::new_v4();
        world.webhook(webhook, "/hang/12", Status::Active).await?;
        for n in 0..8 {
            world.owe(webhook, &format!("first-{n}")).await?;
        }
        world.until_count(8).await?;
        for n in 0..COUNT {
            world.owe(webhook, &format!("e{n}")).await?;
        }
        let parked = async || {
            let counts = world
                .bus
                .subject_counts(&names::retries(0), "wh.sched.>")
                .await;
            counts.map(|counts| counts.len())
        };
        wait_until(
            "a parked backlog",
            Duration::from_secs(30),
            async || match parked().await {
                Ok(found) if found > COUNT - 100 => Ok(()),
                found => Err(format!("{found:?}")),
            },
        )
        .await?;
        let written = world.bus.last_seq(&names::retries(0)).await?;
        world
            .webhook(webhook, &endpoint.url(), Status::Active)
            .await?;
        wait_until("the first answer", Duration::from_secs(30), async || {
            if endpoint.seen().is_empty() {
                Err(0)
            } else {
                Ok(())
            }
        })
        .await?;
        let began = Instant::now();
        wait_until("all of them", Duration::from_secs(40), async || {
            let seen = endpoint.seen().len();
            if seen >= COUNT { Ok(()) } else { Err(seen) }
        })
        .await?;
        let took = began.elapsed();
        world.until_settled().await?;
        let seen = endpoint.seen();
        ensure_eq(seen.len(), COUNT)?;
        let gap = seen
            .windows(2)
            .map(|pair| pair[1].at - pair[0].at)
            .max()
            .unwrap_or_default();
        // One that waits where it need not does so for up to five minutes.
        ensure!(gap < Duration::from_secs(10), "a gap of {gap:?}");
        ensure!(took < Duration::from_secs(40), "{took:?}");
        ensure!(endpoint.most_open() <= 8);
        // Each was parked once and let go once, with few exceptions.
        let again = world.bus.last_seq(&names::retries(0)).await? - written;
        ensure!(
            again < 1_300,
            "{again} writes to let {COUNT} go; parking cost {written}"
        );
        ensure!(written < 1_300, "{written} writes to park {COUNT}");
        Ok(())
    });
}

#[test]
fn what_is_parked_is_cancelled_soon_when_its_webhook_is_switched_off() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        world.webhook(webhook, "/hang/3", Status::Active).await?;
        for n in 0..8 {
            world.owe(webhook, &format!("first-{n}")).await?;
        }
        world.until_count(8).await?;
        for n in 0..300 {
            world.owe(webhook, &format!("e{n}")).await?;
        }
        let stream = names::retries(ids::partition_of(webhook, 16));
        wait_until(
            "a parked backlog",
            Duration::from_secs(30),
            async || match world.bus.message_count(&stream).await {
                // Some 100 stay in memory: what the endpoint works off in 20 s, twice.
                Ok(found) if found > 150 => Ok(()),
                found => Err(format!("{found:?}")),
            },
        )
        .await?;
        world.webhook(webhook, "/hang/3", Status::Disabled).await?;
        world.until_settled().await?;
        ensure!(world.receiver.count() < 100, "{}", world.receiver.count());
        Ok(())
    });
}
