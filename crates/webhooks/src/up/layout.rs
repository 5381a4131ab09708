//! Who runs where.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};

use super::{folder::Folder, ports::Ports, settings::Settings};

/// The addresses of a run.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) nats: u16,
    pub(crate) nats_monitor: u16,
    pub(crate) postgres: u16,
    pub(crate) api: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) ingest: SocketAddr,
    pub(crate) ingest_grpc: SocketAddr,
    pub(crate) receiver: SocketAddr,
    pub(crate) ingest_admin: SocketAddr,
    pub(crate) fanout_admin: SocketAddr,
    pub(crate) management_admin: SocketAddr,
    /// One for each dispatcher.
    pub(crate) dispatcher_admins: Vec<SocketAddr>,
}

/// A process that says when it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) name: String,
    address: SocketAddr,
    path: &'static str,
}

impl Process {
    /// What answers 200 when it is ready.
    pub(crate) fn ready_url(&self) -> String {
        format!("http://{}{}", self.address, self.path)
    }
}

impl Layout {
    /// Takes ports, the same as last time where they are free. Addresses that the caller has set in
    /// `WEBHOOKS_…_ADDR` are used as they are.
    ///
    /// # Errors
    /// There is no free port, or an address of the caller's cannot be used.
    pub(crate) fn choose(folder: &Folder, settings: &Settings) -> anyhow::Result<Self> {
        let mut ports = Ports::load(&folder.path.join("ports"));
        let layout = Self::with(&mut ports, settings.dispatchers, |name| {
            std::env::var(name).ok()
        })?;
        ports.save()?;
        Ok(layout)
    }

    fn with(
        ports: &mut Ports,
        dispatchers: u16,
        variable: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let mut given = |setting: &str, name: &str| -> anyhow::Result<SocketAddr> {
            let port = ports.take(name)?;
            let Some(text) = variable(setting).filter(|text| !text.trim().is_empty()) else {
                return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
            };
            let mut address: SocketAddr = text
                .trim()
                .parse()
                .with_context(|| format!("{setting}: {text:?} is not ip:port"))?;
            if address.ip().is_unspecified() {
                bail!(
                    "{setting}: name an address of this machine, not {}",
                    address.ip()
                );
            }
            if address.port() == 0 {
                address.set_port(port);
            }
            Ok(address)
        };
        let (api, grpc) = (
            given("WEBHOOKS_API_ADDR", "api")?,
            given("WEBHOOKS_GRPC_ADDR", "grpc")?,
        );
        let (ingest, ingest_grpc) = (
            given("WEBHOOKS_INGEST_HTTP_ADDR", "ingest")?,
            given("WEBHOOKS_INGEST_GRPC_ADDR", "ingest-grpc")?,
        );
        let mut own = |name: &str| {
            Ok::<_, anyhow::Error>(SocketAddr::from(([127, 0, 0, 1], ports.take(name)?)))
        };
        Ok(Self {
            api,
            grpc,
            ingest,
            ingest_grpc,
            nats: own("nats")?.port(),
            nats_monitor: own("nats-monitor")?.port(),
            postgres: own("postgres")?.port(),
            receiver: own("receiver")?,
            ingest_admin: own("ingest-admin")?,
            fanout_admin: own("fanout-admin")?,
            management_admin: own("management-admin")?,
            dispatcher_admins: (1..=dispatchers)
                .map(|number| own(&format!("dispatcher-{number}-admin")))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Every process that we wait for.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let process = |name: &str, address, path| Process {
            name: name.to_owned(),
            address,
            path,
        };
        let mut all = vec![
            process("ingest", self.ingest_admin, "/readyz"),
            process("fanout", self.fanout_admin, "/readyz"),
            process("management", self.management_admin, "/readyz"),
            process("receiver", self.receiver, "/livez"),
        ];
        let dispatchers = self.dispatcher_admins.iter().zip(1..);
        all.extend(dispatchers.map(|(address, number)| {
            process(&format!("dispatcher-{number}"), *address, "/readyz")
        }));
        all
    }

    /// The REST API.
    pub(crate) fn api_url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// Where events go over HTTP.
    pub(crate) fn ingest_url(&self) -> String {
        format!("http://{}", self.ingest)
    }

    /// The demo receiver.
    pub(crate) fn receiver_url(&self) -> String {
        format!("http://{}", self.receiver)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Layout, Ports};

    fn layout(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Layout> {
        let folder = tempfile::tempdir().unwrap();
        Layout::with(&mut Ports::load(&folder.path().join("ports")), 3, variable)
    }

    #[test]
    fn everybody_has_a_port_of_their_own() {
        let layout = layout(|_| None).unwrap();
        let processes = layout.processes();
        let names: Vec<_> = processes
            .iter()
            .map(|process| process.name.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "ingest",
                "fanout",
                "management",
                "receiver",
                "dispatcher-1",
                "dispatcher-2",
                "dispatcher-3"
            ]
        );
        let urls: BTreeSet<_> = processes.iter().map(super::Process::ready_url).collect();
        assert_eq!(urls.len(), names.len());
    }

    #[test]
    fn addresses_of_the_caller_are_used_and_bad_ones_refused() {
        let with = |text: &'static str| {
            layout(move |name| (name == "WEBHOOKS_API_ADDR").then(|| text.to_owned()))
        };
        assert_eq!(
            with("127.0.0.2:81").unwrap().api_url(),
            "http://127.0.0.2:81"
        );
        assert_ne!(with("127.0.0.2:0").unwrap().api.port(), 0);
        assert!(with("0.0.0.0:81").is_err());
        assert!(with("here").is_err());
    }
}
