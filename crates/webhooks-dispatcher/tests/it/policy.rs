//! What a webhook says of its own: retries, rate, requests at a time, headers.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use prost::Message as _;
use uuid::Uuid;
use webhooks_devstack::wait_until;
use webhooks_domain::{
    clock::Clock as _,
    sealing::{Binding, Keyring, Purpose, SEAL_RANDOM_BYTES},
    signing::{AsymmetricKey, verify_v1a},
};
use webhooks_proto::{
    internal::v1::{EndpointExtras, RateLimit, RetryPolicy, SealedSecret, Status},
    v1::{DeliveryState, Header},
};
use webhooks_runtime::SystemClock;

use crate::{
    scripted::{Answer, Scripted},
    support::{LIMIT, World, check, ensure_eq, keyring_text, numbers},
};

const MINUTE: i64 = 60_000_000;

#[test]
fn a_webhooks_own_policy_says_how_often_it_is_tried() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook_with(webhook, "/status/500", Status::Active, |config| {
                config.retry = Some(RetryPolicy {
                    max_attempts: 5,
                    base_ms: 1_000,
                    factor_milli: 1_000,
                    cap_ms: 1_000,
                    jitter_milli: 0,
                    max_age_ms: 0,
                });
            })
            .await?;
        let delivery = world.owe(webhook, "e1").await?;
        let reports = world.until_state(delivery, DeliveryState::Failed).await?;
        ensure_eq(numbers(&reports), vec![1, 2, 3, 4, 5])?;
        let mut times: Vec<i64> = world
            .receiver
            .requests()
            .iter()
            .map(|request| request.received_at)
            .collect();
        times.sort_unstable();
        for pair in times[1..].windows(2) {
            ensure!(pair[1] - pair[0] >= 990_000, "{times:?}");
        }
        world.until_settled().await
    });
}

#[test]
fn a_retry_that_would_come_too_late_is_not_made() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook_with(webhook, "/status/500", Status::Active, |config| {
                config.retry = Some(RetryPolicy {
                    max_attempts: 5,
                    base_ms: 30_000,
                    factor_milli: 1_000,
                    cap_ms: 30_000,
                    jitter_milli: 0,
                    max_age_ms: 60_000,
                });
            })
            .await?;
        // The second attempt (at once) is still young enough, the third is not.
        let delivery = world
            .owe_with(webhook, "e1", |reference| {
                reference.created_at = SystemClock.now_micros() - MINUTE * 3 / 4;
            })
            .await?;
        let reports = world.until_state(delivery, DeliveryState::Failed).await?;
        ensure_eq(numbers(&reports), vec![1, 2])?;
        world.until_settled().await
    });
}

#[test]
fn the_rate_holds_over_two_dispatchers_and_a_move() {
    check(async {
        const COUNT: usize = 80;
        const BURST: usize = 5;
        const PER_SECOND: u32 = 10;
        let world = World::start().await?;
        let first = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook_with(webhook, "/ok", Status::Active, |config| {
                config.rate = Some(RateLimit {
                    count: PER_SECOND,
                    period_seconds: 1,
                    burst: 5,
                });
            })
            .await?;
        for n in 0..COUNT {
            world.owe(webhook, &format!("e{n}")).await?;
        }
        world.until_count(15).await?;
        // The partitions move twice: half of them, then all.
        let second = world.dispatcher(&[]).await?;
        world.until_count(30).await?;
        first.stop().await?;
        wait_until("all of them", Duration::from_secs(40), async || {
            let seen = world.receiver.count();
            if seen >= 80 { Ok(()) } else { Err(seen) }
        })
        .await?;
        world.until_settled().await?;
        let mut times: Vec<i64> = world
            .receiver
            .requests()
            .iter()
            .map(|request| request.received_at)
            .collect();
        times.sort_unstable();
        ensure_eq(times.len(), COUNT)?;
        for (first, from) in times.iter().enumerate() {
            for (last, to) in times.iter().enumerate().skip(first) {
                // A request takes a moment from its start to here: half a second's worth.
                let span = usize::try_from((to - from) / 100_000)?;
                let most = BURST + span + 5;
                ensure!(last - first < most, "{} in {} us", last - first, to - from);
            }
        }
        // It is used, too: not much slower than allowed.
        let took = times[COUNT - 1] - times[0];
        ensure!(took < 25_000_000, "{took} us for {COUNT}");
        second.stop().await
    });
}

