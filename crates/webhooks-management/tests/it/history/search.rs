//! Deliveries found by what is known of them, and figures over them.

use reqwest::StatusCode;
use serde_json::json;
use tonic::Code;
use uuid::Uuid;
use webhooks_domain::webhook::Plan;
use webhooks_proto::v1::{
    self, delivery_service_client::DeliveryServiceClient,
    metrics_service_client::MetricsServiceClient,
};

use super::{failed, id_in, record, stage};
use crate::support::{delivered, delivery, tell, with_token};

#[tokio::test]
async fn deliveries_are_searched_over_both_faces_and_tokens_stay_with_their_search() {
    let (world, workspace, webhook, _) = stage().await;
    let token = workspace.token.as_str();
    let all: Vec<_> = (0..5)
        .map(|n| delivery(workspace.id, webhook, &format!("e{n}")))
        .collect();
    record(&world, &all.iter().collect::<Vec<_>>(), false).await;
    tell(
        &world,
        vec![failed(&all[0]), failed(&all[1]), delivered(&all[2])],
    )
    .await;
    let total = async |query: &str| {
        let list = world.get(&format!("/v1/deliveries?{query}"), token).await;
        assert_eq!(list.status, StatusCode::OK, "{list:?}");
        list.body["totalCount"].as_u64().unwrap()
    };
    for (query, expected) in [
        ("", 5),
        ("state=FAILED&state=DELIVERED", 3),
        ("state=FAILED,DELIVERED", 3),
        ("statusCode=5xx", 2),
        ("statusCode=200", 1),
        ("class=TEMPORARY", 2),
        ("class=PERMANENT", 0),
        ("eventId=e3", 1),
        ("lbid=2VqKhjxtKwC7pBbg", 5),
        ("linkId=00000000-0000-0000-0000-00000000004d", 5),
        ("trigger=REPLAY", 0),
        ("createdBefore=2020-01-01T00:00:00Z", 0),
        ("createdAfter=2020-01-01T00:00:00Z", 5),
        ("webhookId=00000000-0000-0000-0000-00000000004d", 0),
    ] {
        assert_eq!(total(query).await, expected, "{query}");
    }
    let first = world
        .get("/v1/deliveries?pageSize=2&state=FAILED,PENDING", token)
        .await;
    let next = first.body["nextPageToken"].as_str().unwrap();
    let second = format!("/v1/deliveries?pageSize=2&state=PENDING,FAILED&pageToken={next}");
    let second = world.get(&second, token).await;
    assert_eq!(second.body["deliveries"].as_array().unwrap().len(), 2);
    assert!(second.body.get("nextPageToken").is_none());
    let other = world
        .get(
            &format!("/v1/deliveries?pageSize=2&state=FAILED&pageToken={next}"),
            token,
        )
        .await;
    assert_eq!(other.body["codeType"], "INVALID_PAGE_TOKEN");
    let wrong = world
        .get(
            "/v1/deliveries?state=GONE&statusCode=7&createdAfter=soon&linkId=x",
            token,
        )
        .await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        wrong.body["details"].as_array().unwrap().len(),
        4,
        "{wrong:?}"
    );
    let unknown = world
        .get(
            &format!("/v1/webhooks/{}/deliveries", Uuid::new_v4()),
            token,
        )
        .await;
    assert_eq!(unknown.body["codeType"], "WEBHOOK_NOT_FOUND");

    let mut client = DeliveryServiceClient::new(world.channel().await);
    let request = v1::ListDeliveriesRequest {
        status_code: "5xx".into(),
        ..v1::ListDeliveriesRequest::default()
    };
    let listed = client
        .list_deliveries(with_token(token, request))
        .await
        .unwrap();
    assert_eq!(listed.get_ref().total_count, 2);
    let request = v1::ListDeliveriesRequest {
        link_id: "x".into(),
        ..v1::ListDeliveriesRequest::default()
    };
    let wrong = client
        .list_deliveries(with_token(token, request))
        .await
        .unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_strangers_webhook_has_the_deliveries_of_an_unknown_one() {
    let (world, workspace, webhook, _) = stage().await;
    record(&world, &[&delivery(workspace.id, webhook, "e1")], false).await;
    let stranger = world.workspace(Plan::Enterprise).await;
    let list = async |token: &str, webhook: Uuid| {
        let path = format!("/v1/deliveries?webhookId={webhook}");
        world.get(&path, token).await
    };
    let unknown = list(&stranger.token, Uuid::new_v4()).await;
    assert_eq!(unknown.status, StatusCode::OK, "{unknown:?}");
    assert_eq!(unknown.body, json!({ "deliveries": [], "totalCount": 0 }));
    let foreign = list(&stranger.token, webhook).await;
    assert_eq!(
        (foreign.status, &foreign.body),
        (unknown.status, &unknown.body)
    );
    let known = list(&workspace.token, webhook).await;
    assert_eq!(known.body["totalCount"], 1, "{known:?}");
}

