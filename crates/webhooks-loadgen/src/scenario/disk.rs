//! The disk of NATS is full.

use std::time::Duration;

use anyhow::Context as _;
use webhooks_devstack::http_get;

use super::{
    Outcome, Scene,
    mount::SmallDisk,
    rig::{BACK_LIMIT, CALM, QUIET_LIMIT, Rig},
};
use crate::stack::Part;

/// Size of the disk, and what is left of it when it fills up.
const DISK_MEGABYTES: u32 = 256;
const LEFT: u64 = 2 * 1024 * 1024;

/// How long ingest may take to say that it is not ready.
const NOTICE: Duration = Duration::from_secs(60);

/// How long it is looked whether NATS comes back without a restart.
const BY_ITSELF: Duration = Duration::from_secs(15);

pub(super) async fn run(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    let disk = match SmallDisk::mount(&scene.folder.join("nats").join("data"), DISK_MEGABYTES) {
        Ok(disk) => disk,
        Err(reason) => return Ok(Outcome::skipped(reason)),
    };
    let mut rig = Rig::start(scene, |options| options).await?;
    rig.load()?;
    rig.go_on(CALM).await;
    disk.fill(LEFT)?;
    rig.note("the disk is nearly full");
    let busy = rig
        .offer_until("a 503", QUIET_LIMIT, |offered| offered.status == 503)
        .await?;
    rig.expect(
        "a full disk is a 503 with Retry-After",
        busy.is_busy(),
        format!(
            "{} after {:.1} s: {}",
            busy.status,
            busy.took.as_secs_f64(),
            busy.body
        ),
    );
    let ready = format!("{}/readyz", rig.stack.admin_url(Part::Ingest)?);
    let noticed =
        webhooks_devstack::wait_until("ingest to notice", NOTICE, async || {
            match http_get(&ready).await {
                Ok((200, _)) => Err("still ready".to_owned()),
                Ok((_, text)) => Ok(text),
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await;
    rig.expect(
        "ingest says that it is not ready (the alarm)",
        noticed.is_ok(),
        noticed.unwrap_or_else(|error| format!("{error:#}")),
    );
    let url = format!("{}/healthz", rig.stack.nats.monitor_url());
    let health = http_get(&url).await;
    rig.expect(
        "nats-server says itself that it must be restarted (/healthz)",
        health.as_ref().is_ok_and(|(status, _)| *status != 200),
        format!("{health:?}"),
    );
    disk.free()?;
    rig.note("there is room again");
    let alone = rig
        .offer_until("an event to be accepted", BY_ITSELF, |offered| {
            offered.status == 202
        })
        .await;
    rig.note(format!(
        "accepted without a restart within {BY_ITSELF:?}: {}",
        alone.is_ok()
    ));
    let health = http_get(&url).await;
    rig.note(format!("/healthz with room again: {health:?}"));
    // The documented recovery.
    rig.stack.stop(Part::Nats).await?;
    rig.revive(Part::Nats).await?;
    let again = rig
        .offer_until("an event to be accepted", BACK_LIMIT, |offered| {
            offered.status == 202
        })
        .await
        .context("after the restart");
    rig.expect(
        "after a restart of nats-server events are accepted",
        again.is_ok(),
        again.map_or_else(
            |error| format!("{error:#}"),
            |offered| offered.status.to_string(),
        ),
    );
    rig.nobody_died();
    let outcome = rig.finish().await;
    drop(disk);
    outcome
}
