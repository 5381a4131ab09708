//! Tokens, scopes, allowances: who may do what.

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use webhooks_domain::{
    token::{Token, TokenEnvironment},
    webhook::Plan,
};
use webhooks_management::operator::TokenWish;
use webhooks_proto::v1::{
    self, workspace_service_client::WorkspaceServiceClient,
    workspace_token_service_client::WorkspaceTokenServiceClient,
};

use crate::support::{
    LIMIT, OPERATOR_TOKEN, Reply, Workspace, World, refused, webhook_body, with_token,
};

const SECRET: &str = "WORKSPACE_TOKEN_KEY_TYPE_SECRET";

async fn make(world: &World, token: &str, body: &Value) -> Reply {
    world
        .write(Method::POST, "/v1/workspace-tokens", token, &[], body)
        .await
}

async fn change(world: &World, token: &str, id: &str, body: &Value) -> Reply {
    let path = format!("/v1/workspace-tokens/{id}");
    world.write(Method::PATCH, &path, token, &[], body).await
}

fn text(reply: &Reply) -> String {
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    reply.body["accessToken"].as_str().unwrap().to_owned()
}

/// What ingest would know of a token.
async fn known_to_ingest(
    world: &World,
    id: &str,
) -> Option<webhooks_proto::internal::v1::TokenConfig> {
    use prost::Message as _;
    let bucket = world.bus.jetstream().get_key_value("CONFIG").await.unwrap();
    let found = bucket.get(format!("t.{id}")).await.unwrap();
    found.map(|bytes| webhooks_proto::internal::v1::TokenConfig::decode(bytes).unwrap())
}

#[tokio::test]
async fn the_life_of_a_token() {
    let world = World::start().await;
    let Workspace {
        id: workspace,
        token,
    } = world.workspace(Plan::Enterprise).await;
    let body = json!({ "keyType": SECRET, "name": "CI", "scopes": ["API_SCOPE_WEBHOOKS_READ", "events:write"] });
    let made = make(&world, &token, &body).await;
    let secret = text(&made);
    let parsed = Token::parse(&secret).unwrap();
    let shown = &made.body["token"];
    let id = shown["id"].as_str().unwrap();
    assert!(secret.starts_with("lbk_live_"));
    assert_eq!(id, parsed.id());
    assert_eq!(shown["workspaceId"], json!(workspace));
    assert_eq!(shown["fullAccess"], false);
    assert_eq!(
        shown["scopes"],
        json!(["API_SCOPE_WEBHOOKS_READ"]),
        "the vendor's words only"
    );
    assert_eq!(
        shown["scopeNames"],
        json!(["events:write", "webhooks:read"])
    );
    assert!(shown.get("lastUsedAt").is_none() && shown.get("expiresAt").is_none());

    let path = format!("/v1/workspace-tokens/{id}");
    let got = world.get(&path, &token).await;
    assert_eq!(got.body["token"], *shown);
    assert!(!got.body.to_string().contains(&secret[20..]), "shown once");
    let list = world.get("/v1/workspace-tokens", &token).await;
    assert_eq!(list.body["totalCount"], 2);
    assert_eq!(list.body["tokens"][1], *shown);

    assert_eq!(world.get("/v1/webhooks", &secret).await.status, 200);
    refused(
        &world.post(&secret, &webhook_body("x")).await,
        403,
        "MISSING_SCOPE",
    );
    let granted = known_to_ingest(&world, id).await.unwrap();
    assert_eq!(granted.scopes, ["webhooks:read", "events:write"]);

    let nothing = change(&world, &token, id, &json!({})).await;
    assert_eq!(
        nothing.body["token"]["updatedAt"], shown["updatedAt"],
        "nothing changed"
    );
    let body = json!({ "name": "CD", "scopes": ["webhooks:write"] });
    let changed = change(&world, &token, id, &body).await;
    assert_eq!(
        changed.body["token"]["scopeNames"],
        json!(["webhooks:write"])
    );
    // In force at once in this process, and in the read model before the answer.
    assert_eq!(world.post(&secret, &webhook_body("x")).await.status, 200);
    assert_eq!(
        known_to_ingest(&world, id).await.unwrap().scopes,
        ["webhooks:write"]
    );

    let stale = known_to_ingest(&world, id).await.unwrap();
    let deleted = world.delete(&path, &token).await;
    assert_eq!(
        (deleted.status, &deleted.body),
        (StatusCode::OK, &json!({}))
    );
    // Whoever read the row before it was revoked, and writes it now, gives nothing back.
    let writer = webhooks_bus::ConfigWriter::new(&world.bus);
    writer.put_token(&stale).await.unwrap();
    refused(
        &world.get("/v1/webhooks", &secret).await,
        401,
        "UNAUTHENTICATED",
    );
    assert_eq!(known_to_ingest(&world, id).await, None);
    refused(&world.get(&path, &token).await, 404, "TOKEN_NOT_FOUND");
    refused(&world.delete(&path, &token).await, 404, "TOKEN_NOT_FOUND");
    refused(
        &change(&world, &token, id, &json!({})).await,
        404,
        "TOKEN_NOT_FOUND",
    );
    assert_eq!(
        world.get("/v1/workspace-tokens", &token).await.body["totalCount"],
        1
    );
}

