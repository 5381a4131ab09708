//! Who may do what on the bus: one table, from which nats-server's accounts are written.
//!
//! Every service of ours is a user of account [`ACCOUNT`], with an nkey of its own and the subjects
//! of [`TABLE`] only. An operator's tool may do everything there; it alone makes, changes, purges
//! and deletes streams.
//!
//! **Each publisher's workspace is an account of its own**, into which one subject is imported: its
//! workspace's. A user of [`ACCOUNT`] with permission for that subject alone would not do: a
//! publish names the subject that its acknowledgement goes to, the server checks no permission for
//! it, and so JetStream itself would write acknowledgements onto any stream of ours. From another
//! account, the answer can only go back into that account.
//!
//! What is not kept apart: services of ours trust each other's good will where JetStream sends for
//! them (the reply subject of a pull, the delivery subject of a consumer). And who follows a bucket
//! sees all of it: what is secret there is sealed.

use std::{fmt::Write as _, str::FromStr};

use nkeys::{KeyPair, KeyPairType};
use uuid::Uuid;

use crate::{
    subjects::{INTAKE_FILTER, OPS_FILTER, intake, names},
    topology,
};

/// The account that streams and services live in.
pub const ACCOUNT: &str = "WEBHOOKS";

/// Shortest password of a publisher, in characters.
pub const PASSWORD_MIN_CHARS: usize = 20;

/// How much of a public key stands in its user's inbox subjects.
const INBOX_KEY_CHARS: usize = 14;

/// What kind of user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `webhooks-ingest`.
    Ingest,
    /// `webhooks-fanout`.
    Fanout,
    /// `webhooks-dispatcher`; all replicas are one user.
    Dispatcher,
    /// `webhooks-management`.
    Management,
    /// `webhooks migrate` and the other operators' commands.
    Operator,
}

use Role::{Dispatcher, Fanout, Ingest, Management, Operator};

