//! `webhooks doctor`: looks at everything the services rely on and says what is not as it must be.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use serde_json::Value;
use tokio::time::timeout;
use webhooks_bus::{
    Bus, Fill, NEARLY_FULL, names,
    topology::{self, MIN_SERVER},
};
use webhooks_devstack::http_get;
use webhooks_domain::event::parse_rfc3339_micros;
use webhooks_runtime::{Env, SettingsError};

use super::{bus, connected, now, store};
use crate::{cli::DoctorOptions, console::say};

const LIMIT: Duration = Duration::from_secs(5);

/// nats-server's monitoring address; `webhooks up` writes it to `.run/env`.
const MONITOR_URL: &str = "WEBHOOKS_NATS_MONITOR_URL";

/// How far two clocks may be apart: webhooks fire for events accepted after their creation, with two
/// seconds of grace between machines.
const CLOCK_SKEW_MICROS: i64 = 2_000_000;

/// Bytes of an event as it is stored, as long as none can be measured.
const TYPICAL_EVENT_BYTES: f64 = 3_200.0;

/// From so many messages on their size and rate are measured.
const MEASURABLE: u64 = 1_000;

/// How one check came out.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    Fine(String),
    /// Works, but not as it should in production.
    Warning(String),
    Bad(String),
    /// Could not be looked at.
    Unknown(String),
}

