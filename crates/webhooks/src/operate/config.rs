//! `webhooks config`: every setting of every service, as it is or as a reference.
//!
//! The services are asked themselves: what they read is what is documented.

use std::collections::BTreeSet;

use webhooks_bus::BusSettings;
use webhooks_runtime::{
    CommonSettings, Env, Settings,
    settings::{Setting, markdown},
};

use crate::{cli::ConfigOptions, console::say};

/// The command.
///
/// # Errors
/// With `--print`: settings that cannot be used, after everything was printed.
pub(crate) fn run(options: &ConfigOptions) -> anyhow::Result<()> {
    if options.markdown {
        say(reference().trim_end());
        return Ok(());
    }
    let mut env = Env::from_process();
    for (_, _, read) in SECTIONS {
        read(&mut env);
    }
    env.require_production();
    say(env.effective().trim_end());
    for name in env.unknown() {
        say(format_args!("# {name} is set and unknown to every service"));
    }
    Ok(env.finish()?)
}

/// Variables of ours that no service reads.
pub(crate) fn unknown(mut env: Env) -> Vec<String> {
    for (_, _, read) in SECTIONS {
        read(&mut env);
    }
    env.unknown()
}

/// Title, meaning, and who reads them. A setting stands where it is read first.
type Section = (&'static str, &'static str, fn(&mut Env));

const SECTIONS: [Section; 6] = [
    ("Every process", "", read::<CommonSettings>),
    (
        "NATS",
        "Read by every service; the values must be the same everywhere.",
        read::<BusSettings>,
    ),
    ("Ingest", "", read::<webhooks_ingest::Config>),
    ("Fan-out", "", read::<webhooks_fanout::Config>),
    (
        "Dispatcher",
        "Its `WEBHOOKS_EGRESS_…` settings are read by management too.",
        read::<webhooks_dispatcher::Config>,
    ),
    (
        "Management",
        "Besides the dispatcher's keys, internal token and egress switches.",
        read::<webhooks_management::Config>,
    ),
];

fn read<S: Settings>(env: &mut Env) {
    drop(S::read(env));
}

/// The text of docs/settings.md.
pub(crate) fn reference() -> String {
    let mut text = "# Settings\n\nEvery setting is an environment variable. All of them are checked at start, all problems are named at\n\
        once, and a process that cannot use its settings ends with exit code 64. An empty variable counts as\n\
        unset. Durations have a unit (`250ms`, `30s`, `2h 30m`); lists are separated by commas. A secret may stand in\n\
        a file instead, which `NAME_FILE` names. `webhooks config` prints what holds in the environment it is\n\
        called in, and what is wrong with it: in a shell that has read `.run/env`, the two secrets that `make run`\n\
        gives to its services only are missing.\n\n\
        This file is written by `make docs`.\n"
        .to_owned();
    let mut shown = BTreeSet::new();
    for (title, meaning, read) in SECTIONS {
        let mut env = Env::default();
        read(&mut env);
        let new: Vec<&Setting> = env
            .settings()
            .iter()
            .filter(|setting| shown.insert(setting.name))
            .collect();
        text.push_str(&section(title, meaning, &new));
    }
    text
}

fn section(title: &str, meaning: &str, settings: &[&Setting]) -> String {
    let mut text = format!("\n## {title}\n\n");
    if !meaning.is_empty() {
        text.push_str(meaning);
        text.push_str("\n\n");
    }
    text.push_str(&markdown(settings.iter().copied()));
    text
}

#[cfg(test)]
mod tests {
    use webhooks_runtime::Env;

    use super::{SECTIONS, reference};

    #[test]
    fn every_address_that_nobody_could_call_is_among_the_problems_and_so_is_each_wrong_entry() {
        let mut env = Env::from_vars([
            ("WEBHOOKS_DATABASE_URL", "mysql://u:hunter2@x"),
            ("WEBHOOKS_MANAGEMENT_GRPC_URL", "::"),
            ("WEBHOOKS_NATS_URL", "http://x"),
            ("WEBHOOKS_DASHBOARD_URL", "app.example.org"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("WEBHOOKS_EGRESS_ALLOW_CIDRS", "foo,10.0.0.0/33"),
        ]);
        for (_, _, read) in SECTIONS {
            read(&mut env);
        }
        let told = env.finish().unwrap_err().to_string();
        for named in [
            "WEBHOOKS_DATABASE_URL: does not begin with postgres://",
            "WEBHOOKS_MANAGEMENT_GRPC_URL: does not begin with http://",
            "WEBHOOKS_NATS_URL: address 1 does not begin with nats://",
            "WEBHOOKS_DASHBOARD_URL: does not begin with http://",
            "OTEL_EXPORTER_OTLP_ENDPOINT: does not begin with http://",
            "\"foo\" is not valid",
            "\"10.0.0.0/33\" is not valid",
        ] {
            assert!(told.contains(named), "{named}: {told}");
        }
        assert!(!told.contains("hunter2"), "{told}");
    }

    #[test]
    fn the_reference_in_the_documents_is_fresh() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/settings.md");
        let there = std::fs::read_to_string(file).unwrap_or_default();
        assert!(
            there == reference(),
            "docs/settings.md is out of date: run `make docs`"
        );
    }

    #[test]
    fn every_setting_stands_in_it_once() {
        let text = reference();
        for name in [
            "WEBHOOKS_DRAIN_TIMEOUT",
            "WEBHOOKS_NATS_URL",
            "WEBHOOKS_INGEST_HTTP_ADDR",
            "WEBHOOKS_RETRY_BASE",
            "WEBHOOKS_DATABASE_URL",
            "WEBHOOKS_ENCRYPTION_KEYS",
            "WEBHOOKS_EGRESS_ALLOW_CIDRS",
        ] {
            assert_eq!(
                text.matches(&format!("\n| `{name}` |")).count(),
                1,
                "{name}"
            );
        }
    }
}