/// One thing that can be done.
#[derive(Debug, Clone, Copy)]
enum Right {
    /// Publish to a subject (with wildcards).
    Publish(&'static str),
    /// Listen to a subject (with wildcards) that is on no stream.
    Listen(&'static str),
    /// Pull from a durable consumer that is there, and acknowledge: stream, consumer.
    Pull(&'static str, &'static str),
    /// Make, pull from and delete the consumers of partitions, and look at their messages: prefix of
    /// the streams.
    Partitions(&'static str),
    /// Read single messages of a stream.
    Read(&'static str),
    /// Read single messages of partitioned streams: their prefix.
    ReadPartitions(&'static str),
    /// Remove messages of a stream, one or all of a subject up to one.
    Remove(&'static str),
    /// Follow a bucket, whole.
    Follow(&'static str),
    /// Write keys of a bucket: bucket, keys.
    Put(&'static str, &'static str),
}

use Right::{Follow, Listen, Partitions, Publish, Pull, Put, Read, ReadPartitions, Remove};

/// The table. The operator may do all of it and more, see [`OPERATOR`].
const TABLE: &[(Right, &[Role])] = &[
    (Pull(names::INTAKE, names::INTAKE_CONSUMER), &[Ingest]),
    // Management's are copies of events that fell through.
    (Publish("wh.evt.>"), &[Ingest, Management]),
    (Pull(names::EVENTS, names::EVENTS_CONSUMER), &[Fanout]),
    // An id that was seen before is compared with the event that had it first; replays and previews
    // render an old event.
    (Read(names::EVENTS), &[Ingest, Fanout, Management]),
    (Publish("wh.vrd.>"), &[Fanout]),
    (
        Pull(names::VERDICTS, names::VERDICTS_CONSUMER),
        &[Management],
    ),
    (Read(names::VERDICTS), &[Fanout, Management]),
    // Management's are replays and tests.
    (Publish("wh.dlv.>"), &[Fanout, Dispatcher, Management]),
    (Partitions("DELIVERIES"), &[Dispatcher]),
    (Publish("wh.sched.>"), &[Dispatcher]),
    // What was parked and may go before its time.
    (Publish("wh.due.>"), &[Dispatcher]),
    (Partitions("RETRIES"), &[Dispatcher]),
    // Whether something owes a delivery that is open in the tables.
    (ReadPartitions("DELIVERIES"), &[Management]),
    (ReadPartitions("RETRIES"), &[Management]),
    (Publish("wh.held.>"), &[Fanout, Dispatcher]),
    (Read(names::HELD), &[Dispatcher, Management]),
    (Remove(names::HELD), &[Dispatcher]),
    (Publish("wh.rpt.>"), &[Fanout, Dispatcher]),
    (Pull(names::REPORTS, names::REPORTS_CONSUMER), &[Management]),
    (Publish("wh.refused.>"), &[Ingest]),
    (Publish("wh.dead.fanout"), &[Fanout]),
    (Publish("wh.dead.dispatcher"), &[Dispatcher]),
    (Publish("wh.dead.management"), &[Management]),
    (
        Follow(names::CONFIG),
        &[Ingest, Fanout, Dispatcher, Management],
    ),
    (Put(names::CONFIG, ">"), &[Management]),
    (Follow(names::STATS), &[Fanout]),
    (Put(names::STATS, ">"), &[Management]),
    (Follow(names::LEASES), &[Dispatcher]),
    (Put(names::LEASES, ">"), &[Dispatcher]),
    (Follow(names::HEALTH), &[Fanout, Dispatcher, Management]),
    (Put(names::HEALTH, ">"), &[Dispatcher, Management]),
    (Follow(names::CANCELLED), &[Dispatcher, Management]),
    (Put(names::CANCELLED, ">"), &[Management]),
    // What happens to webhooks, told to other systems and to whoever writes mails.
    (Publish(OPS_FILTER), &[Dispatcher, Management]),
    (Pull(names::OPS, names::OPS_CONSUMER), &[Management]),
    // The live view: replicas tell each other what their callers look on at.
    (Publish("wh.tail.>"), &[Management]),
    (Listen("wh.tail.>"), &[Management]),
];

/// A row of the table as subjects, with wildcards: who may publish to them, and who may listen. For
/// tests, which ask a server all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The services that may.
    pub roles: &'static [Role],
    /// Publish to these.
    pub publish: Vec<String>,
    /// Listen to these.
    pub subscribe: Vec<String>,
}

/// The table, where dispatchers share `shards` streams of each kind.
#[must_use]
pub fn table(shards: u16) -> Vec<Row> {
    let row = |(right, roles): &(Right, &'static [Role])| {
        let (publish, subscribe) = match right {
            Listen(subject) => (Vec::new(), vec![(*subject).to_owned()]),
            right => (right.subjects(shards), Vec::new()),
        };
        Row {
            roles,
            publish,
            subscribe,
        }
    };
    TABLE.iter().map(row).collect()
}

/// What an operator may publish to.
const OPERATOR: &[&str] = &[
    "$JS.API.>",
    "$JS.ACK.>",
    "$JS.FC.>",
    "$KV.>",
    "wh.>",
    OPS_FILTER,
    INTAKE_FILTER,
];

/// A user's permissions, its own inbox excepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects it may publish to.
    pub publish: Vec<String>,
    /// Subjects it may subscribe to.
    pub subscribe: Vec<String>,
}

/// How a user shows who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// By signing with the nkey of this public key.
    NKey(String),
    /// By a password, for clients that know no nkeys: user name, password.
    Password(String, String),
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NKey(public) => f.debug_tuple("NKey").field(public).finish(),
            Self::Password(user, _) => f.debug_tuple("Password").field(user).finish(),
        }
    }
}

/// Everybody who may connect.
#[derive(Debug, Clone, Default)]
pub struct Users {
    /// Our services and operators, by the public keys of their nkeys.
    pub services: Vec<(Role, String)>,
    /// Publishers, by workspace; several of one workspace share its account.
    pub publishers: Vec<(Uuid, Login)>,
}

/// Why no configuration can be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PermissionsError {
    /// Not the public key of a user.
    #[error("{0:?} is not the public nkey of a user (U…)")]
    PublicKey(String),
    /// Not the seed of a user. The text is not repeated: it may be a secret.
    #[error("not the nkey seed of a user (SU…)")]
    Seed,
    /// A name or password that cannot stand in the configuration, or too short.
    #[error(
        "user {0:?}: names and passwords are of A-Z, a-z, 0-9, `-` and `_`, passwords of at least {PASSWORD_MIN_CHARS} characters"
    )]
    Password(String),
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Ingest, Fanout, Dispatcher, Management, Operator];

    /// The role's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Ingest => "ingest",
            Fanout => "fanout",
            Dispatcher => "dispatcher",
            Management => "management",
            Operator => "operator",
        }
    }

    /// What it may do, where dispatchers share `shards` streams of each kind.
    #[must_use]
    pub fn permissions(self, shards: u16) -> Permissions {
        if self == Operator {
            let publish = OPERATOR.iter().map(|&subject| subject.to_owned());
            return Permissions {
                publish: publish.collect(),
                subscribe: Vec::new(),
            };
        }
        // Everybody checks at start that every stream and shared consumer is as it must be.
        let mut publish = vec!["$JS.API.STREAM.INFO.*".to_owned()];
        publish.extend(topology::consumers().into_iter().map(|(stream, consumer)| {
            let name = consumer.durable_name.unwrap_or_default();
            format!("$JS.API.CONSUMER.INFO.{stream}.{name}")
        }));
        let mut subscribe = Vec::new();
        for (right, _) in TABLE.iter().filter(|(_, roles)| roles.contains(&self)) {
            match right {
                Listen(subject) => subscribe.push((*subject).to_owned()),
                right => publish.extend(right.subjects(shards)),
            }
        }
        publish.sort();
        publish.dedup();
        Permissions { publish, subscribe }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| "expected ingest, fanout, dispatcher, management or operator".to_owned())
    }
}

