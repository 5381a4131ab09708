//! Pulling from a durable consumer through outages.

use std::time::Duration;

use async_nats::{
    Client, HeaderMap, Subject,
    jetstream::consumer::{PullConsumer, pull},
};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use tokio::time::Instant;

use crate::{
    bus::Bus,
    error::{BusError, unavailable},
};

/// How a pull asks.
#[derive(Debug, Clone, Copy)]
pub struct PullSettings {
    /// Most messages that a request asks for.
    pub batch: usize,
    /// Most bytes that a request asks for, more than the largest message; 0 = no limit. The client
    /// keeps up to one and a half times as much that nobody has taken yet.
    pub max_bytes: usize,
    /// Short, or a lost leader stalls the consumer for 30 s.
    pub heartbeat: Duration,
    /// How long a request stands.
    pub expires: Duration,
}

impl Default for PullSettings {
    fn default() -> Self {
        Self {
            batch: 256,
            max_bytes: 0,
            heartbeat: Duration::from_secs(1),
            expires: Duration::from_secs(5),
        }
    }
}

/// A message that was handed over.
#[derive(Debug)]
pub struct Pulled {
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: Option<HeaderMap>,
    /// Its bytes.
    pub payload: Bytes,
    /// Its sequence in the stream.
    pub stream_seq: u64,
    /// How often it was handed over; 1 = for the first time.
    pub delivered: u64,
    /// When it was stored: microseconds since the epoch.
    pub published_micros: i64,
    /// When it came here.
    pub pulled: Instant,
    client: Client,
    reply: Subject,
}

impl Pulled {
    /// What acknowledges it.
    #[must_use]
    pub fn acker(&self) -> Acker {
        Acker {
            client: self.client.clone(),
            reply: self.reply.clone(),
        }
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .as_ref()?
            .get(name)
            .map(async_nats::HeaderValue::as_str)
    }

    /// Every value of the headers that have this name in any case: publishers copy some from HTTP, where
    /// case does not matter.
    pub fn header_in_any_case<'p>(&'p self, name: &'p str) -> impl Iterator<Item = &'p str> {
        self.headers
            .iter()
            .flat_map(|headers| headers.iter())
            .filter(move |(found, _)| AsRef::<str>::as_ref(*found).eq_ignore_ascii_case(name))
            .flat_map(|(_, values)| values)
            .map(async_nats::HeaderValue::as_str)
    }
}

/// Acknowledges one message. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Acker {
    client: Client,
    reply: Subject,
}

impl Acker {
    /// Done. Buffered: a crash may lose it, and then the message comes again.
    ///
    /// # Errors
    /// When the client has stopped.
    pub async fn ack(&self) -> Result<(), BusError> {
        self.send("+ACK").await
    }

    /// Done, and waits until the server knows.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn ack_sure(&self) -> Result<(), BusError> {
        self.client
            .request(self.reply.clone(), "+ACK".into())
            .await
            .map_err(unavailable)
            .map(|_| ())
    }

    /// Hand it over again, after `delay` or at once.
    ///
    /// # Errors
    /// When the client has stopped.
    pub async fn nak(&self, delay: Option<Duration>) -> Result<(), BusError> {
        match delay {
            None => self.send("-NAK").await,
            Some(delay) => {
                let text = format!("-NAK {{\"delay\":{}}}", delay.as_nanos());
                self.client
                    .publish(self.reply.clone(), text.into())
                    .await
                    .map_err(unavailable)
            }
        }
    }

    /// Still at it: the time to acknowledge starts anew.
    ///
    /// # Errors
    /// When the client has stopped.
    pub async fn progress(&self) -> Result<(), BusError> {
        self.send("+WPI").await
    }

    async fn send(&self, word: &'static str) -> Result<(), BusError> {
        self.client
            .publish(self.reply.clone(), Bytes::from_static(word.as_bytes()))
            .await
            .map_err(unavailable)
    }
}

/// A pull loop that re-opens itself on every error.
pub struct Pull {
    bus: Bus,
    stream: String,
    consumer: String,
    settings: PullSettings,
    /// Makes the consumer, if it is not there.
    make: Option<pull::Config>,
    open: Option<pull::Stream>,
    /// Kept when `next` is dropped, so that a busy caller does not begin again each time.
    opening: Option<BoxFuture<'static, Result<pull::Stream, BusError>>>,
    /// Whether the silent consumer has gone.
    looking: Option<BoxFuture<'static, bool>>,
    retry_at: Option<Instant>,
}

/// Pause before a failed pull is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

impl Bus {
    /// A pull loop on a durable consumer that exists.
    #[must_use]
    pub fn pull(&self, stream: &str, consumer: &str, settings: PullSettings) -> Pull {
        Pull {
            bus: self.clone(),
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
            settings,
            make: None,
            open: None,
            opening: None,
            looking: None,
            retry_at: None,
        }
    }

    /// A pull loop on a durable consumer that is made when it is not there, and made again when it
    /// has gone. One that is kept in memory goes with its server. The client's own stream then asks for
    /// it for 15 s before it gives up, and nothing comes meanwhile; so after two heartbeats without a
    /// word this loop asks itself.
    #[must_use]
    pub fn pull_making(&self, stream: &str, config: pull::Config, settings: PullSettings) -> Pull {
        let consumer = config.durable_name.clone().unwrap_or_default();
        Pull {
            make: Some(config),
            ..self.pull(stream, &consumer, settings)
        }
    }
}