#[tokio::test]
async fn nobody_climbs_by_making_a_token() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let limited = world
        .token(workspace.id, &["tokens:write", "webhooks:write"])
        .await;
    for (scopes, lacks) in [
        (json!([]), "*"),
        (json!(["events:write"]), "events:write"),
        (json!(["webhooks:read", "workspace:read"]), "workspace:read"),
    ] {
        let reply = make(
            &world,
            &limited,
            &json!({ "keyType": SECRET, "scopes": scopes }),
        )
        .await;
        refused(&reply, 403, "MISSING_SCOPE");
        assert_eq!(reply.body["details"], json!([{ "scope": lacks }]));
    }
    let body = json!({ "keyType": SECRET, "scopes": ["webhooks:read", "tokens:read"] });
    let below = make(&world, &limited, &body).await;
    let id = below.body["token"]["id"].as_str().unwrap();
    text(&below);
    let wider = json!({ "scopes": ["events:write"] });
    refused(
        &change(&world, &limited, id, &wider).await,
        403,
        "MISSING_SCOPE",
    );
    let full = json!({ "fullAccess": true });
    refused(
        &change(&world, &limited, id, &full).await,
        403,
        "MISSING_SCOPE",
    );
    // Somebody else's token does not live longer by the hand of one who could not make it.
    let full = &workspace.token["lbk_test_".len()..][..12];
    let longer = json!({ "expiresAt": "2999-01-01T00:00:00Z" });
    refused(
        &change(&world, &limited, full, &longer).await,
        403,
        "MISSING_SCOPE",
    );
    assert_eq!(
        change(&world, &limited, full, &json!({ "name": "x" }))
            .await
            .status,
        200
    );
    // A publishable token opens nothing, so it can be had without holding anything.
    let body = json!({ "keyType": "WORKSPACE_TOKEN_KEY_TYPE_PUBLISHABLE" });
    let public = make(&world, &limited, &body).await;
    assert_eq!(public.body["token"]["fullAccess"], false);
    assert_eq!(public.body["token"]["scopeNames"], json!([]));
    let public = text(&public);
    for path in [
        "/v1/webhooks",
        "/v1/workspace-tokens",
        "/v1/allowances",
        "/v1/audit-log",
    ] {
        refused(&world.get(path, &public).await, 403, "MISSING_SCOPE");
    }
    let reader = world.token(workspace.id, &["tokens:read"]).await;
    refused(&make(&world, &reader, &body).await, 403, "MISSING_SCOPE");
}

