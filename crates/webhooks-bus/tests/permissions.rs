//! Who may do what, asked of a real nats-server: user × subject × publish, subscribe, JetStream.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::mpsc;
use uuid::Uuid;
use webhooks_bus::{
    Bus, BusError, BusSettings, Identities, names,
    permissions::{Login, Role, Users, inbox_prefix, new_seed, public_key, server_config, table},
    subjects,
};
use webhooks_devstack::{NatsServer, wait_until};
use webhooks_runtime::Secret;

const LIMIT: Duration = Duration::from_secs(10);
const HERE: Uuid = Uuid::from_u128(1);
const THERE: Uuid = Uuid::from_u128(2);

struct World {
    nats: NatsServer,
    identities: Identities,
    _folder: tempfile::TempDir,
}

/// A connection, and what the server refused to it.
struct User {
    name: String,
    client: Client,
    refused: mpsc::UnboundedReceiver<String>,
}

impl World {
    async fn start() -> anyhow::Result<Self> {
        Self::with(|identities, shards| Ok(identities.server_config(&[HERE, THERE], shards)?)).await
    }

    async fn with(
        config: impl FnOnce(&Identities, u16) -> anyhow::Result<String>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let identities = Identities::open(folder.path().join("identities"))?;
        let shards = BusSettings::default().shards();
        let nats = NatsServer::builder(folder.path().join("nats"))
            .extra_config(config(&identities, shards)?)
            .start()
            .await?;
        let world = Self {
            nats,
            identities,
            _folder: folder,
        };
        let bus = world.bus(Role::Operator).await?;
        wait_until("the streams", LIMIT, async || bus.apply_topology().await).await?;
        Ok(world)
    }

    fn settings(&self, role: Role) -> anyhow::Result<BusSettings> {
        let seed = std::fs::read_to_string(self.identities.seed_file(role)?)?;
        Ok(BusSettings {
            url: self.nats.url(),
            nkey_seed: Some(Secret::new(seed)),
            ..BusSettings::default()
        })
    }

    async fn bus(&self, role: Role) -> anyhow::Result<Bus> {
        Ok(Bus::connect(self.settings(role)?, role.as_str()).await?)
    }

    async fn service(&self, role: Role) -> anyhow::Result<User> {
        let seed = std::fs::read_to_string(self.identities.seed_file(role)?)?;
        let prefix = inbox_prefix(&self.identities.public_key(role)?);
        let options = ConnectOptions::with_nkey(seed).custom_inbox_prefix(prefix);
        self.user(role.as_str(), options).await
    }

    async fn publisher(&self, workspace: Uuid) -> anyhow::Result<User> {
        let (user, password) = self.identities.publisher(workspace)?;
        self.user(
            &user.clone(),
            ConnectOptions::with_user_and_password(user, password),
        )
        .await
    }

    async fn user(&self, name: &str, options: ConnectOptions) -> anyhow::Result<User> {
        let (teller, refused) = mpsc::unbounded_channel();
        let options = options.event_callback(move |event| {
            let teller = teller.clone();
            async move {
                if let Event::ServerError(error) = event {
                    // A test that has ended listens no more.
                    teller.send(error.to_string()).ok();
                }
            }
        });
        Ok(User {
            name: name.to_owned(),
            client: options.connect(self.nats.url()).await?,
            refused,
        })
    }
}

impl User {
    /// Everything the server has refused since the last call. Its answer to a ping comes after its
    /// refusals, but they take their own way to us: so a marked refusal is waited for.
    async fn refusals(&mut self) -> anyhow::Result<Vec<String>> {
        let mark = format!("forbidden.{}", Uuid::new_v4().simple());
        self.client.publish(mark.clone(), "".into()).await?;
        self.client.flush().await?;
        let mut all = Vec::new();
        loop {
            let next = tokio::time::timeout(LIMIT, self.refused.recv()).await?;
            let text = next.expect("the client lives");
            if text.contains(&mark) {
                return Ok(all);
            }
            all.push(text);
        }
    }

