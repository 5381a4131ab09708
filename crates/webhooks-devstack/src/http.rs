//! The smallest HTTP client that can ask a health endpoint; loopback and plain HTTP only.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// What is read of an answer; the rest is left.
pub const HTTP_BODY_MAX_BYTES: u64 = 4 * 1024 * 1024;

const LIMIT: Duration = Duration::from_secs(5);

/// The status and body of `GET http://host:port/path`.
///
/// # Errors
/// Not such a URL, nobody listens, no valid answer, or none within five seconds.
pub async fn http_get(url: &str) -> anyhow::Result<(u16, String)> {
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("{url} is not an http:// URL"))?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    match tokio::time::timeout(LIMIT, exchange(authority, path)).await {
        Ok(answer) => answer.with_context(|| format!("GET {url} failed")),
        Err(_) => bail!("GET {url} was not answered within {LIMIT:?}"),
    }
}

async fn exchange(authority: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(authority).await?;
    // HTTP/1.0: the answer ends with the connection and is never chunked.
    let request = format!("GET {path} HTTP/1.0\r\nhost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(HTTP_BODY_MAX_BYTES)
        .read_to_end(&mut answer)
        .await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no end of headers")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("the answer has no status")?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::http_get;

    #[tokio::test]
    async fn status_and_body_are_read() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            stream
                .write_all(b"HTTP/1.0 503 No\r\ncontent-length: 4\r\n\r\nbusy")
                .await
                .unwrap();
            String::from_utf8(request[..length].to_vec()).unwrap()
        };
        let url = format!("http://{address}/readyz?a=1");
        let (request, answer) = tokio::join!(server, http_get(&url));
        assert_eq!(answer.unwrap(), (503, "busy".to_owned()));
        assert!(request.starts_with("GET /readyz?a=1 HTTP/1.0\r\n"));
    }

    #[tokio::test]
    async fn other_urls_and_closed_ports_are_errors() {
        http_get("https://127.0.0.1/").await.unwrap_err();
        let port = crate::free_port().unwrap();
        http_get(&format!("http://127.0.0.1:{port}/"))
            .await
            .unwrap_err();
    }
}
