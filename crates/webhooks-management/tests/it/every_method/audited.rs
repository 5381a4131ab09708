//! What each method leaves in the audit log.

use webhooks_store::AuditFilter;

use super::{call, prepared, token_of, unary};
use crate::{
    document::Stage,
    support::{World, now},
};

/// Rows of the audit log, of whichever workspace.
async fn rows(world: &World) -> i64 {
    let count = world.sql("SELECT count(*) FROM audit_log").await;
    count.trim().parse().unwrap()
}

#[tokio::test]
async fn every_method_that_changes_leaves_a_trace_and_one_that_looks_leaves_none() {
    let world = World::start().await;
    let channel = world.channel().await;
    let (mut changes, mut looks) = (0, 0);
    for method in unary() {
        let name = method.name.as_str();
        // One of its own for each, since some of them end what they are about.
        let stage = Stage::set(&world).await;
        let ask = prepared(&channel, &method, &stage).await;
        let before = rows(&world).await;
        let began = now();
        let token = token_of(&method, &stage);
        let answer = call(&channel, &method, token, ask.message).await;
        let ended = now();
        let answer = answer.unwrap_or_else(|status| panic!("{name}: {status:?}"));
        let answer = answer.into_inner();
        webhooks_devstack::note_answer(&answer);
        let new = rows(&world).await - before;
        let Some(trace) = ask.trace else {
            assert_eq!(new, 0, "{name} only looks");
            looks += 1;
            continue;
        };
        assert_eq!(new, 1, "{name} changes one thing");
        changes += 1;
        let workspace = match trace.action {
            "workspace.create" => trace.subject.parse().unwrap(),
            _ => stage.workspace.id,
        };
        let actor = match method.operator {
            true => "operator".to_owned(),
            false => format!("token:{}", &token["lbk_test_".len()..][..12]),
        };
        let filter = AuditFilter {
            action: Some(trace.action.to_owned()),
            actor: Some(actor.clone()),
            ..AuditFilter::default()
        };
        let found = world.store.list_audit(workspace, &filter, 1, None).await;
        let found = found.unwrap().rows;
        let [row] = found.as_slice() else {
            panic!("{name}: no {} by {actor}", trace.action)
        };
        // This call's, and no earlier one's.
        assert!((began..=ended).contains(&row.at), "{name}: {row:?}");
        match trace.subject.as_str() {
            "" => {
                let told = String::from_utf8_lossy(&answer);
                let is_told = !row.subject.is_empty() && told.contains(&row.subject);
                assert!(is_told, "{name}: the answer tells of no {}", row.subject);
            }
            expected => assert_eq!(row.subject, expected, "{name}"),
        }
        let sides = (row.before.is_some(), row.after.is_some());
        assert_eq!(sides, trace.sides, "{name}: {row:?}");
        let origin = row.origin.clone().unwrap_or_default();
        assert_eq!(
            (origin.remote_ip.as_str(), origin.request_id.as_str()),
            ("127.0.0.1", name)
        );
        assert!(origin.user_agent.starts_with("tonic/"), "{name}: {row:?}");
    }
    assert!(changes > 20 && looks > 20, "{changes} change, {looks} look");
}
