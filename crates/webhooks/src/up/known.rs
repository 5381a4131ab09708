//! Whose settings are whose.
//!
//! Services inherit the caller's environment, and each warns of `WEBHOOKS_…` variables that it does
//! not know. So that this warning means a typing mistake and nothing else, a service is given what it
//! reads and not what only the others read; and what nobody reads is told once, by `webhooks up`.

use std::collections::BTreeMap;

use webhooks_devstack::{Spec, Tools};
use webhooks_runtime::{CommonSettings, Env, Settings};

use super::{OPERATOR_SEED, env_file::is_ours_alone};
use crate::operate::config;

/// Takes from a service of ours what it does not read.
pub(crate) fn only_its_own(spec: Spec) -> Spec {
    let read = match spec.name() {
        "ingest" => read::<webhooks_ingest::Config>,
        "fanout" => read::<webhooks_fanout::Config>,
        "management" => read::<webhooks_management::Config>,
        name if name.starts_with("dispatcher-") => read::<webhooks_dispatcher::Config>,
        _ => return spec,
    };
    let foreign = read(spec.environment());
    foreign
        .into_iter()
        .fold(spec, |spec, name| spec.env_remove(name))
}

/// What a service does not know of these variables.
fn read<C: Settings>(variables: BTreeMap<String, String>) -> Vec<String> {
    let mut env = Env::from_vars(variables);
    drop((CommonSettings::read(&mut env), C::read(&mut env)));
    env.unknown()
}

/// Variables of ours in an environment that no process reads.
pub(crate) fn typing_mistakes(env: Env) -> Vec<String> {
    let mut names = config::unknown(env);
    names.retain(|name| {
        !is_ours_alone(name) && !Tools::VARIABLES.contains(&&**name) && name != OPERATOR_SEED
    });
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_gets_what_it_reads_and_files_of_secrets_too() {
        let spec = |name: &str| {
            let spec = Spec::new(name, "/bin/true");
            spec.env("WEBHOOKS_ADMIN_ADDR", "127.0.0.1:0")
                .env("WEBHOOKS_RETRY_BASE", "1s")
                .env("WEBHOOKS_DATABASE_URL_FILE", "/nowhere")
                .env("WEBHOOKS_TYPO", "1")
                .env("OTHER", "1")
        };
        let given = |name: &str| {
            let environment = only_its_own(spec(name)).environment();
            let mine = ["ADMIN_ADDR", "RETRY_BASE", "DATABASE_URL_FILE", "TYPO"];
            let there = mine.map(|name| environment.contains_key(&format!("WEBHOOKS_{name}")));
            (there, environment.contains_key("OTHER"))
        };
        assert_eq!(given("dispatcher-2"), ([true, true, false, false], true));
        assert_eq!(given("management"), ([true, false, true, false], true));
        assert_eq!(given("fanout"), ([true, false, false, false], true));
        assert_eq!(given("receiver"), ([true; 4], true), "none of ours");
    }

    #[test]
    fn what_nobody_reads_is_a_typing_mistake() {
        let names = [
            "WEBHOOKS_RETRY_BSAE",
            "WEBHOOKS_RETRY_BASE",
            "WEBHOOKS_DATABASE_URL",
            "WEBHOOKS_TOKEN",
            "WEBHOOKS_NATS_SERVER_BIN",
            "WEBHOOKS_INTERNAL_TOKEN_FILE",
            "RETRY_BASE",
        ];
        let env = Env::from_vars(names.map(|name| (name, "")));
        assert_eq!(typing_mistakes(env), ["WEBHOOKS_RETRY_BSAE"]);
    }
}