#[tokio::test]
async fn a_token_knows_its_members_address_and_a_webhook_keeps_its_creators() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let issue = async |body: Value| {
        let path = format!("/v1/operator/workspaces/{}/tokens", workspace.id);
        world
            .write(Method::POST, &path, OPERATOR_TOKEN, &[], &body)
            .await
    };
    let bad = issue(json!({ "memberEmail": "nobody" })).await;
    refused(&bad, 400, "INVALID_ARGUMENT");
    assert_eq!(
        (
            &bad.body["details"][0]["field"],
            &bad.body["details"][0]["reason"]
        ),
        (&json!("memberEmail"), &json!("not_an_address"))
    );
    // An operator's command goes no other way.
    let by_command = world
        .operator
        .create_token(TokenWish {
            workspace: workspace.id,
            name: "test".into(),
            scopes: Vec::new(),
            member: None,
            member_email: Some("nobody".into()),
            environment: TokenEnvironment::Test,
            expires_at: None,
        })
        .await
        .unwrap_err();
    assert_eq!(by_command.violations()[0].reason, "not_an_address");
    let issued = text(&issue(json!({ "memberEmail": "member@a.example" })).await);
    let shown = async |id: &str| {
        let path = format!("/v1/workspace-tokens/{id}");
        world.get(&path, &issued).await.body["token"].clone()
    };
    let id = Token::parse(&issued).unwrap().id().to_owned();
    assert_eq!(shown(&id).await["memberEmail"], "member@a.example");

    // What it makes inherits the address, and brings no strange one.
    let made = make(&world, &issued, &json!({ "keyType": SECRET })).await;
    assert_eq!(made.body["token"]["memberEmail"], "member@a.example");
    let child = text(&made);
    let child_id = made.body["token"]["id"].as_str().unwrap();
    assert_eq!(shown(child_id).await, made.body["token"]);
    let with = |email: &str| json!({ "keyType": SECRET, "memberEmail": email });
    let strange = make(&world, &child, &with("victim@b.example")).await;
    refused(&strange, 400, "INVALID_ARGUMENT");
    assert_eq!(strange.body["details"][0]["reason"], "not_known");
    let path = format!("/v1/operator/workspaces/{}", workspace.id);
    let named = json!({ "notificationEmails": ["ops@a.example"] });
    let named = world
        .write(Method::PATCH, &path, OPERATOR_TOKEN, &[], &named)
        .await;
    assert_eq!(named.status, StatusCode::OK);
    let other = make(&world, &child, &with("ops@a.example")).await;
    assert_eq!(other.body["token"]["memberEmail"], "ops@a.example");
    text(&other);
    let moved = change(
        &world,
        &child,
        child_id,
        &json!({ "memberEmail": "ops@a.example" }),
    )
    .await;
    refused(&moved, 400, "INVALID_ARGUMENT");
    assert_eq!(moved.body["details"][0]["reason"], "read_only");
    let unknown = make(&world, &workspace.token, &json!({ "keyType": SECRET })).await;
    assert!(unknown.body["token"].get("memberEmail").is_none());
    text(&unknown);

    let webhook = world.post(&child, &webhook_body("x")).await;
    assert_eq!(
        webhook.body["webhook"]["createdByEmail"],
        "member@a.example"
    );
    let webhook = webhook.body["webhook"]["id"].as_str().unwrap().to_owned();
    // Whoever changes it does not become its creator.
    let path = format!("/v1/webhooks/{webhook}");
    let renamed = world
        .patch(&webhook, &workspace.token, &json!({ "name": "y" }))
        .await;
    assert_eq!(
        renamed.body["webhook"]["createdByEmail"],
        "member@a.example"
    );
    let none = world.post(&workspace.token, &webhook_body("z")).await;
    assert!(none.body["webhook"].get("createdByEmail").is_none());
    let stranger = world.workspace(Plan::Enterprise).await;
    let hidden = world.get(&path, &stranger.token).await;
    refused(&hidden, 404, "WEBHOOK_NOT_FOUND");
    assert!(!hidden.body.to_string().contains("member@a.example"));

    for (action, subject, key) in [
        ("token.create", id.as_str(), "memberEmail"),
        ("webhook.create", webhook.as_str(), "createdByEmail"),
    ] {
        let path = format!("/v1/audit-log?action={action}&subject={subject}");
        let log = world.get(&path, &issued).await;
        // Whoever reads the log need not know the address.
        assert_eq!(log.body["entries"][0]["after"][key], "m…@a.example");
    }
}