    async fn may_publish(&mut self, subject: &str) -> anyhow::Result<bool> {
        // Onto a stream this stores rubbish, which nobody reads here.
        self.client.publish(subject.to_owned(), "{}".into()).await?;
        let refused = self.refusals().await?;
        assert!(
            refused.iter().all(|text| text.contains("Publish to")),
            "{refused:?}"
        );
        Ok(refused.is_empty())
    }

    async fn may_subscribe(&mut self, subject: &str) -> anyhow::Result<bool> {
        let mut subscriber = self.client.subscribe(subject.to_owned()).await?;
        self.client.flush().await?;
        let allowed = self.refusals().await?.is_empty();
        subscriber.unsubscribe().await?;
        Ok(allowed)
    }
}

/// Whether a subject is one of a pattern's, as nats-server reads them.
fn matches(pattern: &str, subject: &str) -> bool {
    let (mut wanted, mut given) = (pattern.split('.'), subject.split('.'));
    loop {
        match (wanted.next(), given.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

/// A subject that a pattern allows.
fn one_of(pattern: &str) -> String {
    let parts = pattern.split('.').map(|part| match part {
        "*" => "one",
        ">" => "one.two",
        part => part,
    });
    parts.collect::<Vec<_>>().join(".")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_of_the_table_holds_for_its_roles_and_for_no_others() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shards = BusSettings::default().shards();
    let rows = table(shards);
    let (mut allowed, mut refused) = (0, 0);
    for role in Role::ALL {
        let mut user = world.service(role).await?;
        let own = |row: &&webhooks_bus::permissions::Row| row.roles.contains(&role);
        let permitted = |of: fn(&webhooks_bus::permissions::Row) -> &Vec<String>| {
            let mine = rows.iter().filter(own);
            let mut all: Vec<String> = mine.flat_map(|row| of(row).clone()).collect();
            all.push("$JS.API.STREAM.INFO.*".to_owned());
            // Everybody checks at its start that the shared consumers are as they must be.
            for consumer in [
                "INTAKE.ingest",
                "EVENTS.fanout",
                "VERDICTS.history",
                "REPORTS.history",
                "OPS.management",
            ] {
                all.push(format!("$JS.API.CONSUMER.INFO.{consumer}"));
            }
            all
        };
        let (publish, listen) = match role {
            Role::Operator => (role.permissions(shards).publish, Vec::new()),
            _ => (
                permitted(|row| &row.publish),
                permitted(|row| &row.subscribe),
            ),
        };
        // Rows overlap: what one does not grant, another may.
        let granted = |patterns: &[String], subject: &str| {
            patterns.iter().any(|pattern| matches(pattern, subject))
        };
        for row in &rows {
            for pattern in &row.publish {
                let subject = one_of(pattern);
                let expected = granted(&publish, &subject);
                let may = user.may_publish(&subject).await?;
                assert_eq!(may, expected, "{role} to {subject}");
                assert!(may || !row.roles.contains(&role), "{role} to {subject}");
                *(if may { &mut allowed } else { &mut refused }) += 1;
            }
            for pattern in &row.subscribe {
                let subject = one_of(pattern);
                let expected = granted(&listen, &subject);
                let may = user.may_subscribe(&subject).await?;
                assert_eq!(may, expected, "{role} on {subject}");
                assert!(may || !row.roles.contains(&role), "{role} on {subject}");
                *(if may { &mut allowed } else { &mut refused }) += 1;
            }
        }
    }
    println!(
        "{allowed} allowed and {refused} refused, of {} rows",
        rows.len()
    );
    assert!(
        allowed > rows.len() && refused > rows.len(),
        "{allowed}, {refused}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_logs_in_with_an_nkey_may_do_the_same() -> anyhow::Result<()> {
    let seed = new_seed([7; 32])?;
    let public = public_key(&seed)?;
    let world = World::with(|identities, shards| {
        let mut users = Users::default();
        for role in Role::ALL {
            users.services.push((role, identities.public_key(role)?));
        }
        users.publishers.push((HERE, Login::NKey(public.clone())));
        Ok(server_config(&users, shards)?)
    })
    .await?;
    let options = ConnectOptions::with_nkey(seed);
    let mut user = world.user("nkey publisher", options).await?;
    let answer = user
        .client
        .request(subjects::intake(HERE), r#"{"a": 1}"#.into())
        .await?;
    let answer = String::from_utf8_lossy(&answer.payload).into_owned();
    assert!(answer.starts_with(r#"{"stream":"INTAKE","#), "{answer}");
    for subject in [
        subjects::intake(THERE),
        subjects::event(HERE, THERE),
        subjects::report(0),
        "$KV.CONFIG.t.x".to_owned(),
        "$JS.API.STREAM.INFO.INTAKE".to_owned(),
    ] {
        assert!(!user.may_publish(&subject).await?, "{subject}");
    }
    for subject in [">", "workflow.events.v1.>", "wh.>"] {
        assert!(!user.may_subscribe(subject).await?, "{subject}");
    }
    assert!(user.may_subscribe("_INBOX.>").await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_begins_no_batch() -> anyhow::Result<()> {
    let world = World::start().await?;
    let publisher = world.publisher(HERE).await?;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Batch-Id", "a-batch");
    headers.insert("Nats-Batch-Sequence", "1");
    headers.insert("Nats-Batch-Commit", "1");
    let answer = publisher
        .client
        .request_with_headers(subjects::intake(HERE), headers, "{}".into())
        .await?;
    let answer = String::from_utf8_lossy(&answer.payload).into_owned();
    assert!(answer.contains("atomic publish is disabled"), "{answer}");
    let bus = world.bus(Role::Operator).await?;
    wait_until("a connection", LIMIT, async || {
        bus.last_seq(names::INTAKE).await
    })
    .await?;
    assert_eq!(bus.last_seq(names::INTAKE).await?, 0);
    Ok(())
}

/// Subject, and the roles that may publish there, written by hand: what the table must not say. The
/// operator may everywhere but where it is named otherwise.
fn publishing() -> Vec<(String, &'static [Role])> {
    use Role::{Dispatcher, Fanout, Ingest, Management};
    let one = Uuid::from_u128(9);
    let api = |rest: &str| format!("$JS.API.{rest}");
    vec![
        (subjects::event(HERE, one), &[Ingest, Management]),
        (subjects::verdict(HERE), &[Fanout]),
        (
            subjects::delivery(3, one, one),
            &[Fanout, Dispatcher, Management],
        ),
        (subjects::schedule(3, one, one, 2, 0), &[Dispatcher]),
        (subjects::held(3, one), &[Fanout, Dispatcher]),
        (subjects::report(3), &[Fanout, Dispatcher]),
        (subjects::refused(HERE), &[Ingest]),
        (subjects::dead("ingest"), &[]),
        (subjects::dead("fanout"), &[Fanout]),
        (subjects::dead("dispatcher"), &[Dispatcher]),
        (subjects::dead("management"), &[Management]),
        ("$KV.CONFIG.w.a.b".to_owned(), &[Management]),
        ("$KV.STATS.a".to_owned(), &[Management]),
        ("$KV.LEASES.p.1".to_owned(), &[Dispatcher]),
        ("$KV.CANCELLED.a".to_owned(), &[Management]),
        (subjects::tail(HERE), &[Management]),
        (subjects::tail_wanted(HERE), &[Management]),
        (
            api("STREAM.INFO.EVENTS"),
            &[Ingest, Fanout, Dispatcher, Management],
        ),
        (api("CONSUMER.MSG.NEXT.INTAKE.ingest"), &[Ingest]),
        (api("CONSUMER.MSG.NEXT.EVENTS.fanout"), &[Fanout]),
        (
            api("CONSUMER.INFO.EVENTS.fanout"),
            &[Ingest, Fanout, Dispatcher, Management],
        ),
        (
            api("CONSUMER.INFO.INTAKE.ingest"),
            &[Ingest, Fanout, Dispatcher, Management],
        ),
        (api("CONSUMER.INFO.EVENTS.mine"), &[]),
        (api("CONSUMER.MSG.NEXT.VERDICTS.history"), &[Management]),
        (api("CONSUMER.MSG.NEXT.REPORTS.history"), &[Management]),
        (api("CONSUMER.MSG.NEXT.DELIVERIES-0.p3"), &[Dispatcher]),
        (api("CONSUMER.CREATE.RETRIES-0.p3"), &[Dispatcher]),
        (api("CONSUMER.DELETE.RETRIES-0.p3"), &[Dispatcher]),
        (api("CONSUMER.DELETE.EVENTS.fanout"), &[]),
        (api("CONSUMER.CREATE.EVENTS.mine"), &[]),
        (api("CONSUMER.CREATE.INTAKE.mine"), &[]),
        (api("CONSUMER.CREATE.KV_LEASES.mine"), &[Dispatcher]),
        (api("STREAM.MSG.GET.EVENTS"), &[Ingest, Fanout, Management]),
        (api("STREAM.MSG.GET.REPORTS"), &[]),
        (api("STREAM.MSG.DELETE.HELD"), &[Dispatcher]),
        (api("STREAM.PURGE.HELD"), &[Dispatcher]),
        (api("STREAM.PURGE.EVENTS"), &[]),
        (api("STREAM.PURGE.RETRIES"), &[]),
        (api("STREAM.MSG.DELETE.EVENTS"), &[]),
        (api("STREAM.MSG.DELETE.DEAD"), &[]),
        ("$JS.ACK.EVENTS.fanout.1.1.1.1.0".to_owned(), &[Fanout]),
        (
            "$JS.ACK.hub.acc.EVENTS.fanout.1.1.1.1.0".to_owned(),
            &[Fanout],
        ),
        ("$JS.ACK.INTAKE.ingest.1.1.1.1.0".to_owned(), &[Ingest]),
        (
            "$JS.ACK.DELIVERIES-0.p3.1.1.1.1.0".to_owned(),
            &[Dispatcher],
        ),
        // Bodies are empty objects, which JetStream refuses: nothing is done even where it is allowed.
        (api("STREAM.CREATE.MINE"), &[]),
        (api("STREAM.UPDATE.EVENTS"), &[]),
        (api("STREAM.PURGE.NONE"), &[]),
        (api("STREAM.DELETE.NONE"), &[]),
        (api("STREAM.SNAPSHOT.NONE"), &[]),
        (api("STREAM.RESTORE.NONE"), &[]),
        (api("STREAM.LIST"), &[]),
        (api("INFO"), &[]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_may_do_what_the_table_says_and_nothing_else() -> anyhow::Result<()> {
    let world = World::start().await?;
    let mut users = Vec::new();
    for role in Role::ALL {
        users.push((Some(role), world.service(role).await?));
    }
    users.push((None, world.publisher(HERE).await?));
    let mut asked = 0;
    for (role, user) in &mut users {
        // What a publisher publishes stays in its own account, unless it is its one subject.
        for (subject, roles) in publishing() {
            let expected = role.is_some_and(|role| role == Role::Operator || roles.contains(&role));
            assert_eq!(
                user.may_publish(&subject).await?,
                expected,
                "{} to {subject}",
                user.name
            );
            asked += 1;
        }
        let publishes_events = role.is_none_or(|role| role == Role::Operator);
        assert_eq!(
            user.may_publish(&subjects::intake(HERE)).await?,
            publishes_events,
            "{}",
            user.name
        );
        let elsewhere = *role == Some(Role::Operator);
        assert_eq!(
            user.may_publish(&subjects::intake(THERE)).await?,
            elsewhere,
            "{}",
            user.name
        );
        for subject in [
            ">",
            "wh.>",
            "wh.evt.>",
            "$KV.CONFIG.>",
            "$KV.>",
            "$JS.>",
            "workflow.events.v1.>",
            "$SYS.>",
            "_INBOX_UAAAAAAAAAAAAA.>",
        ] {
            assert!(
                !user.may_subscribe(subject).await?,
                "{} on {subject}",
                user.name
            );
            asked += 1;
        }
        // Everybody has an inbox, and nobody has another's.
        assert!(
            user.may_subscribe(&user.client.new_inbox()).await?,
            "{}",
            user.name
        );
        for other in Role::ALL {
            let prefix = inbox_prefix(&world.identities.public_key(other)?);
            let allowed = user.may_subscribe(&format!("{prefix}.x")).await?;
            assert_eq!(
                allowed,
                Some(other) == *role,
                "{} on the inbox of {other}",
                user.name
            );
            asked += 1;
        }
        let plain = user.may_subscribe("_INBOX.>").await?;
        assert_eq!(plain, role.is_none(), "{}", user.name);
    }
    println!("{asked} combinations asked, {} users", users.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publishers_event_is_acknowledged_and_its_answer_cannot_be_led_astray()
-> anyhow::Result<()> {
    let world = World::start().await?;
    let bus = world.bus(Role::Operator).await?;
    wait_until("a connection", LIMIT, async || {
        bus.last_seq(names::INTAKE).await
    })
    .await?;
    let publisher = world.publisher(HERE).await?;

    // As every official client does: a request, answered by JetStream.
    let answer = publisher
        .client
        .request(subjects::intake(HERE), r#"{"a": 1}"#.into())
        .await?;
    assert!(
        answer.payload.starts_with(br#"{"stream":"INTAKE","#),
        "{:?}",
        answer.payload
    );
    let stored = bus
        .get(names::INTAKE, 1)
        .await?
        .expect("the event is there");
    assert_eq!(stored.payload.as_ref(), br#"{"a": 1}"#);
    assert_eq!(stored.subject, subjects::intake(HERE));

    // JetStream's own answer must not become a message of ours.
    let before = bus.last_seq(names::REPORTS).await?;
    publisher
        .client
        .publish_with_reply(subjects::intake(HERE), subjects::report(0), "{}".into())
        .await?;
    publisher
        .client
        .request(subjects::intake(HERE), "{}".into())
        .await?;
    assert_eq!(bus.last_seq(names::INTAKE).await?, 3);
    assert_eq!(bus.last_seq(names::REPORTS).await?, before);

    // Another workspace's answers are not heard either.
    let stranger = world.publisher(THERE).await?;
    let mut ear = stranger.client.subscribe("_INBOX.>").await?;
    stranger.client.flush().await?;
    publisher
        .client
        .request(subjects::intake(HERE), "{}".into())
        .await?;
    stranger
        .client
        .request(subjects::intake(THERE), "{}".into())
        .await?;
    let heard = tokio::time::timeout(LIMIT, futures::StreamExt::next(&mut ear)).await?;
    let heard = heard.expect("its own answer");
    assert!(
        String::from_utf8_lossy(&heard.payload).contains(r#""seq":5"#),
        "{:?}",
        heard.payload
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_connects_without_a_login_or_with_a_wrong_one() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (user, _) = world.identities.publisher(HERE)?;
    let stranger = webhooks_bus::permissions::new_seed([3; 32])?;
    for options in [
        ConnectOptions::new(),
        ConnectOptions::with_user_and_password(user, "wrong".to_owned()),
        ConnectOptions::with_nkey(stranger),
    ] {
        let error = options.connect(world.nats.url()).await.unwrap_err();
        assert_eq!(
            error.kind(),
            async_nats::ConnectErrorKind::AuthorizationViolation,
            "{error}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_logs_in_with_the_url_and_a_bad_seed_is_refused_by_name() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (user, password) = world.identities.publisher(HERE)?;
    let url = world
        .nats
        .url()
        .replace("://", &format!("://{user}:{password}@"));
    let bus = Bus::connect(
        BusSettings {
            url,
            ..BusSettings::default()
        },
        "publisher",
    )
    .await?;
    let message = webhooks_bus::Outgoing::new(subjects::intake(HERE), "1", "{}".into());
    bus.publish(message, LIMIT).await?;
    let bad = BusSettings {
        nkey_seed: Some(Secret::new("SUnonsense")),
        ..world.settings(Role::Ingest)?
    };
    let error = Bus::connect(bad, "x").await.unwrap_err();
    assert!(matches!(error, BusError::Settings(_)), "{error}");
    assert!(!error.to_string().contains("SUnonsense"), "{error}");
    Ok(())
}
