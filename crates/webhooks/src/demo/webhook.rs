//! The demo webhook: made through the API like any customer's, found again by its name.

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use uuid::Uuid;
use webhooks_domain::signing::SigningKey;

use super::Stage;
use crate::http::Client;

const NAME: &str = "Demo receiver";

/// Where its signing secret is kept; the API shows it once.
const SECRET: &str = "demo_signing_secret";

/// Which webhook the kept secret belongs to.
const SECRET_OF: &str = "demo_webhook";

/// The webhook, with what is needed to check its signatures.
#[derive(Debug, Clone)]
pub(crate) struct DemoWebhook {
    pub(crate) id: Uuid,
    pub(crate) key: SigningKey,
}

/// How the search for it ended.
pub(crate) enum Found {
    Webhook(DemoWebhook),
    /// The address policy does not take the receiver's address.
    Refused(String),
}

/// Finds the webhook and puts it right, or makes it.
///
/// # Errors
/// The API does not answer, or refuses for another reason than the endpoint's address.
pub(crate) async fn ensure(api: &Client, stage: &Stage<'_>) -> anyhow::Result<Found> {
    let endpoint = format!("{}/demo", stage.endpoint.trim_end_matches('/'));
    let kept = (stage.secrets.get(SECRET_OF)?, stage.secrets.get(SECRET)?);
    for webhook in named(api).await? {
        let id = id_of(&webhook)?;
        match &kept {
            (Some(of), Some(secret)) if *of == id.to_string() => {
                if webhook["endpointUrl"] != endpoint.as_str()
                    || webhook["status"] != "WEBHOOK_STATUS_ACTIVE"
                {
                    let change =
                        json!({"endpointUrl": endpoint, "status": "WEBHOOK_STATUS_ACTIVE"});
                    let answer = api
                        .call("PATCH", &format!("/v1/webhooks/{id}"), Some(&change))
                        .await?;
                    if let Some(reason) = refusal(answer.status, &answer.body) {
                        return Ok(Found::Refused(reason));
                    }
                    answer
                        .json()
                        .context("the demo webhook could not be put right")?;
                }
                let key = SigningKey::parse(secret)
                    .context("the kept signing secret of the demo webhook")?;
                return Ok(Found::Webhook(DemoWebhook { id, key }));
            }
            // Its secret is lost, so its signatures could not be shown to be right.
            _ => {
                let gone = api
                    .call("DELETE", &format!("/v1/webhooks/{id}"), None)
                    .await?;
                gone.json()
                    .context("an older demo webhook could not be removed")?;
            }
        }
    }
    let wish = json!({"name": NAME, "endpointUrl": endpoint});
    let answer = api.call("POST", "/v1/webhooks", Some(&wish)).await?;
    if let Some(reason) = refusal(answer.status, &answer.body) {
        return Ok(Found::Refused(reason));
    }
    let made = answer
        .json()
        .context("the demo webhook could not be made")?["webhook"]
        .clone();
    let (id, secret) = (
        id_of(&made)?,
        made["secret"]
            .as_str()
            .context("the new webhook came without its secret")?,
    );
    stage.secrets.put(SECRET, secret)?;
    stage.secrets.put(SECRET_OF, &id.to_string())?;
    let key = SigningKey::parse(secret).context("the signing secret of the demo webhook")?;
    Ok(Found::Webhook(DemoWebhook { id, key }))
}

impl DemoWebhook {
    /// Lets the receiver verify what comes for this webhook.
    ///
    /// # Errors
    /// The receiver does not take it.
    pub(crate) async fn tell(&self, receiver: &Client) -> anyhow::Result<()> {
        let secret = json!({"secret": self.key.reveal(), "webhookId": self.id});
        receiver
            .call("POST", "/secrets", Some(&secret))
            .await?
            .json()
            .context("the receiver refused the signing secret")?;
        Ok(())
    }
}

/// How many webhooks the workspace has beside the demo's: what earlier runs have left.
///
/// # Errors
/// The API does not answer as it should.
pub(crate) async fn others(api: &Client) -> anyhow::Result<u64> {
    let answer = api.get("/v1/webhooks?pageSize=1").await?.json()?;
    let all = answer["totalCount"]
        .as_u64()
        .context("the list of webhooks has no total")?;
    Ok(all.saturating_sub(1))
}

/// Every webhook of that name. There is more than one only when somebody else made it.
async fn named(api: &Client) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    let mut page = String::new();
    loop {
        let answer = api
            .get(&format!("/v1/webhooks?pageSize=1000&pageToken={page}"))
            .await?
            .json()?;
        let webhooks = answer["webhooks"]
            .as_array()
            .context("the list of webhooks has no webhooks")?;
        found.extend(
            webhooks
                .iter()
                .filter(|webhook| webhook["name"] == NAME)
                .cloned(),
        );
        match answer["nextPageToken"].as_str() {
            Some(next) if !next.is_empty() => page = next.to_owned(),
            _ => return Ok(found),
        }
    }
}

fn id_of(webhook: &Value) -> anyhow::Result<Uuid> {
    match webhook["id"]
        .as_str()
        .and_then(|id| Uuid::try_parse(id).ok())
    {
        Some(id) => Ok(id),
        None => bail!("a webhook without an id: {webhook}"),
    }
}

/// The reason, if this is the answer to an endpoint that may not be called.
fn refusal(status: u16, body: &str) -> Option<String> {
    let answer: Value = serde_json::from_str(body).ok()?;
    let refused = status == 400 && answer["codeType"] == "INVALID_ENDPOINT_URL";
    let details = answer["details"].as_array().into_iter().flatten();
    let texts = std::iter::once(&answer)
        .chain(details)
        .filter_map(|part| part["message"].as_str());
    refused.then(|| texts.collect::<Vec<_>>().join(": "))
}

#[cfg(test)]
mod tests {
    use super::refusal;

    #[test]
    fn only_a_refused_address_is_a_refusal() {
        let body = r#"{"code":400,"codeType":"INVALID_ENDPOINT_URL","message":"not allowed","details":[{"message":"loopback"}]}"#;
        assert_eq!(refusal(400, body).as_deref(), Some("not allowed: loopback"));
        assert_eq!(
            refusal(
                400,
                r#"{"code":400,"codeType":"INVALID_ARGUMENT","message":"name","details":[]}"#
            ),
            None
        );
        assert_eq!(refusal(200, "{}"), None);
    }
}
