//! Endpoints that have not shown yet whose they are: nothing but their challenge goes there, and the
//! challenge goes nowhere else.

use anyhow::{Context as _, ensure};
use prost::Message as _;
use uuid::Uuid;
use webhooks_bus::{Outgoing, subjects};
use webhooks_devstack::wait_until;
use webhooks_domain::{
    challenge::{Body, EVENT_TYPE, bound_to},
    clock::Clock as _,
    ids,
    sealing::{Binding, Keyring, Purpose, SEAL_RANDOM_BYTES},
};
use webhooks_proto::{
    internal::v1::{DeliveryJob, DeliveryRef, EndpointExtras, SealedSecret, Status, WebhookConfig},
    v1::{DeliveryState, Header, Trigger},
};
use webhooks_runtime::SystemClock;

use crate::support::{LIMIT, World, check, ensure_eq, go_on, keyring_text, numbers, stand_still};

/// As management tells it while an endpoint has not answered.
fn unverified(config: &mut WebhookConfig) {
    config.status_reason = "UNVERIFIED".to_owned();
}

impl World {
    /// Owes the challenge to `webhook`'s endpoint at `url`.
    async fn challenge(&self, webhook: Uuid, url: &str) -> anyhow::Result<Uuid> {
        let now = SystemClock.now_micros();
        let event = format!("challenge-{}", Uuid::new_v4());
        let delivery = ids::replay_delivery_id(self.workspace, &event, webhook, Uuid::nil(), now);
        let body = Body::new("00ff", url);
        let body = [&body.head, &body.endpoint, body.tail].concat();
        let raw = |id: Uuid| id.as_bytes().to_vec().into();
        let job = DeliveryJob {
            delivery: Some(DeliveryRef {
                delivery_id: raw(delivery),
                webhook_id: raw(webhook),
                workspace_id: raw(self.workspace),
                event_id: event,
                event_type: EVENT_TYPE.to_owned(),
                trigger: Trigger::Test.into(),
                created_at: now,
                ..DeliveryRef::default()
            }),
            attempt: 1,
            message_id: ids::message_id(self.workspace, &delivery.to_string(), webhook),
            endpoint: bound_to(body.as_bytes())
                .context("a challenge")?
                .to_vec()
                .into(),
            body: body.into(),
            ..DeliveryJob::default()
        };
        let partition = ids::partition_of(webhook, self.bus.settings().partitions);
        let subject = subjects::delivery(partition, webhook, delivery);
        let message = Outgoing::new(subject, &delivery.to_string(), job.encode_to_vec().into());
        self.bus.publish(message, LIMIT).await?;
        Ok(delivery)
    }

    /// Headers and a query key of the customer's own.
    fn extras(&self, webhook: Uuid) -> anyhow::Result<SealedSecret> {
        let pair = |name: &str| Header {
            name: name.to_owned(),
            value: "chosen".to_owned(),
        };
        let extras = EndpointExtras {
            headers: vec![pair("x-own"), pair("authorization")],
            query: vec![pair("key")],
            ..EndpointExtras::default()
        };
        let binding = Binding {
            workspace: self.workspace,
            webhook,
            version: 2,
        };
        let keyring = Keyring::parse(&keyring_text())?;
        let sealed = keyring.seal_for(
            Purpose::Extras,
            binding,
            &extras.encode_to_vec(),
            [2; SEAL_RANDOM_BYTES],
        );
        Ok(SealedSecret {
            key_id: sealed.key_id,
            version: 2,
            nonce: sealed.nonce.to_vec().into(),
            ciphertext: sealed.ciphertext.into(),
            expires_at: 0,
        })
    }
}

#[test]
fn an_unverified_endpoint_gets_its_challenge_bare_and_what_was_held_when_it_is_verified() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        let extras = world.extras(webhook)?;
        let own = extras.clone();
        world
            .webhook_with(webhook, "/ok?a=1", Status::Paused, |config| {
                unverified(config);
                config.extras = Some(own);
            })
            .await?;
        let mut held = world.owe_many(webhook, 3).await?;
        let test = |reference: &mut DeliveryRef| reference.trigger = Trigger::Test.into();
        held.push(world.owe_with(webhook, "a test", test).await?);
        for delivery in &held {
            world.until_state(*delivery, DeliveryState::Held).await?;
        }
        let url = world.receiver.url("/ok?a=1");
        let challenge = world.challenge(webhook, &url).await?;
        world
            .until_state(challenge, DeliveryState::Delivered)
            .await?;
        let [request] = world
            .receiver
            .requests()
            .try_into()
            .ok()
            .context("one request")?;
        ensure_eq(request.path.as_str(), "/ok?a=1")?;
        ensure_eq(request.verified, Some(true))?;
        for own in ["x-own", "authorization"] {
            ensure_eq(request.header(own), None)?;
        }
        ensure!(bound_to(&request.body).is_some(), "{:?}", request.body);

        world
            .webhook_with(webhook, "/ok?a=1", Status::Active, |config| {
                config.extras = Some(extras);
            })
            .await?;
        for delivery in held {
            world
                .until_state(delivery, DeliveryState::Delivered)
                .await?;
        }
        let requests = world.receiver.requests();
        ensure_eq(requests.len(), 5)?;
        let bare = requests.iter().filter(|one| one.header("x-own").is_none());
        ensure_eq(bare.count(), 1)?;
        let keyed = requests
            .iter()
            .filter(|one| one.path.contains("key=chosen"));
        ensure_eq(keyed.count(), 4)?;
        world.until_settled().await
    });
}