#[test]
fn requests_at_a_time_follow_the_webhook_live_and_stay_within_the_installations_limit() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world
            .dispatcher(&[("WEBHOOKS_ENDPOINT_IN_FLIGHT_MAX", "12")])
            .await?;
        let endpoint = Scripted::start(|_, _| Answer {
            status: 200,
            after: Duration::from_millis(100),
        })
        .await?;
        let webhook = Uuid::new_v4();
        let limited = async |max| {
            world
                .webhook_with(webhook, &endpoint.url(), Status::Active, |config| {
                    config.max_in_flight = max;
                })
                .await
        };
        limited(2).await?;
        for n in 0..400 {
            world.owe(webhook, &format!("e{n}")).await?;
        }
        let reaches = async |most: usize, seen: usize| {
            let until = endpoint.seen().len() + seen;
            let mut highest = 0;
            wait_until("so many at a time", LIMIT, async || {
                highest = highest.max(endpoint.most_open());
                let done = endpoint.seen().len();
                if highest >= most && done >= until {
                    Ok(())
                } else {
                    Err((highest, done))
                }
            })
            .await?;
            anyhow::Ok(highest)
        };
        ensure_eq(reaches(2, 20).await?, 2)?;
        limited(6).await?;
        ensure_eq(reaches(6, 40).await?, 6)?;
        // More than the installation allows.
        limited(60).await?;
        ensure_eq(reaches(12, 60).await?, 12)?;
        limited(1).await?;
        // What is on the wire ends first.
        wait_until("one at a time", LIMIT, async || {
            endpoint.most_open();
            match reaches(1, 5).await {
                Ok(1) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    });
}

#[test]
fn a_custom_header_arrives_and_none_of_ours_can_be_set() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        let header = |name: &str, value: &str| Header {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        // As no API would have saved them.
        let extras = EndpointExtras {
            headers: vec![
                header("Authorization", "Bearer hunter2"),
                header("webhook-id", "forged"),
                header("Webhook-Signature", "v1,forged"),
                header("X-Linkbreakers-Hop", "forged"),
                header("Content-Type", "text/plain"),
                header("User-Agent", "forged"),
                header("Host", "forged"),
                header("Content-Length", "1"),
                header("Transfer-Encoding", "chunked"),
                header("x-line", "a\r\nwebhook-attempt: 9"),
                header("X-Team", "blue"),
            ],
            query: vec![header("key", "s p&ce")],
            ..EndpointExtras::default()
        };
        let binding = Binding {
            workspace: world.workspace,
            webhook,
            version: 1,
        };
        let sealed = Keyring::parse(&keyring_text())?.seal_for(
            Purpose::Extras,
            binding,
            &extras.encode_to_vec(),
            [9; SEAL_RANDOM_BYTES],
        );
        world
            .webhook_with(webhook, "/ok?a=1", Status::Active, |config| {
                config.extras = Some(SealedSecret {
                    key_id: sealed.key_id,
                    version: 1,
                    nonce: sealed.nonce.to_vec().into(),
                    ciphertext: sealed.ciphertext.into(),
                    expires_at: 0,
                });
            })
            .await?;
        let delivery = world.owe(webhook, "e1").await?;
        world
            .until_state(delivery, DeliveryState::Delivered)
            .await?;
        let requests = world.receiver.requests();
        let request = requests.first().context("a request")?;
        ensure_eq(request.header("authorization"), Some("Bearer hunter2"))?;
        ensure_eq(request.header("x-team"), Some("blue"))?;
        ensure_eq(request.header("x-line"), None)?;
        ensure_eq(request.header("transfer-encoding"), None)?;
        ensure_eq(request.header("content-type"), Some("application/json"))?;
        ensure_eq(request.header("webhook-attempt"), Some("1"))?;
        ensure_eq(request.header("x-linkbreakers-hop"), Some("1"))?;
        ensure_eq(request.path.as_str(), "/ok?a=1&key=s+p%26ce")?;
        // Signed over our id: had one of ours been replaced, this would not hold.
        ensure_eq(request.verified, Some(true))?;
        for value in request.headers.values() {
            ensure!(!value.as_bytes().windows(6).any(|six| six == b"forged"));
        }
        Ok(())
    });
}

