//! Clocks that jump by an hour, while the process runs.
//!
//! Only the wall clock is turned (libfaketime, `CLOCK_REALTIME`); the clock that runs forward is left
//! alone, as the kernel does when somebody sets the time.

use std::{path::PathBuf, time::Duration};

use super::{
    Outcome, Scene,
    rig::{CALM, Rig},
};
use crate::stack::{Part, StackOptions};

/// Names libfaketime's library where it is not in one of the usual places.
const LIBRARY: &str = "FAKETIME_LIBRARY";

const PLACES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/libfaketime.so.1",
];

/// How long a clock stays wrong.
const WRONG: Duration = Duration::from_secs(12);

const TURNED: [Part; 5] = [
    Part::Dispatcher(1),
    Part::Dispatcher(2),
    Part::Fanout,
    Part::Ingest,
    Part::Management,
];

pub(super) async fn run(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    let named = std::env::var(LIBRARY).ok().map(PathBuf::from);
    let places = PLACES.iter().map(PathBuf::from);
    let Some(library) = named.into_iter().chain(places).find(|file| file.is_file()) else {
        return Ok(Outcome::skipped(format!(
            "libfaketime is not there; {LIBRARY} names it"
        )));
    };
    std::fs::create_dir_all(scene.folder)?;
    let file = {
        let folder = scene.folder.to_owned();
        move |part: Part| folder.join(format!("clock-{part}"))
    };
    for part in TURNED {
        std::fs::write(file(part), "+0\n")?;
    }
    let turnable = |mut options: StackOptions| {
        for part in TURNED {
            for (name, value) in [
                ("LD_PRELOAD", library.display().to_string()),
                ("FAKETIME_TIMESTAMP_FILE", file(part).display().to_string()),
                ("FAKETIME_NO_CACHE", "1".to_owned()),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
                ("DONT_FAKE_MONOTONIC", "1".to_owned()),
            ] {
                options = options.own_setting(part, name, &value);
            }
        }
        options
    };
    let mut rig = Rig::start(scene, turnable).await?;
    rig.load()?;
    rig.go_on(CALM).await;
    for part in TURNED {
        for jump in ["+3600", "-3600"] {
            rig.note(format!("the clock of {part} jumps by {jump} s"));
            std::fs::write(file(part), format!("{jump}\n"))?;
            let before = rig.receiver.count();
            // A webhook that is made meanwhile gets the next event, whoever's clock is wrong.
            let path = format!("/ok/made-{part}-{jump}");
            let link = rig.links[2];
            rig.hook(&path, &[link]).await?;
            tokio::time::sleep(WRONG).await;
            let meanwhile = rig.receiver.count() - before;
            rig.expect(
                format!("deliveries go on while the clock of {part} is {jump} s off"),
                meanwhile > 0,
                format!("{meanwhile} requests in {WRONG:?}"),
            );
            std::fs::write(file(part), "+0\n")?;
            rig.go_on(CALM).await;
        }
        let noticed = rig.logged(part, "clock.stepped")?;
        rig.expect(format!("{part} noticed"), noticed, noticed);
    }
    let query = "SELECT count(*) FROM webhooks WHERE status <> 'ACTIVE'";
    let others = rig.stack.sql(query).await?;
    rig.expect(
        "no webhook was paused or disabled",
        others.trim() == "0",
        others.trim(),
    );
    rig.nobody_died();
    // I9 holds every signature's time against the receiver's clock.
    let mut outcome = rig.finish().await?;
    outcome.expect_no_repeats();
    Ok(outcome)
}
