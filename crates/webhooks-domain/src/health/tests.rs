use super::*;
use crate::{endpoint::outcome::Outcome, webhook::WebhookStatus};
use proptest::prelude::*;

const POLICY: HealthPolicy = HealthPolicy::STANDARD;

fn ended(delivery: u128, verdict: Verdict, at_micros: i64) -> Ended {
    Ended {
        epoch: 1,
        delivery: Uuid::from_u128(delivery),
        attempt: 3,
        probe: false,
        verdict,
        at_micros,
        outcome: Outcome::HttpError,
        status_code: Some(500),
        reason: "http_500".to_owned(),
    }
}

fn probe(delivery: u128, verdict: Verdict, at_micros: i64) -> Ended {
    Ended {
        probe: true,
        ..ended(delivery, verdict, at_micros)
    }
}

fn after_failures(count: u128) -> Health {
    let mut health = Health::new(1, 0);
    for n in 0..count {
        health.ended(
            &ended(n, Verdict::Failed, i64::try_from(n).unwrap()),
            &POLICY,
        );
    }
    health
}

fn kinds(health: &Health) -> Vec<NoticeKind> {
    health
        .unannounced
        .iter()
        .map(|notice| notice.kind)
        .collect()
}

#[test]
fn five_failures_in_a_row_pause_and_a_success_between_begins_anew() {
    assert_eq!(after_failures(4).status, HealthStatus::Active);
    let paused = after_failures(5);
    assert_eq!(paused.status, HealthStatus::Paused);
    assert_eq!(kinds(&paused), [NoticeKind::Failing, NoticeKind::Paused]);
    assert!(!paused.probe_due(30_000_003));
    assert!(paused.probe_due(30_000_004));

    let mut health = after_failures(4);
    assert_eq!(
        health.ended(&ended(9, Verdict::Delivered, 9), &POLICY),
        Change::Kept
    );
    assert_eq!(
        health.ended(&ended(10, Verdict::Failed, 10), &POLICY),
        Change::Kept
    );
    assert_eq!((health.run, health.status), (1, HealthStatus::Active));
}

#[test]
fn each_failed_probe_doubles_the_pause_and_the_fifth_disables_once() {
    let mut health = after_failures(5);
    let mut pauses = vec![health.probing.unwrap().pause.as_secs()];
    let mut now = 0;
    for n in 100..104 {
        now = health.probing.unwrap().next_at_micros;
        health.ended(&probe(n, Verdict::Retried, now), &POLICY);
        pauses.push(health.probing.unwrap().pause.as_secs());
    }
    assert_eq!(pauses, [30, 60, 120, 240, 480]);
    assert_eq!(
        health.ended(&probe(104, Verdict::Retried, now), &POLICY),
        Change::Status
    );
    assert_eq!(
        health.status,
        HealthStatus::AutoDisabled(StatusReason::ConsecutiveFailures)
    );
    assert_eq!(health.run, 10);
    assert!(!health.probe_due(i64::MAX));
    assert_eq!(
        health.ended(&ended(200, Verdict::Failed, now), &POLICY),
        Change::None
    );
    assert_eq!(
        health.ended(&ended(201, Verdict::Delivered, now), &POLICY),
        Change::None
    );
    assert_eq!(
        kinds(&health),
        [
            NoticeKind::Failing,
            NoticeKind::Paused,
            NoticeKind::AutoDisabled
        ]
    );
}

#[test]
fn a_probe_that_failed_through_our_fault_waits_the_same_pause_again() {
    let mut health = after_failures(5);
    health.ended(&probe(7, Verdict::Ours, 50_000_000), &POLICY);
    assert_eq!(health.run, 5);
    let probing = health.probing.unwrap();
    assert_eq!(probing.pause, POLICY.probe_pause);
    assert_eq!(probing.next_at_micros, 80_000_000);
}

