//! Our programs, told what their pods are told.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use webhooks_devstack::{http_get, wait_until};

use super::objects::{Objects, Pairs};

/// How long a program may take to judge its settings.
const LIMIT: Duration = Duration::from_secs(30);

/// `EX_USAGE`: settings that cannot be used.
const EXIT_SETTINGS: i32 = 64;

/// The files of every Secret, as docs/hardening.md makes them.
fn secrets() -> anyhow::Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let run = |arguments: &[&str]| -> anyhow::Result<()> {
        let output = Command::new(super::super::bin_dir().join("webhooks"))
            .args(arguments)
            .current_dir(folder.path())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {said}");
        Ok(())
    };
    run(&["secrets", "."])?;
    run(&["certificates", ".", "tls"])?;
    run(&["nkey", "new", "nkey"])?;
    std::fs::copy(
        folder.path().join("ca.pem"),
        folder.path().join("database_ca.pem"),
    )?;
    let database = format!(
        "postgres://webhooks_app:pw@127.0.0.1:1/webhooks?sslmode=verify-full&sslrootcert={}",
        folder.path().join("database_ca.pem").display()
    );
    std::fs::write(folder.path().join("database_url"), database)?;
    std::fs::write(folder.path().join("smtp_url"), "smtps://u:p@mail.invalid")?;
    Ok(folder)
}

/// A program with the settings of its pod: the secrets of a folder, and ports that are free.
fn start(name: &str, settings: &Pairs, folder: &Path) -> anyhow::Result<Running> {
    let secrets = format!("{}/", folder.display());
    let log = folder.join(format!("{name}.log"));
    let mut command = Command::new(super::super::bin_dir().join(format!("webhooks-{name}")));
    command.env_clear().current_dir(folder);
    for (setting, value) in settings {
        let value = value.replace("/secrets/", &secrets);
        let address = value.strip_prefix("0.0.0.0:").map(|_| "127.0.0.1:0");
        command.env(setting, address.unwrap_or(&value));
    }
    let file = File::create(&log)?;
    let announced = folder.join(format!("{name}.addr"));
    command
        .env("WEBHOOKS_ADMIN_ADDR_FILE", &announced)
        .stdout(file.try_clone()?)
        .stderr(file);
    Ok(Running {
        child: command.spawn()?,
        log,
        announced,
    })
}

/// A child that does not outlive its test.
struct Running {
    child: Child,
    log: std::path::PathBuf,
    announced: std::path::PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, or ends now; a test has nothing to do about an error.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Running {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it serves its admin port (`None`), which it does when its settings are good, or
    /// ends with a code.
    async fn judged(&mut self) -> anyhow::Result<Option<i32>> {
        let (child, log, announced) = (&mut self.child, &self.log, &self.announced);
        wait_until("the program's verdict on its settings", LIMIT, async || {
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    let code = status.code().context("ended by a signal");
                    return Ok(code.map(Some));
                }
                Err(error) => return Ok(Err(error.into())),
            }
            let address = std::fs::read_to_string(announced).unwrap_or_default();
            match http_get(&format!("http://{}/livez", address.trim())).await {
                Ok((200, _)) => Ok(Ok(None)),
                seen => Err((seen, std::fs::read_to_string(log))),
            }
        })
        .await?
    }
}

/// Production mode takes the example as it is: nothing that it asks for was forgotten.
#[tokio::test]
async fn each_program_starts_with_what_its_pod_is_told() -> anyhow::Result<()> {
    let (objects, folder) = (Objects::of("example")?, secrets()?);
    for name in ["ingest", "fanout", "dispatcher", "management"] {
        let settings = objects.settings(&objects.pod(name)?)?;
        let mut running = start(name, &settings, folder.path())?;
        let ended = running.judged().await?;
        assert_eq!(ended, None, "{name}: {}", running.said());
        // Somebody else reads what it says.
        let said = wait_until("its first words", LIMIT, async || {
            let said = running.said();
            match said.contains("service.starting") {
                true => Ok(said),
                false => Err(said),
            }
        });
        let said = said.await?;
        assert!(!said.contains("does not know"), "{name}: {said}");
    }
    Ok(())
}

/// What only a place can know has no default that would do quietly.
#[tokio::test]
async fn the_base_alone_is_refused_by_dispatchers() -> anyhow::Result<()> {
    let (objects, folder) = (Objects::of("base")?, secrets()?);
    let settings = objects.settings(&objects.pod("dispatcher")?)?;
    let mut running = start("dispatcher", &settings, folder.path())?;
    assert_eq!(running.judged().await?, Some(EXIT_SETTINGS));
    let said = running.said();
    assert!(said.contains("WEBHOOKS_EGRESS_CONTROL_NAME"), "{said}");
    assert!(!said.contains("WEBHOOKS_NATS"), "{said}");
    Ok(())
}

/// What production runs: our programs upon a base without a shell; the generator of load and the
/// demo's receiver are in the other target.
#[test]
fn a_13_the_image_of_production_has_no_shell_and_no_generator_of_load() -> anyhow::Result<()> {
    let root = super::super::root();
    let text = std::fs::read_to_string(root.join("deploy/docker/Dockerfile"))?;
    let (before, production) = text
        .split_once("\nFROM ${RUNTIME_IMAGE} AS production\n")
        .context("no such target")?;
    assert!(!production.contains("\nFROM "), "it is the default target");
    assert!(before.contains("\nARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot\n"));
    let steps: Vec<&str> = production.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(
        steps,
        [
            "COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt",
            "COPY --from=build /production/ /usr/local/bin/",
            "ENV MIMALLOC_PURGE_DELAY=1000",
            "USER 65532:65532",
            "WORKDIR /",
            "STOPSIGNAL SIGTERM",
            "CMD [\"webhooks\", \"help\"]",
        ]
    );
    let (_, filled) = before
        .split_once("&& cp ")
        .context("nothing is put into it")?;
    let (filled, _) = filled.split_once(" /production/").context("into it")?;
    let programs: Vec<&str> = filled
        .split([' ', '\\', '\n'])
        .filter_map(|word| word.strip_prefix("target/release/"))
        .collect();
    assert_eq!(
        programs,
        [
            "webhooks",
            "webhooks-ingest",
            "webhooks-fanout",
            "webhooks-dispatcher",
            "webhooks-management"
        ]
    );
    let compose = std::fs::read_to_string(root.join("docker-compose.yml"))?;
    assert!(compose.contains("\n    target: stack\n"));
    for file in ["Dockerfile", "Dockerfile.programs"] {
        let text = std::fs::read_to_string(root.join("deploy/docker").join(file))?;
        assert!(text.contains("\nFROM ${BASE_IMAGE} AS stack\n"), "{file}");
    }
    Ok(())
}
