//! A small HTTP/1.1 client on one keep-alive connection: plain HTTP, loopback, no redirects, no pool.
//!
//! A generator needs no more, and what it does not do costs the measured machine nothing.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

/// Longest answer that is read.
pub const ANSWER_MAX_BYTES: usize = 16 * 1024 * 1024;

/// How long a request may take altogether, unless told otherwise.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// A connection that is made when it is needed and made again after an error.
#[derive(Debug)]
pub struct HttpClient {
    authority: String,
    limit: Duration,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    sender: SendRequest<Full<Bytes>>,
    /// Drives the connection; ends with the client.
    _driver: JoinSet<()>,
}

impl HttpClient {
    /// A client for `http://host:port`; connects nothing yet.
    ///
    /// # Errors
    /// Not such a URL.
    pub fn new(base_url: &str) -> anyhow::Result<Self> {
        let rest = base_url
            .strip_prefix("http://")
            .with_context(|| format!("{base_url} is not an http:// URL"))?;
        let authority = rest.trim_end_matches('/');
        if authority.is_empty() || authority.contains('/') {
            bail!("{base_url} is more than http://host:port");
        }
        Ok(Self {
            authority: authority.to_owned(),
            limit: REQUEST_LIMIT,
            open: None,
        })
    }

    /// Changes how long a request may take.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// No connection, no valid answer, an answer beyond [`ANSWER_MAX_BYTES`], or none in time. Whether
    /// the other side has seen the request is then unknown.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        match tokio::time::timeout(self.limit, self.exchange(method, path, headers, body)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.open = None;
                Err(error)
            }
            Err(_) => {
                self.open = None;
                bail!("no answer within {:?}", self.limit)
            }
        }
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .body(Full::new(body))?;
        *request.headers_mut() = headers.clone();
        request
            .headers_mut()
            .insert(header::HOST, self.authority.parse()?);
        let open = match self.open.take() {
            Some(open) if !open.sender.is_closed() => open,
            _ => self.connect().await?,
        };
        let open = self.open.insert(open);
        open.sender.ready().await?;
        let (head, body) = open.sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_MAX_BYTES)
            .collect()
            .await
            .map_err(anyhow::Error::from_boxed)?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    async fn connect(&self) -> anyhow::Result<Open> {
        let stream = TcpStream::connect(&self.authority)
            .await
            .with_context(|| format!("cannot connect to {}", self.authority))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // The sender sees the same error.
            connection.await.ok();
        });
        Ok(Open {
            sender,
            _driver: driver,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::HttpClient;

    #[test]
    fn only_a_plain_origin_is_taken() {
        for bad in [
            "https://127.0.0.1:1",
            "http://",
            "http://127.0.0.1:1/path",
            "127.0.0.1:1",
        ] {
            assert!(HttpClient::new(bad).is_err(), "{bad}");
        }
        HttpClient::new("http://127.0.0.1:1/").unwrap();
    }
}
