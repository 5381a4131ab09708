//! Production mode: each program, told nothing else, refuses to start and says all that it lacks.

use std::process::Command;

/// `EX_USAGE`: settings that cannot be used.
const EXIT_SETTINGS: i32 = 64;

#[test]
fn each_program_refuses_to_be_production_and_lists_what_is_missing() -> anyhow::Result<()> {
    let everywhere = ["WEBHOOKS_NATS_NKEY_SEED: ", "WEBHOOKS_NATS_TLS: "];
    let made_up = "changeme-changeme-changeme-changeme";
    for (program, missing) in [
        ("webhooks-ingest", &["WEBHOOKS_GRPC_TLS_CERT: "][..]),
        ("webhooks-fanout", &[]),
        (
            "webhooks-dispatcher",
            &[
                "WEBHOOKS_ENCRYPTION_KEYS: ",
                "WEBHOOKS_INTERNAL_TOKEN: ",
                "WEBHOOKS_MANAGEMENT_GRPC_URL: ",
                "WEBHOOKS_MANAGEMENT_GRPC_TLS_CERT: ",
                "WEBHOOKS_MANAGEMENT_GRPC_TLS_CA: ",
                "WEBHOOKS_EGRESS_ALLOW_HTTP: ",
                "WEBHOOKS_EGRESS_CONTROL_NAME: ",
            ],
        ),
        (
            "webhooks-management",
            &[
                "WEBHOOKS_DATABASE_URL: ",
                "WEBHOOKS_ENCRYPTION_KEYS: ",
                "WEBHOOKS_INTERNAL_TOKEN: ",
                "WEBHOOKS_GRPC_TLS_CERT: ",
                "WEBHOOKS_GRPC_TLS_CLIENT_CA: ",
                "WEBHOOKS_EGRESS_ALLOW_HTTP: ",
            ],
        ),
    ] {
        let output = Command::new(super::bin_dir().join(program))
            .env_clear()
            .env("WEBHOOKS_ENV", "production")
            .env(
                "WEBHOOKS_DATABASE_URL",
                "postgres://webhooks:pw@127.0.0.1/webhooks",
            )
            .env(
                "WEBHOOKS_ENCRYPTION_KEYS",
                "dev:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            )
            .env("WEBHOOKS_INTERNAL_TOKEN", made_up)
            .env("WEBHOOKS_MANAGEMENT_GRPC_URL", "http://127.0.0.1:1")
            .env("WEBHOOKS_EGRESS_ALLOW_HTTP", "true")
            .output()?;
        let said =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(EXIT_SETTINGS),
            "{program}: {said}"
        );
        for name in everywhere.iter().chain(missing) {
            assert!(
                said.contains(name),
                "{program} does not name {name}\n{said}"
            );
        }
        assert!(!said.contains(made_up), "{program} shows a secret\n{said}");
    }
    Ok(())
}

/// What `docker compose` starts: each container from one of two confined forms.
#[test]
fn no_container_is_root_or_may_do_more_than_it_must() -> anyhow::Result<()> {
    let root = super::root();
    let text = std::fs::read_to_string(root.join("docker-compose.yml"))?;
    let (forms, rest) = text.split_once("\nservices:\n").expect("services");
    let (services, _) = rest.split_once("\nvolumes:\n").expect("volumes");
    for line in [
        "read_only: true",
        "cap_drop: [ALL]",
        "security_opt: [\"no-new-privileges:true\"]",
        "user: \"10001:10001\"",
    ] {
        assert!(forms.contains(line), "no {line}");
    }
    let mut names = 0;
    for service in services
        .split("\n  ")
        .filter(|part| !part.starts_with([' ', '#']))
    {
        let Some(name) = service.trim().strip_suffix(':') else {
            continue;
        };
        names += 1;
        let (_, body) = services
            .split_once(&format!("  {name}:\n"))
            .expect("the service");
        let end = body
            .match_indices("\n  ")
            .map(|(at, _)| at)
            .find(|at| !body[at + 3..].starts_with([' ', '#']));
        let body = &body[..end.unwrap_or(body.len())];
        let ours = body.contains("*service");
        let confined = body.contains("*confined") && body.contains("user: \"");
        assert!(ours || confined, "{name} is not confined:\n{body}");
    }
    assert!(names >= 11, "{names} services were seen");
    for word in [
        "privileged: true",
        "cap_add",
        "network_mode",
        "pid:",
        "user: \"0",
        "docker.sock",
    ] {
        assert!(!text.contains(word), "{word}");
    }
    Ok(())
}

/// `webhooks … 2>&1 | head`: what nobody reads is no reason to end with a panic (101).
#[test]
fn a_reader_that_went_away_changes_no_exit_code() -> anyhow::Result<()> {
    for (program, arguments, code) in [
        ("webhooks", &["config", "--markdown"][..], 0),
        ("webhooks", &["workspace", "list"], EXIT_SETTINGS),
        ("webhooks-ingest", &[], EXIT_SETTINGS),
        ("webhooks-loadgen", &["scenario", "no-such-scenario"], 1),
    ] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let status = Command::new(super::bin_dir().join(program))
            .args(arguments)
            .env_clear()
            .env(
                "WEBHOOKS_ENV",
                if program == "webhooks-ingest" {
                    "production"
                } else {
                    "development"
                },
            )
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .status()?;
        assert_eq!(status.code(), Some(code), "{program} {arguments:?}");
    }
    Ok(())
}
