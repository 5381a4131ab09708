//! A node of a cluster that is cut off from the others and keeps its clients.

#![cfg(test)]

use std::time::Duration;

use futures::future::try_join_all;
use tokio_util::sync::CancellationToken;
use webhooks_bus::{Bus, BusSettings, Leases, LeasesSettings, Outgoing, Vitals, names, subjects};
use webhooks_devstack::{Course, NatsBuilder, NatsServer, Routes, wait_until};
use webhooks_runtime::Readiness;

const LIMIT: Duration = Duration::from_secs(60);

struct Cluster {
    nodes: Vec<NatsServer>,
    routes: Routes,
    _folder: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let routes = Routes::between(3).await.unwrap();
        let builders: Vec<NatsBuilder> = (0..3)
            .map(|node| {
                let name = format!("n{node}");
                NatsServer::builder(folder.path().join(&name))
                    .name(name)
                    .extra_config(routes.config(node))
            })
            .collect();
        // Together: a node is healthy only when it knows a leader.
        let nodes = try_join_all(builders.iter().map(NatsBuilder::start)).await;
        Self {
            nodes: nodes.unwrap(),
            routes,
            _folder: folder,
        }
    }

    fn settings(&self) -> BusSettings {
        let urls: Vec<String> = self.nodes.iter().map(NatsServer::url).collect();
        BusSettings {
            url: urls.join(","),
            replicas: 3,
            ..BusSettings::default()
        }
    }

    /// The node that a client is connected to.
    fn node_of(&self, bus: &Bus) -> usize {
        let port = bus.client().server_info().port;
        let found = self.nodes.iter().position(|node| node.port() == port);
        found.expect("a node of ours")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_connected_to_a_node_that_is_cut_off_goes_to_another_and_works_there() {
    let cluster = Cluster::start().await;
    let bus = Bus::connect(cluster.settings(), "test").await.unwrap();
    wait_until("the topology", LIMIT, async || bus.apply_topology().await)
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let leases = LeasesSettings {
        member: "a".to_owned(),
        partitions: 16,
        ttl: Duration::from_secs(3),
        renew: Duration::from_millis(500),
    };
    let (leases, _events) = Leases::start(&bus, leases, stop.clone());
    let owns_all = async || match (0..16)
        .filter(|partition| leases.may_send(*partition))
        .count()
    {
        16 => Ok(()),
        some => Err(some),
    };
    wait_until("its partitions", LIMIT, owns_all).await.unwrap();
    let readiness = Readiness::default();
    let vitals = Vitals::new(&bus, &readiness);
    let publish = async |id: &str| {
        let message = Outgoing::new(subjects::report(0), id, "a report".into());
        bus.publish(message, Duration::from_secs(2)).await
    };
    let test = async {
        for round in 0..2 {
            let id = format!("before-{round}");
            wait_until("a publish", LIMIT, async || publish(&id).await)
                .await
                .unwrap();
            let cut_off = cluster.node_of(&bus);
            cluster.routes.set(cut_off, Course::Silent);
            // The node answers its clients all the while; nothing that needs the others.
            let id = format!("beside-{round}");
            wait_until("a publish elsewhere", LIMIT, async || {
                match cluster.node_of(&bus) {
                    node if node == cut_off => Err("still there".to_owned()),
                    _ => publish(&id).await.map_err(|error| error.to_string()),
                }
            })
            .await
            .unwrap();
            // So do leases, over a connection of their own.
            wait_until("its partitions again", LIMIT, owns_all)
                .await
                .unwrap();
            cluster.routes.set(cut_off, Course::Open);
            cluster.nodes[cut_off].wait_healthy(LIMIT).await.unwrap();
        }
        wait_until("all reports", LIMIT, async || {
            match bus.message_count(names::REPORTS).await {
                Ok(4) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
        stop.cancel();
    };
    tokio::join!(vitals.watch(stop.clone(), |_| {}), test);
}
