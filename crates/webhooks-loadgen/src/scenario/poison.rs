//! Garbage on every stream.

use std::time::Duration;

use anyhow::Context as _;
use uuid::Uuid;
use webhooks_bus::{Outgoing, subjects};

use super::{
    Outcome, Scene,
    rig::{CALM, Rig},
};

/// Pieces of garbage for each stream.
const EACH: u64 = 20;

/// How long it may take until all of it is put aside.
const ASIDE: Duration = Duration::from_secs(60);

const PUBLISH_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn run(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    let mut rig = Rig::start(scene, |options| options).await?;
    rig.load()?;
    rig.go_on(CALM).await;
    let bus = rig.bus().await?;
    let workspace = rig.workspace.id;
    let link = rig.links[0];
    let targets = [
        ("ingest", subjects::intake(workspace)),
        ("fanout", subjects::event(workspace, link)),
        (
            "dispatcher",
            subjects::delivery(0, Uuid::new_v4(), Uuid::new_v4()),
        ),
        ("dispatcher", subjects::due(0, Uuid::new_v4())),
        ("management", subjects::verdict(workspace)),
        ("management", subjects::report(0)),
        (
            "management",
            subjects::ops(workspace, Uuid::new_v4(), "paused"),
        ),
    ];
    let garbage: [&[u8]; 4] = [b"", b"\xff\xfe\x00", b"{\"a\":", &[0x0a; 4_096]];
    let mut number = 0;
    for (_, subject) in &targets {
        for bytes in garbage.iter().cycle().take(usize::try_from(EACH)?) {
            number += 1;
            let id = format!("poison-{number}");
            let message = Outgoing::new(subject.clone(), &id, bytes.to_vec().into());
            bus.publish(message, PUBLISH_LIMIT).await?;
        }
    }
    rig.note(format!(
        "{number} pieces of garbage on {} streams",
        targets.len()
    ));
    let aside =
        webhooks_devstack::wait_until("all of it to be put aside", ASIDE, async || {
            match bus.letters().await {
                Ok(count) if count >= number => Ok(count),
                other => Err(format!("{other:?} of {number}")),
            }
        })
        .await;
    rig.expect(
        "all of it is kept as dead letters",
        aside.as_ref().is_ok_and(|count| *count == number),
        format!("{aside:?} of {number}"),
    );
    let list = rig
        .stack
        .operate(&["dead", "list", "--limit", "1000"])
        .await?;
    for source in ["ingest", "fanout", "dispatcher", "management"] {
        let of_source = list.lines().filter(|line| line.contains(source)).count();
        rig.expect(
            format!("{source} names its reasons"),
            of_source > 0,
            format!("{of_source} letters"),
        );
    }
    // A person repairs one and sends it on its way.
    let letters = rig
        .stack
        .operate(&["dead", "list", "--source", "ingest", "--limit", "1"])
        .await?;
    let letter = letters
        .split_whitespace()
        .next()
        .context("a letter of ingest")?
        .to_owned();
    let payload = rig.folder().join("repaired.json");
    let event = rig.promised_event();
    std::fs::write(&payload, &event)?;
    let payload = payload.display().to_string();
    rig.stack
        .operate(&["dead", "redrive", &letter, "--payload", &payload])
        .await?;
    let found = bus.letter(letter.parse()?).await?;
    rig.expect(
        "a repaired letter is gone (and delivered: I1)",
        found.is_none(),
        format!("letter {letter}"),
    );
    rig.go_on(CALM).await;
    let left = number - 1;
    // What is on EVENTS and has no verdict is offered once more by the reconciler, and put aside again.
    let count = bus.letters().await?;
    rig.expect(
        "nothing comes back for ever",
        (left..=left + EACH).contains(&count),
        format!("{count} letters, {left} before"),
    );
    rig.nobody_died();
    let mut outcome = rig.finish().await?;
    outcome.expect_no_repeats();
    Ok(outcome)
}
