//! Looking on: what happens to a workspace's deliveries, as it is recorded.
//!
//! Reports arrive at whichever replica a dispatcher calls, and the one who looks on is connected to
//! one of them. So a replica that has recorded a report publishes it on the workspace's tail
//! subject, plain NATS and no stream, and every replica's clients hear all of it. Publishing costs
//! something, so it is done only for workspaces at which somebody looks: a client's replica says so
//! every [`SAY_EVERY`], and the others remember it for [`WANTED_FOR`].
//!
//! A tail lasts for as long as the token that opened it would open it: every [`ALLOWED_FOR`] the token
//! is looked up, and what is revoked, has expired, or lost the scope ends it. So does a look-up that
//! fails, for nobody can say then; a client that may go on opens another.
//!
//! Nobody is owed this: a client that is too slow misses reports and is told how many; a report that
//! was recorded within the first moments of a tail, or while NATS was away, is in history alone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use prost::Message as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_bus::{Bus, subjects};
use webhooks_domain::{clock::Clock, token::grants};
use webhooks_proto::internal::v1 as wire;
use webhooks_runtime::error_chain;
use webhooks_store::{AttemptRecord, DeliveryRow, ReportRecord, Store, TokenRow};

use super::Management;
use crate::{auth::Caller, error::ManagementError, model, refusal::Refusal, rest::READ};

/// Most clients that follow at once, in one process.
const MAX_CLIENTS: usize = 100;

/// Most of them that follow one workspace: one customer does not take the others' places.
const MAX_CLIENTS_OF_WORKSPACE: u32 = 10;

/// How often it is looked up whether a client still may, and how long that look-up may take. Both
/// together are the longest that a tail outlives its token.
const ALLOWED_FOR: Duration = Duration::from_secs(3);
const LOOK_UP_WITHIN: Duration = Duration::from_secs(2);

/// Reports that wait for one client; more are left out and counted.
const CLIENT_BUFFER: usize = 1_024;

/// Reports that wait to be published; more are left out.
const PUBLISH_BUFFER: usize = 4_096;

/// How often a client's replica says that somebody looks on.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// How long that is remembered.
const WANTED_FOR: Duration = Duration::from_secs(15);

/// Most workspaces that are remembered.
const MAX_WANTED: usize = 10_000;

/// Pause before a lost subscription is made anew.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The hub of a process. Clones share it.
#[derive(Clone)]
pub struct TailHub {
    shared: Arc<Shared>,
}

struct Shared {
    bus: Bus,
    wanted: Mutex<HashMap<Uuid, Instant>>,
    outgoing: mpsc::Sender<(Uuid, Bytes)>,
    queue: Mutex<Option<mpsc::Receiver<(Uuid, Bytes)>>>,
    clients: Arc<Semaphore>,
    of_workspace: Mutex<HashMap<Uuid, u32>>,
    closed: CancellationToken,
}

/// Something happened to a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tailed {
    /// When, in microseconds.
    pub at: i64,
    /// The delivery, as the report tells of it.
    pub delivery: DeliveryRow,
    /// The attempt behind it, without headers and body.
    pub attempt: Option<AttemptRecord>,
    /// How many reports were left out before this one.
    pub skipped: u64,
}

/// One client's tail. Ends when the service does, or the token that opened it.
pub struct Tail {
    reports: mpsc::Receiver<Tailed>,
    closed: CancellationToken,
    /// The token no longer opens it.
    lost: CancellationToken,
    ended: bool,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Tail {
    /// The next report, or once why there are no more; `None` = it has ended.
    pub async fn next(&mut self) -> Option<Result<Tailed, ManagementError>> {
        if self.ended {
            return None;
        }
        let next = tokio::select! {
            biased;
            // What waits for a client that is slow is no longer for it.
            () = self.lost.cancelled() => Some(Err(ManagementError::Unauthenticated)),
            () = self.closed.cancelled() => None,
            one = self.reports.recv() => one.map(Ok),
        };
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// A client's place: one of the process's, and one of its workspace's.
struct Place {
    hub: TailHub,
    workspace: Uuid,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.hub.of_workspace();
        if let Some(count) = taken.get_mut(&self.workspace) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.workspace);
            }
        }
    }
}

