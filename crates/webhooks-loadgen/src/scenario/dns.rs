//! Our resolver is dead.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{net::UdpSocket, task::JoinSet, time::Instant};

use super::{
    Outcome, Scene,
    rig::{CALM, QUIET_LIMIT, Rig},
};
use crate::stack::StackOptions;

/// How long answers may be believed: the shortest that the resolver takes is 5 s.
const BELIEVED: Duration = Duration::from_secs(6);

/// A resolver for one domain, that can be told to swallow questions.
struct Resolver {
    address: SocketAddr,
    answers: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl Resolver {
    async fn start() -> anyhow::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let (answers, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let mut task = JoinSet::new();
        let (answering, asking) = (answers.clone(), asked.clone());
        task.spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                asking.fetch_add(1, Ordering::Relaxed);
                if !answering.load(Ordering::Relaxed) {
                    continue;
                }
                if let Some(answer) = answer(&buffer[..length]) {
                    // Whoever does not get it asks again.
                    socket.send_to(&answer, from).await.ok();
                }
            }
        });
        Ok(Self {
            address,
            answers,
            asked,
            _task: task,
        })
    }
}

/// The answer to a question: every name is at 127.0.0.1, and nothing else is known of it.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    const HEAD: usize = 12;
    const A: u16 = 1;
    let mut end = HEAD;
    loop {
        let length = usize::from(*question.get(end)?);
        end += 1 + length;
        if length == 0 {
            break;
        }
    }
    let kind = u16::from_be_bytes([*question.get(end)?, *question.get(end + 1)?]);
    let known = kind == A;
    let mut answer = question.get(..2)?.to_vec();
    // A response, recursion desired and available, no error; one question.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(known), 0, 0, 0, 0]);
    answer.extend(question.get(HEAD..end + 4)?);
    if known {
        // The question's name, A, IN, a second, four bytes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

pub(super) async fn run(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    let lasting = scene.options.lasting;
    let resolver = Resolver::start().await?;
    let servers = resolver.address.to_string();
    let named = |options: StackOptions| {
        options
            .setting("WEBHOOKS_EGRESS_DNS_SERVERS", &servers)
            .setting("WEBHOOKS_EGRESS_CONTROL_NAME", "control.scenario-hooks.com")
    };
    let mut rig = Rig::bare(scene, named).await?;
    let port = rig.receiver.addr.port();
    let mut hooks = Vec::new();
    for (number, links) in [vec![], vec![rig.links[0]]].iter().enumerate() {
        let path = format!("/ok/{number}");
        let url = format!("http://hook-{number}.scenario-hooks.com:{port}{path}");
        hooks.push(rig.hook_at(&path, url, links).await?);
    }
    rig.load()?;
    rig.go_on(CALM).await;
    let warm = rig.receiver.count();
    rig.expect("deliveries go out by name", warm > 0, warm);
    resolver.answers.store(false, Ordering::Relaxed);
    rig.note("the resolver swallows every question");
    let began = Instant::now();
    tokio::time::sleep(BELIEVED).await;
    let before = rig.receiver.count();
    tokio::time::sleep_until(began + lasting.max(BELIEVED * 2)).await;
    let meanwhile = rig.receiver.count() - before;
    let asked = resolver.asked.load(Ordering::Relaxed);
    rig.expect(
        "nothing goes out meanwhile",
        meanwhile == 0,
        format!("{meanwhile} requests, {asked} questions"),
    );
    resolver.answers.store(true, Ordering::Relaxed);
    let back = Instant::now();
    let count = rig.receiver.count();
    let first = webhooks_devstack::wait_until("a delivery", QUIET_LIMIT, async || {
        if rig.receiver.count() > count {
            Ok(())
        } else {
            Err(count)
        }
    })
    .await;
    rig.expect(
        "deliveries go out again",
        first.is_ok(),
        format!(
            "{:.1} s after the resolver answered",
            back.elapsed().as_secs_f64()
        ),
    );
    let query = "SELECT count(*) FROM webhooks WHERE status <> 'ACTIVE'";
    let others = rig.stack.sql(query).await?;
    rig.expect(
        "no webhook was paused or disabled",
        others.trim() == "0",
        others.trim(),
    );
    rig.nobody_died();
    let query = "SELECT count(*) FILTER (WHERE class = 'OURS'), count(*) FILTER (WHERE class IN ('TEMPORARY', 'PERMANENT')), coalesce(max(number), 0) FROM attempts";
    let classes = rig.stack.sql(query).await?;
    let classes = classes.trim().to_owned();
    let blamed = classes.split('|').nth(1).unwrap_or("?").to_owned();
    let highest = classes.split('|').nth(2).unwrap_or("?").to_owned();
    rig.expect(
        "no attempt is blamed on an endpoint",
        blamed == "0",
        format!("ours|theirs|highest number = {classes}"),
    );
    rig.expect("no attempt is consumed", highest == "1", highest);
    let mut outcome = rig.finish().await?;
    outcome.expect_no_repeats();
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn a_question_for_an_address_is_answered_and_no_other() {
        let question = |kind: u8| {
            let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            bytes.extend(b"\x01a\x03com\x00");
            bytes.extend([0, kind, 0, 1]);
            bytes
        };
        let found = answer(&question(1)).unwrap();
        assert_eq!(found[..2], [0xab, 0xcd]);
        assert_eq!(found[7], 1);
        assert!(found.ends_with(&[127, 0, 0, 1]));
        assert_eq!(answer(&question(28)).unwrap()[7], 0);
        assert!(answer(&[0; 5]).is_none());
    }
}
