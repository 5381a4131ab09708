//! Facts as lines and back.

use std::{fmt, str::FromStr};

use anyhow::{Context as _, bail};
use uuid::Uuid;

use super::{Published, Received};

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accepted = self.accepted.map_or("-".to_owned(), |at| at.to_string());
        let (outcome, detail) = (self.outcome.as_str(), clean(&self.detail));
        write!(
            f,
            "{}\t{}\t{}\t{}\t{}\t{outcome}\t{}\t{}\t{accepted}\t{detail}",
            self.event,
            self.workspace,
            self.link,
            clean(&self.kind),
            clean(&self.door),
            self.started,
            self.ended
        )
    }
}

impl FromStr for Published {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let [
            event,
            workspace,
            link,
            kind,
            door,
            outcome,
            started,
            ended,
            accepted,
            detail,
        ] = fields(line)?;
        Ok(Self {
            event: event.parse()?,
            workspace: workspace.parse()?,
            link: link.parse()?,
            kind: kind.to_owned(),
            door: door.to_owned(),
            outcome: outcome.parse()?,
            started: started.parse()?,
            ended: ended.parse()?,
            accepted: optional(accepted)?,
            detail: detail.to_owned(),
        })
    }
}

impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = |id: Option<Uuid>| id.map_or("-".to_owned(), |id| id.to_string());
        let verified = match self.verified {
            None => "-",
            Some(true) => "verified",
            Some(false) => "forged",
        };
        write!(
            f,
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{:016x}\t{}\t{verified}",
            self.at,
            self.monotonic,
            clean(&self.path),
            clean(&self.message_id),
            self.attempt,
            id(self.event),
            id(self.webhook),
            self.body_hash,
            self.status
        )
    }
}

impl FromStr for Received {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let [
            at,
            monotonic,
            path,
            message_id,
            attempt,
            event,
            webhook,
            body_hash,
            status,
            verified,
        ] = fields(line)?;
        Ok(Self {
            at: at.parse()?,
            monotonic: monotonic.parse()?,
            path: path.to_owned(),
            message_id: message_id.to_owned(),
            attempt: attempt.parse()?,
            event: optional(event)?,
            webhook: optional(webhook)?,
            body_hash: u64::from_str_radix(body_hash, 16)?,
            status: status.parse()?,
            verified: match verified {
                "-" => None,
                "verified" => Some(true),
                "forged" => Some(false),
                other => bail!("{other:?} is no verdict on a signature"),
            },
        })
    }
}

fn fields<const N: usize>(line: &str) -> anyhow::Result<[&str; N]> {
    let fields: Vec<&str> = line.split('\t').collect();
    let count = fields.len();
    <[&str; N]>::try_from(fields)
        .ok()
        .with_context(|| format!("{count} fields instead of {N}"))
}

fn optional<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    field: &str,
) -> anyhow::Result<Option<T>> {
    if field == "-" {
        Ok(None)
    } else {
        Ok(Some(field.parse()?))
    }
}

/// A field must not break its line.
fn clean(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}