impl Right {
    fn subjects(self, shards: u16) -> Vec<String> {
        match self {
            Publish(subject) | Listen(subject) => vec![subject.to_owned()],
            Pull(stream, consumer) => [
                format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"),
                format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            ]
            .into_iter()
            .chain(answers("ACK", stream, consumer))
            .collect(),
            Partitions(prefix) => (0..shards)
                .flat_map(|shard| {
                    let stream = format!("{prefix}-{shard}");
                    let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.*");
                    consumers_of(&stream)
                        .into_iter()
                        .chain([next])
                        .chain(answers("ACK", &stream, "*"))
                        .chain(read(&stream))
                        .chain([remove(&stream)])
                        .collect::<Vec<_>>()
                })
                .collect(),
            Read(stream) => read(stream).to_vec(),
            ReadPartitions(prefix) => (0..shards)
                .flat_map(|shard| read(&format!("{prefix}-{shard}")))
                .collect(),
            Remove(stream) => vec![remove(stream), format!("$JS.API.STREAM.PURGE.{stream}")],
            Follow(bucket) => {
                let stream = format!("KV_{bucket}");
                consumers_of(&stream)
                    .into_iter()
                    .chain(answers("FC", &stream, "*"))
                    .chain(read(&stream))
                    .collect()
            }
            Put(bucket, keys) => vec![format!("$KV.{bucket}.{keys}")],
        }
    }
}

/// Making and deleting consumers of a stream.
fn consumers_of(stream: &str) -> Vec<String> {
    vec![
        format!("$JS.API.CONSUMER.CREATE.{stream}"),
        format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
        format!("$JS.API.CONSUMER.INFO.{stream}.*"),
        format!("$JS.API.CONSUMER.DELETE.{stream}.*"),
    ]
}

/// Where a consumer's acknowledgements or flow control go: without and (newer servers, when an
/// operator says so) with the domain and account before the stream.
fn answers(kind: &str, stream: &str, consumer: &str) -> [String; 2] {
    [
        format!("$JS.{kind}.{stream}.{consumer}.>"),
        format!("$JS.{kind}.*.*.{stream}.{consumer}.>"),
    ]
}

fn read(stream: &str) -> [String; 3] {
    [
        format!("$JS.API.STREAM.MSG.GET.{stream}"),
        format!("$JS.API.DIRECT.GET.{stream}"),
        format!("$JS.API.DIRECT.GET.{stream}.>"),
    ]
}

fn remove(stream: &str) -> String {
    format!("$JS.API.STREAM.MSG.DELETE.{stream}")
}

/// The inbox prefix of the user with this public key: nobody else may listen there.
#[must_use]
pub fn inbox_prefix(public_key: &str) -> String {
    let part: String = public_key.chars().take(INBOX_KEY_CHARS).collect();
    format!("_INBOX_{part}")
}

/// A new user's seed, of random bytes.
///
/// # Errors
/// Never for 32 bytes; the library's signature has it.
pub fn new_seed(random: [u8; 32]) -> Result<String, PermissionsError> {
    KeyPair::new_from_raw(KeyPairType::User, random)
        .and_then(|pair| pair.seed())
        .map_err(|_| PermissionsError::Seed)
}

/// The public key of a user's seed.
///
/// # Errors
/// [`PermissionsError::Seed`] for anything else.
pub fn public_key(seed: &str) -> Result<String, PermissionsError> {
    match KeyPair::from_seed(seed.trim()) {
        Ok(pair) if matches!(pair.key_pair_type(), KeyPairType::User) => Ok(pair.public_key()),
        _ => Err(PermissionsError::Seed),
    }
}

