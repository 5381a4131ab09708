//! What deliveries make of a webhook's status: shown, audited, told by mail, each once.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use uuid::Uuid;
use webhooks_bus::OpsEvent;
use webhooks_devstack::{free_port, wait_until};
use webhooks_domain::webhook::Plan;
use webhooks_store::WorkspacePatch;

use crate::support::{LIMIT, World};

/// A mail server that takes everything.
#[derive(Clone, Default)]
struct Sink {
    mails: Arc<Mutex<Vec<String>>>,
}

impl Sink {
    /// Until the set is dropped.
    fn serve(&self, listener: TcpListener) -> JoinSet<()> {
        let sink = self.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut talks = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                talks.spawn(sink.clone().talk(socket));
            }
        });
        serving
    }

    async fn talk(self, socket: TcpStream) {
        let (read, mut write) = socket.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"220 sink\r\n").await.unwrap();
        let (mut mail, mut in_data) = (String::new(), false);
        while let Ok(Some(line)) = lines.next_line().await {
            let answer = if in_data {
                if line != "." {
                    mail.push_str(&line);
                    mail.push('\n');
                    continue;
                }
                in_data = false;
                self.mails.lock().unwrap().push(std::mem::take(&mut mail));
                "250 kept\r\n"
            } else {
                match line.split_whitespace().next().unwrap_or_default() {
                    "DATA" => {
                        in_data = true;
                        "354 go on\r\n"
                    }
                    "QUIT" => "221 bye\r\n",
                    "RCPT" => {
                        mail.push_str(&format!("{line}\n"));
                        "250 ok\r\n"
                    }
                    _ => "250 ok\r\n",
                }
            };
            write.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    async fn wait_for(&self, count: usize) -> Vec<String> {
        wait_until("mails", LIMIT, async || {
            let mails = self.mails.lock().unwrap().clone();
            if mails.len() >= count {
                Ok(mails)
            } else {
                Err(mails)
            }
        })
        .await
        .unwrap()
    }
}

fn event(workspace: Uuid, webhook: Uuid, kind: &str, status: (&str, Option<&str>)) -> OpsEvent {
    OpsEvent {
        kind: kind.to_owned(),
        episode_id: format!("{webhook}-1"),
        workspace_id: workspace,
        webhook_id: webhook,
        status: status.0.to_owned(),
        status_reason: status.1.map(str::to_owned),
        run: 10,
        at: "2026-01-02T03:04:05Z".to_owned(),
        epoch: 0,
        last_failure: None,
    }
}

const PAUSED: (&str, Option<&str>) = ("PAUSED", Some("DELIVERY_FAILURES"));
const DISABLED: (&str, Option<&str>) = ("AUTO_DISABLED", Some("CONSECUTIVE_FAILURES"));

async fn told(world: &World, event: &OpsEvent) {
    world.bus.tell(event, LIMIT).await.unwrap();
}

async fn wait_for_label(world: &World, token: &str, webhook: Uuid, label: &str) {
    wait_until(label, LIMIT, async || {
        let shown = world
            .get(&format!("/v1/webhooks/{webhook}"), token)
            .await
            .body;
        if shown["webhook"]["statusLabel"] == label {
            Ok(())
        } else {
            Err(shown)
        }
    })
    .await
    .unwrap();
}

async fn to_whom(world: &World, workspace: Uuid, emails: &[&str]) {
    let patch = WorkspacePatch {
        notification_emails: Some(emails.iter().map(|email| (*email).to_owned()).collect()),
        ..WorkspacePatch::default()
    };
    world
        .store
        .update_workspace(workspace, &patch, &webhooks_store::Actor::Operator, 1)
        .await
        .unwrap();
}

async fn audited(world: &World, action: &str, webhook: Uuid) -> usize {
    let count = world
        .sql(&format!(
            "SELECT count(*) FROM audit_log WHERE action = '{action}' AND subject = '{webhook}'"
        ))
        .await;
    count.trim().parse().unwrap()
}