impl Pull {
    /// The next message. Waits through outages, never ends; cancel-safe.
    pub async fn next(&mut self) -> Pulled {
        loop {
            if let Some(at) = self.retry_at {
                tokio::time::sleep_until(at).await;
                self.retry_at = None;
            }
            if self.open.is_none() {
                let opening = self.opening.get_or_insert_with(|| {
                    let (stream, consumer) = (self.stream.clone(), self.consumer.clone());
                    open(
                        self.bus.clone(),
                        stream,
                        consumer,
                        self.make.clone(),
                        self.settings,
                    )
                    .boxed()
                });
                let opened = opening.await;
                self.opening = None;
                match opened {
                    Ok(stream) => {
                        self.open = Some(stream);
                        // What was asked about the one before says nothing about this one.
                        self.looking = None;
                    }
                    Err(error) => {
                        tracing::debug!(stream = self.stream, consumer = self.consumer, %error, "pull not open yet");
                        self.retry_at = Some(Instant::now() + REOPEN_PAUSE);
                        continue;
                    }
                }
            }
            let Some(stream) = self.open.as_mut() else {
                continue;
            };
            let item = match self.looking.as_mut() {
                None => stream.next().await,
                Some(looking) => tokio::select! {
                    biased;
                    item = stream.next() => item,
                    gone = looking => {
                        self.looking = None;
                        if gone {
                            self.open = None;
                        }
                        continue;
                    }
                },
            };
            if let Some(pulled) = self.accept(item) {
                return pulled;
            }
        }
    }

    /// Asks whether the consumer has gone, if it is ours to make again.
    fn look(&mut self) {
        if self.make.is_none() || self.looking.is_some() || !self.bus.is_connected() {
            return;
        }
        let (bus, stream, consumer) =
            (self.bus.clone(), self.stream.clone(), self.consumer.clone());
        self.looking = Some(
            async move {
                match bus.consumer_config(&stream, &consumer).await {
                    Ok(there) => there.is_none(),
                    Err(error) => {
                        tracing::debug!(stream, consumer, %error, "a silent consumer was not looked at");
                        false
                    }
                }
            }
            .boxed(),
        );
    }

    /// At least one message, then what is ready at once, `max` in all. Cancel-safe.
    pub async fn next_batch(&mut self, max: usize) -> Vec<Pulled> {
        let mut batch = vec![self.next().await];
        while batch.len() < max {
            match self
                .open
                .as_mut()
                .and_then(|stream| stream.next().now_or_never())
            {
                Some(item) => match self.accept(item) {
                    Some(pulled) => batch.push(pulled),
                    None => break,
                },
                None => break,
            }
        }
        batch
    }

    /// Turns what the stream gave into a message; on trouble the stream is dropped and opened again.
    fn accept(
        &mut self,
        item: Option<Result<async_nats::jetstream::Message, pull::MessagesError>>,
    ) -> Option<Pulled> {
        let message = match item {
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                // A missed heartbeat is normal while a leader changes; the stream asks again itself.
                tracing::debug!(stream = self.stream, consumer = self.consumer, %error, "pull interrupted");
                if error.kind() == pull::MessagesErrorKind::MissingHeartbeat {
                    self.look();
                } else {
                    self.open = None;
                    self.retry_at = Some(Instant::now() + REOPEN_PAUSE);
                }
                return None;
            }
            None => {
                self.open = None;
                self.retry_at = Some(Instant::now() + REOPEN_PAUSE);
                return None;
            }
        };
        let (stream_seq, delivered, published_micros) = match message.info() {
            Ok(info) => (
                info.stream_sequence,
                u64::try_from(info.delivered).unwrap_or(1),
                crate::micros(info.published),
            ),
            Err(error) => {
                tracing::error!(stream = self.stream, %error, "a message without delivery facts");
                return None;
            }
        };
        let message = message.message;
        // A pulled message always has one; without it, it could not be acknowledged.
        let reply = message.reply?;
        Some(Pulled {
            subject: message.subject.to_string(),
            headers: message.headers,
            payload: message.payload,
            stream_seq,
            delivered,
            published_micros,
            pulled: Instant::now(),
            client: self.bus.client().clone(),
            reply,
        })
    }
}

async fn open(
    bus: Bus,
    stream: String,
    consumer: String,
    make: Option<pull::Config>,
    settings: PullSettings,
) -> Result<pull::Stream, BusError> {
    let consumer: PullConsumer = match make {
        // Idempotent: the same configuration finds the one that is there.
        Some(config) => bus
            .jetstream()
            .create_consumer_on_stream(config, &stream)
            .await
            .map_err(unavailable)?,
        None => bus
            .jetstream()
            .get_consumer_from_stream(&consumer, &stream)
            .await
            .map_err(unavailable)?,
    };
    consumer
        .stream()
        .max_messages_per_batch(settings.batch)
        .max_bytes_per_batch(settings.max_bytes)
        .heartbeat(settings.heartbeat)
        .expires(settings.expires)
        .messages()
        .await
        .map_err(unavailable)
}
