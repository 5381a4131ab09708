use std::{
    path::Path,
    time::{Duration, Instant},
};

use webhooks_devstack::{
    NatsServer, Postgres, SettingsRefused, Spec, Supervisor, is_running, wait_until,
};

use crate::{LIMIT, gone};

fn shell(name: &str, script: &str) -> Spec {
    Spec::new(name, "/bin/sh").args(["-c", script])
}

fn pid_file(folder: &Path, name: &str) -> Option<u32> {
    std::fs::read_to_string(folder.join(format!("{name}.pid")))
        .ok()?
        .trim()
        .parse()
        .ok()
}

async fn restarted(supervisor: &Supervisor, name: &str, before: u32) -> u32 {
    wait_until("a new process", LIMIT, async || {
        match supervisor.pid(name) {
            Some(pid) if pid != before => Ok(pid),
            other => Err(other),
        }
    })
    .await
    .unwrap()
}

async fn logged(supervisor: &Supervisor, name: &str, expected: &str) {
    wait_until("the log", LIMIT, async || match supervisor.log_tail(name) {
        log if log == expected => Ok(()),
        log => Err(log),
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_killed_process_is_back_soon_with_a_new_pid_file() {
    let folder = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new(folder.path()).unwrap();
    supervisor
        .start(shell("worker", "echo started; exec sleep 600"))
        .unwrap();
    let before = supervisor.pid("worker").unwrap();
    assert_eq!(pid_file(folder.path(), "worker"), Some(before));
    logged(&supervisor, "worker", "started").await;

    let killed = Instant::now();
    supervisor.kill("worker").await.unwrap();
    let after = restarted(&supervisor, "worker", before).await;
    assert!(
        killed.elapsed() < Duration::from_secs(10),
        "{:?}",
        killed.elapsed()
    );
    assert_eq!(pid_file(folder.path(), "worker"), Some(after));
    assert_eq!(supervisor.state("worker").unwrap().starts, 2);
    logged(&supervisor, "worker", "started\nstarted").await;

    supervisor.stop("worker").await.unwrap();
    assert!(!is_running(after));
    assert_eq!(pid_file(folder.path(), "worker"), None);
    supervisor.stop("worker").await.unwrap_err();
}

#[tokio::test]
async fn groups_stop_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new(folder.path()).unwrap();
    let order = folder.path().join("order");
    for name in ["server", "service", "other"] {
        let script =
            "trap 'echo \"$1\" >> \"$0\"; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
        supervisor
            .start(shell(name, script).arg(&order).arg(name))
            .unwrap();
    }
    for name in supervisor.names() {
        logged(&supervisor, &name, "ready").await;
    }
    supervisor
        .stop_all(&[&["service"], &["server", "never started"]])
        .await
        .unwrap();
    assert_eq!(
        std::fs::read_to_string(&order).unwrap(),
        "other\nservice\nserver\n"
    );
    assert!(supervisor.names().is_empty());
}

#[tokio::test]
async fn dropping_the_supervisor_kills_what_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new(folder.path()).unwrap();
    supervisor
        .start(shell("stubborn", "trap '' TERM; while :; do sleep 1; done"))
        .unwrap();
    let pid = supervisor.pid("stubborn").unwrap();
    drop(supervisor);
    assert!(!is_running(pid));
    assert_eq!(pid_file(folder.path(), "stubborn"), None);
}

#[tokio::test]
async fn refused_settings_end_the_waiting_with_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new(folder.path()).unwrap();
    supervisor
        .start(shell("service", "echo WEBHOOKS_X must be set; exit 64"))
        .unwrap();
    let nowhere = || Ok("http://127.0.0.1:1/readyz".to_owned());
    let error = supervisor
        .wait_ready("service", LIMIT, nowhere)
        .await
        .unwrap_err();
    let refused = SettingsRefused {
        name: "service".to_owned(),
        said: "WEBHOOKS_X must be set".to_owned(),
    };
    assert_eq!(error.downcast_ref(), Some(&refused));
    assert_eq!(supervisor.refused(), [refused]);
    let state = supervisor.state("service").unwrap();
    assert_eq!((state.pid, state.starts), (None, 1), "it stays dead");
    supervisor.stop("service").await.unwrap();
}

#[tokio::test]
async fn a_log_goes_on_in_the_next_run_and_only_what_is_new_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let run = async |line: &str| {
        let supervisor = Supervisor::new(folder.path()).unwrap();
        let script = format!("echo {line}; exit 64");
        supervisor.start(shell("service", &script)).unwrap();
        wait_until("the refusal", LIMIT, async || {
            match supervisor.refused().pop() {
                Some(refused) => Ok(refused.said),
                None => Err(supervisor.state("service")),
            }
        })
        .await
        .unwrap()
    };
    assert_eq!(run("first").await, "first");
    assert_eq!(run("second").await, "second");
    let log = std::fs::read_to_string(folder.path().join("service.log")).unwrap();
    assert_eq!(log, "first\nsecond\n");
}

#[tokio::test]
async fn the_servers_come_back_under_supervision_too() {
    let folder = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new(folder.path().join("run")).unwrap();
    let nats = NatsServer::builder(folder.path().join("nats"))
        .prepare()
        .unwrap();
    let postgres = Postgres::builder(folder.path().join("postgres"))
        .fast()
        .prepare()
        .await
        .unwrap();
    supervisor.start(nats.spec()).unwrap();
    supervisor.start(postgres.spec()).unwrap();
    let health = format!("{}/healthz", nats.monitor_url());
    supervisor
        .wait_ready("nats", LIMIT, || Ok(health.clone()))
        .await
        .unwrap();
    postgres.wait_accepting(LIMIT).await.unwrap();

    let pids = [
        supervisor.pid("nats").unwrap(),
        supervisor.pid("postgres").unwrap(),
    ];
    for name in ["nats", "postgres"] {
        supervisor.kill(name).await.unwrap();
    }
    restarted(&supervisor, "nats", pids[0]).await;
    supervisor
        .wait_ready("nats", LIMIT, || Ok(health.clone()))
        .await
        .unwrap();
    postgres.wait_accepting(LIMIT).await.unwrap();

    let pids = [
        supervisor.pid("nats").unwrap(),
        supervisor.pid("postgres").unwrap(),
    ];
    supervisor.stop_all(&[&["nats", "postgres"]]).await.unwrap();
    gone(&pids).await;
}