/// Who follows, and what tells whether he still may.
struct Follower {
    store: Store,
    clock: Arc<dyn Clock>,
    token_id: String,
    workspace: Uuid,
}

impl Follower {
    /// Whether the token still opens the tail.
    async fn may_follow(&self) -> bool {
        let found = self.store.token_by_id(&self.token_id);
        match tokio::time::timeout(LOOK_UP_WITHIN, found).await {
            Ok(Ok(row)) => {
                row.is_some_and(|row| opens(&row, self.workspace, self.clock.now_micros()))
            }
            Ok(Err(error)) => {
                tracing::info!(
                    error = error_chain(&error),
                    "a tail ends: its token cannot be looked up"
                );
                false
            }
            Err(_) => {
                tracing::info!("a tail ends: its token was not looked up in time");
                false
            }
        }
    }
}

/// Whether a token opens a workspace's tail.
fn opens(row: &TokenRow, workspace: Uuid, now: i64) -> bool {
    row.workspace_id == workspace
        && row.revoked_at.is_none()
        && row.expires_at.is_none_or(|at| at > now)
        && grants(&row.scopes, READ)
}

impl TailHub {
    pub(super) fn new(bus: Bus) -> Self {
        let (outgoing, queue) = mpsc::channel(PUBLISH_BUFFER);
        Self {
            shared: Arc::new(Shared {
                bus,
                wanted: Mutex::default(),
                outgoing,
                queue: Mutex::new(Some(queue)),
                clients: Arc::new(Semaphore::new(MAX_CLIENTS)),
                of_workspace: Mutex::default(),
                closed: CancellationToken::new(),
            }),
        }
    }

    /// Listens for who looks on, and publishes for them, until `stop`; then every tail ends.
    pub async fn run(&self, stop: CancellationToken) {
        let queue = {
            let mut queue = self
                .shared
                .queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            queue.take()
        };
        let Some(queue) = queue else { return };
        let work = async { tokio::join!(self.publish_all(queue), self.listen()) };
        stop.run_until_cancelled(work).await;
        self.shared.closed.cancel();
    }

    /// These reports are recorded.
    pub(crate) fn told(&self, records: &[ReportRecord]) {
        let wanted: Vec<Uuid> = {
            let wanted = self
                .shared
                .wanted
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if wanted.is_empty() {
                return;
            }
            let now = Instant::now();
            wanted
                .iter()
                .filter(|(_, until)| **until > now)
                .map(|(workspace, _)| *workspace)
                .collect()
        };
        for record in records {
            let workspace = record.delivery.workspace_id;
            if !wanted.contains(&workspace) {
                continue;
            }
            let message = model::report_message(record).encode_to_vec().into();
            if self.shared.outgoing.try_send((workspace, message)).is_err() {
                metrics::counter!("webhooks_tail_dropped_total").increment(1);
            }
        }
    }

    async fn publish_all(&self, mut queue: mpsc::Receiver<(Uuid, Bytes)>) {
        while let Some((workspace, message)) = queue.recv().await {
            let sent = self
                .shared
                .bus
                .client()
                .publish(subjects::tail(workspace), message)
                .await;
            if let Err(error) = sent {
                tracing::debug!(%error, "a report was not told to those who look on");
            }
        }
    }

