use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::gone;

/// Starts both servers in a process of their own; gives what it printed.
fn start(folder: &Path) -> (Child, BTreeMap<String, String>) {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_webhooks-devstack"))
        .arg(folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let values = lines
        .take_while(|line| line != "READY=1")
        .filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
    let values = values.collect();
    (owner, values)
}

fn pids(values: &BTreeMap<String, String>) -> [u32; 2] {
    ["NATS_PID", "POSTGRES_PID"].map(|name| values[name].parse().unwrap())
}

#[tokio::test]
async fn when_the_owner_is_killed_its_servers_die_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (mut owner, values) = start(folder.path());
    let pids = pids(&values);
    assert!(pids.iter().all(|pid| webhooks_devstack::is_running(*pid)));
    owner.kill().unwrap();
    owner.wait().unwrap();
    gone(&pids).await;
}

#[tokio::test]
async fn a_polite_stop_leaves_nothing_and_the_next_start_finds_the_data() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let (mut owner, values) = start(folder.path());
        assert!(
            values["WEBHOOKS_DATABASE_URL"].contains("/webhooks"),
            "{values:?}"
        );
        Command::new("kill")
            .arg(owner.id().to_string())
            .status()
            .unwrap();
        assert!(owner.wait().unwrap().success());
        gone(&pids(&values)).await;
    }
}