#[tokio::test]
async fn a_bad_token_wish_is_told_whole() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let body = json!({ "scopes": ["links:read"], "name": "n".repeat(256), "expiresAt": "2001-01-01T00:00:00Z", "id": "x", "support": true, "plan": 1 });
    let reply = make(&world, token, &body).await;
    refused(&reply, 400, "INVALID_ARGUMENT");
    let details = reply.body["details"].as_array().unwrap();
    let mut fields: Vec<_> = details
        .iter()
        .map(|d| d["field"].as_str().unwrap())
        .collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "expiresAt",
            "id",
            "keyType",
            "name",
            "plan",
            "scopes[0]",
            "support"
        ]
    );
    for bad in ["{", "[]", "null"] {
        let headers = [("content-type", "application/json")];
        let reply = world
            .send(
                Method::POST,
                "/v1/workspace-tokens",
                token,
                &headers,
                Some(bad.to_owned()),
            )
            .await;
        refused(&reply, 400, "INVALID_ARGUMENT");
    }
}

#[tokio::test]
async fn the_same_key_makes_one_token() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let body = json!({ "keyType": SECRET, "name": "once" });
    let create = async || {
        let key = [("idempotency-key", "k")];
        world
            .write(
                Method::POST,
                "/v1/workspace-tokens",
                &workspace.token,
                &key,
                &body,
            )
            .await
    };
    let many = join_all((0..20).map(|_| create())).await;
    let (made, busy): (Vec<_>, Vec<_>) = many.iter().partition(|reply| reply.status == 200);
    for reply in busy {
        refused(reply, 409, "IDEMPOTENCY_IN_PROGRESS");
    }
    let again = create().await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    for reply in made {
        assert_eq!(reply.body, again.body, "secret included");
    }
    let list = world.get("/v1/workspace-tokens", &workspace.token).await;
    assert_eq!(list.body["totalCount"], 2);
    assert_eq!(world.get("/v1/webhooks", &text(&again)).await.status, 200);
}

#[tokio::test]
async fn an_expired_token_ends_and_the_list_pages() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let soon = webhooks_domain::event::format_micros(crate::support::now() + 4_000_000);
    let made = make(
        &world,
        token,
        &json!({ "keyType": SECRET, "expiresAt": soon }),
    )
    .await;
    let (secret, id) = (text(&made), made.body["token"]["id"].as_str().unwrap());
    assert_eq!(known_to_ingest(&world, id).await.unwrap().expires_at, {
        webhooks_domain::event::parse_rfc3339_micros(
            made.body["token"]["expiresAt"].as_str().unwrap(),
        )
        .unwrap()
    });
    webhooks_devstack::wait_until("the token's end", LIMIT, async || {
        match world.get("/v1/webhooks", &secret).await.status.as_u16() {
            401 => Ok(()),
            status => Err(status),
        }
    })
    .await
    .unwrap();
    for _ in 0..4 {
        text(&make(&world, token, &json!({ "keyType": SECRET })).await);
    }
    let mut seen: Vec<String> = Vec::new();
    let mut page = String::new();
    loop {
        let path = format!("/v1/workspace-tokens?pageSize=2&pageToken={page}");
        let reply = world.get(&path, token).await;
        assert_eq!(reply.body["totalCount"], 6);
        let rows = reply.body["tokens"].as_array().unwrap();
        seen.extend(
            rows.iter()
                .map(|row| row["id"].as_str().unwrap().to_owned()),
        );
        match reply.body["nextPageToken"].as_str() {
            Some(next) => page = next.to_owned(),
            None => break,
        }
    }
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!((seen.len(), count), (6, 6));
    let other = world.workspace(Plan::Free).await;
    let path = format!("/v1/workspace-tokens?pageToken={page}");
    refused(
        &world.get(&path, &other.token).await,
        400,
        "INVALID_PAGE_TOKEN",
    );
}

