//! The REST API, as a customer's program calls it.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, header};
use serde_json::{Value, json};
use uuid::Uuid;
use webhooks_domain::signing::SigningKey;

use crate::client::{Answer, HttpClient};

/// A caller with a workspace's token. One connection, one call at a time.
#[derive(Debug)]
pub struct Api {
    client: HttpClient,
    headers: HeaderMap,
}

/// A webhook to make.
#[derive(Debug, Clone, Default)]
pub struct NewWebhook {
    /// Its name.
    pub name: String,
    /// Where it sends to.
    pub endpoint_url: String,
    /// Its links; empty = the whole workspace.
    pub links: Vec<Uuid>,
    /// Kinds of steps; `None` = the default, empty = all.
    pub triggers: Option<Vec<String>>,
}

/// A webhook that was made.
#[derive(Debug, Clone)]
pub struct MadeWebhook {
    /// Its id.
    pub id: Uuid,
    /// What its requests are signed with.
    pub key: SigningKey,
}

impl Api {
    pub(super) fn new(url: &str, token: &str) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse()?);
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json"),
        );
        Ok(Self {
            client: HttpClient::new(url)?,
            headers,
        })
    }

    /// A call whose answer must be 200.
    ///
    /// # Errors
    /// No answer, or another one; its body is quoted.
    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let answer = self.ask(method.clone(), path, body).await?;
        if answer.status != 200 {
            bail!(
                "{method} {path} was answered {}: {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            );
        }
        serde_json::from_slice(&answer.body)
            .with_context(|| format!("the answer to {method} {path}"))
    }

    /// A call that may be answered with anything.
    ///
    /// # Errors
    /// No answer: whether it was done is unknown.
    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let answer = self.client.send(method.clone(), path, &self.headers, bytes);
        let answer = answer.await.with_context(|| format!("{method} {path}"))?;
        webhooks_devstack::note_answer(&answer.body);
        Ok(answer)
    }

    /// `GET` of a path.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// Makes a webhook.
    ///
    /// # Errors
    /// As [`call`](Self::call), or the answer is not what the contract says.
    pub async fn create_webhook(&mut self, new: &NewWebhook) -> anyhow::Result<MadeWebhook> {
        let body = new.body();
        let answer = self.call(Method::POST, "/v1/webhooks", Some(&body)).await?;
        MadeWebhook::read(&answer)
    }
}

impl NewWebhook {
    /// The body of the call that makes it.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut body =
            json!({ "name": self.name, "endpointUrl": self.endpoint_url, "linkIds": self.links });
        if let Some(triggers) = &self.triggers {
            body["triggers"] = json!(triggers);
        }
        body
    }
}

impl MadeWebhook {
    /// Reads the answer to its creation.
    ///
    /// # Errors
    /// It is not what the contract says.
    pub fn read(answer: &Value) -> anyhow::Result<Self> {
        let text = |name: &str| {
            answer["webhook"][name]
                .as_str()
                .with_context(|| format!("a webhook without {name}: {answer}"))
        };
        Ok(Self {
            id: text("id")?.parse()?,
            key: SigningKey::parse(text("secret")?)?,
        })
    }
}
