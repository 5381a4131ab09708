//! How the nodes of a cluster of nats-servers hear of each other: by a [`Line`] between each two.

use std::{fmt::Write as _, net::Ipv4Addr};

use anyhow::Context as _;

use crate::{
    line::{Course, Line},
    ports::free_port,
};

/// The routes of a cluster. The first node is 0.
#[derive(Debug)]
pub struct Routes {
    /// Where each node listens for the others.
    ports: Vec<u16>,
    /// From each node to each other one. The servers settle which of the two between them stays; one
    /// that calls nobody starts no JetStream.
    lines: Vec<([usize; 2], Line)>,
}

impl Routes {
    /// Routes between so many nodes; none for one.
    ///
    /// # Errors
    /// No free ports.
    pub async fn between(nodes: usize) -> anyhow::Result<Self> {
        let ports = (0..nodes)
            .map(|_| free_port())
            .collect::<anyhow::Result<Vec<u16>>>()?;
        let mut lines = Vec::new();
        for (to, port) in ports.iter().enumerate() {
            for from in (0..nodes).filter(|from| *from != to) {
                let line = Line::to((Ipv4Addr::LOCALHOST, *port).into()).await;
                lines.push(([from, to], line.context("no line between two nodes")?));
            }
        }
        Ok(Self { ports, lines })
    }

    /// What a node's configuration says of it; nothing where there is one node.
    ///
    /// # Panics
    /// There is no such node.
    #[must_use]
    pub fn config(&self, node: usize) -> String {
        let mut text = String::new();
        if self.ports.len() < 2 {
            return text;
        }
        let own = self.ports[node];
        // Nodes tell each other where others listen, and would call them there, past the line: what they
        // tell is a port where nobody is.
        write!(
            text,
            "\ncluster {{\n  name: stack\n  listen: \"127.0.0.1:{own}\"\n  advertise: \"127.0.0.1:1\"\n  routes: [\n"
        )
        .expect("a string takes everything");
        for (_, line) in self.lines.iter().filter(|(ends, _)| ends[0] == node) {
            writeln!(text, "    \"nats://{}\"", line.address()).expect("a string takes everything");
        }
        text.push_str("  ]\n}\n");
        text
    }

    /// What becomes of everything between a node and the others; its clients keep it.
    pub fn set(&self, node: usize, course: Course) {
        for (_, line) in self.lines.iter().filter(|(ends, _)| ends.contains(&node)) {
            line.set(course);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_node_calls_each_other_one() {
        let routes = Routes::between(3).await.unwrap();
        for node in 0..3 {
            let text = routes.config(node);
            let listens = format!("listen: \"127.0.0.1:{}\"", routes.ports[node]);
            assert!(text.contains(&listens), "{text}");
            assert_eq!(text.matches("nats://").count(), 2, "{text}");
        }
        assert_eq!(Routes::between(1).await.unwrap().config(0), "");
    }
}