#[tokio::test]
async fn what_is_open_to_all_and_what_a_workspace_is_allowed() {
    let world = World::start().await;
    let scopes = world.get("/v1/api-scopes", "").await;
    let names: Vec<_> = scopes.body["scopes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|scope| scope["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"webhooks:write") && names.contains(&"events:write"));
    let plans = world.get("/v1/pricing/plans", "").await;
    let limits: Vec<_> = plans.body["plans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|plan| {
            (
                plan["id"].as_str().unwrap(),
                plan["limits"][0].get("value").cloned(),
            )
        })
        .collect();
    assert_eq!(
        limits,
        [
            ("PRICING_PLAN_ID_FREE", Some(json!(1))),
            ("PRICING_PLAN_ID_LIGHT", Some(json!(1))),
            ("PRICING_PLAN_ID_PRO", Some(json!(10))),
            ("PRICING_PLAN_ID_ENTERPRISE", None),
        ]
    );
    let free = world.workspace(Plan::Free).await;
    let allowed = world.get("/v1/allowances", &free.token).await;
    let limit = json!([{
        "key": "PLAN_LIMIT_KEY_WEBHOOKS", "kind": "PLAN_LIMIT_KIND_TOTAL", "value": 1, "used": 0,
    }]);
    assert_eq!(
        allowed.body,
        json!({ "plan": "PRICING_PLAN_ID_FREE", "allowances": [], "limits": limit })
    );
    refused(
        &world.get("/v1/allowances", "").await,
        401,
        "UNAUTHENTICATED",
    );
    let unlimited = world.workspace(Plan::Enterprise).await;
    let allowed = world.get("/v1/allowances", &unlimited.token).await;
    assert_eq!(
        allowed.body["limits"][0]["kind"],
        "PLAN_LIMIT_KIND_UNLIMITED"
    );
}

#[tokio::test]
async fn grpc_can_do_the_same() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Pro).await;
    let token = workspace.token.as_str();
    let mut tokens = WorkspaceTokenServiceClient::new(world.channel().await);
    let wish = v1::CreateWorkspaceTokenRequest {
        key_type: v1::WorkspaceTokenKeyType::Secret.into(),
        name: "CI".into(),
        scopes: vec!["webhooks:read".into()],
        idempotency_key: "once".into(),
        ..v1::CreateWorkspaceTokenRequest::default()
    };
    let made = tokens
        .create_workspace_token(with_token(token, wish.clone()))
        .await
        .unwrap();
    let again = tokens
        .create_workspace_token(with_token(token, wish))
        .await
        .unwrap();
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    let made = made.into_inner();
    assert_eq!(again.into_inner(), made);
    let row = made.token.unwrap();
    assert_eq!(
        (row.scopes.as_slice(), row.full_access),
        (&["webhooks:read".to_owned()][..], false)
    );
    let update = v1::UpdateWorkspaceTokenRequest {
        id: row.id.clone(),
        name: Some("CD".into()),
        ..v1::UpdateWorkspaceTokenRequest::default()
    };
    let changed = tokens
        .update_workspace_token(with_token(token, update))
        .await
        .unwrap();
    assert_eq!(changed.into_inner().token.unwrap().name, "CD");
    let list = v1::ListWorkspaceTokensRequest::default();
    let listed = tokens
        .list_workspace_tokens(with_token(token, list))
        .await
        .unwrap();
    assert_eq!(listed.get_ref().total_count, 2);
    let delete = v1::DeleteWorkspaceTokenRequest { id: row.id.clone() };
    tokens
        .delete_workspace_token(with_token(token, delete))
        .await
        .unwrap();
    let get = v1::GetWorkspaceTokenRequest { id: row.id };
    let gone = tokens
        .get_workspace_token(with_token(token, get))
        .await
        .unwrap_err();
    assert_eq!(gone.code(), tonic::Code::NotFound);

    let mut access = WorkspaceServiceClient::new(world.channel().await);
    let scopes = access
        .list_api_scopes(v1::ListApiScopesRequest {})
        .await
        .unwrap();
    assert!(
        scopes
            .get_ref()
            .scopes
            .iter()
            .any(|scope| scope.name == "tokens:write")
    );
    let plans = access
        .list_pricing_plans(v1::ListPricingPlansRequest {})
        .await
        .unwrap();
    assert_eq!(plans.get_ref().plans.len(), 4);
    let allowed = access
        .list_allowances(with_token(token, v1::ListAllowancesRequest {}))
        .await
        .unwrap();
    assert_eq!(allowed.get_ref().limits[0].value, Some(10));
    let log = access
        .list_audit_log(with_token(token, v1::ListAuditLogRequest::default()))
        .await
        .unwrap();
    let actions: Vec<_> = log
        .get_ref()
        .entries
        .iter()
        .map(|entry| entry.action.as_str())
        .collect();
    assert_eq!(
        actions,
        [
            "token.revoke",
            "token.update",
            // The same call again shows the same token.
            "token.shown",
            "token.create",
            "token.create",
            "workspace.create"
        ]
    );
}