#[test]
fn a_challenge_that_fails_is_not_repeated() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook_with(webhook, "/status/503", Status::Paused, unverified)
            .await?;
        let url = world.receiver.url("/status/503");
        let challenge = world.challenge(webhook, &url).await?;
        let reports = world.until_state(challenge, DeliveryState::Failed).await?;
        ensure_eq(numbers(&reports), vec![1])?;
        world.until_settled().await?;
        ensure_eq(world.receiver.count(), 1)
    });
}

#[test]
fn a_challenge_to_another_endpoint_ends_without_a_request() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let (active, paused) = (Uuid::new_v4(), Uuid::new_v4());
        world.webhook(active, "/old", Status::Active).await?;
        world
            .webhook_with(paused, "/old", Status::Paused, unverified)
            .await?;
        for webhook in [active, paused] {
            let url = world.receiver.url("/new");
            let challenge = world.challenge(webhook, &url).await?;
            let reports = world
                .until_state(challenge, DeliveryState::Cancelled)
                .await?;
            let reason = reports.last().map(|last| last.reason.as_str());
            ensure_eq(reason, Some("endpoint_changed"))?;
        }
        world.until_settled().await?;
        ensure_eq(world.receiver.count(), 0)
    });
}

#[test]
fn a_dispatcher_that_slept_through_a_change_of_the_url_challenges_the_new_one() {
    check(async {
        let world = World::start().await?;
        let webhook = Uuid::new_v4();
        world.webhook(webhook, "/old", Status::Active).await?;
        let mut sleeper = world.process(&[])?;
        // It knows the old URL.
        let first = world.owe(webhook, "first").await?;
        world.until_state(first, DeliveryState::Delivered).await?;
        // Often: which of the two it hears of first, the change or what follows from it, is chance.
        for round in 0..8 {
            stand_still(&sleeper).await?;
            let path = format!("/new/{round}");
            let url = world.receiver.url(&path);
            let challenge = world.challenge(webhook, &url).await?;
            let event = world.owe(webhook, &path).await?;
            world
                .webhook_with(webhook, &path, Status::Paused, unverified)
                .await?;
            go_on(&sleeper).await?;
            let reports = wait_until("the challenge's end", LIMIT, async || {
                let reports = world.reports(challenge).await;
                let reports = reports.map_err(|error| error.to_string())?;
                match reports.last().map(|last| (last.state(), &last.reason)) {
                    Some((DeliveryState::Delivered, _)) => Ok(reports),
                    other => Err(format!("round {round}: {other:?}")),
                }
            })
            .await?;
            ensure_eq(numbers(&reports), vec![1])?;
            let (mut challenges, mut stray) = (Vec::new(), Vec::new());
            for request in world.receiver.requests() {
                match bound_to(&request.body) {
                    Some(_) => challenges.push(request.path.clone()),
                    None if request.path.starts_with("/new") => stray.push(request.path.clone()),
                    None => {}
                }
            }
            // One each, at its own URL: none at the old one, none twice.
            ensure_eq(challenges.len(), round + 1)?;
            let here = challenges.iter().filter(|one| **one == path);
            ensure_eq(here.count(), 1)?;
            // The event it may have sent to the old URL, whose verdict it knew, never to a new one.
            ensure_eq(stray, Vec::new())?;
            wait_until("the event to be sent or held", LIMIT, async || match world
                .first_state(event)
                .await
            {
                Ok(DeliveryState::Held | DeliveryState::Delivered) => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await?;
            world.webhook(webhook, "/old", Status::Active).await?;
            world.until_state(event, DeliveryState::Delivered).await?;
        }
        sleeper.kill().await?;
        Ok(())
    });
}
