//! Every statement over rows of workspaces says whose, or stands here with the reason why it does not.
//!
//! The database does not enforce it (docs/adr/0011); this reads the statements out of the sources.
//! What the services do with them is tested where they are: another workspace's ids do not exist.

use std::{collections::BTreeSet, path::Path};

use crate::support::Database;

/// Reason, and how statements begin to which it applies.
const OF_NO_WORKSPACE: [(&str, &[&str]); 6] = [
    (
        "the row was found and locked by its workspace before, in the same transaction",
        &[
            "UPDATE webhooks SET status = $2, status_reason = $3 WHERE id",
            "UPDATE webhooks SET revision = revision + 1",
            "UPDATE webhooks SET name = $2",
            "UPDATE webhooks SET description = $2",
            "UPDATE webhooks SET extras_shown = $2",
            "DELETE FROM webhooks WHERE id",
            "UPDATE tokens SET name = $2",
            "UPDATE tokens SET revoked_at = $2",
            "SELECT * FROM jobs WHERE id = $1 FOR UPDATE",
            "UPDATE jobs SET ",
        ],
    ),
    (
        "work of the service for everybody, the next rows whosesoever they are",
        &[
            "UPDATE mail_outbox SET ",
            "DELETE FROM mail_outbox WHERE created_at",
            "DELETE FROM outbox WHERE id = ANY",
            "DELETE FROM delivery_counts WHERE day",
            "DELETE FROM event_counts WHERE day",
            "INSERT INTO repair_watch",
            "INSERT INTO delivery_outbox (day, delivery_id, created_at) SELECT day, id",
            "SELECT w.delivery_id AS id, w.missing_at",
            "SELECT seq FROM generate_series",
            "SELECT s.webhook_id, s.success_count",
        ],
    ),
    (
        "reports of dispatchers and verdicts of fan-out, many workspaces' at once, by ids that are computed from the workspace",
        &[
            "SELECT id, state, attempt_count, next_attempt_at FROM deliveries WHERE day = $1 AND id = ANY",
            "SELECT id, state, state_attempts",
            "SELECT id FROM deliveries WHERE day = $1 AND id = ANY($2) AND snapshot IS NOT NULL",
            "UPDATE deliveries d SET state = u.state",
        ],
    ),
    (
        "attempts of deliveries that were found by their workspace, in the same statement",
        &["SELECT percentile_cont", "AS start FROM w) binned) v"],
    ),
    (
        "when tokens were used, by ids that the tokens themselves have shown",
        &["UPDATE tokens t SET last_used_at"],
    ),
    (
        "open to all: what a signature is checked with",
        &["SELECT coalesce(s.public_key, w.public_key)"],
    ),
];

/// What begins the conditions of a statement that is put together, and takes the workspace to do so.
const SAYS_WHOSE: [&str; 2] = ["push_whose(", "push_walk("];

/// How much of the source may stand between a statement's beginning and that.
const NEAR: usize = 400;

/// A text in the sources, and what follows it.
struct Literal {
    place: String,
    text: String,
    after: String,
}

fn literals(file: &Path, source: &str) -> Vec<Literal> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find(['"', '/']) {
        let (_, here) = rest.split_at(at);
        if here.starts_with("//") {
            rest = here.split_once('\n').map_or("", |(_, next)| next);
            continue;
        }
        let character = rest[..at].ends_with('\'') && here[1..].starts_with('\'');
        let Some(inside) = here.strip_prefix('"').filter(|_| !character) else {
            rest = &here[1..];
            continue;
        };
        let mut escaped = false;
        let end = inside.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = end.expect("a text ends");
        let after = &inside[end + 1..];
        found.push(Literal {
            place: name.clone().into_owned(),
            text: inside[..end]
                .replace('\\', " ")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
            after: after.chars().take(NEAR).collect(),
        });
        rest = after;
    }
    found
}

fn sources(folder: &Path, found: &mut Vec<Literal>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.extend(literals(&path, &std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Whether a statement reads or writes one of these tables.
fn touches(text: &str, tables: &BTreeSet<String>) -> bool {
    let words: Vec<&str> = text.split([' ', '(', ')', ',']).collect();
    words.windows(2).any(|pair| {
        ["FROM", "JOIN", "UPDATE", "INTO"].contains(&pair[0]) && tables.contains(pair[1])
    })
}

fn says_whose(literal: &Literal) -> bool {
    literal.text.contains("workspace_id")
        || literal.text.ends_with("WHERE")
            && SAYS_WHOSE.iter().any(|call| literal.after.contains(call))
}

fn excused(text: &str) -> bool {
    OF_NO_WORKSPACE
        .iter()
        .flat_map(|(_, beginnings)| *beginnings)
        .any(|beginning| text.starts_with(beginning))
}

#[tokio::test]
async fn every_statement_over_rows_of_workspaces_says_whose() {
    let database = Database::fresh().await;
    let tables = database
        .texts(
            "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
             WHERE a.attname = 'workspace_id' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
             AND c.relnamespace = 'public'::regnamespace",
        )
        .await;
    let tables: BTreeSet<String> = tables.into_iter().collect();
    assert!(tables.len() >= 10, "{tables:?}");
    let mut all = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    let over: Vec<&Literal> = all
        .iter()
        .filter(|one| touches(&one.text, &tables))
        .collect();
    assert!(over.len() >= 80, "{} statements were found", over.len());
    let silent: Vec<String> = over
        .iter()
        .filter(|one| !says_whose(one) && !excused(&one.text))
        .map(|one| format!("{}: {}", one.place, one.text))
        .collect();
    assert!(
        silent.is_empty(),
        "these name no workspace; add the condition, or the reason to this test:\n{}",
        silent.join("\n")
    );
    let idle: Vec<&str> = OF_NO_WORKSPACE
        .iter()
        .flat_map(|(_, beginnings)| *beginnings)
        .filter(|beginning| !over.iter().any(|one| one.text.starts_with(**beginning)))
        .copied()
        .collect();
    assert!(idle.is_empty(), "no statement begins so any more: {idle:?}");
}

#[test]
fn a_statement_that_forgets_the_workspace_is_seen() {
    let tables = BTreeSet::from(["webhooks".to_owned()]);
    let source = r#"
        // "SELECT * FROM webhooks" in a comment is nothing.
        const A: &str = "SELECT * \
            FROM webhooks WHERE id = $1";
        const B: &str = "SELECT * FROM webhooks WHERE workspace_id = $1";
        let sql = QueryBuilder::new("SELECT * FROM webhooks WHERE ");
        range.push_whose(&mut sql);
    "#;
    let found = literals(Path::new("x.rs"), source);
    let seen: Vec<bool> = found
        .iter()
        .filter(|one| touches(&one.text, &tables))
        .map(says_whose)
        .collect();
    assert_eq!(seen, [false, true, true]);
    assert!(excused("DELETE FROM webhooks WHERE id = $1"));
    assert!(!excused("DELETE FROM webhooks WHERE name = $1"));
}
