//! Each part stands still for a while (SIGSTOP) and then goes on as if nothing had been: a paused
//! virtual machine, a swapping host. Its connections stay open meanwhile, and whatever it believed
//! to own it still believes to own when it wakes.

use std::time::Duration;

use webhooks_devstack::{Signal, http_get, wait_until};

use super::{
    Outcome, Scene,
    rig::{CALM, Rig},
};
use crate::stack::Part;

/// Longer than a dispatcher's lease (3 s), than events stay with a fan-out (4 s), and than verdicts
/// and reports stay with a management (15 s).
const FROZEN: Duration = Duration::from_secs(20);

/// How long the others may take until they answer for a part that stands still.
const ANSWER: Duration = Duration::from_secs(11);

/// How long readiness may take, after an answer of ingest that took some 5 s: far less than the client takes
/// to give up a connection.
const TOLD: Duration = Duration::from_secs(5);

pub(super) async fn run(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    let mut rig = Rig::start(scene, |options| options).await?;
    // On the wire for longer than a lease lives.
    rig.slow_hook(4).await?;
    rig.load()?;
    rig.go_on(CALM).await;
    for part in [
        Part::Dispatcher(1),
        Part::Fanout,
        Part::Management,
        Part::Ingest,
        Part::Postgres,
        Part::Nats,
    ] {
        let before = rig.receiver.count();
        rig.note(format!("freeze {part}"));
        if part.is_dispatcher() {
            rig.cut();
        }
        rig.stack.signal(part, Signal::STOP)?;
        if part == Part::Nats {
            // F-31: accepted connections and no answer.
            let offered = rig.offer().await?;
            rig.expect(
                "while NATS stands still, ingest answers 503 with Retry-After and in time",
                offered.is_busy() && offered.took < ANSWER,
                format!(
                    "{} after {:.1} s",
                    offered.status,
                    offered.took.as_secs_f64()
                ),
            );
            for service in [Part::Ingest, Part::Fanout, Part::Management] {
                let url = format!("{}/readyz", rig.stack.admin_url(service)?);
                let told = wait_until("readiness to fall", TOLD, async || {
                    match http_get(&url).await {
                        Ok((503, body)) => Ok(body),
                        other => Err(format!("{other:?}")),
                    }
                })
                .await;
                rig.expect(
                    format!("while NATS stands still, {service} says that it is not ready"),
                    told.is_ok(),
                    told.unwrap_or_else(|error| format!("{error:#}")),
                );
            }
        }
        tokio::time::sleep(FROZEN).await;
        rig.stack.signal(part, Signal::CONT)?;
        if part.is_dispatcher() {
            rig.cut();
        }
        let meanwhile = rig.receiver.count() - before;
        let delivering = !matches!(part, Part::Fanout | Part::Ingest | Part::Nats);
        if delivering {
            rig.expect(
                format!("deliveries go on while {part} stands still"),
                meanwhile > 0,
                format!("{meanwhile} requests in {FROZEN:?}"),
            );
        }
        rig.stack.wait_ready(part).await?;
        rig.go_on(CALM).await;
    }
    rig.nobody_died();
    let mut outcome = rig.finish().await?;
    // One request of the sleeper and one of whoever took over.
    outcome.expect_most(1);
    Ok(outcome)
}
