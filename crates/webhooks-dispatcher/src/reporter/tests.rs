use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// Answers each report by what its `at` says, and notes what becomes of it.
#[derive(Default)]
struct Scripted {
    calls: AtomicU32,
    taken: Mutex<Vec<i64>>,
    spooled: Mutex<Vec<i64>>,
    buried: Mutex<Vec<(i64, &'static str)>>,
}

const FINE: i64 = 1;
const INVALID: i64 = 2;
const EXHAUSTED: i64 = 3;
const PANICS: i64 = 4;

impl Destination for Scripted {
    fn call(&self, reports: Vec<DeliveryReport>) -> BoxFuture<'_, Result<(), Status>> {
        async move {
            self.calls.fetch_add(1, Ordering::Relaxed);
            let all: Vec<i64> = reports.iter().map(|report| report.at % 10).collect();
            assert!(!all.contains(&PANICS), "on purpose");
            if all.contains(&EXHAUSTED) {
                return Err(Status::resource_exhausted("h2 says so"));
            }
            if all.contains(&INVALID) {
                return Err(Status::invalid_argument("one of them"));
            }
            let taken = reports.iter().map(|report| report.at);
            self.taken.lock().unwrap().extend(taken);
            Ok(())
        }
        .boxed()
    }

    fn spool<'a>(&'a self, report: &'a DeliveryReport) -> BoxFuture<'a, Result<(), PublishError>> {
        self.spooled.lock().unwrap().push(report.at);
        async { Ok(()) }.boxed()
    }

    fn bury<'a>(
        &'a self,
        report: &'a DeliveryReport,
        reason: &'static str,
    ) -> BoxFuture<'a, Result<(), PublishError>> {
        self.buried.lock().unwrap().push((report.at, reason));
        async { Ok(()) }.boxed()
    }
}

fn report(at: i64) -> DeliveryReport {
    DeliveryReport {
        at,
        ..DeliveryReport::default()
    }
}

/// Records these, all of them waiting before the first batch is made.
async fn record_all(reports: &[i64]) -> Arc<Scripted> {
    let recorded = async move |queue: Queue<Scripted>| {
        let all = reports
            .iter()
            .map(|at| queue.record(Haste::None, report(*at)));
        join_all(all).await;
    };
    record_as(recorded).await
}

/// Records as it is told, and waits for the end of it.
async fn record_as(recorded: impl AsyncFnOnce(Queue<Scripted>)) -> Arc<Scripted> {
    let scripted = Arc::new(Scripted::default());
    let (queue, running) = Queue::new(scripted.clone());
    let both = async { tokio::join!(biased; recorded(queue), running) };
    tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .expect("every report is recorded");
    scripted
}

/// How long a report takes that comes so long after another one.
async fn second_after(pause: Duration, haste: Haste) -> (Duration, u32) {
    let mut took = Duration::ZERO;
    let seen = record_as(async |queue| {
        queue.record(Haste::None, report(FINE)).await;
        tokio::time::sleep(pause).await;
        let began = Instant::now();
        queue.record(haste, report(10 + FINE)).await;
        took = began.elapsed();
    })
    .await;
    (took, seen.calls.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn calls_keep_their_distance_unless_somebody_waits() {
    let soon = Duration::from_millis(10);
    // The clock of tokio's timers has steps of a millisecond.
    let step = Duration::from_millis(2);
    let (took, _) = second_after(soon, Haste::None).await;
    assert!(
        took >= APART - soon && took <= APART - soon + step,
        "{took:?}"
    );
    assert!(second_after(soon, Haste::Awaited).await.0 <= step);
    assert!(second_after(APART + step, Haste::None).await.0 <= step);
}

#[tokio::test(start_paused = true)]
async fn what_comes_before_the_next_call_goes_with_it_and_enough_of_it_goes_at_once() {
    let reports_after_the_first = async |count: usize| {
        let mut took = Duration::ZERO;
        let seen = record_as(async |queue| {
            queue.record(Haste::None, report(FINE)).await;
            let began = Instant::now();
            let more = (0..count).map(|_| queue.record(Haste::None, report(FINE)));
            join_all(more).await;
            took = began.elapsed();
        })
        .await;
        (seen.calls.load(Ordering::Relaxed), took)
    };
    let (calls, took) = reports_after_the_first(ENOUGH - 1).await;
    assert_eq!(calls, 2);
    assert!(took >= APART, "{took:?}");
    let (calls, took) = reports_after_the_first(ENOUGH).await;
    assert_eq!((calls, took), (2, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_panics_is_handed_on_again_and_only_the_bad_one_becomes_a_dead_letter() {
    let seen = record_all(&[10 + FINE, 20 + PANICS, 30 + FINE]).await;
    let mut taken = seen.taken.lock().unwrap().clone();
    taken.sort_unstable();
    assert_eq!(taken, [10 + FINE, 30 + FINE]);
    let buried = seen.buried.lock().unwrap().clone();
    assert_eq!(buried, [(20 + PANICS, "report_panicked")]);
    // Once with the others, then three times alone; the others once more each.
    assert_eq!(seen.calls.load(Ordering::Relaxed), 1 + panics::TRIES + 2);
}

#[tokio::test(start_paused = true)]
async fn an_exhausted_resource_says_nothing_about_a_report() {
    let seen = record_all(&[EXHAUSTED]).await;
    assert_eq!(*seen.spooled.lock().unwrap(), [EXHAUSTED]);
    assert!(seen.buried.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_invalid_report_does_not_take_its_batch_along() {
    let seen = record_all(&[10 + FINE, 20 + FINE, 30 + INVALID, 40 + FINE]).await;
    assert_eq!(
        *seen.taken.lock().unwrap(),
        [10 + FINE, 20 + FINE, 40 + FINE]
    );
    let buried = seen.buried.lock().unwrap().clone();
    assert_eq!(buried, [(30 + INVALID, "report_refused")]);
    assert!(seen.spooled.lock().unwrap().is_empty());
}

#[test]
fn a_buried_report_knows_its_way_back_and_is_not_taken_for_another() {
    let one = letter_of(&report(1), "report_refused", 7);
    let other = letter_of(&report(2), "report_refused", 7);
    assert_eq!(one.subject, "wh.rpt.0");
    assert_ne!(
        (&one.stream, one.stream_seq),
        (&other.stream, other.stream_seq),
        "the id of a letter is made of these"
    );
    assert_eq!(DeliveryReport::decode(one.payload).unwrap(), report(1));
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_waited_for_and_nobody_there_is_not() {
    let began = Instant::now();
    let answered = ask_patiently(async move |patience| {
        // Slower than the first question's patience, faster than the next one's.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        Ok::<_, Status>(patience)
    });
    assert_eq!(answered.await, Some(LOOKUPS[1]));
    assert_eq!(began.elapsed(), Duration::from_millis(2_500));

    let began = Instant::now();
    let away = ask_patiently(async |_| Err::<(), _>(Status::unavailable("nobody")));
    assert_eq!((away.await, began.elapsed()), (None, Duration::ZERO));

    let began = Instant::now();
    let never = ask_patiently(async |_| std::future::pending::<Result<(), Status>>().await);
    assert_eq!(
        (never.await, began.elapsed()),
        (None, Duration::from_secs(5))
    );
}
