//! Waiting for a state instead of for a time.

use std::{fmt::Debug, time::Duration};

use anyhow::bail;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Asks `probe` until it says `Ok`, at most `limit`. `Err` means *not yet* and carries what was seen.
///
/// # Errors
/// The limit has passed; the message names what was waited for and what was seen last.
pub async fn wait_until<T, S: Debug>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, S>,
) -> anyhow::Result<T> {
    let mut last = None;
    let asking = async {
        let mut pause = FIRST_PAUSE;
        loop {
            match probe().await {
                Ok(value) => return value,
                Err(seen) => last = Some(seen),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    let result = tokio::time::timeout(limit, asking).await;
    match (result, last) {
        (Ok(value), _) => Ok(value),
        (Err(_), Some(seen)) => bail!("waited {limit:?} for {what}; last seen: {seen:?}"),
        (Err(_), None) => bail!("waited {limit:?} for {what}; nothing was seen"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, wait_until};

    #[tokio::test]
    async fn it_returns_what_was_waited_for() {
        let mut count = 0;
        let value = wait_until("three", Duration::from_secs(10), async || {
            count += 1;
            if count == 3 { Ok(count) } else { Err(count) }
        });
        assert_eq!(value.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn it_reports_the_last_value_seen() {
        let never = wait_until("the end", Duration::from_millis(30), async || {
            Err::<(), _>("a wall")
        });
        let error = never.await.unwrap_err().to_string();
        assert_eq!(error, "waited 30ms for the end; last seen: \"a wall\"");
    }

    #[tokio::test]
    async fn a_probe_that_hangs_is_cut_off() {
        let never = wait_until("an answer", Duration::from_millis(30), async || {
            std::future::pending::<Result<(), ()>>().await
        });
        assert_eq!(
            never.await.unwrap_err().to_string(),
            "waited 30ms for an answer; nothing was seen"
        );
    }
}