/// A sealed `v1a` key, and its public half.
fn pair(
    world: &World,
    webhook: Uuid,
    version: u32,
    expires_at: i64,
) -> anyhow::Result<(SealedSecret, String)> {
    let key = AsymmetricKey::from_seed([u8::try_from(version)?; 32]);
    let binding = Binding {
        workspace: world.workspace,
        webhook,
        version,
    };
    let sealed = Keyring::parse(&keyring_text())?.seal_for(
        Purpose::Ed25519,
        binding,
        &key.seed(),
        [7; SEAL_RANDOM_BYTES],
    );
    let secret = SealedSecret {
        key_id: sealed.key_id,
        version,
        nonce: sealed.nonce.to_vec().into(),
        ciphertext: sealed.ciphertext.into(),
        expires_at,
    };
    Ok((secret, key.public_key()))
}

#[test]
fn a_request_is_signed_by_each_public_key_whose_time_is_not_over_the_newest_first() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        let now = SystemClock.now_micros();
        let (new, new_public) = pair(&world, webhook, 4, 0)?;
        let (old, old_public) = pair(&world, webhook, 3, now + 60 * MINUTE)?;
        let (over, over_public) = pair(&world, webhook, 2, now)?;
        // The public keys that verify the one request which the event makes, by token.
        let verifying = async |event: &str| {
            world.receiver.clear();
            let delivery = world.owe(webhook, event).await?;
            world
                .until_state(delivery, DeliveryState::Delivered)
                .await?;
            let requests = world.receiver.requests();
            let request = requests.first().context("a request")?;
            ensure_eq(request.verified, Some(true))?;
            let header = |name| request.header(name).context("a header of ours");
            let (id, signature) = (header("webhook-id")?, header("webhook-signature")?);
            let seconds: i64 = header("webhook-timestamp")?.parse()?;
            let tokens = signature.split(' ').filter(|one| one.starts_with("v1a,"));
            let all = [&new_public, &old_public, &over_public];
            let verified = tokens.map(|token| {
                let mut keys = all.into_iter();
                keys.find(|key| verify_v1a(key, id, seconds, &request.body, token))
                    .cloned()
                    .context("a signature of nobody's")
            });
            verified.collect::<anyhow::Result<Vec<_>>>()
        };
        let during = vec![old, over];
        let newest = new.clone();
        world
            .webhook_with(webhook, "/ok", Status::Active, |config| {
                config.ed25519 = Some(newest);
                config.old_ed25519 = during;
            })
            .await?;
        ensure_eq(
            verifying("e1").await?,
            vec![new_public.clone(), old_public.clone()],
        )?;
        // The overlap is over, and nobody has taken the old key away yet.
        let (ended, _) = pair(&world, webhook, 3, SystemClock.now_micros())?;
        world
            .webhook_with(webhook, "/ok", Status::Active, |config| {
                config.ed25519 = Some(new);
                config.old_ed25519 = vec![ended];
            })
            .await?;
        wait_until("the new configuration", LIMIT, async || {
            let event = Uuid::new_v4().to_string();
            let found = verifying(&event).await;
            match found.map_err(|error| format!("{error:#}"))? {
                found if found == [new_public.as_str()] => Ok(()),
                found => Err(format!("{found:?}")),
            }
        })
        .await?;
        world.until_settled().await
    });
}
