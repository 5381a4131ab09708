//! One nats-server, or a cluster of them on loopback.

use std::fmt::Write as _;

use futures::future::try_join_all;
use webhooks_devstack::{NatsBuilder, NatsServer, free_port};

use super::StackOptions;

/// Starts as many nodes as are wanted; the first one first.
pub(super) async fn start(
    options: &StackOptions,
    users: &str,
) -> anyhow::Result<(NatsServer, Vec<NatsServer>)> {
    let names: Vec<String> = (1..=options.nats_nodes.max(1)).map(name).collect();
    let routes = names
        .iter()
        .map(|_| free_port())
        .collect::<anyhow::Result<Vec<u16>>>()?;
    let builders = names.iter().zip(&routes).map(|(name, route)| {
        let mut config = users.to_owned();
        if routes.len() > 1 {
            config.push_str(&cluster(*route, &routes));
        }
        builder(options, name, config)
    });
    let builders: Vec<_> = builders.collect();
    // Together: a node is healthy only when it knows a leader.
    let mut nodes = try_join_all(builders.iter().map(NatsBuilder::start)).await?;
    let first = nodes.remove(0);
    Ok((first, nodes))
}

/// The one node of a stack that starts it later.
pub(super) fn prepare(options: &StackOptions, users: &str) -> anyhow::Result<NatsServer> {
    builder(options, &name(1), users.to_owned()).prepare()
}

fn builder(options: &StackOptions, name: &str, config: String) -> NatsBuilder {
    NatsServer::builder(options.folder.join(name))
        .name(name)
        .sync_interval(options.sync)
        .extra_config(config)
}

fn name(number: u16) -> String {
    if number == 1 {
        "nats".to_owned()
    } else {
        format!("nats-{number}")
    }
}

fn cluster(own: u16, all: &[u16]) -> String {
    let mut text =
        format!("\ncluster {{\n  name: stack\n  listen: \"127.0.0.1:{own}\"\n  routes: [\n");
    for route in all.iter().filter(|route| **route != own) {
        writeln!(text, "    \"nats://127.0.0.1:{route}\"").expect("a string takes everything");
    }
    text.push_str("  ]\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::{cluster, name};

    #[test]
    fn a_node_is_routed_to_the_others() {
        let text = cluster(1, &[1, 2, 3]);
        assert!(text.contains("listen: \"127.0.0.1:1\""), "{text}");
        assert!(!text.contains("nats://127.0.0.1:1\""), "{text}");
        assert!(text.contains("nats://127.0.0.1:2\"") && text.contains("nats://127.0.0.1:3\""));
        assert_eq!([name(1), name(2)], ["nats", "nats-2"]);
    }
}