#[test]
fn a_success_closes_the_breaker_and_the_load_doubles_a_second_at_a_time() {
    let mut health = after_failures(5);
    assert_eq!(
        health.ended(&probe(7, Verdict::Delivered, 40_000_000), &POLICY),
        Change::Status
    );
    assert_eq!(health.ramp_limit(), Some(1));
    let mut limits = Vec::new();
    for tenth in 1..=40 {
        let at = 40_000_000 + tenth * 100_000;
        health.ended(&ended(8, Verdict::Delivered, at), &POLICY);
        limits.push(health.ramp_limit().unwrap());
    }
    limits.dedup();
    assert_eq!(limits, [1, 2, 4, 8, 16]);
    for second in 5..20 {
        health.ended(
            &ended(8, Verdict::Delivered, 40_000_000 + second * 1_000_000),
            &POLICY,
        );
    }
    assert_eq!(health.ramp_limit(), None);
    assert_eq!(
        kinds(&health),
        [NoticeKind::Failing, NoticeKind::Paused, NoticeKind::Resumed]
    );
}

#[test]
fn a_410_disables_at_once() {
    let mut health = Health::new(1, 0);
    health.ended(&ended(1, Verdict::Gone, 5), &POLICY);
    assert_eq!(
        health.status.words(),
        (
            WebhookStatus::AutoDisabled,
            Some(StatusReason::EndpointGone)
        )
    );
    assert_eq!(kinds(&health), [NoticeKind::AutoDisabled]);
}

#[test]
fn only_a_new_epoch_brings_a_disabled_webhook_back_and_old_outcomes_mean_nothing() {
    let mut health = after_failures(10);
    assert_eq!(health.begin_epoch(1, 50), Change::None);
    assert_eq!(health.begin_epoch(2, 50), Change::Status);
    assert_eq!((health.status, health.run), (HealthStatus::Active, 0));
    for n in 20..40 {
        assert_eq!(
            health.ended(&ended(n, Verdict::Failed, 60), &POLICY),
            Change::None
        );
    }
    let newer = Ended {
        epoch: 3,
        ..ended(50, Verdict::Failed, 70)
    };
    assert_eq!(health.ended(&newer, &POLICY), Change::Kept);
    assert_eq!((health.epoch, health.run), (3, 1));
}

#[test]
fn an_owner_that_takes_over_after_a_recovery_starts_carefully_for_a_minute() {
    let mut health = after_failures(5);
    health.ended(&probe(7, Verdict::Delivered, 1_000_000), &POLICY);
    assert_eq!(health.clone().taken_over(2_000_000).ramp_limit(), Some(1));
    assert_eq!(health.taken_over(100_000_000).ramp_limit(), None);
}

#[test]
fn a_persons_choice_stands_above_what_deliveries_say() {
    use HealthStatus as H;
    use StatusReason as R;
    use WebhookStatus as S;
    let gone = H::AutoDisabled(R::EndpointGone);
    let table = [
        (S::Active, None, None, (S::Active, None)),
        (
            S::Active,
            None,
            Some((4, H::Paused)),
            (S::Paused, Some(R::DeliveryFailures)),
        ),
        (S::Active, None, Some((3, H::Paused)), (S::Active, None)),
        (S::Active, None, Some((5, H::Paused)), (S::Active, None)),
        (
            S::Active,
            None,
            Some((4, gone)),
            (S::AutoDisabled, Some(R::EndpointGone)),
        ),
        (
            S::Paused,
            Some(R::User),
            Some((4, H::Active)),
            (S::Paused, Some(R::User)),
        ),
        (S::Paused, None, None, (S::Paused, Some(R::User))),
        (
            S::Paused,
            Some(R::DeliveryFailures),
            Some((4, H::Active)),
            (S::Active, None),
        ),
        (
            S::Paused,
            Some(R::DeliveryFailures),
            None,
            (S::Active, None),
        ),
        (
            S::Disabled,
            Some(R::User),
            Some((4, H::Paused)),
            (S::Disabled, Some(R::User)),
        ),
        (
            S::AutoDisabled,
            Some(R::EndpointGone),
            None,
            (S::AutoDisabled, Some(R::EndpointGone)),
        ),
    ];
    for (status, reason, health, expected) in table {
        let configured = Configured {
            status,
            reason,
            epoch: 4,
        };
        assert_eq!(
            effective_status(configured, health),
            expected,
            "{configured:?} {health:?}"
        );
    }
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let mut health = Health::new(1, 0);
    let reason = "ä".repeat(100);
    health.ended(
        &Ended {
            reason,
            ..ended(1, Verdict::Failed, 1)
        },
        &POLICY,
    );
    assert_eq!(health.last_failure.unwrap().reason, "ä".repeat(32));
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        1 => Just(Verdict::Delivered),
        8 => Just(Verdict::Failed),
        2 => Just(Verdict::Retried),
        1 => Just(Verdict::Gone),
        2 => Just(Verdict::Ours),
    ]
}