#[tokio::test]
async fn an_episode_is_shown_audited_and_told_once_also_when_the_mail_server_was_away() {
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let world = World::with(&[("WEBHOOKS_SMTP_URL", &format!("smtp://{address}"))]).await;
    let workspace = world.workspace(Plan::Enterprise).await;
    to_whom(&world, workspace.id, &["one@b.example", "two@b.example"]).await;
    let webhook = world.webhook(&workspace.token).await;
    let revision = world.configured(webhook).await;

    told(&world, &event(workspace.id, webhook, "failing", PAUSED)).await;
    told(&world, &event(workspace.id, webhook, "paused", PAUSED)).await;
    wait_for_label(&world, &workspace.token, webhook, "PAUSED").await;
    told(
        &world,
        &event(workspace.id, webhook, "auto_disabled", DISABLED),
    )
    .await;
    wait_for_label(&world, &workspace.token, webhook, "AUTO_DISABLED").await;
    assert_eq!(world.configured(webhook).await, revision, "no new revision");

    // The mail server comes back.
    let sink = Sink::default();
    let serving = sink.serve(TcpListener::bind(&address).await.unwrap());
    let mails = sink.wait_for(4).await;
    let of = |word: &str, to: &str| {
        let found = mails
            .iter()
            .filter(|mail| mail.contains(word) && mail.contains(to));
        found.count()
    };
    for to in ["<one@b.example>", "<two@b.example>"] {
        assert_eq!(
            (of("is failing", to), of("was disabled", to)),
            (1, 1),
            "{mails:?}"
        );
    }
    assert_eq!(audited(&world, "webhook.pause", webhook).await, 1);
    assert_eq!(audited(&world, "webhook.auto_disable", webhook).await, 1);

    // Told again, by whoever did not know that it was told: nothing more.
    let again = event(workspace.id, webhook, "auto_disabled", DISABLED);
    let copy = webhooks_bus::Outgoing::new(
        again.subject(),
        "another id",
        serde_json::to_vec(&again).unwrap().into(),
    );
    world.bus.publish(copy, LIMIT).await.unwrap();
    // A person enables it, and what happened before means nothing any more.
    let path = webhook.to_string();
    let active = json!({ "status": "WEBHOOK_STATUS_ACTIVE" });
    world.patch(&path, &workspace.token, &active).await;
    let mut late = event(workspace.id, webhook, "auto_disabled", DISABLED);
    late.episode_id = format!("{webhook}-2");
    told(&world, &late).await;
    let other = world.webhook(&workspace.token).await;
    told(&world, &event(workspace.id, other, "paused", PAUSED)).await;
    wait_for_label(&world, &workspace.token, other, "PAUSED").await;
    wait_for_label(&world, &workspace.token, webhook, "ACTIVE").await;
    assert_eq!(audited(&world, "webhook.auto_disable", webhook).await, 1);
    assert_eq!(sink.mails.lock().unwrap().len(), 4);
    drop(serving);
}

#[tokio::test]
async fn the_creator_is_told_where_the_workspace_names_nobody_and_only_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sink = Sink::default();
    let serving = sink.serve(listener);
    let world = World::with(&[("WEBHOOKS_SMTP_URL", &format!("smtp://{address}"))]).await;
    let creator = Some("creator@b.example");

    // Nobody is known: no mail.
    let silent = world.workspace(Plan::Enterprise).await;
    let unknown = world.webhook(&silent.token).await;
    told(&world, &event(silent.id, unknown, "failing", PAUSED)).await;
    wait_for_label(&world, &silent.token, unknown, "PAUSED").await;

    // Nobody is named: its creator is told of both.
    let unnamed = world.workspace(Plan::Enterprise).await;
    let token = world.member_token(unnamed.id, &[], creator).await;
    let webhook = world.webhook(&token).await;
    told(&world, &event(unnamed.id, webhook, "failing", PAUSED)).await;
    told(
        &world,
        &event(unnamed.id, webhook, "auto_disabled", DISABLED),
    )
    .await;
    wait_for_label(&world, &token, webhook, "AUTO_DISABLED").await;

    // Somebody is named: the creator is not told.
    let named = world.workspace(Plan::Enterprise).await;
    to_whom(&world, named.id, &["ops@b.example"]).await;
    let token = world.member_token(named.id, &[], creator).await;
    let webhook = world.webhook(&token).await;
    told(&world, &event(named.id, webhook, "failing", PAUSED)).await;
    wait_for_label(&world, &token, webhook, "PAUSED").await;

    // A row for each mail there is to be, written with the status.
    let recipients = world
        .sql("SELECT string_agg(recipient, ' ' ORDER BY id) FROM mail_outbox")
        .await;
    assert_eq!(
        recipients.trim(),
        "creator@b.example creator@b.example ops@b.example"
    );
    let mails = sink.wait_for(3).await;
    for (word, to) in [
        ("is failing", "<creator@b.example>"),
        ("was disabled", "<creator@b.example>"),
        ("is failing", "<ops@b.example>"),
    ] {
        let found = mails
            .iter()
            .filter(|mail| mail.contains(word) && mail.contains(to));
        assert_eq!(found.count(), 1, "{word} {to}: {mails:?}");
    }
    drop(serving);
}
