//! `.run/env`: what scripts need to use a running system, in shell syntax.

use std::{fmt::Write as _, os::unix::fs::PermissionsExt as _};

use anyhow::Context as _;
use webhooks_runtime::write_whole;

use super::{credentials, folder::Folder, layout::Layout, servers::Servers, settings::Settings};
use crate::{demo::Accounts, secrets::Shared};

/// Names that are no setting of any service: what stands in the file for its readers only. A shell
/// that has read the file must not hand them to the next run.
const OURS_ALONE: [&str; 14] = [
    "WEBHOOKS_API_URL",
    "WEBHOOKS_INGEST_URL",
    "WEBHOOKS_GRPC_URL",
    "WEBHOOKS_INGEST_GRPC_URL",
    "WEBHOOKS_NATS_MONITOR_URL",
    "WEBHOOKS_DASHBOARD_URL",
    "WEBHOOKS_WORKSPACE_ID",
    "WEBHOOKS_TOKEN",
    "WEBHOOKS_OPERATOR_TOKEN",
    "WEBHOOKS_OTHER_WORKSPACE_ID",
    "WEBHOOKS_OTHER_TOKEN",
    "WEBHOOKS_RECEIVER_URL",
    "WEBHOOKS_DATABASE_URL",
    "WEBHOOKS_OPERATOR_NATS_NKEY_SEED_FILE",
];

/// Whether a variable is to be kept from the services.
pub(crate) fn is_ours_alone(name: &str) -> bool {
    OURS_ALONE.contains(&name) || (name.starts_with("WEBHOOKS_") && name.ends_with("_ADMIN_URL"))
}

/// The names and values. NATS is for the demo workspace's publisher there; operators' commands find
/// the operator's seed beside it.
///
/// # Errors
/// A credential cannot be read.
pub(crate) fn lines(
    layout: &Layout,
    settings: &Settings,
    servers: &Servers,
    accounts: &Accounts,
    shared: &Shared,
) -> anyhow::Result<Vec<(String, String)>> {
    let nats_url = match &servers.credentials {
        Some(credentials) => credentials.publisher_url(&servers.nats_url)?,
        None => servers.nats_url.clone(),
    };
    let http = |address: &std::net::SocketAddr| format!("http://{address}");
    let mut lines = vec![
        ("WEBHOOKS_API_URL", layout.api_url()),
        ("WEBHOOKS_INGEST_URL", layout.ingest_url()),
        ("WEBHOOKS_GRPC_URL", http(&layout.grpc)),
        ("WEBHOOKS_INGEST_GRPC_URL", http(&layout.ingest_grpc)),
        ("WEBHOOKS_NATS_URL", nats_url),
        ("WEBHOOKS_DATABASE_URL", servers.database_url.clone()),
        ("WEBHOOKS_DASHBOARD_URL", layout.api_url()),
        ("WEBHOOKS_WORKSPACE_ID", accounts.workspace.to_string()),
        ("WEBHOOKS_TOKEN", accounts.token.clone()),
        ("WEBHOOKS_OPERATOR_TOKEN", shared.operator_token.clone()),
        (
            "WEBHOOKS_OTHER_WORKSPACE_ID",
            accounts.other_workspace.to_string(),
        ),
        ("WEBHOOKS_OTHER_TOKEN", accounts.other_token.clone()),
        ("WEBHOOKS_RECEIVER_URL", layout.receiver_url()),
        ("WEBHOOKS_INGEST_ADMIN_URL", http(&layout.ingest_admin)),
        ("WEBHOOKS_FANOUT_ADMIN_URL", http(&layout.fanout_admin)),
        (
            "WEBHOOKS_MANAGEMENT_ADMIN_URL",
            http(&layout.management_admin),
        ),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect::<Vec<_>>();
    for (address, number) in layout
        .dispatcher_admins
        .iter()
        .zip(1..=settings.dispatchers)
    {
        lines.push((
            format!("WEBHOOKS_DISPATCHER_{number}_ADMIN_URL"),
            http(address),
        ));
        if number == 1 {
            lines.push(("WEBHOOKS_DISPATCHER_ADMIN_URL".to_owned(), http(address)));
        }
    }
    lines.extend(
        servers
            .nats_monitor_url
            .clone()
            .map(|url| ("WEBHOOKS_NATS_MONITOR_URL".to_owned(), url)),
    );
    if let Some(credentials) = &servers.credentials {
        let seed = credentials.operator_seed_file()?;
        let name = format!("{}_FILE", credentials::OPERATOR_SEED);
        lines.push((name, seed.display().to_string()));
    }
    Ok(lines)
}

/// Writes the file, whole or not at all, readable by its owner only: tokens stand in it.
///
/// # Errors
/// The folder cannot be written.
pub(crate) fn write(folder: &Folder, lines: &[(String, String)]) -> anyhow::Result<()> {
    let mut text = String::new();
    for (name, value) in lines {
        writeln!(text, "{name}={}", quoted(value)).expect("a string takes any text");
    }
    let private = folder.path.join("env.private");
    let written = write_whole(&private, &text)
        .and_then(|()| std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600)))
        .and_then(|()| std::fs::rename(&private, folder.env_file()));
    written.with_context(|| format!("cannot write {}", folder.env_file().display()))
}

/// A word of a shell.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::{is_ours_alone, quoted};

    #[test]
    fn values_survive_a_shell() {
        for value in ["plain", "with blank", "it's", "$HOME `x` \"y\"", ""] {
            let script = format!("A={}; printf %s \"$A\"", quoted(value));
            let output = std::process::Command::new("/bin/sh")
                .args(["-c", &script])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
        }
    }

    #[test]
    fn settings_are_passed_on_and_answers_are_not() {
        assert!(
            is_ours_alone("WEBHOOKS_TOKEN") && is_ours_alone("WEBHOOKS_DISPATCHER_2_ADMIN_URL")
        );
        assert!(
            !is_ours_alone("WEBHOOKS_RETRY_BASE") && !is_ours_alone("WEBHOOKS_EGRESS_ALLOW_CIDRS")
        );
    }
}
