//! Zapier and Make, played: what their platforms do with the apps that docs/integrations shows.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, bail, ensure};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::{Map, Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};
use uuid::Uuid;
use webhooks_devstack::wait_until;
use webhooks_loadgen::{
    client::HttpClient,
    stack::{Api, Stack, StackOptions},
};

use crate::{
    dns_server::{DnsServer, Reply},
    documents::{code, root},
    hooks::{Arrived, Hook, Say},
    publisher::Publisher,
    verifiers::node,
};

const LIMIT: Duration = Duration::from_secs(60);

/// What the platforms' hooks say.
const ZAPIER_TAKES: Say = Say::new(200, "{\"status\":\"success\"}");
const MAKE_TAKES: Say = Say::new(200, "Accepted");
const MAKE_IS_FULL: Say = Say::new(400, "Queue is full.");
const GONE: Say = Say::new(410, "Gone");
const TOO_MANY: Say = Say {
    status: 429,
    body: "",
    header: "retry-after: 1",
};

/// A stack whose retries do not make a test wait.
pub(crate) async fn stack(
    folder: &std::path::Path,
    more: &[(&str, &str)],
) -> anyhow::Result<Stack> {
    let mut options = StackOptions::new(super::bin_dir(), folder)
        .setting("WEBHOOKS_RETRY_BASE", "50ms")
        .setting("WEBHOOKS_RETRY_IMMEDIATE", "10ms");
    for (name, value) in more {
        options = options.setting(name, value);
    }
    Stack::start(options).await
}

/// Requests about one event.
fn of_event(hook: &Hook, event: Uuid) -> Vec<Arrived> {
    let mark = format!(r#""event":{{"id":"{event}""#);
    let arrived = hook.arrived().into_iter();
    arrived
        .filter(|request| String::from_utf8_lossy(&request.body).contains(&mark))
        .collect()
}

async fn arrives(hook: &Hook, event: Uuid, times: usize) -> anyhow::Result<Vec<Arrived>> {
    wait_until("a delivery at the hook", LIMIT, async || {
        let found = of_event(hook, event);
        match found.len() >= times {
            true => Ok(found),
            false => Err(found.len()),
        }
    })
    .await
}

/// Waits until the API shows a webhook so.
async fn shows(api: &mut Api, id: &str, wanted: &[(&str, Value)]) -> anyhow::Result<Value> {
    let path = format!("/v1/webhooks/{id}");
    wait_until("the webhook to be so", LIMIT, async || {
        let answer = api.get(&path).await.map_err(|error| format!("{error:#}"))?;
        let webhook = answer["webhook"].clone();
        match wanted.iter().all(|(key, value)| &webhook[*key] == value) {
            true => Ok(webhook),
            false => Err(webhook.to_string()),
        }
    })
    .await
}

/// The names in a JSON object, those of its objects too.
fn shape(value: &Value, prefix: &str, into: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{prefix}{key}");
        shape(value, &format!("{path}."), into);
        into.push(path);
    }
}

