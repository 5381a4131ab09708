//! Requests as bytes on a socket: heads and bodies that no client library sends.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use webhooks_domain::webhook::Plan;

use crate::support::World;

/// Most that is sent to somebody who does not say that it is enough.
const MOST: usize = 64 * 1024 * 1024;

/// The answer to a request whose body has no end.
struct Endless {
    status: u16,
    sent: usize,
}

fn status_of(answer: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(answer);
    let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    status.unwrap_or_else(|| panic!("no answer: {text:?}"))
}

/// Sends it whole, unless the server has seen enough of it, and reads to the end.
async fn answer_to(address: SocketAddr, request: &[u8]) -> u16 {
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    let sending = async {
        // Who closes early has answered.
        drop(write.write_all(request).await);
        write
    };
    let mut answer = Vec::new();
    let (_write, _) = tokio::join!(sending, read.read_to_end(&mut answer));
    status_of(&answer)
}

/// Sends chunk after chunk, and none that ends them, until there is an answer.
async fn endless_body(address: SocketAddr, head: &str) -> Endless {
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    write.write_all(head.as_bytes()).await.unwrap();
    let mut sent = 0;
    let sending = async {
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        while sent < MOST && write.write_all(chunk.as_bytes()).await.is_ok() {
            sent += chunk.len();
        }
        std::future::pending::<()>().await;
    };
    let mut answer = [0; 512];
    let length = tokio::select! {
        length = read.read(&mut answer) => length.unwrap(),
        () = sending => unreachable!("it waits for ever"),
    };
    Endless {
        status: status_of(&answer[..length]),
        sent,
    }
}

#[tokio::test]
async fn heads_and_bodies_beyond_their_limits_are_refused_however_they_are_sent() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let address = world.context.announcer.addresses()["api"];
    let head = |lines: &str| {
        format!(
            "POST /v1/webhooks HTTP/1.1\r\nhost: test\r\nconnection: close\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n{lines}\r\n",
            workspace.token
        )
    };
    let large = format!(
        "x-large: {}\r\ncontent-length: 2\r\n",
        "x".repeat(200 * 1024)
    );
    let many = format!("{}content-length: 2\r\n", "x-many: 1\r\n".repeat(10_000));
    for lines in [large, many] {
        let status = answer_to(address, format!("{}{{}}", head(&lines)).as_bytes()).await;
        assert!((400..500).contains(&status), "{status}");
    }
    // Told by its length alone.
    let long = head("content-length: 1073741824\r\n");
    assert_eq!(answer_to(address, long.as_bytes()).await, 413);
    // Told by nothing.
    let endless = endless_body(address, &head("transfer-encoding: chunked\r\n")).await;
    assert_eq!(endless.status, 413);
    // What the sockets hold, and the limit.
    assert!(endless.sent < MOST / 4, "{} bytes", endless.sent);
    // Told, and never sent: as long as a body may take.
    let missing = head("content-length: 2\r\n");
    assert_eq!(answer_to(address, missing.as_bytes()).await, 408);
    let well = world.get("/v1/webhooks", &workspace.token).await;
    assert_eq!(well.body["totalCount"], 0, "{well:?}");
}
