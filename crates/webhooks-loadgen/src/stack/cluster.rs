//! One nats-server, or a cluster of them on loopback, with lines between them that can be cut.

use futures::future::try_join_all;
use webhooks_devstack::{NatsBuilder, NatsServer, Routes};

use super::StackOptions;

/// Starts as many nodes as are wanted; the first one first.
pub(super) async fn start(
    options: &StackOptions,
    users: &str,
) -> anyhow::Result<(NatsServer, Vec<NatsServer>, Routes)> {
    let names: Vec<String> = (1..=options.nats_nodes.max(1)).map(name).collect();
    let routes = Routes::between(names.len()).await?;
    let builders = names.iter().enumerate().map(|(node, name)| {
        let config = format!("{users}{}", routes.config(node));
        builder(options, name, config)
    });
    let builders: Vec<_> = builders.collect();
    // Together: a node is healthy only when it knows a leader.
    let mut nodes = try_join_all(builders.iter().map(NatsBuilder::start)).await?;
    let first = nodes.remove(0);
    Ok((first, nodes, routes))
}

/// The one node of a stack that starts it later.
pub(super) async fn prepare(
    options: &StackOptions,
    users: &str,
) -> anyhow::Result<(NatsServer, Vec<NatsServer>, Routes)> {
    let node = builder(options, &name(1), users.to_owned()).prepare()?;
    Ok((node, Vec::new(), Routes::between(1).await?))
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

#[cfg(test)]
mod tests {
    #[test]
    fn the_first_node_has_the_name_of_one_that_is_alone() {
        assert_eq!([super::name(1), super::name(2)], ["nats", "nats-2"]);
    }
}