/// Runs one step of the documented app as Zapier would.
async fn zapier(
    stack: &Stack,
    app: &std::path::Path,
    step: &str,
    bundle: Value,
) -> anyhow::Result<Value> {
    let mut child = Command::new(node()?)
        .arg(root().join("tests/integrations/zapier.mjs"))
        .arg(app)
        .arg(step)
        .env("LINKBREAKERS_API_URL", stack.api_url())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(bundle.to_string().as_bytes()).await?;
    drop(stdin);
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
    let output = output.context("it does not end")??;
    if !output.status.success() {
        bail!("{step}: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).with_context(|| step.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zapier_subscribes_takes_deliveries_and_unsubscribes() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let stack = stack(folder.path(), &[]).await?;
    let app = folder.path().join("index.cjs");
    std::fs::write(&app, code("integrations/zapier.md", "zapier-app")?)?;
    let workspace = stack.workspace("Zapier").await?;
    let mut api = stack.api(&workspace)?;
    let mut publisher = Publisher::new(&stack, &workspace)?;
    let (hook, witness) = (
        Hook::start(ZAPIER_TAKES).await?,
        Hook::start(ZAPIER_TAKES).await?,
    );
    let target = format!("http://{}/hooks/standard/1234567/abcdef/", hook.address);
    let bundle = |more: Value| {
        let mut bundle = json!({ "authData": { "token": &workspace.token } });
        bundle
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().cloned().unwrap_or_default());
        bundle
    };
    let play = |step: &'static str, more: Value| zapier(&stack, &app, step, bundle(more));

    // An account is connected; a wrong token is told so.
    assert_eq!(play("test", json!({})).await?["status"], 200);
    let stranger = json!({ "authData": { "token": "wrong" } });
    let refused = zapier(&stack, &app, "test", stranger).await;
    let refused = format!("{:#}", refused.expect_err("a wrong token opens nothing"));
    assert!(refused.contains("answered 401"), "{refused}");

    // The editor asks for a sample, of one kind or of several.
    let samples = play("performList", json!({})).await?;
    let both = json!({ "inputData": { "triggers": ["KIND_EXIT", "KIND_INTERACTION"] } });
    let two = play("performList", both).await?;
    assert_eq!(two.as_array().map(Vec::len), Some(2));
    assert_eq!(two[1]["workflowStep"]["kind"], "KIND_INTERACTION");

    // The Zap is switched on.
    let kept = play("performSubscribe", json!({ "targetUrl": target })).await?;
    let id = kept["id"]
        .as_str()
        .context("what is kept has no id")?
        .to_owned();
    let on = [
        ("source", json!("WEBHOOK_SOURCE_ZAPIER")),
        ("endpointUrl", json!(target)),
        ("status", json!("WEBHOOK_STATUS_ACTIVE")),
    ];
    shows(&mut api, &id, &on).await?;
    let watched =
        json!({ "name": "Witness", "endpointUrl": format!("http://{}/", witness.address) });
    api.call(Method::POST, "/v1/webhooks", Some(&watched))
        .await?;

    // A delivery has the sample's shape, but for what is of one webhook.
    let event = publisher.publish().await?;
    let arrived = arrives(&hook, event, 1).await?;
    let cleaned: Value = serde_json::from_slice(&arrived[0].body)?;
    let taken = play("perform", json!({ "cleanedRequest": cleaned })).await?;
    let (mut sampled, mut delivered) = (Vec::new(), Vec::new());
    shape(&samples[0], "", &mut sampled);
    shape(&taken[0], "", &mut delivered);
    let of_event = |names: Vec<String>| {
        let names = names.into_iter();
        names
            .filter(|name| !name.starts_with("webhook."))
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(of_event(delivered), of_event(sampled));

    // Zapier is busy: later, and the webhook goes on.
    hook.dictate(&[TOO_MANY]);
    let event = publisher.publish().await?;
    let arrived = arrives(&hook, event, 2).await?;
    assert_eq!(
        arrived[0].headers["webhook-id"],
        arrived[1].headers["webhook-id"]
    );
    let fine = [("successCount", json!(2)), ("failureCount", json!(0))];
    shows(&mut api, &id, &fine).await?;

    // It is switched off, and twice makes no difference.
    let subscribed = json!({ "subscribeData": kept });
    play("performUnsubscribe", subscribed.clone()).await?;
    play("performUnsubscribe", subscribed).await?;
    let gone = api
        .ask(Method::GET, &format!("/v1/webhooks/{id}"), None)
        .await?;
    assert_eq!(gone.status, 404);
    let event = publisher.publish().await?;
    arrives(&witness, event, 1).await?;
    assert_eq!(
        of_event_count(&hook, event),
        0,
        "nothing comes after DELETE"
    );

    // A Zap that is gone without a word is believed at once.
    let kept = play("performSubscribe", json!({ "targetUrl": target })).await?;
    let id = kept["id"]
        .as_str()
        .context("what is kept has no id")?
        .to_owned();
    hook.dictate(&[GONE]);
    let event = publisher.publish().await?;
    arrives(&hook, event, 1).await?;
    let off = [
        ("status", json!("WEBHOOK_STATUS_DISABLED")),
        ("statusReason", json!("ENDPOINT_GONE")),
    ];
    shows(&mut api, &id, &off).await?;
    assert_eq!(of_event_count(&hook, event), 1, "410 is not tried again");
    play("performUnsubscribe", json!({ "subscribeData": kept })).await?;
    stack.stop_all().await
}

fn of_event_count(hook: &Hook, event: Uuid) -> usize {
    of_event(hook, event).len()
}

/// Make, as far as an app with an attached webhook sees it.
struct Make {
    client: HttpClient,
    base: Value,
}

/// An answer as templates see it.
struct Told {
    status: u16,
    body: Value,
}

impl Make {
    fn new(stack: &Stack) -> anyhow::Result<Self> {
        Ok(Self {
            client: HttpClient::new(&stack.api_url())?,
            base: template("make-base")?,
        })
    }

    /// Calls what a template describes. Data that the template takes from the answer is given back.
    async fn call(&mut self, name: &str, context: &Value) -> anyhow::Result<(Told, Value)> {
        let template = template(name)?;
        let asked = filled(&template, context);
        let text = |key: &str| asked[key].as_str();
        let mut path = text("url").context("a call has a url")?.to_owned();
        for (index, (key, value)) in asked["qs"].as_object().into_iter().flatten().enumerate() {
            let value = value.as_str().context("a query holds text")?;
            path.push_str(&format!(
                "{}{key}={value}",
                if index == 0 { '?' } else { '&' }
            ));
        }
        let mut headers = HeaderMap::new();
        let base = filled(&self.base["headers"], context);
        for (name, value) in [&base, &asked["headers"]]
            .into_iter()
            .filter_map(Value::as_object)
            .flatten()
        {
            let value = value.as_str().context("a header is text")?;
            headers.insert(
                HeaderName::try_from(name.as_str())?,
                HeaderValue::try_from(value)?,
            );
        }
        let method: Method = text("method").unwrap_or("GET").parse()?;
        let body = match asked.get("body") {
            Some(body) => {
                headers.insert(header::CONTENT_TYPE, "application/json".parse()?);
                body.to_string().into()
            }
            None => Vec::new().into(),
        };
        let answer = self.client.send(method, &path, &headers, body).await?;
        let told = Told {
            status: answer.status.as_u16(),
            body: serde_json::from_slice(&answer.body)?,
        };
        let of_answer = json!({ "body": told.body, "statusCode": told.status });
        if told.status >= 400 {
            let message = &filled(&self.base["response"]["error"]["message"], &of_answer);
            bail!("Make shows: {}", message.as_str().unwrap_or_default());
        }
        let data = filled(&template["response"]["data"], &of_answer);
        Ok((told, data))
    }
}

fn template(name: &str) -> anyhow::Result<Value> {
    let text = code("integrations/make.md", name)?;
    serde_json::from_str(&text).with_context(|| name.to_owned())
}

/// A template with its `{{…}}` filled in. A text that is nothing but one keeps the value's type.
fn filled(template: &Value, context: &Value) -> Value {
    match template {
        Value::String(text) => filled_text(text, context),
        Value::Array(items) => items.iter().map(|item| filled(item, context)).collect(),
        Value::Object(members) => {
            let members = members.iter();
            let filled: Map<String, Value> = members
                .map(|(key, value)| (key.clone(), filled(value, context)))
                .collect();
            filled.into()
        }
        other => other.clone(),
    }
}

fn filled_text(text: &str, context: &Value) -> Value {
    let find = |path: &str| {
        let parts = path.trim().split('.');
        parts.fold(context, |value, part| &value[part]).clone()
    };
    if let Some(path) = text
        .strip_prefix("{{")
        .and_then(|rest| rest.strip_suffix("}}"))
        && !path.contains("}}")
    {
        return find(path);
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (path, after) = after.split_once("}}").unwrap_or((after, ""));
        out.push_str(before);
        match find(path) {
            Value::String(value) => out.push_str(&value),
            Value::Null => {}
            other => out.push_str(&other.to_string()),
        }
        rest = after;
    }
    out.push_str(rest);
    out.into()
}

#[test]
fn templates_are_filled_in_as_make_does() {
    let context = json!({ "a": { "b": [1, 2] }, "name": "x", "n": 3 });
    let template =
        json!({ "list": "{{a.b}}", "text": "<{{name}}/{{n}}/{{none}}>", "more": ["{{n}}", true] });
    assert_eq!(
        filled(&template, &context),
        json!({ "list": [1, 2], "text": "<x/3/>", "more": [3, true] })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn make_attaches_fills_its_queue_and_detaches() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    // Make's own host names lead here.
    let dns = DnsServer::start(|_| Reply::addresses(&["127.0.0.1"])).await;
    let servers = dns.address.to_string();
    let stack = stack(folder.path(), &[("WEBHOOKS_EGRESS_DNS_SERVERS", &servers)]).await?;
    let workspace = stack.workspace("Make").await?;
    let mut api = stack.api(&workspace)?;
    let mut publisher = Publisher::new(&stack, &workspace)?;
    let hook = Hook::start(MAKE_TAKES).await?;
    let url = format!(
        "http://hook.eu1.make.com:{}/abcdef0123456789",
        hook.address.port()
    );
    let mut make = Make::new(&stack)?;
    let token = json!({ "token": workspace.token });

    // A connection is checked; a wrong token is told in words.
    let (told, _) = make
        .call("make-connection", &json!({ "parameters": token }))
        .await?;
    assert_eq!(told.status, 200);
    let wrong = json!({ "parameters": { "token": "wrong" } });
    let refused = make.call("make-connection", &wrong).await;
    let refused = refused.err().context("a wrong token opens nothing")?;
    assert_eq!(
        refused.to_string(),
        "Make shows: [401] a valid access token is required"
    );

    // The trigger is set up.
    let context = json!({
        "connection": token,
        "parameters": { "triggers": ["KIND_EXIT"] },
        "webhook": { "name": "Steps", "url": url },
    });
    let (_, kept) = make.call("make-attach", &context).await?;
    let id = kept["externalHookId"]
        .as_str()
        .context("no id is kept")?
        .to_owned();
    let on = [
        ("source", json!("WEBHOOK_SOURCE_MAKE")),
        ("name", json!("Make: Steps")),
        ("triggers", json!(["KIND_EXIT"])),
    ];
    shows(&mut api, &id, &on).await?;

    // A delivery fills the scenario's first bundle.
    let event = publisher.publish().await?;
    let arrived = arrives(&hook, event, 1).await?;
    assert_eq!(arrived[0].path, "/abcdef0123456789");
    let body: Value = serde_json::from_slice(&arrived[0].body)?;
    let output = filled(&template("make-communication")?, &json!({ "body": body }));
    assert_eq!(output["output"]["type"], "step.completed");

    // The queue is full, then too much comes at once: later, and it has arrived.
    hook.dictate(&[MAKE_IS_FULL, TOO_MANY]);
    let event = publisher.publish().await?;
    arrives(&hook, event, 3).await?;
    let fine = [("successCount", json!(2)), ("failureCount", json!(0))];
    shows(&mut api, &id, &fine).await?;

    // It stays full: a failure, and no end of the webhook. What failed is sent again when asked for.
    hook.dictate(&[MAKE_IS_FULL; 3]);
    let event = publisher.publish().await?;
    arrives(&hook, event, 3).await?;
    let failed = [
        ("failureCount", json!(1)),
        ("status", json!("WEBHOOK_STATUS_ACTIVE")),
    ];
    shows(&mut api, &id, &failed).await?;
    // What it is made of is recorded moments after how it ended, and found by its event then.
    let found = format!("/v1/deliveries?eventId={event}");
    wait_until("the delivery to be recorded whole", LIMIT, async || {
        let list = api
            .get(&found)
            .await
            .map_err(|error| format!("{error:#}"))?;
        let id = list["deliveries"][0]["id"].as_str().ok_or("no delivery")?;
        let request = api.get(&format!("/v1/deliveries/{id}/request")).await;
        request.map(drop).map_err(|error| format!("{error:#}"))
    })
    .await?;
    let wish = json!({ "type": "RECOVER_FAILED", "since": "2020-01-01T00:00:00Z" });
    let path = format!("/v1/webhooks/{id}/jobs");
    let job = api.call(Method::POST, &path, Some(&wish)).await?;
    let path = format!("/v1/jobs/{}", job["job"]["id"].as_str().context("no id")?);
    if let Err(error) = arrives(&hook, event, 4).await {
        // The connection of before may have idled too long.
        let mut api = stack.api(&workspace)?;
        let deliveries = api.get(&format!("/v1/deliveries?eventId={event}")).await?;
        bail!("{error:#}: {} {deliveries}", api.get(&path).await?);
    }

    // The trigger is taken away.
    let context = json!({ "connection": token, "webhook": { "externalHookId": id } });
    make.call("make-detach", &context).await?;
    let gone = api
        .ask(Method::GET, &format!("/v1/webhooks/{id}"), None)
        .await?;
    assert_eq!(gone.status, 404);

    // A hook that no scenario has used for days.
    let context = json!({
        "connection": token,
        "parameters": { "triggers": [] },
        "webhook": { "name": "Idle", "url": url },
    });
    let (_, kept) = make.call("make-attach", &context).await?;
    let id = kept["externalHookId"]
        .as_str()
        .context("no id is kept")?
        .to_owned();
    hook.dictate(&[GONE]);
    let event = publisher.publish().await?;
    arrives(&hook, event, 1).await?;
    let off = [
        ("status", json!("WEBHOOK_STATUS_DISABLED")),
        ("statusReason", json!("ENDPOINT_GONE")),
    ];
    shows(&mut api, &id, &off).await?;
    ensure!(of_event_count(&hook, event) == 1, "410 is not tried again");
    stack.stop_all().await
}
