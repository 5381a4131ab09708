//! How each process of ours is started.

use std::{env, path::PathBuf};

use anyhow::Context as _;
use webhooks_bus::permissions::Role;
use webhooks_devstack::Spec;

use super::{env_file, known, layout::Layout, servers::Servers, settings::Settings};
use crate::secrets::Shared;

/// Our processes. Their programs lie beside this one; they inherit this process's environment, so
/// every `WEBHOOKS_…` setting of the caller reaches whoever reads it.
///
/// # Errors
/// A program is missing, or this one cannot be located.
pub(crate) fn specs(
    layout: &Layout,
    settings: &Settings,
    servers: &Servers,
    shared: &Shared,
) -> anyhow::Result<Vec<Spec>> {
    let at = |name: &str, role: Role, admin: &dyn ToString| -> anyhow::Result<Spec> {
        let program = beside(&format!("webhooks-{role}"))?;
        let spec = common(Spec::new(name, program), settings, shared)
            .env("WEBHOOKS_NATS_URL", &servers.nats_url)
            .env("WEBHOOKS_ADMIN_ADDR", admin.to_string());
        match &servers.credentials {
            Some(credentials) => credentials.give(spec, role),
            None => Ok(spec),
        }
    };
    let management = at("management", Role::Management, &layout.management_admin)?;
    let mut all = vec![
        unless_in_a_file(
            management,
            "WEBHOOKS_OPERATOR_TOKEN",
            &shared.operator_token,
        )
        .env("WEBHOOKS_DATABASE_URL", &servers.app_database_url)
        .env("WEBHOOKS_API_ADDR", layout.api.to_string())
        .env("WEBHOOKS_GRPC_ADDR", layout.grpc.to_string()),
        at("ingest", Role::Ingest, &layout.ingest_admin)?
            .env("WEBHOOKS_INGEST_HTTP_ADDR", layout.ingest.to_string())
            .env("WEBHOOKS_INGEST_GRPC_ADDR", layout.ingest_grpc.to_string()),
        at("fanout", Role::Fanout, &layout.fanout_admin)?,
        Spec::new("receiver", beside("webhooks-loadgen")?)
            .args(["receiver", "--listen"])
            .arg(layout.receiver.to_string()),
    ];
    for (admin, number) in layout.dispatcher_admins.iter().zip(1..) {
        let spec = at(&format!("dispatcher-{number}"), Role::Dispatcher, admin)?;
        all.push(spec.env(
            "WEBHOOKS_MANAGEMENT_GRPC_URL",
            format!("http://{}", layout.grpc),
        ));
    }
    Ok(all.into_iter().map(known::only_its_own).collect())
}

fn common(spec: Spec, settings: &Settings, shared: &Shared) -> Spec {
    // Files that several processes would write to, and what a shell got from an earlier `env` file.
    let foreign = [
        "WEBHOOKS_ADDR_FILE",
        "WEBHOOKS_ADMIN_ADDR_FILE",
        "WEBHOOKS_DATABASE_URL_FILE",
    ];
    let spec = foreign
        .into_iter()
        .fold(spec, |spec, name| spec.env_remove(name));
    let told = env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| env_file::is_ours_alone(name));
    let spec = told
        .fold(spec, |spec, name| spec.env_remove(name))
        .envs(settings.allowances.iter().copied());
    let spec = unless_in_a_file(spec, "WEBHOOKS_ENCRYPTION_KEYS", &shared.encryption_keys);
    unless_in_a_file(spec, "WEBHOOKS_INTERNAL_TOKEN", &shared.internal_token)
}

/// The caller's own file wins.
fn unless_in_a_file(spec: Spec, name: &str, value: &str) -> Spec {
    let in_a_file = env::var_os(format!("{name}_FILE")).is_some_and(|path| !path.is_empty());
    if in_a_file {
        spec
    } else {
        spec.env(name, value)
    }
}

fn beside(program: &str) -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("cannot tell where this program is")?;
    Ok(own.with_file_name(program))
}
