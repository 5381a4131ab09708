//! Whether time tells what an answer does not: that an id which is not the caller's is somebody's.
//!
//! Another workspace's webhook and a webhook that nobody has are asked for in turn, over one connection; so
//! are another delivery and none, and each is a 404 with the same body. The limit is the same question
//! asked twice: what differs there is noise.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http::Method;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_devstack::wait_until;
use webhooks_domain::ids;

use super::{
    numbers::{millis, percentile},
    rig::{Load, Rig},
    table::Row,
};
use crate::{
    ledger::Ledger,
    publish::{self, Door, Plan, Subject},
    stack::Api,
};

/// The figure's name.
pub(super) const FIGURE: &str = "404 for a stranger's id against nobody's, p50 (p90)";

/// Questions before those that count.
const WARM_UP: usize = 200;

/// How long a delivery may take to be shown.
const LIMIT: Duration = Duration::from_secs(30);

/// A delivery of this load.
async fn delivery_of(rig: &Rig, load: &Load) -> anyhow::Result<Uuid> {
    let target = rig.stack.door(Door::Http, &load.workspace);
    let subject = Subject {
        workspace: load.workspace.id,
        links: load.links.clone(),
        kinds: vec!["KIND_EXIT".to_owned()],
    };
    let plan = Plan {
        count: Some(1),
        ..Plan::default()
    };
    let stop = CancellationToken::new();
    publish::run(&target, &subject, &plan, &Ledger::none(), &stop).await?;
    let mut api = rig.stack.api(&load.workspace)?;
    let shown = wait_until("a delivery to be shown", LIMIT, async || {
        let list = api
            .get("/v1/deliveries")
            .await
            .map_err(|error| format!("{error:#}"))?;
        let id = list["deliveries"][0]["id"].as_str().map(str::to_owned);
        id.ok_or_else(|| list.to_string())
    });
    Ok(shown.await?.parse()?)
}

/// Asks each path in turn `times` times; the times of each, sorted, in microseconds.
async fn in_turn(api: &mut Api, paths: &[String], times: usize) -> anyhow::Result<Vec<Vec<i64>>> {
    let mut took: Vec<Vec<i64>> = paths.iter().map(|_| Vec::with_capacity(times)).collect();
    for turn in 0..times + WARM_UP {
        for (path, took) in paths.iter().zip(&mut took) {
            let asked = Instant::now();
            let answer = api.ask(Method::GET, path, None).await?;
            ensure!(
                answer.status == 404,
                "{path} was answered {}",
                answer.status
            );
            if turn >= WARM_UP {
                took.push(i64::try_from(asked.elapsed().as_micros())?);
            }
        }
    }
    for took in &mut took {
        took.sort_unstable();
    }
    Ok(took)
}

/// Two sorted lists of times beside each other.
fn beside(first: &[i64], second: &[i64]) -> String {
    let shown = |took: &[i64]| {
        format!(
            "{} ({})",
            millis(percentile(took, 0.5)),
            millis(percentile(took, 0.9))
        )
    };
    format!("{} against {} ms", shown(first), shown(second))
}

pub(super) async fn measure(rig: &Rig, times: usize) -> anyhow::Result<Row> {
    // Somebody with a webhook and its deliveries, and somebody who asks.
    let owner = rig.load("strangers", &rig.witness, 1, 1).await?;
    let webhook = owner.webhooks.first().context("a webhook")?;
    let delivery = delivery_of(rig, &owner).await?;
    let asker = rig.stack.workspace("Asker").await?;
    let mut api = rig.stack.api(&asker)?;
    let nobodys = Uuid::new_v4();
    // An id of a delivery tells its day, and the day's table is asked.
    let at = ids::millis_of(delivery) * 1_000;
    let no_delivery = ids::delivery_id(asker.id, "none", nobodys, at);
    let webhooks = [*webhook, nobodys].map(|id| format!("/v1/webhooks/{id}"));
    let deliveries = [delivery, no_delivery].map(|id| format!("/v1/deliveries/{id}"));
    let webhooks_took = in_turn(&mut api, &webhooks, times).await?;
    let deliveries_took = in_turn(&mut api, &deliveries, times).await?;
    let twice = [webhooks[1].clone(), webhooks[1].clone()];
    let noise = in_turn(&mut api, &twice, times).await?;
    Ok(Row {
        figure: FIGURE.to_owned(),
        ours: format!(
            "webhooks {}; deliveries {}",
            beside(&webhooks_took[0], &webhooks_took[1]),
            beside(&deliveries_took[0], &deliveries_took[1])
        ),
        limit: format!("the same twice: {}", beside(&noise[0], &noise[1])),
        aim: "no difference beyond the noise".to_owned(),
        how: format!("{times} of each, in turn, over one connection"),
    })
}
