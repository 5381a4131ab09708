//! What people are told by mail of a webhook's health, and the way to the mail server.
//!
//! It goes to the workspace's notification addresses, or where there are none to the webhook's creator, as
//! far as that address is known.
//!
//! A mail names the webhook and what happened; never a payload, a secret, an address behind the
//! endpoint, nor the endpoint's query. It is plain text: nothing in it can be markup.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor, message::Mailbox,
    message::header::ContentType,
};
use webhooks_bus::OpsEvent;
use webhooks_runtime::{Env, Secret};
use webhooks_store::{NewMail, WebhookRow};

/// Longest wait for a mail server.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Longest name of a webhook in a subject, in characters.
const NAME_IN_SUBJECT: usize = 60;

/// How mails go out.
#[derive(Debug, Clone)]
pub struct MailSettings {
    /// The mail server; none = mails wait for one, 30 days long.
    pub smtp_url: Option<Secret>,
    /// The sender.
    pub from: String,
    /// Where the dashboard is, for a link.
    pub dashboard_url: Option<String>,
}

impl MailSettings {
    /// Reads them; what cannot be used is a problem of the environment's.
    pub fn read(env: &mut Env) -> Self {
        let settings = Self {
            smtp_url: env.optional_secret(
                "WEBHOOKS_SMTP_URL",
                "mail server for notices to customers, `smtps://user:password@host` or `smtp://host:25`; without it none are sent",
            ),
            from: env.string(
                "WEBHOOKS_MAIL_FROM",
                "Linkbreakers Webhooks <webhooks@linkbreakers.invalid>",
                "sender of mails",
            ),
            dashboard_url: env.optional_url(
                "WEBHOOKS_DASHBOARD_URL",
                "where customers see their webhooks, named in mails",
            ),
        };
        if settings.from.parse::<Mailbox>().is_err() {
            env.problem("WEBHOOKS_MAIL_FROM", "is not `Name <name@host>`");
        }
        if let Some(url) = &settings.smtp_url
            && AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose()).is_err()
        {
            env.problem("WEBHOOKS_SMTP_URL", "is not the URL of a mail server");
        }
        settings
    }
}

/// Why a mail did not go out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MailError {
    /// It will not, whatever is tried.
    #[error("the mail server refuses it: {0}")]
    Refused(String),
    /// Not now.
    #[error("{0}")]
    Later(String),
}

/// Sends mails.
#[derive(Clone)]
pub(crate) struct Mailer {
    smtp: Option<AsyncSmtpTransport<Tokio1Executor>>,
    from: Mailbox,
}

impl Mailer {
    /// # Errors
    /// A setting cannot be used.
    pub(crate) fn new(settings: &MailSettings) -> anyhow::Result<Self> {
        let smtp = settings
            .smtp_url
            .as_ref()
            .map(|url| {
                let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose())?;
                anyhow::Ok(builder.timeout(Some(TIMEOUT)).build())
            })
            .transpose()?;
        Ok(Self {
            smtp,
            from: settings.from.parse()?,
        })
    }

    /// Whether there is a mail server at all.
    pub(crate) fn is_set_up(&self) -> bool {
        self.smtp.is_some()
    }

    /// Sends one mail.
    pub(crate) async fn send(&self, mail: &NewMail) -> Result<(), MailError> {
        let Some(smtp) = &self.smtp else {
            return Err(MailError::Later("no mail server is set up".to_owned()));
        };
        let refused = |error: String| MailError::Refused(error);
        let to = mail.recipient.parse::<Mailbox>();
        let message = Message::builder()
            .from(self.from.clone())
            .to(to.map_err(|error| refused(error.to_string()))?)
            .message_id(Some(format!("<{}>", mail.message_id)))
            .subject(&mail.subject)
            .header(ContentType::TEXT_PLAIN)
            .body(mail.body.clone())
            .map_err(|error| refused(error.to_string()))?;
        match smtp.send(message).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_permanent() => Err(MailError::Refused(error.to_string())),
            Err(error) => Err(MailError::Later(error.to_string())),
        }
    }
}