/// The account of a workspace's publishers.
#[must_use]
pub fn publisher_account(workspace: Uuid) -> String {
    format!("PUB_{}", workspace.simple())
}

/// The part of nats-server's configuration that says who may connect and what they may do. It is
/// read anew at `nats-server --signal reload`.
///
/// # Errors
/// A key, name or password cannot be used.
pub fn server_config(users: &Users, shards: u16) -> Result<String, PermissionsError> {
    let mut workspaces: Vec<Uuid> = users.publishers.iter().map(|(id, _)| *id).collect();
    workspaces.sort_unstable();
    workspaces.dedup();
    let mut text = String::from(
        "# Written by `webhooks nats-config` from the table of subjects: do not edit, write it anew.\naccounts {\n",
    );
    line(
        &mut text,
        format_args!("  {ACCOUNT} {{\n    jetstream: enabled\n    users: ["),
    );
    for (role, public) in &users.services {
        checked_key(public)?;
        let permissions = role.permissions(shards);
        line(
            &mut text,
            format_args!("      # {role}\n      {{ nkey: {public}, permissions: {{"),
        );
        let mut subscribe = permissions.subscribe;
        subscribe.push(format!("{}.>", inbox_prefix(public)));
        rules(&mut text, &permissions.publish, &subscribe);
    }
    line(&mut text, format_args!("    ]"));
    if !workspaces.is_empty() {
        let accounts: Vec<_> = workspaces.iter().map(|id| publisher_account(*id)).collect();
        line(&mut text, format_args!("    exports: ["));
        line(
            &mut text,
            format_args!(
                "      {{ service: \"{}\", accounts: [{}] }}",
                any_intake(),
                accounts.join(", ")
            ),
        );
        line(&mut text, format_args!("    ]"));
    }
    line(&mut text, format_args!("  }}"));
    for workspace in workspaces {
        let subject = intake(workspace);
        line(
            &mut text,
            format_args!(
                "  {} {{\n    imports: [ {{ service: {{ account: {ACCOUNT}, subject: \"{subject}\" }} }} ]\n    users: [",
                publisher_account(workspace)
            ),
        );
        for (_, login) in users.publishers.iter().filter(|(id, _)| *id == workspace) {
            let who = match login {
                Login::NKey(public) => format!("nkey: {}", checked_key(public)?),
                Login::Password(user, password) => {
                    checked_password(user, password)?;
                    format!("user: \"{user}\", password: \"{password}\"")
                }
            };
            line(&mut text, format_args!("      {{ {who}, permissions: {{"));
            // Clients' usual inbox: nobody else is in this account.
            rules(
                &mut text,
                std::slice::from_ref(&subject),
                &["_INBOX.>".to_owned()],
            );
        }
        line(&mut text, format_args!("    ]\n  }}"));
    }
    line(&mut text, format_args!("}}"));
    Ok(text)
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a string takes any text");
}

fn rules(text: &mut String, publish: &[String], subscribe: &[String]) {
    for (kind, subjects) in [("publish", publish), ("subscribe", subscribe)] {
        line(text, format_args!("        {kind}: {{ allow: ["));
        for subject in subjects {
            line(text, format_args!("          \"{subject}\""));
        }
        line(text, format_args!("        ] }}"));
    }
    line(text, format_args!("      }} }}"));
}

/// The intake subject of any workspace.
fn any_intake() -> String {
    intake(Uuid::nil()).replace(&Uuid::nil().to_string(), "*")
}

fn checked_key(public: &str) -> Result<&str, PermissionsError> {
    match KeyPair::from_public_key(public) {
        Ok(pair) if matches!(pair.key_pair_type(), KeyPairType::User) => Ok(public),
        _ => Err(PermissionsError::PublicKey(public.to_owned())),
    }
}