#[tokio::test]
async fn every_answer_has_its_id_and_no_method_surprises() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Free).await;
    let token = workspace.token.as_str();
    for path in ["/v1/webhooks", "/nowhere", "/v1/api-scopes"] {
        let own = world
            .send(
                Method::GET,
                path,
                token,
                &[("x-request-id", "my-id-1")],
                None,
            )
            .await;
        assert_eq!(own.headers["x-request-id"], "my-id-1");
        assert_eq!(own.headers["x-content-type-options"], "nosniff");
        let given = world.get(path, token).await;
        assert_eq!(given.headers["x-request-id"].len(), 36);
    }
    let client = reqwest::Client::builder().build().unwrap();
    let ask = async |method: Method| {
        let request = client
            .request(method, world.url("/v1/webhooks"))
            .bearer_auth(token);
        request.send().await.unwrap()
    };
    let options = ask(Method::OPTIONS).await;
    assert_eq!(options.status(), 204);
    let allowed = options.headers()["allow"].to_str().unwrap().to_owned();
    assert!(
        allowed.contains("GET") && allowed.contains("POST"),
        "{allowed}"
    );
    assert!(
        options
            .headers()
            .get("access-control-allow-origin")
            .is_none()
    );
    let head = ask(Method::HEAD).await;
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["content-type"], "application/json");
    assert!(head.bytes().await.unwrap().is_empty());
    let put = ask(Method::PUT).await;
    assert_eq!(
        (
            put.status().as_u16(),
            put.headers()["allow"].to_str().unwrap()
        ),
        (405, allowed.as_str())
    );
    // No header makes one method another.
    let overridden = world
        .send(
            Method::POST,
            "/v1/webhooks",
            token,
            &[("x-http-method-override", "DELETE")],
            None,
        )
        .await;
    refused(&overridden, 415, "UNSUPPORTED_MEDIA_TYPE");
}

#[tokio::test]
async fn a_last_use_is_written_once_for_many_calls() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let busy = world.token(workspace.id, &["webhooks:read"]).await;
    for _ in 0..30 {
        assert_eq!(world.get("/v1/webhooks", &busy).await.status, 200);
    }
    let id = &busy["lbk_test_".len()..][..12];
    assert_eq!(
        world
            .store
            .token_by_id(id)
            .await
            .unwrap()
            .unwrap()
            .last_used_at,
        None
    );
    // What waits is written at the end too.
    world.stop_service().await;
    let row = world.store.token_by_id(id).await.unwrap().unwrap();
    assert!(row.last_used_at.unwrap() > row.created_at);
    assert_eq!(row.revision, 1, "a use is no change");
}