/// What the people of a workspace are told of an event; nothing for most kinds.
pub(crate) fn notices(
    event: &OpsEvent,
    webhook: &WebhookRow,
    addresses: &[String],
    dashboard: Option<&str>,
) -> Vec<NewMail> {
    let Some((subject, first)) = words(event, webhook) else {
        return Vec::new();
    };
    let mut body = format!(
        "{first}\n\nWebhook: {}\nId: {}\nEndpoint: {}\nFailures in a row: {}\nSince: {}\n",
        one_line(&webhook.name),
        webhook.id,
        without_query(&webhook.endpoint_url),
        event.run,
        event.at,
    );
    if let Some(last) = &event.last_failure {
        let status = last
            .status_code
            .map_or_else(String::new, |status| format!(", status {status}"));
        body.push_str(&format!("Last failure: {}{status}\n", last.outcome));
    }
    if let Some(dashboard) = dashboard {
        body.push_str(&format!("\nIts deliveries: {dashboard}\n"));
    }
    recipients(addresses, webhook.created_by_email.as_deref())
        .into_iter()
        .enumerate()
        .map(|(number, recipient)| NewMail {
            message_id: format!(
                "{}.{}.{number}@webhooks.linkbreakers",
                event.episode_id, event.kind
            ),
            recipient: recipient.to_owned(),
            subject: subject.clone(),
            body: body.clone(),
        })
        .collect()
}

/// Who is told: those whom the workspace names, else the webhook's creator, else nobody.
fn recipients<'a>(addresses: &'a [String], creator: Option<&'a str>) -> Vec<&'a str> {
    match addresses {
        [] => creator.into_iter().collect(),
        named => named.iter().map(String::as_str).collect(),
    }
}

/// A mail server's words for the log: they like to repeat whom a mail was for.
pub(crate) fn without_addresses(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for word in text.split_inclusive(char::is_whitespace) {
        if word.contains('@') {
            shown.push_str("[address]");
            shown.push_str(&word[word.trim_end().len()..]);
        } else {
            shown.push_str(word);
        }
    }
    shown
}

/// Subject and first sentence.
fn words(event: &OpsEvent, webhook: &WebhookRow) -> Option<(String, &'static str)> {
    let name: String = one_line(&webhook.name)
        .chars()
        .take(NAME_IN_SUBJECT)
        .collect();
    match (event.kind.as_str(), event.status_reason.as_deref()) {
        ("failing", _) => Some((
            format!("Webhook \"{name}\" is failing"),
            "Deliveries to your webhook have failed several times in a row. It is paused: its deliveries are held, and go out when the endpoint answers again. If it goes on failing, the webhook is disabled.",
        )),
        ("auto_disabled", Some("ENDPOINT_GONE")) => Some((
            format!("Webhook \"{name}\" was disabled"),
            "The endpoint of your webhook has answered 410 Gone, so the webhook was disabled. Its deliveries are held for seven days; enable the webhook again to receive events.",
        )),
        ("auto_disabled", _) => Some((
            format!("Webhook \"{name}\" was disabled"),
            "Deliveries to your webhook have failed too many times in a row, so the webhook was disabled. Its deliveries are held for seven days; enable the webhook again when the endpoint works.",
        )),
        _ => None,
    }
}

/// A name that cannot begin a new line or steer a terminal.
/// One line that reads as it was written: no control characters, nothing that turns the direction of what
/// follows, and no encoded word (`=?…?=`, RFC 2047), which a mail program would decode.
fn one_line(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let plain: String = text
        .chars()
        .map(|c| if c.is_control() || turns(c) { ' ' } else { c })
        .collect();
    plain.replace("=?", "= ?")
}

/// The endpoint without what may be a credential.
fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_creator_is_told_only_where_the_workspace_names_nobody() {
        let check = |addresses: &[&str], creator: Option<&str>, told: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|&one| one.to_owned()).collect();
            assert_eq!(recipients(&addresses, creator), told);
        };
        let creator = Some("creator@b.example");
        check(&[], creator, &["creator@b.example"]);
        check(&[], None, &[]);
        let named = ["one@b.example", "two@b.example"];
        check(&named, creator, &named);
        check(&named, None, &named);
    }

    #[test]
    fn a_name_is_one_plain_line_of_a_mail() {
        for (name, line) in [
            ("Orders", "Orders"),
            ("a\r\nBcc: x@y.example", "a  Bcc: x@y.example"),
            ("exe.\u{202e}gnp", "exe. gnp"),
            ("=?utf-8?q?x?=", "= ?utf-8?q?x?="),
            ("==?", "== ?"),
        ] {
            assert_eq!(one_line(name), line);
        }
    }

    #[test]
    fn the_log_gets_a_mail_servers_words_without_addresses() {
        for (said, logged) in [
            (
                "permanent error (550): <Member@b.example>: no such user",
                "permanent error (550): [address] no such user",
            ),
            ("try later, a@b.example\n", "try later, [address]\n"),
            ("network unreachable", "network unreachable"),
            ("", ""),
        ] {
            assert_eq!(without_addresses(said), logged);
        }
    }
}
