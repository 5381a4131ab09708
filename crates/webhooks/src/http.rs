//! The smallest HTTP client that can call our own API: plain HTTP, JSON, one request a connection.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// What is read of an answer; a longer one is an error.
const ANSWER_MAX_BYTES: u64 = 8 * 1024 * 1024;

const LIMIT: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// The body of a 200.
    ///
    /// # Errors
    /// Another status (the body is quoted), or no JSON.
    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        if self.status != 200 {
            bail!("answered {}: {}", self.status, self.body.trim());
        }
        serde_json::from_str(&self.body).context("the answer is not JSON")
    }
}

/// A service at `base`, with the token it wants.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    base: String,
    token: Option<String>,
}

impl Client {
    pub(crate) fn new(base: &str, token: Option<&str>) -> Self {
        Self {
            base: base.trim_end_matches('/').to_owned(),
            token: token.map(str::to_owned),
        }
    }

    /// `GET` of a path.
    ///
    /// # Errors
    /// Nobody answers properly within ten seconds. A status is not an error.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.call("GET", path, None).await
    }

    /// A call with an optional JSON body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let url = format!("{}{path}", self.base);
        let exchange = self.exchange(method, &url, body);
        match tokio::time::timeout(LIMIT, exchange).await {
            Ok(answer) => answer.with_context(|| format!("{method} {url} failed")),
            Err(_) => bail!("{method} {url} was not answered within {LIMIT:?}"),
        }
    }

    async fn exchange(
        &self,
        method: &str,
        url: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let rest = url
            .strip_prefix("http://")
            .context("not an http:// address")?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let mut stream = TcpStream::connect(authority).await?;
        // HTTP/1.0: the answer ends with the connection and is never chunked.
        let mut request = format!("{method} {path} HTTP/1.0\r\nhost: {authority}\r\n");
        if let Some(token) = &self.token {
            request.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        let body = body.map(Value::to_string);
        if let Some(body) = &body {
            request.push_str(&format!(
                "content-type: application/json\r\ncontent-length: {}\r\n",
                body.len()
            ));
        }
        request.push_str("\r\n");
        request.push_str(body.as_deref().unwrap_or_default());
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        let read = stream
            .take(ANSWER_MAX_BYTES + 1)
            .read_to_end(&mut answer)
            .await?;
        if u64::try_from(read)? > ANSWER_MAX_BYTES {
            bail!("the answer is longer than {ANSWER_MAX_BYTES} bytes");
        }
        parse(&answer)
    }
}

fn parse(answer: &[u8]) -> anyhow::Result<Answer> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no end of headers")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("the answer has no status")?;
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Answer, parse};

    #[test]
    fn answers_are_taken_apart() {
        let answer =
            parse(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"a\":1}").unwrap();
        assert_eq!(
            answer,
            Answer {
                status: 200,
                body: "{\"a\":1}".to_owned()
            }
        );
        assert_eq!(answer.json().unwrap(), json!({"a": 1}));
        assert!(parse(b"HTTP/1.0 200 OK\r\n").is_err());
        assert!(parse(b"hello\r\n\r\n").is_err());
    }

    #[test]
    fn another_status_quotes_what_was_said() {
        let answer = Answer {
            status: 400,
            body: "{\"message\":\"no\"}\n".to_owned(),
        };
        assert_eq!(
            answer.json().unwrap_err().to_string(),
            "answered 400: {\"message\":\"no\"}"
        );
    }
}