fn checked_password(user: &str, password: &str) -> Result<(), PermissionsError> {
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if !user.is_empty() && plain(user) && plain(password) && password.len() >= PASSWORD_MIN_CHARS {
        Ok(())
    } else {
        Err(PermissionsError::Password(user.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_operator_may_touch_streams_whole() {
        // Who may remove any message of HELD can empty it anyway, and one request does not hold the
        // server up as thousands do.
        let held = "$JS.API.STREAM.PURGE.HELD";
        for role in [Ingest, Fanout, Dispatcher, Management] {
            for subject in role.permissions(4).publish {
                if role == Dispatcher && subject == held {
                    continue;
                }
                for forbidden in [
                    "$JS.API.>",
                    "STREAM.CREATE",
                    "STREAM.UPDATE",
                    "STREAM.DELETE",
                    "STREAM.PURGE",
                    "STREAM.RESTORE",
                    "STREAM.SNAPSHOT",
                ] {
                    assert!(!subject.contains(forbidden), "{role}: {subject}");
                }
                assert!(
                    subject != ">" && subject != "wh.>" && subject != "$KV.>",
                    "{role}: {subject}"
                );
            }
        }
    }

    #[test]
    fn every_stream_of_ours_has_a_role_that_writes_it() {
        let settings = crate::BusSettings::default();
        let all: Vec<String> = Role::ALL
            .into_iter()
            .filter(|role| *role != Operator)
            .flat_map(|role| role.permissions(settings.shards()).publish)
            .collect();
        for stream in crate::topology::streams(&settings) {
            for subject in stream.subjects {
                // Outside publishers write INTAKE.
                if subject == INTAKE_FILTER {
                    continue;
                }
                let kind = subject.split('.').take(2).collect::<Vec<_>>().join(".");
                assert!(
                    all.iter()
                        .any(|allowed| allowed.starts_with(&format!("{kind}."))),
                    "nobody may publish to {subject}"
                );
            }
        }
        for (stream, consumer) in crate::topology::consumers() {
            let name = consumer.durable_name.unwrap_or_default();
            let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}");
            assert!(
                all.contains(&next),
                "nobody may pull from {name} of {stream}"
            );
        }
        for bucket in crate::topology::buckets(&settings) {
            let prefix = format!("$KV.{}.", bucket.bucket);
            assert!(
                all.iter().any(|allowed| allowed.starts_with(&prefix)),
                "nobody may write bucket {}: the table lacks it",
                bucket.bucket
            );
        }
    }

    /// A subject that somebody adds and forgets here would work in tests, whose servers know no
    /// users, and be refused in production.
    #[test]
    fn every_subject_that_is_named_stands_in_the_table() {
        let table: Vec<String> = TABLE
            .iter()
            .flat_map(|(right, _)| right.subjects(1))
            .collect();
        let named: std::collections::BTreeSet<&str> = include_str!("subjects.rs")
            .split("\"wh.")
            .skip(1)
            .filter_map(|rest| rest.split(['.', '"']).next())
            .collect();
        assert!(named.contains("evt") && named.len() > 8, "{named:?}");
        for kind in named {
            let stands = |subject: &String| subject.starts_with(&format!("wh.{kind}."));
            assert!(table.iter().any(stands), "wh.{kind}.… is not in the table");
        }
    }

    #[test]
    fn a_seed_and_its_public_key_belong_together() {
        let seed = new_seed([7; 32]).unwrap();
        assert!(seed.starts_with("SU"), "{seed}");
        let public = public_key(&format!(" {seed}\n")).unwrap();
        assert!(public.starts_with('U') && checked_key(&public).is_ok());
        assert_eq!(inbox_prefix(&public), format!("_INBOX_{}", &public[..14]));
        assert_eq!(public_key(&public), Err(PermissionsError::Seed));
        let account = KeyPair::new_from_raw(KeyPairType::Account, [1; 32]).unwrap();
        assert_eq!(
            public_key(&account.seed().unwrap()),
            Err(PermissionsError::Seed)
        );
        checked_key(&account.public_key()).unwrap_err();
    }

    #[test]
    fn what_could_break_out_of_the_configuration_is_refused() {
        let with = |login| Users {
            services: Vec::new(),
            publishers: vec![(Uuid::from_u128(1), login)],
        };
        let long = "x".repeat(PASSWORD_MIN_CHARS);
        for (user, password) in [
            ("a\"}", long.as_str()),
            ("", long.as_str()),
            ("a", "short"),
            ("a", "twenty-characters-and-a-\""),
        ] {
            let login = Login::Password(user.to_owned(), password.to_owned());
            assert!(
                server_config(&with(login), 1).is_err(),
                "{user:?} {password:?}"
            );
        }
        assert!(server_config(&with(Login::NKey("U}".to_owned())), 1).is_err());
        let shown = format!("{:?}", Login::Password("a".to_owned(), long.clone()));
        assert!(!shown.contains(&long), "{shown}");
    }
}
