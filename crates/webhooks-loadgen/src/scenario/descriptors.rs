//! Few file descriptors.

use std::time::Duration;

use anyhow::Context as _;
use tokio::{net::TcpStream, process::Command};
use uuid::Uuid;
use webhooks_devstack::http_get;

use super::{
    Outcome, Scene,
    rig::{CALM, Rig},
};
use crate::{
    publish::{Door, Plan},
    stack::Part,
};

/// Descriptors that a process may have: what it has anyway, and a few more.
const LIMIT: u32 = 96;

/// Connections that are opened to ingest and left open.
const IDLE: usize = 200;

/// Slow endpoints: each wants some connections at a time, together more than there are.
const SLOW: usize = 30;

pub(super) async fn run(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    let mut rig = Rig::start(scene, |options| options).await?;
    let link = Uuid::new_v4();
    for number in 0..SLOW {
        rig.hook(&format!("/hang/3/{number}"), &[link]).await?;
    }
    let limited = [Part::Ingest, Part::Dispatcher(1), Part::Dispatcher(2)];
    for part in limited {
        let pid = rig.stack.pid(part).context("it runs")?;
        let limit = format!("--nofile={LIMIT}:{LIMIT}");
        let set = Command::new("prlimit")
            .args(["--pid", &pid.to_string(), &limit])
            .status()
            .await;
        if !set.is_ok_and(|status| status.success()) {
            return Ok(Outcome::skipped("prlimit is not there or is refused"));
        }
    }
    rig.load()?;
    let plan = Plan {
        rate: Some(2.0),
        retry: true,
        ..Plan::default()
    };
    rig.publish_of(Door::Grpc, plan, vec![link])?;
    rig.go_on(CALM).await;
    let address = rig.stack.door(Door::Http, &rig.workspace).url;
    let address = address.trim_start_matches("http://").to_owned();
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        // Beyond the limit the kernel still takes connections, for a while.
        let opened = TcpStream::connect(&address);
        if let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_secs(1), opened).await {
            idle.push(stream);
        }
    }
    rig.note(format!("{} idle connections", idle.len()));
    let before = rig.stack.usage();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let spent = rig.stack.usage().since_by_part(&before);
    let ingest = spent.iter().find(|(part, _)| *part == Part::Ingest);
    let ingest = ingest.map_or(Duration::ZERO, |(_, time)| *time);
    rig.expect(
        "a full ingest does not spin",
        ingest < Duration::from_secs(5),
        format!("{:.1} s of processor in 10 s", ingest.as_secs_f64()),
    );
    drop(idle);
    rig.go_on(CALM).await;
    rig.nobody_died();
    for part in limited {
        let url = format!("{}/livez", rig.stack.admin_url(part)?);
        let answer = http_get(&url).await;
        let alive = answer.as_ref().is_ok_and(|(status, _)| *status == 200);
        rig.expect(format!("{part} is alive"), alive, format!("{answer:?}"));
    }
    rig.finish().await
}