fn any_inputs() -> impl Strategy<Value = Vec<Ended>> {
    let one = (0u64..3, 0u128..40, 1u32..4, any::<bool>(), any_verdict()).prop_map(
        |(epoch, delivery, attempt, probe, verdict)| Ended {
            epoch,
            attempt,
            probe,
            ..ended(delivery, verdict, 0)
        },
    );
    prop::collection::vec(one, 1..120).prop_map(|mut all| {
        for (at, one) in (0i64..).step_by(700_000).zip(&mut all) {
            one.at_micros = at;
        }
        all
    })
}

proptest! {
    #[test]
    fn status_follows_from_the_run(inputs in any_inputs()) {
        let mut health = Health::new(0, 0);
        for input in &inputs {
            health.ended(input, &POLICY);
            let gone = HealthStatus::AutoDisabled(StatusReason::EndpointGone);
            let expected = match health.run {
                _ if health.status == gone => gone,
                0..=4 => HealthStatus::Active,
                5..=9 => HealthStatus::Paused,
                _ => HealthStatus::AutoDisabled(StatusReason::ConsecutiveFailures),
            };
            prop_assert_eq!(health.status, expected);
            prop_assert_eq!(health.probing.is_some(), health.status == HealthStatus::Paused);
            prop_assert!(health.counted.len() <= COUNTED_KEPT && health.unannounced.len() <= UNANNOUNCED_KEPT);
            if let Some(probing) = health.probing {
                prop_assert!((POLICY.probe_pause..=POLICY.probe_pause_cap).contains(&probing.pause));
            }
        }
    }

    #[test]
    fn the_same_failure_never_counts_twice(inputs in any_inputs(), again in 0usize..120) {
        let mut health = Health::new(0, 0);
        for input in &inputs {
            health.ended(input, &POLICY);
        }
        let known = &inputs[again % inputs.len()];
        if known.verdict != Verdict::Delivered && health.counted.contains(&(known.delivery, known.attempt)) {
            let (run, status, notices) = (health.run, health.status, health.unannounced.clone());
            health.ended(known, &POLICY);
            prop_assert_eq!((run, status, notices), (health.run, health.status, health.unannounced));
        }
    }

    #[test]
    fn what_is_ours_or_of_an_older_epoch_or_will_be_retried_counts_for_nothing(inputs in any_inputs()) {
        let mut health = Health::new(0, 0);
        for input in &inputs {
            let before = health.clone();
            health.ended(input, &POLICY);
            let idle = input.epoch < before.epoch
                || (input.epoch == before.epoch
                    && (input.verdict == Verdict::Ours || (input.verdict == Verdict::Retried && !input.probe)));
            if idle {
                prop_assert_eq!((before.run, before.status, before.transitions), (health.run, health.status, health.transitions));
            }
        }
    }

    #[test]
    fn disabled_at_most_once_in_an_epoch_and_each_notice_is_told_once(inputs in any_inputs()) {
        let mut health = Health::new(0, 0);
        let mut told: Vec<Notice> = Vec::new();
        for input in &inputs {
            health.ended(input, &POLICY);
            for notice in std::mem::take(&mut health.unannounced) {
                prop_assert!(!told.iter().any(|one| (one.episode, one.kind) == (notice.episode, notice.kind)));
                told.push(notice);
            }
        }
        for epoch in 0..3 {
            let disabled = told.iter().filter(|one| one.epoch == epoch && one.kind == NoticeKind::AutoDisabled).count();
            prop_assert!(disabled <= 1);
        }
    }

    #[test]
    fn nothing_changes_without_saying_so(inputs in any_inputs()) {
        let mut health = Health::new(0, 0);
        for input in &inputs {
            let before = health.clone();
            let change = health.ended(input, &POLICY);
            let status_changed = before.transitions != health.transitions;
            prop_assert_eq!(change == Change::Status, status_changed);
            if change == Change::None {
                // The ramp alone moves unnoticed: it is not kept.
                health.ramp = before.ramp;
                prop_assert_eq!(&before, &health);
            }
        }
    }
}
