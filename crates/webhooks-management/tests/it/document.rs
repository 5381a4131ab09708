//! The API against its own description: every operation is called, its answer compared with the
//! schema and its trace in the audit log counted; its scope is tried, and its silence about
//! strangers' ids.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;
use webhooks_domain::webhook::Plan;
use webhooks_store::{Actor, AuditFilter, JobFilter, JobType, NewJob, VerdictRecord, Wish};

use crate::{
    schema::problems,
    support::{
        OPERATOR_TOKEN, Reply, Workspace, World, delivery, id_of, now, signed_body, verdict,
        webhook_body,
    },
};

/// An operation of the document.
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) described: Value,
}

impl Operation {
    /// The scope that it takes; `None` = no credentials.
    fn scope(&self) -> Option<&str> {
        let security = &self.described["security"];
        match security.get(0)?.get("workspaceToken") {
            Some(roles) => roles[0].as_str(),
            None => Some("operator"),
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.described["responses"]["200"]["content"]
            .get("application/json")
            .is_some()
    }

    /// The body of the document's own example.
    pub(crate) fn example(&self) -> Option<Value> {
        let content = &self.described["requestBody"]["content"]["application/json"];
        content.get("example").cloned()
    }
}

pub(crate) async fn document(world: &World) -> (Value, Vec<Operation>) {
    let document = world.get("/openapi.json", "").await.body;
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (verb, described) in methods.as_object().unwrap() {
            all.push(Operation {
                id: described["operationId"].as_str().unwrap().to_owned(),
                method: verb.to_uppercase().parse().unwrap(),
                path: path.clone(),
                described: described.clone(),
            });
        }
    }
    assert!(all.len() > 30, "{} operations", all.len());
    (document, all)
}

/// A workspace with one of everything.
pub(crate) struct Stage {
    pub(crate) workspace: Workspace,
    pub(crate) webhook: Uuid,
    /// What the webhook signs with, as its creation told it.
    pub(crate) secret: String,
    pub(crate) delivery: Uuid,
    pub(crate) event: String,
    pub(crate) token: String,
    /// It begins in an hour, so it does nothing by itself while it is looked at.
    pub(crate) job: String,
}

impl Stage {
    pub(crate) async fn set(world: &World) -> Self {
        let workspace = world.workspace(Plan::Enterprise).await;
        // With a public key, for who looks it up.
        let wish = signed_body("a webhook");
        let made = world.post(&workspace.token, &wish).await;
        let webhook = id_of(&made);
        let secret = made.body["webhook"]["secret"].as_str().unwrap().to_owned();
        let event = Uuid::new_v4().to_string();
        let verdict = verdict(&delivery(workspace.id, webhook, &event));
        let id = verdict.deliveries[0].delivery_id;
        world.store.record_verdicts(&[verdict]).await.unwrap();
        let token = world.token(workspace.id, &["webhooks:read"]).await;
        let token = token["lbk_test_".len()..][..12].to_owned();
        let job = NewJob {
            id: Uuid::now_v7(),
            workspace_id: workspace.id,
            webhook_id: webhook,
            kind: JobType::Replay,
            since: 1,
            until: now(),
            filter: JobFilter::default(),
            dry_run: true,
            rate_per_second: 1,
        };
        let in_an_hour = Wish {
            actor: &Actor::System,
            now: now() + 3_600_000_000,
            claim: None,
        };
        world.store.create_job(&job, in_an_hour).await.unwrap();
        let job = job.id.to_string();
        Self {
            workspace,
            webhook,
            secret,
            delivery: id,
            event,
            token,
            job,
        }
    }

    /// What fan-out says of another event, which its webhook fires for.
    pub(crate) fn verdict(&self, event: &str) -> VerdictRecord {
        verdict(&delivery(self.workspace.id, self.webhook, event))
    }

    /// What `{id}` stands for in a path.
    pub(crate) fn id(&self, path: &str) -> String {
        match path.split('/').nth(2) {
            Some("webhooks" | "webhook-public-keys") => self.webhook.to_string(),
            Some("deliveries") => self.delivery.to_string(),
            Some("events") => self.event.clone(),
            Some("workspace-tokens") => self.token.clone(),
            Some("jobs") => self.job.clone(),
            Some("operator") if path.contains("/deliveries/") => self.delivery.to_string(),
            Some("operator") => self.workspace.id.to_string(),
            other => panic!("nothing is known that {other:?} has an id of"),
        }
    }

    /// Every id there is.
    pub(crate) fn all(&self) -> [String; 6] {
        [
            self.webhook.to_string(),
            self.delivery.to_string(),
            self.event.clone(),
            self.token.clone(),
            self.job.clone(),
            self.workspace.id.to_string(),
        ]
    }
}

/// Operations that are asked with POST and change nothing.
const LOOKS: [&str; 1] = ["previewWebhook"];