#[tokio::test]
async fn what_is_searched_for_is_text_and_no_pattern_or_statement() {
    let marks = [
        "' or 1=1--",
        "%",
        "_",
        "*",
        ">",
        "a.b",
        "\"",
        "\\",
        "\\' or true --",
        "x'); delete from deliveries; --",
        "' union select null, token_hash from tokens --",
        "'||(select version())||'",
        "1; select pg_sleep(10)",
        "$1",
        "$$x$$",
        "E'\\x27'",
        "U&'\\0027'",
        "/*",
        "--",
        "{1,2}",
        "%s%n",
        "${1+1}",
        "{{1+1}}",
        "[x-z]",
        "^.*$",
        "x|a-b",
        "x a-b",
        "wh.>",
        "$JS.API.STREAM.PURGE.EVENTS",
        "../../v1/webhooks",
        "x\r\nset-cookie: a=b",
    ];
    let (world, workspace, webhook, _) = stage().await;
    let token = workspace.token.as_str();
    let kept = async |keys: &[&str]| {
        let all: Vec<_> = keys
            .iter()
            .map(|key| {
                let mut one = delivery(workspace.id, webhook, key);
                one.lbid = (*key).to_owned();
                one
            })
            .collect();
        record(&world, &all.iter().collect::<Vec<_>>(), false).await;
    };
    let encoded = |text: &str| -> String {
        let bytes = text.bytes();
        bytes.map(|byte| format!("%{byte:02X}")).collect()
    };
    let check = async |mark: &str, times: usize| {
        for field in ["eventId", "lbid"] {
            let path = format!("/v1/deliveries?{field}={}", encoded(mark));
            let list = world.get(&path, token).await;
            assert_eq!(list.status, StatusCode::OK, "{list:?}");
            let rows = list.body["deliveries"].as_array().unwrap();
            let found: Vec<_> = rows.iter().map(|row| &row["eventId"]).collect();
            assert_eq!(found, vec![mark; times], "{field}");
            assert_eq!(list.body["totalCount"], times, "{field}={mark}");
        }
        let event = world
            .get(&format!("/v1/events/{}", encoded(mark)), token)
            .await;
        assert_eq!(event.status == StatusCode::OK, times == 1, "{event:?}");
    };
    // What each of them would find, were it a pattern.
    kept(&["x", "a-b"]).await;
    for mark in marks {
        check(mark, 0).await;
    }
    kept(&marks).await;
    for mark in marks {
        check(mark, 1).await;
    }
    let all = world.get("/v1/deliveries", token).await;
    assert_eq!(all.body["totalCount"], 2 + marks.len());
}

#[tokio::test]
async fn figures_are_the_same_over_both_faces() {
    let (world, workspace, webhook, _) = stage().await;
    let token = workspace.token.as_str();
    let all: Vec<_> = (0..4)
        .map(|n| delivery(workspace.id, webhook, &format!("e{n}")))
        .collect();
    record(&world, &all.iter().collect::<Vec<_>>(), false).await;
    tell(&world, vec![delivered(&all[0]), failed(&all[1])]).await;
    for path in [
        "/v1/metrics".to_owned(),
        format!("/v1/webhooks/{webhook}/metrics"),
    ] {
        let metrics = world.get(&format!("{path}?interval=minute"), token).await;
        assert_eq!(metrics.status, StatusCode::OK, "{metrics:?}");
        assert_eq!(metrics.body["totals"]["deliveries"], 4);
        assert_eq!(metrics.body["totals"]["successRate"], 0.5);
        assert_eq!(metrics.body["latency"]["p50Ms"], 1.5);
        assert_eq!(metrics.body["backlog"]["pending"], 2);
        assert_eq!(metrics.body["errors"][0]["statusCode"], 503);
        assert_eq!(
            metrics.body["errors"][0]["first"]["deliveryId"],
            id_in(&all[1]).to_string()
        );
    }
    let wrong = world.get("/v1/metrics?interval=week", token).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    let long = "/v1/metrics?interval=minute&from=2020-01-01T00:00:00Z";
    assert_eq!(world.get(long, token).await.status, StatusCode::BAD_REQUEST);
    let mut client = MetricsServiceClient::new(world.channel().await);
    let request = v1::GetMetricsRequest {
        webhook_id: webhook.to_string(),
        ..v1::GetMetricsRequest::default()
    };
    let metrics = client
        .get_metrics(with_token(token, request))
        .await
        .unwrap();
    let totals = metrics.get_ref().totals.unwrap();
    assert_eq!((totals.delivered, totals.failed, totals.open), (1, 1, 2));
}
