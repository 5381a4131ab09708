//! PostgreSQL is there, and of no use.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Outcome, Scene,
    mount::SmallDisk,
    rig::{BACK_LIMIT, CALM, Rig},
};
use crate::stack::Part;

/// How long tables are locked, and how long nothing may be written.
const USELESS: Duration = Duration::from_secs(20);

/// Size of the disk, and what is left of it when it fills up.
const DISK_MEGABYTES: u32 = 512;
const LEFT: u64 = 4 * 1024 * 1024;

pub(super) async fn slow(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    let mut rig = Rig::start(scene, |options| options).await?;
    rig.load()?;
    rig.go_on(CALM).await;

    rig.note("the tables are locked");
    let before = rig.receiver.count();
    let lock = format!(
        "LOCK TABLE webhooks, deliveries, attempts IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep({})",
        USELESS.as_secs()
    );
    rig.stack.sql(&lock).await?;
    went_on(&mut rig, "the tables are locked", before);

    rig.note("nothing can be written");
    let before = rig.receiver.count();
    read_only(&rig, true).await?;
    tokio::time::sleep(USELESS).await;
    went_on(&mut rig, "nothing can be written", before);
    read_only(&rig, false).await?;

    rig.note("a new server takes over");
    let before = rig.receiver.count();
    let began = Instant::now();
    rig.stack.postgres.restart().await?;
    rig.stack.wait_ready(Part::Management).await?;
    rig.expect(
        "management is ready again soon",
        began.elapsed() < Duration::from_secs(15),
        format!("{:.1} s", began.elapsed().as_secs_f64()),
    );
    rig.go_on(CALM).await;
    went_on(&mut rig, "a new server takes over", before);
    none_buried(&mut rig).await?;
    rig.nobody_died();
    let mut outcome = rig.finish().await?;
    outcome.expect_no_repeats();
    Ok(outcome)
}

/// As a standby has it, or a primary that was demoted: sessions stay, and take no writes.
async fn read_only(rig: &Rig<'_>, on: bool) -> anyhow::Result<()> {
    let statement = if on {
        "ALTER DATABASE webhooks SET default_transaction_read_only = on"
    } else {
        "ALTER DATABASE webhooks RESET default_transaction_read_only"
    };
    rig.stack.postgres.sql("postgres", statement).await?;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'webhooks'";
    rig.stack.postgres.sql("postgres", end).await.map(drop)
}

pub(super) async fn disk_full(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    let disk = match SmallDisk::mount(&scene.folder.join("postgres"), DISK_MEGABYTES) {
        Ok(disk) => disk,
        Err(reason) => return Ok(Outcome::skipped(reason)),
    };
    let mut rig = Rig::start(scene, |options| options).await?;
    rig.load()?;
    rig.go_on(CALM).await;
    disk.fill(LEFT)?;
    rig.note("the disk is nearly full");
    let before = rig.receiver.count();
    tokio::time::sleep(USELESS * 2).await;
    went_on(&mut rig, "the disk is full", before);
    let written = rig.stack.sql("CREATE TABLE filler AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 100000) AS i").await;
    rig.expect(
        "the disk really is full",
        written.is_err(),
        format!("{written:?}"),
    );
    disk.free()?;
    rig.note("there is room again");
    // A server that could not write its log has ended; whoever watches over it starts it again.
    if rig.stack.dead().contains(&Part::Postgres) {
        rig.note("PostgreSQL had ended");
        rig.revive(Part::Postgres).await?;
    }
    let back = rig
        .until_sql(
            "writes",
            BACK_LIMIT,
            "CREATE TABLE IF NOT EXISTS writable (); SELECT 1",
            |text| text == "1",
        )
        .await;
    rig.expect(
        "PostgreSQL takes writes again",
        back.is_ok(),
        format!("{back:?}"),
    );
    none_buried(&mut rig).await?;
    rig.nobody_died();
    let mut outcome = rig.finish().await?;
    outcome.expect_no_repeats();
    drop(disk);
    Ok(outcome)
}

fn went_on(rig: &mut Rig<'_>, what: &str, before: u64) {
    let meanwhile = rig.receiver.count() - before;
    rig.expect(
        format!("deliveries go on while {what}"),
        meanwhile > 0,
        format!("{meanwhile} requests"),
    );
}

/// A fault of PostgreSQL's makes no dead letter: nothing is wrong with the messages.
async fn none_buried(rig: &mut Rig<'_>) -> anyhow::Result<()> {
    let letters = rig
        .bus()
        .await?
        .message_count(webhooks_bus::names::DEAD)
        .await?;
    rig.expect("no dead letters", letters == 0, letters);
    Ok(())
}