async fn call(
    world: &World,
    operation: &Operation,
    id: &str,
    token: &str,
    body: Option<Value>,
) -> Reply {
    let path = operation.path.replace("{id}", id);
    let body = body.or_else(|| operation.example());
    match body {
        Some(body) => {
            world
                .write(operation.method.clone(), &path, token, &[], &body)
                .await
        }
        None => {
            world
                .send(operation.method.clone(), &path, token, &[], None)
                .await
        }
    }
}

pub(crate) fn token_of<'a>(operation: &Operation, workspace: &'a Workspace) -> &'a str {
    match operation.scope() {
        None => "",
        Some("operator") => OPERATOR_TOKEN,
        Some(_) => &workspace.token,
    }
}

async fn entries(world: &World, workspace: Uuid) -> i64 {
    let all = AuditFilter::default();
    world
        .store
        .list_audit(workspace, &all, 1, None)
        .await
        .unwrap()
        .total
}

#[tokio::test]
async fn every_operation_answers_as_described_and_every_change_leaves_a_trace() {
    let world = World::start().await;
    let (document, operations) = document(&world).await;
    let (mut wrong, mut shown) = (Vec::new(), Vec::new());
    for operation in operations.iter().filter(|one| one.is_json()) {
        // One of its own for each, since some of them end what they are about.
        let stage = Stage::set(&world).await;
        let workspace = stage.workspace.id;
        let id = match operation.path.contains("{id}") {
            true => stage.id(&operation.path),
            false => String::new(),
        };
        let body = match operation.id.as_str() {
            // The document's example names no workspace that is there.
            "createWorkspace" => Some(json!({ "name": "new", "id": Uuid::new_v4() })),
            "createWebhook" => Some(webhook_body("new")),
            "testWebhook" | "previewWebhook" => Some(json!({ "eventId": stage.event })),
            _ => None,
        };
        let watched = match &body {
            Some(body) if operation.id == "createWorkspace" => {
                body["id"].as_str().unwrap().parse().unwrap()
            }
            _ => workspace,
        };
        if operation.id == "resumeJob" {
            // A job that runs is not resumed.
            let path = operation
                .path
                .replace("{id}/resume", &format!("{id}/pause"));
            let paused = world
                .send(Method::POST, &path, &stage.workspace.token, &[], None)
                .await;
            assert_eq!(paused.status, 200, "{paused:?}");
            assert_eq!(paused.body["job"]["state"], "PAUSED");
        }
        if operation.id == "deleteCertificateAuthorities" {
            // There has to be something to take away.
            let set = operations
                .iter()
                .find(|one| one.id == "setCertificateAuthorities");
            let set = set.expect("an operation that sets them");
            call(&world, set, "", &stage.workspace.token, None).await;
        }
        let before = entries(&world, watched).await;
        let token = token_of(operation, &stage.workspace);
        let reply = call(&world, operation, &id, token, body).await;
        // The secret was told at the creation; nobody hears it again, with its prefix or without.
        let (_, bytes) = stage.secret.split_once('_').unwrap();
        if reply.body.to_string().contains(bytes) {
            wrong.push(format!("{}: shows the webhook's secret", operation.id));
        }
        let new = ["/webhook/secret", "/secret"].map(|place| reply.body.pointer(place));
        if new.iter().any(Option::is_some) {
            shown.push(operation.id.as_str());
        }
        let responses = &operation.described["responses"];
        let status = reply.status.as_str().to_owned();
        let Some(response) = responses.get(&status) else {
            wrong.push(format!(
                "{}: {status} is not described: {}",
                operation.id, reply.body
            ));
            continue;
        };
        let response = match response["$ref"].as_str() {
            Some(target) => document.pointer(target.strip_prefix('#').unwrap()).unwrap(),
            None => response,
        };
        if status != "200" {
            wrong.push(format!("{}: {status} {}", operation.id, reply.body));
        }
        let schema = &response["content"]["application/json"]["schema"];
        let found = problems(&document, schema, &reply.body);
        wrong.extend(
            found
                .into_iter()
                .map(|problem| format!("{}: {problem}", operation.id)),
        );
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            let header = match header["$ref"].as_str() {
                Some(target) => document.pointer(target.strip_prefix('#').unwrap()).unwrap(),
                None => header,
            };
            if header["required"] == true && !reply.headers.contains_key(name.as_str()) {
                wrong.push(format!("{}: no header {name}", operation.id));
            }
        }
        let changes = operation.method != Method::GET && !LOOKS.contains(&operation.id.as_str());
        let traced = entries(&world, watched).await > before;
        if status == "200" && changes != traced {
            wrong.push(format!(
                "{}: changes: {changes}, in the audit log: {traced}",
                operation.id
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // These make a new one, and tell it once.
    shown.sort_unstable();
    assert_eq!(shown, ["createWebhook", "rotateWebhookSecret"]);
}

#[tokio::test]
async fn every_operation_takes_its_scope_and_no_other() {
    let world = World::start().await;
    let (document, operations) = document(&world).await;
    let stage = Stage::set(&world).await;
    let scopes = document["components"]["schemas"]["ScopeName"]["enum"]
        .as_array()
        .unwrap();
    let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str().unwrap()).collect();
    for operation in &operations {
        let id = Uuid::new_v4().to_string();
        let Some(scope) = operation.scope() else {
            let id = match operation.path.contains("{id}") {
                true => stage.id(&operation.path),
                false => String::new(),
            };
            let reply = call(&world, operation, &id, "", None).await;
            assert_eq!(reply.status, 200, "{} needs no credentials", operation.id);
            continue;
        };
        let nobody = call(&world, operation, &id, "", None).await;
        assert_eq!(nobody.status, 401, "{}", operation.id);
        if scope == "operator" {
            let reply = call(&world, operation, &id, &stage.workspace.token, None).await;
            assert_eq!(reply.status, 401, "{} is for the operator", operation.id);
            continue;
        }
        assert!(
            scopes.contains(&scope),
            "{} takes the unknown scope {scope}",
            operation.id
        );
        // Every scope but those that grant it.
        let resource = scope.split(':').next().unwrap();
        let others: Vec<&str> = scopes
            .iter()
            .copied()
            .filter(|other| {
                let same = other.split(':').next().unwrap() == resource;
                !same || (scope.ends_with(":write") && other.ends_with(":read"))
            })
            .collect();
        let lacking = world.token(stage.workspace.id, &others).await;
        let reply = call(&world, operation, &id, &lacking, None).await;
        assert_eq!(reply.status, 403, "{} with {others:?}", operation.id);
        assert_eq!(
            reply.body["details"],
            json!([{ "scope": scope }]),
            "{}",
            operation.id
        );
        if operation.is_json() {
            let having = world.token(stage.workspace.id, &[scope]).await;
            let reply = call(&world, operation, &id, &having, None).await;
            let allowed = reply.status != 401 && reply.body["codeType"] != "MISSING_SCOPE"
                // A token grants what it holds, and this one holds one scope.
                || operation.id == "createWorkspaceToken";
            assert!(allowed, "{} with {scope}: {reply:?}", operation.id);
        }
    }
}

#[tokio::test]
async fn a_strangers_id_is_answered_like_an_unknown_one() {
    let world = World::start().await;
    let (_, operations) = document(&world).await;
    let owner = Stage::set(&world).await;
    let stranger = world.workspace(Plan::Enterprise).await;
    // What is for everybody is the same for strangers.
    let with_ids = operations.iter().filter(|one| {
        one.path.contains("{id}") && one.scope().is_some_and(|scope| scope != "operator")
    });
    let mut count = 0;
    for operation in with_ids {
        let unknown = Uuid::new_v4().to_string();
        let expected = call(&world, operation, &unknown, &stranger.token, None).await;
        assert_eq!(expected.status, 404, "{}: {expected:?}", operation.id);
        for id in owner
            .all()
            .iter()
            .map(String::as_str)
            .chain(["no-id", "%00", "a%2Fb"])
        {
            let reply = call(&world, operation, id, &stranger.token, None).await;
            assert_eq!(
                (reply.status, &reply.body),
                (expected.status, &expected.body),
                "{} of {id}",
                operation.id
            );
            let names = |reply: &Reply| {
                let mut names: Vec<_> = reply.headers.keys().map(ToString::to_string).collect();
                names.sort();
                names
            };
            assert_eq!(names(&reply), names(&expected), "{}", operation.id);
            count += 1;
        }
    }
    assert!(count > 100, "{count} calls");
    // Nothing of the owner's has changed.
    let path = format!("/v1/webhooks/{}", owner.webhook);
    let untouched = world.get(&path, &owner.workspace.token).await;
    assert_eq!(untouched.body["webhook"]["revision"], 1);
    let path = format!("/v1/workspace-tokens/{}", owner.token);
    assert_eq!(world.get(&path, &owner.workspace.token).await.status, 200);
}

#[tokio::test]
async fn the_plans_limit_holds_under_fifty_creations_at_once() {
    let world = World::with(&[("WEBHOOKS_DATABASE_CONNECTIONS", "30")]).await;
    let workspace = world.workspace(Plan::Pro).await;
    let body = webhook_body("x");
    let all = (0..50).map(|_| world.post(&workspace.token, &body));
    let replies = futures::future::join_all(all).await;
    let made = replies.iter().filter(|reply| reply.status == 200).count();
    let over = replies
        .iter()
        .filter(|reply| reply.body["codeType"] == "MAX_WEBHOOKS_REACHED");
    assert_eq!((made, over.count()), (10, 40));
    assert_eq!(
        world.get("/v1/webhooks", &workspace.token).await.body["totalCount"],
        10
    );
}