    async fn listen(&self) {
        loop {
            match self
                .shared
                .bus
                .client()
                .subscribe(subjects::TAIL_WANTED)
                .await
            {
                Ok(mut said) => {
                    while let Some(message) = said.next().await {
                        let last = message.subject.rsplit('.').next();
                        if let Some(workspace) = last.and_then(|id| Uuid::try_parse(id).ok()) {
                            self.note(workspace);
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "tails are not listened for at the moment"),
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    fn note(&self, workspace: Uuid) {
        let now = Instant::now();
        let mut wanted = self
            .shared
            .wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if wanted.len() >= MAX_WANTED || !wanted.contains_key(&workspace) {
            wanted.retain(|_, until| *until > now);
        }
        if wanted.len() < MAX_WANTED {
            wanted.insert(workspace, now + WANTED_FOR);
        }
    }

    fn of_workspace(&self) -> MutexGuard<'_, HashMap<Uuid, u32>> {
        let taken = self.shared.of_workspace.lock();
        taken.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for one more client of a workspace.
    fn place(&self, workspace: Uuid) -> Result<Place, Refusal> {
        let permit = Arc::clone(&self.shared.clients).try_acquire_owned();
        let permit = permit.map_err(|_| Refusal::TooManyTails)?;
        let mut taken = self.of_workspace();
        let count = taken.entry(workspace).or_default();
        if *count >= MAX_CLIENTS_OF_WORKSPACE {
            return Err(Refusal::TooManyTailsOfWorkspace(MAX_CLIENTS_OF_WORKSPACE));
        }
        *count += 1;
        drop(taken);
        Ok(Place {
            hub: self.clone(),
            workspace,
            _permit: permit,
        })
    }

    /// Follows a workspace, or one webhook of it.
    async fn open(
        &self,
        follower: Follower,
        webhook: Option<Uuid>,
    ) -> Result<Tail, ManagementError> {
        let workspace = follower.workspace;
        let place = self.place(workspace)?;
        let reports = self
            .shared
            .bus
            .client()
            .subscribe(subjects::tail(workspace))
            .await
            .map_err(|error| ManagementError::Unavailable(Some(error.into())))?
            .filter_map(|message| std::future::ready(tailed(&message.payload)))
            .boxed();
        self.say(workspace).await;
        let (tell, told) = mpsc::channel(CLIENT_BUFFER);
        let lost = CancellationToken::new();
        let following = self
            .clone()
            .follow(workspace, webhook, reports, tell, place);
        let loses = lost.clone();
        let follow = async move {
            let ends = async {
                loop {
                    tokio::time::sleep(ALLOWED_FOR).await;
                    if !follower.may_follow().await {
                        // Before the reports end, so that whoever waits for one is told why.
                        loses.cancel();
                        return;
                    }
                }
            };
            tokio::select! {
                () = ends => {}
                () = following => {}
            }
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "ends with its client, whose handle aborts it"
        )]
        let task = tokio::spawn(follow);
        Ok(Tail {
            reports: told,
            closed: self.shared.closed.clone(),
            lost,
            ended: false,
            _task: tokio_util::task::AbortOnDropHandle::new(task),
        })
    }

    async fn follow(
        self,
        workspace: Uuid,
        webhook: Option<Uuid>,
        mut reports: BoxStream<'static, Tailed>,
        tell: mpsc::Sender<Tailed>,
        _place: Place,
    ) {
        let mut skipped = 0;
        let mut again = tokio::time::interval(SAY_EVERY);
        loop {
            tokio::select! {
                () = tell.closed() => return,
                _ = again.tick() => self.say(workspace).await,
                one = reports.next() => {
                    let Some(mut one) = one else { return };
                    if webhook.is_some_and(|webhook| webhook != one.delivery.webhook_id) {
                        continue;
                    }
                    one.skipped = skipped;
                    skipped = match tell.try_send(one) {
                        Ok(()) => 0,
                        Err(_) => skipped + 1,
                    };
                }
            }
        }
    }

    /// Says that somebody looks on.
    async fn say(&self, workspace: Uuid) {
        self.note(workspace);
        let client = self.shared.bus.client();
        if let Err(error) = client
            .publish(subjects::tail_wanted(workspace), Bytes::new())
            .await
        {
            tracing::debug!(%error, "it could not be said that somebody looks on");
        }
    }
}

impl Management {
    /// What happens to the deliveries of the caller's workspace from now on, or of one webhook,
    /// which has to exist.
    ///
    /// # Errors
    /// There is no such webhook, too many follow already, or NATS is away.
    pub async fn tail(
        &self,
        caller: &Caller,
        webhook: Option<Uuid>,
    ) -> Result<Tail, ManagementError> {
        if let Some(webhook) = webhook {
            self.get_webhook(caller, webhook).await?;
        }
        let follower = Follower {
            store: self.inner.store.clone(),
            clock: Arc::clone(&self.inner.clock),
            token_id: caller.token_id.clone(),
            workspace: caller.workspace,
        };
        self.inner.tail.open(follower, webhook).await
    }
}

/// Reads a report as it was published; what makes no sense is nobody's loss.
fn tailed(payload: &Bytes) -> Option<Tailed> {
    let report = wire::DeliveryReport::decode(payload.clone()).ok()?;
    let record = model::report_record(report).ok()?;
    let facts = record.delivery;
    let shown = record.attempt.as_ref();
    let failed = record.state != webhooks_domain::delivery::DeliveryState::Delivered;
    Some(Tailed {
        at: record.at,
        delivery: DeliveryRow {
            id: facts.delivery_id,
            workspace_id: facts.workspace_id,
            webhook_id: facts.webhook_id,
            event_id: facts.event_id,
            event_type: facts.event_type,
            link_id: facts.link_id,
            lbid: facts.lbid,
            trigger: facts.trigger,
            state: record.state,
            attempt_count: shown.map_or(0, |attempt| attempt.number),
            next_attempt_at: record.next_attempt_at,
            created_at: facts.created_at,
            completed_at: record.state.is_terminal().then_some(record.at),
            last_status_code: shown.and_then(|attempt| attempt.status_code),
            last_error_class: shown.and_then(|attempt| attempt.class).filter(|_| failed),
            last_error_reason: shown
                .map(|attempt| attempt.error.clone())
                .filter(|error| failed && !error.is_empty()),
            event_seq: facts.event_seq,
            replay_of: None,
            state_reason: Some(record.reason).filter(|reason| !reason.is_empty()),
            blocked_by: record.waits_for,
        },
        attempt: record.attempt.map(|attempt| AttemptRecord {
            response_headers: Vec::new(),
            response_body: Bytes::new(),
            response_body_truncated: false,
            remote_ip: String::new(),
            dispatcher: String::new(),
            ..attempt
        }),
        skipped: 0,
    })
}

#[cfg(test)]
mod tests {
    use webhooks_store::TokenKeyType;

    use super::*;

    #[test]
    fn a_token_opens_a_tail_for_as_long_as_it_would_open_it_anew() {
        let workspace = Uuid::from_u128(1);
        let row = TokenRow {
            id: "Ab3dEf6hIj9l".into(),
            hash: [0; 32],
            workspace_id: workspace,
            name: "test".into(),
            key_type: TokenKeyType::Secret,
            scopes: vec!["webhooks:read".into()],
            created_by: Uuid::from_u128(2),
            member_email: None,
            created_at: 0,
            updated_at: 0,
            expires_at: Some(100),
            last_used_at: None,
            revoked_at: None,
            revision: 1,
            events_per_second: None,
        };
        let check = |change: &dyn Fn(&mut TokenRow), now: i64, expected: bool| {
            let mut row = row.clone();
            change(&mut row);
            assert_eq!(opens(&row, workspace, now), expected, "{row:?}");
        };
        check(&|_| (), 99, true);
        check(&|_| (), 100, false);
        check(&|row| row.expires_at = None, i64::MAX, true);
        check(&|row| row.revoked_at = Some(1), 0, false);
        check(&|row| row.scopes = vec!["webhooks:write".into()], 0, true);
        check(&|row| row.scopes = vec!["events:write".into()], 0, false);
        check(&|row| row.scopes = Vec::new(), 0, true);
        check(&|row| row.workspace_id = Uuid::from_u128(9), 0, false);
    }
}
