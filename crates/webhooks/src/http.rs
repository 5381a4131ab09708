//! How the operators' program calls our own services: JSON over plain HTTP, with the environment's
//! proxies left aside.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// What is read of an answer; a longer one is an error.
const ANSWER_MAX_BYTES: usize = 8 * 1024 * 1024;

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
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Client {
    /// # Errors
    /// The process cannot make a client at all.
    pub(crate) fn new(base: &str, token: Option<&str>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(LIMIT)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("cannot make an HTTP client")?;
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            token: token.map(str::to_owned),
        })
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
        let answer = self.exchange(method, &url, body).await;
        answer.with_context(|| format!("{method} {url} failed"))
    }

    async fn exchange(
        &self,
        method: &str,
        url: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let mut request = self.http.request(method.parse()?, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let mut response = request.send().await?;
        let status = response.status().as_u16();
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if answer.len() + chunk.len() > ANSWER_MAX_BYTES {
                bail!("the answer is longer than {ANSWER_MAX_BYTES} bytes");
            }
            answer.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status,
            body: String::from_utf8_lossy(&answer).into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Answer;

    #[test]
    fn the_body_of_a_200_is_json_or_an_error() {
        let answer = |body: &str| Answer {
            status: 200,
            body: body.to_owned(),
        };
        assert_eq!(answer("{\"a\":1}").json().unwrap(), json!({"a": 1}));
        assert!(answer("hello").json().is_err());
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