/// The command. Exit code 1 when something is bad.
///
/// # Errors
/// Settings that cannot be used.
pub(crate) async fn run(options: &DoctorOptions) -> anyhow::Result<ExitCode> {
    let monitor_url = monitor_url(options, Env::from_process())?;
    let bus = bus().await?;
    let mut findings = nats(&bus).await;
    match &monitor_url {
        Some(url) => findings.extend(monitor(url).await),
        None => findings.push(Finding::Unknown(format!(
            "sync_interval and nats-server's clock: give --nats-monitor http://host:8222, or {MONITOR_URL}"
        ))),
    }
    findings.extend(database().await);
    let bad = findings
        .iter()
        .any(|finding| matches!(finding, Finding::Bad(_)));
    for finding in findings {
        say(match finding {
            Finding::Fine(text) => format!("ok       {text}"),
            Finding::Warning(text) => format!("warning  {text}"),
            Finding::Bad(text) => format!("BAD      {text}"),
            Finding::Unknown(text) => format!("unknown  {text}"),
        });
    }
    Ok(if bad {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Where nats-server is watched at, as far as anybody has said so. What is said to this call wins.
fn monitor_url(options: &DoctorOptions, mut env: Env) -> Result<Option<String>, SettingsError> {
    if options.nats_monitor.is_some() {
        return Ok(options.nats_monitor.clone());
    }
    let url = env.optional_url(MONITOR_URL, "nats-server's monitoring address");
    env.finish()?;
    Ok(url)
}

async fn nats(bus: &Bus) -> Vec<Finding> {
    if let Err(error) = connected(bus, LIMIT).await {
        return vec![Finding::Bad(format!("{error:#}"))];
    }
    let version = bus.client().server_info().version;
    let mut findings = vec![Finding::Fine(format!(
        "nats-server {version} answers ({}.{} or newer is needed)",
        MIN_SERVER.0, MIN_SERVER.1
    ))];
    findings.push(match timeout(LIMIT, bus.verify_topology()).await {
        Ok(Ok(())) => Finding::Fine("every stream and bucket is as it must be".to_owned()),
        Ok(Err(error)) => Finding::Bad(error.to_string()),
        Err(_) => Finding::Bad(format!("JetStream did not answer within {LIMIT:?}")),
    });
    if bus.settings().replicas < 3 {
        findings.push(Finding::Warning(format!(
            "{} replica(s) of each stream: production wants 3 (WEBHOOKS_NATS_REPLICAS)",
            bus.settings().replicas
        )));
    }
    for stream in topology::streams(bus.settings()) {
        if [names::EVENTS, names::VERDICTS].contains(&stream.name.as_str())
            && let Ok(fill) = bus.fill(&stream.name).await
        {
            findings.push(sustainable(&stream.name, fill, stream.max_age));
        }
    }
    if let Ok(letters) = bus.letters().await {
        findings.push(match letters {
            0 => Finding::Fine("no dead letters".to_owned()),
            some => Finding::Warning(format!("{some} dead letters: `webhooks dead list`")),
        });
    }
    findings
}

/// How many events a second a stream carries that keeps each for `kept`: from its size and, as soon as
/// there are enough, from the size of those in it. Beyond, it is full before the first ones leave, and
/// ingest answers 503.
fn sustainable(stream: &str, fill: Fill, kept: Duration) -> Finding {
    let measured = fill.messages >= MEASURABLE;
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
    let (bytes, messages, room) = (
        fill.bytes as f64,
        fill.messages as f64,
        fill.max_bytes as f64,
    );
    let each = if measured {
        bytes / messages
    } else {
        TYPICAL_EVENT_BYTES
    };
    let rate = room / each / kept.as_secs_f64();
    let days = kept.as_secs() / (24 * 3_600);
    let text = format!(
        "{stream}: {:.1} GiB for {days} days carry {rate:.1} events/s on average, at {each:.0} bytes each{}",
        room / f64::from(1 << 30),
        if measured { "" } else { " (assumed)" },
    );
    let now = messages / fill.oldest.as_secs_f64().max(1.0);
    if measured && now > rate * NEARLY_FULL {
        return Finding::Warning(format!(
            "{text}; now it is {now:.1}: raise WEBHOOKS_{stream}_MAX_BYTES to {:.0} for twice that",
            2.0 * now * each * kept.as_secs_f64()
        ));
    }
    Finding::Fine(text)
}

async fn monitor(url: &str) -> Vec<Finding> {
    let base = url.trim_end_matches('/');
    let ask = async |path: &str| -> anyhow::Result<Value> {
        let (status, body) = http_get(&format!("{base}{path}")).await?;
        anyhow::ensure!(status == 200, "{base}{path} answered {status}");
        serde_json::from_str(&body).with_context(|| format!("{base}{path} did not answer JSON"))
    };
    let sync = match ask("/jsz").await {
        Ok(answer) => sync_interval(&answer),
        Err(error) => Finding::Unknown(format!("sync_interval: {error:#}")),
    };
    let before = now();
    let clock = match ask("/varz").await {
        Ok(answer) => clock(answer.get("now").and_then(Value::as_str), before, now()),
        Err(error) => Finding::Unknown(format!("nats-server's clock: {error:#}")),
    };
    vec![sync, clock]
}

/// Whether the server has an acknowledged message on its disk. Without `always`, a loss of power
/// (not of the process) within the interval can lose acknowledged events on a single server.
fn sync_interval(jsz: &Value) -> Finding {
    let config = jsz.get("config");
    let nanos = config
        .and_then(|config| config.get("sync_interval"))
        .and_then(Value::as_u64);
    let always = config
        .and_then(|config| config.get("sync_always"))
        .and_then(Value::as_bool)
        .unwrap_or(false);
    match (always, nanos) {
        (true, _) => Finding::Fine("sync_interval is always".to_owned()),
        (false, Some(nanos)) => Finding::Warning(format!(
            "sync_interval is {:?}: production wants always (and a quoted duration anywhere else)",
            Duration::from_nanos(nanos)
        )),
        (false, None) => Finding::Unknown("sync_interval: the server does not say".to_owned()),
    }
}

/// Compares a server's clock with ours; the truth lies between the question and the answer.
fn clock(theirs: Option<&str>, before: i64, after: i64) -> Finding {
    let Some(theirs) = theirs.and_then(parse_rfc3339_micros) else {
        return Finding::Unknown("nats-server's clock: the server does not say".to_owned());
    };
    let apart = if theirs < before {
        before - theirs
    } else {
        (theirs - after).max(0)
    };
    let text = format!(
        "nats-server's clock and ours are {} ms apart",
        apart / 1_000
    );
    if apart <= CLOCK_SKEW_MICROS {
        Finding::Fine(text)
    } else {
        Finding::Bad(text)
    }
}

async fn database() -> Vec<Finding> {
    let store = match store() {
        Ok(store) => store,
        Err(error) => return vec![Finding::Bad(format!("{error:#}"))],
    };
    if let Err(error) = store.ping().await {
        return vec![Finding::Bad(format!(
            "PostgreSQL: {:#}",
            anyhow::Error::from(error)
        ))];
    }
    let schema = match store.check_schema().await {
        Ok(()) => Finding::Fine("the schema is this version's".to_owned()),
        Err(error) => Finding::Bad(format!(
            "{:#}: run `webhooks migrate`",
            anyhow::Error::from(error)
        )),
    };
    let role = match store.role_may_too_much().await {
        Ok(too_much) => role(&too_much, Env::from_process().is_production()),
        Err(error) => Finding::Unknown(format!(
            "what the database's role may do: {:#}",
            anyhow::Error::from(error)
        )),
    };
    vec![Finding::Fine("PostgreSQL answers".to_owned()), schema, role]
}

/// Whether the role could change the audit log, with which management refuses to be production.
fn role(too_much: &[&str], production: bool) -> Finding {
    if too_much.is_empty() {
        return Finding::Fine(
            "the database's role can only read and add to the audit log".to_owned(),
        );
    }
    let text = format!(
        "the database's role {}: production wants one that `webhooks migrate --app-role` made",
        too_much.join(", ")
    );
    match production {
        true => Finding::Bad(text),
        false => Finding::Warning(text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use std::time::Duration;

    use super::{
        DoctorOptions, Env, Fill, Finding, MONITOR_URL, clock, monitor_url, role, sustainable,
        sync_interval,
    };

    const DAY: u64 = 24 * 3_600;

    #[test]
    fn the_monitoring_address_comes_from_the_call_and_else_from_the_environment() {
        let ask = |said: Option<&str>, set: &str| {
            let options = DoctorOptions {
                nats_monitor: said.map(str::to_owned),
            };
            monitor_url(&options, Env::from_vars([(MONITOR_URL, set)]))
        };
        let (here, there) = ("http://127.0.0.1:8222", "http://127.0.0.1:8223");
        assert_eq!(ask(None, here).unwrap().as_deref(), Some(here));
        assert_eq!(ask(Some(there), here).unwrap().as_deref(), Some(there));
        assert_eq!(ask(None, "").unwrap(), None);
        ask(None, "8222").unwrap_err();
    }

    #[test]
    fn only_always_is_fine() {
        assert!(matches!(
            sync_interval(&json!({"config": {"sync_interval": 1, "sync_always": true}})),
            Finding::Fine(_)
        ));
        let usual = sync_interval(&json!({"config": {"sync_interval": 120_000_000_000_u64}}));
        assert!(
            matches!(&usual, Finding::Warning(text) if text.contains("120s")),
            "{usual:?}"
        );
        assert!(matches!(sync_interval(&json!({})), Finding::Unknown(_)));
    }

    #[test]
    fn a_role_that_may_too_much_is_bad_in_production_and_named() {
        assert!(matches!(role(&[], true), Finding::Fine(_)));
        let owns = ["is a superuser", "owns the audit log"];
        for (production, bad) in [(true, true), (false, false)] {
            let found = role(&owns, production);
            assert_eq!(matches!(found, Finding::Bad(_)), bad, "{found:?}");
            let (Finding::Bad(text) | Finding::Warning(text)) = found else {
                panic!("{found:?}");
            };
            assert!(
                text.contains("is a superuser, owns the audit log"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_a_stream_carries_follows_from_its_size_and_from_what_is_in_it() {
        let week = Duration::from_secs(7 * DAY);
        let fill = |messages: u64, bytes: u64, oldest: u64| Fill {
            bytes,
            max_bytes: 8 << 30,
            messages,
            oldest: Duration::from_secs(oldest),
        };
        let empty = sustainable("EVENTS", fill(0, 0, 0), week);
        let expected = "EVENTS: 8.0 GiB for 7 days carry 4.4 events/s on average, at 3200 bytes each (assumed)";
        assert_eq!(empty, Finding::Fine(expected.to_owned()));
        // One a second of 1,000 bytes, for a day.
        let calm = sustainable("EVENTS", fill(DAY, DAY * 1_000, DAY), week);
        assert!(
            matches!(&calm, Finding::Fine(text) if text.contains("14.2 events/s") && text.ends_with("1000 bytes each")),
            "{calm:?}"
        );
        let busy = sustainable("EVENTS", fill(20 * DAY, 20 * DAY * 1_000, DAY), week);
        assert!(
            matches!(&busy, Finding::Warning(text) if text.contains("now it is 20.0: raise WEBHOOKS_EVENTS_MAX_BYTES to 24192000000")),
            "{busy:?}"
        );
    }

    #[test]
    fn clocks_are_compared_with_the_time_the_question_took() {
        let second = 1_000_000;
        let at = |seconds: i64| webhooks_domain::event::format_micros(seconds * second);
        assert!(matches!(
            clock(Some(&at(100)), 99 * second, 101 * second),
            Finding::Fine(_)
        ));
        assert!(matches!(
            clock(Some(&at(102)), 99 * second, 101 * second),
            Finding::Fine(_)
        ));
        assert!(matches!(
            clock(Some(&at(90)), 99 * second, 101 * second),
            Finding::Bad(_)
        ));
        assert!(matches!(
            clock(Some(&at(110)), 99 * second, 101 * second),
            Finding::Bad(_)
        ));
        assert!(matches!(clock(None, 0, 0), Finding::Unknown(_)));
    }
}
