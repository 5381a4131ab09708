//! Five hundred hostile receivers at once: memory stays flat, descriptors come back.
//!
//! The receivers play in this process; the attempts are made by a child of it, so that nobody else's
//! memory is in the figure. It is a program of its own, because it leaves no time for other tests.

#![expect(
    clippy::disallowed_methods,
    reason = "the servers of a test end with its runtime"
)]
#![expect(clippy::print_stdout, reason = "the child tells its figure that way")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use webhooks_domain::endpoint::{AddressPolicy, EndpointUrl, Outcome};
use webhooks_egress::{Egress, EgressConfig, OutboundRequest};

use self::kit::{CHUNKED, Hostile, Step, listen, send};

#[expect(
    dead_code,
    reason = "the receivers of the other tests; few are needed here"
)]
#[path = "it/hostile/kit.rs"]
mod kit;

/// How long a state may take to come about before the test fails.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("did not happen in time")
}

/// Waits for a state that comes about without anybody telling.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let check = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(10), check)
        .await
        .is_err()
    {
        panic!("still not: {what}");
    }
}

fn policy() -> AddressPolicy {
    AddressPolicy {
        allow_http: true,
        allow_cidrs: vec!["127.0.0.1/32".parse().expect("a range")],
        ..AddressPolicy::default()
    }
}

/// Set in the child: where the receiver is.
const CHILD: &str = "EGRESS_TEST_MEMORY";

/// What five hundred of them may cost, in MiB: some 64 KiB each. Without optimisation the state of an
/// attempt alone is several times as large.
const LIMIT_MIB: usize = if cfg!(debug_assertions) { 40 } else { 32 };

/// Attempts at once.
const MANY: usize = 500;

/// What a deadline is here: long enough for all five hundred to be under way together.
const DEADLINE: Duration = Duration::from_secs(3);

/// What this process holds in memory, in KiB, from the kernel's books.
fn resident_kib() -> usize {
    let books = std::fs::read_to_string("/proc/self/status").expect("the kernel's books");
    let line = books.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).expect("a number")
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("a folder")
        .count()
}

async fn child(address: SocketAddr, body: usize) {
    let egress = Egress::new(EgressConfig {
        policy: policy(),
        attempt_timeout: DEADLINE,
        ..EgressConfig::default()
    })
    .expect("a way out");
    let url = EndpointUrl::parse(&format!("http://{address}/hook"), &policy()).expect("a URL");
    let body = Bytes::from(vec![b'x'; body]);
    let attempt = || {
        let request = OutboundRequest {
            url: url.clone(),
            headers: HeaderMap::new(),
            body: body.clone(),
        };
        let egress = egress.clone();
        tokio::spawn(async move { egress.send(request).await })
    };
    // Whatever is allocated once is allocated now.
    let warm: Vec<_> = (0..20).map(|_| attempt()).collect();
    futures::future::join_all(warm).await;
    let (before, files) = (resident_kib(), open_files());
    let many: Vec<_> = (0..MANY).map(|_| attempt()).collect();
    let mut most = before;
    let watch = async {
        loop {
            most = most.max(resident_kib());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let all = within(async {
        tokio::select! {
            results = futures::future::join_all(many) => results,
            () = watch => Vec::new(),
        }
    })
    .await;
    for result in all {
        let result = result.expect("no panic");
        // Five hundred at once on a busy machine may be late; how late is another test's matter.
        assert!(result.timings.total < DEADLINE * 4);
        assert_ne!(result.outcome, Outcome::Internal, "{result:?}");
    }
    until("closed sockets", || open_files() <= files + 8).await;
    println!("grew by {} KiB", most.saturating_sub(before));
}

/// Lets a child make its attempts at a receiver; answers by how much its memory grew.
async fn growth_kib(what: &str, steps: Vec<Step>, body: usize) -> usize {
    let receiver = Hostile::start_with(listen([127, 0, 0, 1], 0), None, steps);
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child
        .args(["--exact", "--nocapture"])
        .arg("r_03_r_26_five_hundred_hostile_receivers_cost_little_memory")
        .env(CHILD, format!("{} {body}", receiver.address));
    let output = tokio::task::spawn_blocking(move || child.output());
    let output = output
        .await
        .expect("not cancelled")
        .expect("the child runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {text} {errors}");
    let grown = text.split_once("grew by ").and_then(|(_, rest)| {
        let number = rest.split_whitespace().next()?;
        number.parse().ok()
    });
    receiver.release();
    let grown = grown.unwrap_or_else(|| panic!("{what}: {text}"));
    println!("{what}: {grown} KiB more for {MANY} attempts");
    grown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_03_r_26_five_hundred_hostile_receivers_cost_little_memory() {
    if let Ok(told) = std::env::var(CHILD) {
        let (address, body) = told.split_once(' ').expect("an address and a length");
        let address = address.parse().expect("an address");
        return child(address, body.parse().expect("a length")).await;
    }
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024))
        .repeat(4)
        .into_bytes();
    let endless = "HTTP/1.1 200 OK\r\ncontent-length: 10000000000000\r\n\r\n";
    let drip = |text: &str| Step::Drip(text.into(), Duration::from_millis(50));
    let many_headers = Step::Flood(b"x: vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv\r\n".repeat(100));
    let one_header = Step::Flood(vec![b'v'; 4096]);
    let hint = format!(
        "HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n",
        "x".repeat(1000)
    );
    let hints = Step::Flood(hint.repeat(4).into_bytes());
    let ok = "HTTP/1.1 200 OK\r\nx: ";
    let request = Step::Request;
    const MIB: usize = 1024;
    let mut too_much = Vec::new();
    for (what, steps, body, limit_kib) in [
        (
            "endless chunks",
            vec![request.clone(), send(CHUNKED), Step::Flood(chunk)],
            0,
            LIMIT_MIB * MIB,
        ),
        (
            "an endless body",
            vec![
                request.clone(),
                send(endless),
                Step::Flood(vec![b'x'; 4096]),
            ],
            0,
            LIMIT_MIB * MIB,
        ),
        (
            "a dripping body",
            vec![request.clone(), send(endless), drip("x")],
            0,
            LIMIT_MIB * MIB,
        ),
        (
            "dripping headers",
            vec![request.clone(), send(ok), drip("x")],
            0,
            LIMIT_MIB * MIB,
        ),
        ("silence", vec![Step::Hold], 0, 48 * MIB),
        (
            "a flood of hints",
            vec![request.clone(), hints],
            0,
            LIMIT_MIB * MIB,
        ),
        (
            "endless headers",
            vec![request.clone(), send(ok), many_headers],
            0,
            LIMIT_MIB * MIB,
        ),
        (
            "an endless header",
            vec![request, send(ok), one_header],
            0,
            LIMIT_MIB * MIB,
        ),
        (
            "takes nothing",
            vec![Step::UntilReleased],
            256 * 1024,
            LIMIT_MIB * MIB,
        ),
    ] {
        let grown = growth_kib(what, steps, body).await;
        if grown >= limit_kib {
            too_much.push(format!("{what}: {grown} KiB"));
        }
    }
    assert_eq!(too_much, Vec::<String>::new());
}
