//! The checker must find what it is there to find: each test takes a run in which all is well and
//! breaks one thing.

use super::*;
use crate::ledger::Outcome;
use webhooks_domain::ids::message_id;

const WORKSPACE: Uuid = Uuid::from_u128(1);
const LINK: Uuid = Uuid::from_u128(2);
const OTHER_LINK: Uuid = Uuid::from_u128(3);
const WIDE: Uuid = Uuid::from_u128(10);
const BOUND: Uuid = Uuid::from_u128(11);
const FLAKY: Uuid = Uuid::from_u128(12);
const DEAF: Uuid = Uuid::from_u128(13);

/// When the pause of a good run was answered.
const HALTED: i64 = 60_000_000;

fn hook(id: Uuid, path: &str, links: &[Uuid], kinds: &[&str]) -> Hook {
    Hook {
        id,
        workspace: WORKSPACE,
        path: path.to_owned(),
        links: links.to_vec(),
        kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        created: 50,
        healthy: !path.starts_with("/flaky"),
    }
}

fn event(number: u128, link: Uuid, outcome: Outcome) -> Published {
    Published {
        event: Uuid::from_u128(100 + number),
        workspace: WORKSPACE,
        link,
        kind: "KIND_EXIT".to_owned(),
        door: "http".to_owned(),
        outcome,
        started: 100,
        ended: 101,
        accepted: None,
        detail: String::new(),
    }
}

/// Adds a delivery whose attempts met these statuses.
fn deliver(evidence: &mut Evidence, event: Uuid, hook: Uuid, statuses: &[u16]) {
    let id = Uuid::from_u128(event.as_u128() * 1_000 + hook.as_u128());
    let path = evidence
        .hooks
        .iter()
        .find(|other| other.id == hook)
        .unwrap()
        .path
        .clone();
    let delivered = statuses.last() == Some(&200);
    for (number, status) in (1..).zip(statuses) {
        let class = if *status == 200 { "" } else { "TEMPORARY" };
        evidence.attempts.push(AttemptRow {
            delivery: id,
            number,
            started: 200 + i64::from(number),
            class: class.to_owned(),
        });
        evidence.received.push(Received {
            at: 200 + i64::from(number),
            monotonic: 1,
            path: path.clone(),
            message_id: message_id(WORKSPACE, &event.to_string(), hook),
            attempt: number,
            event: Some(event),
            webhook: Some(hook),
            body_hash: event.as_u128() as u64,
            status: *status,
            verified: Some(true),
        });
    }
    evidence.deliveries.push(DeliveryRow {
        id,
        webhook: hook,
        event,
        state: if delivered {
            DeliveryState::Delivered
        } else {
            DeliveryState::Failed
        },
        attempts: u32::try_from(statuses.len()).unwrap(),
    });
}

/// Three events (one of unknown outcome that came, one that did not), four webhooks, all well.
fn good() -> Evidence {
    let mut evidence = Evidence {
        published: vec![
            event(1, LINK, Outcome::Ok),
            event(2, OTHER_LINK, Outcome::Ok),
            event(3, OTHER_LINK, Outcome::Unknown),
            event(4, LINK, Outcome::Unknown),
            event(5, LINK, Outcome::Refused),
        ],
        hooks: vec![
            hook(WIDE, "/ok/wide", &[], &[]),
            hook(BOUND, "/ok/bound", &[LINK], &["KIND_EXIT"]),
            hook(FLAKY, "/flaky/300", &[], &[]),
            hook(DEAF, "/ok/deaf", &[], &["KIND_ENTRY"]),
        ],
        max_attempts: 3,
        ..Evidence::default()
    };
    let [one, two, three] = [101, 102, 103].map(Uuid::from_u128);
    deliver(&mut evidence, one, WIDE, &[200]);
    deliver(&mut evidence, one, BOUND, &[200]);
    deliver(&mut evidence, one, FLAKY, &[500, 500, 500]);
    deliver(&mut evidence, two, WIDE, &[200]);
    deliver(&mut evidence, two, FLAKY, &[500, 200]);
    deliver(&mut evidence, three, WIDE, &[200]);
    deliver(&mut evidence, three, FLAKY, &[200]);
    evidence.counters = vec![
        CounterRow {
            webhook: WIDE,
            success: 3,
            failure: 0,
            last_sent: Some(201),
            last_delivered: Some(201),
        },
        CounterRow {
            webhook: BOUND,
            success: 1,
            failure: 0,
            last_sent: Some(201),
            last_delivered: Some(201),
        },
        CounterRow {
            webhook: FLAKY,
            success: 2,
            failure: 1,
            last_sent: Some(203),
            last_delivered: Some(202),
        },
    ];
    let people = ["a@example.com", "b@example.com"].map(str::to_owned);
    evidence.disablings = Disablings {
        told: vec![
            disabling("one", 10, false),
            disabling("two", 10, false),
            disabling("three", 1, true),
        ],
        audited: vec![FLAKY; 3],
        mails: ["one", "two", "three"]
            .into_iter()
            .flat_map(|episode| {
                people.clone().map(|recipient| DisablingMail {
                    episode: episode.to_owned(),
                    recipient,
                })
            })
            .collect(),
        recipients: people.to_vec(),
    };
    evidence.first_fault = Some(150);
    let held = Held {
        resident_bytes: 1,
        descriptors: 2,
        threads: 3,
    };
    evidence.vitals = vec![VitalsRow {
        service: "ingest".to_owned(),
        start: held,
        peak: HELD_CAPS,
        quiet: held,
    }];
    // Long after everything.
    evidence.halts = vec![Halt {
        webhook: FLAKY,
        kind: HaltKind::Paused,
        called: HALTED - 5,
        answered: Some(HALTED),
        lifted: Some(HALTED + 10_000_000),
        over: Some(HALTED + 10_000_005),
    }];
    evidence
}

fn disabling(episode: &str, run: u32, gone: bool) -> DisablingRow {
    DisablingRow {
        webhook: FLAKY,
        episode: episode.to_owned(),
        run,
        gone,
    }
}

/// Breaks one thing and names the invariants that must notice.
fn check_breaks(expected: &[&str], change: impl FnOnce(&mut Evidence)) -> Report {
    let mut evidence = good();
    change(&mut evidence);
    let report = check(&evidence);
    let broken: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.violations > 0)
        .map(|finding| finding.invariant)
        .collect();
    assert_eq!(broken, expected, "{report}");
    report
}

#[test]
fn a_good_run_holds_and_everything_was_looked_at() {
    let report = check_breaks(&[], |_| {});
    assert!(report.holds());
    assert_eq!(report.cut_off, 0);
    let checked: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.invariant, finding.checked))
        .collect();
    assert_eq!(
        checked,
        [
            ("I1", 5),
            ("I2", 17),
            ("I3", 7),
            ("I4", 7),
            ("I5", 1),
            ("I6", 11),
            ("I7", 6),
            ("I8", 1),
            ("I9", 10),
            ("I10", 10),
            ("I11", 4),
            ("I12", 1)
        ]
    );
    assert!(report.vacuous().is_empty());
    assert_eq!(check(&Evidence::default()).vacuous().len(), 12);
    assert!(
        report
            .to_string()
            .contains("| I1 no acknowledged event lost | 5 | 0 |"),
        "{report}"
    );
}

#[test]
fn a_request_to_a_halted_webhook_is_found() {
    let late = HALTED + HALT_GRACE_MICROS;
    let arrives = |at: i64| move |evidence: &mut Evidence| evidence.received[2].at = at;
    let report = check_breaks(&["I5"], arrives(late + TRAVEL_MICROS + 1));
    assert!(
        report.to_string().contains("/flaky/300 was paused at"),
        "{report}"
    );
    check_breaks(&[], arrives(late + TRAVEL_MICROS));
    check_breaks(&["I5"], arrives(HALTED + 10_000_000 - 1));
    check_breaks(&[], arrives(HALTED + 10_000_000));
    // In the log the start itself counts.
    let starts = |at: i64| {
        move |evidence: &mut Evidence| {
            evidence.attempts[2].started = at;
            evidence.counters[2].last_sent = Some(at);
        }
    };
    check_breaks(&["I5"], starts(late + 1));
    check_breaks(&[], starts(late));
}

#[test]
fn a_halt_counts_from_its_answer_and_for_ever_unless_lifted() {
    let far = HALTED + 3_600_000_000;
    check_breaks(&["I5"], |evidence| {
        evidence.received[2].at = far;
        evidence.halts[0].lifted = None;
    });
    check_breaks(&[], |evidence| {
        evidence.received[2].at = far;
        evidence.halts[0].lifted = None;
        evidence.halts[0].answered = None;
    });
    check_breaks(&["I5"], |evidence| {
        evidence.halts[0].webhook = Uuid::from_u128(999)
    });
}

#[test]
fn what_a_disabled_webhook_was_owed_may_be_cancelled_and_what_a_paused_one_was_owed_may_not() {
    let cancelled = |kind: HaltKind, over: Option<i64>| {
        move |evidence: &mut Evidence| {
            evidence.deliveries[0].state = DeliveryState::Cancelled;
            evidence.counters[0].success = 2;
            let (called, answered) = (40, Some(50));
            let halt = Halt {
                webhook: WIDE,
                kind,
                called,
                answered,
                lifted: over,
                over,
            };
            evidence.halts.push(halt);
        }
    };
    check_breaks(&[], cancelled(HaltKind::Disabled, Some(100)));
    check_breaks(&["I1"], cancelled(HaltKind::Disabled, Some(99)));
    check_breaks(&["I1"], cancelled(HaltKind::Paused, Some(150)));
    // No delivery at all is right as well, but a failed or an open one is not.
    check_breaks(&[], |evidence| {
        cancelled(HaltKind::Disabled, Some(150))(evidence);
        let row = evidence.deliveries.remove(0);
        evidence
            .attempts
            .retain(|attempt| attempt.delivery != row.id);
    });
    check_breaks(&["I1", "I3"], |evidence| {
        cancelled(HaltKind::Disabled, Some(150))(evidence);
        evidence.deliveries[0].state = DeliveryState::Retrying;
    });
}

#[test]
fn a_secret_is_not_known_before_the_creation_was_answered() {
    let unsigned = |created: i64| {
        move |evidence: &mut Evidence| {
            evidence.received[0].verified = None;
            evidence.hooks[0].created = created;
        }
    };
    check_breaks(&[], unsigned(201));
    check_breaks(&["I9"], unsigned(200));
}

#[test]
fn a_lost_delivery_is_found() {
    let report = check_breaks(&["I1", "I6"], |evidence| {
        let lost = evidence.deliveries.remove(1);
        evidence
            .attempts
            .retain(|attempt| attempt.delivery != lost.id);
        evidence
            .received
            .retain(|request| request.path != "/ok/bound");
    });
    assert!(
        report.to_string().contains("for /ok/bound: no delivery"),
        "{report}"
    );
}

#[test]
fn a_delivery_that_was_cancelled_or_failed_at_a_healthy_endpoint_is_lost() {
    check_breaks(&["I1", "I6"], |evidence| {
        evidence.deliveries[0].state = DeliveryState::Cancelled
    });
    check_breaks(&["I1", "I6", "I8"], |evidence| {
        evidence.deliveries[0].state = DeliveryState::Failed
    });
}

#[test]
fn an_event_of_unknown_outcome_may_be_missing() {
    check_breaks(&[], |evidence| {
        evidence
            .deliveries
            .retain(|row| row.event != Uuid::from_u128(103));
        evidence
            .received
            .retain(|request| request.event != Some(Uuid::from_u128(103)));
        evidence.counters[0].success = 2;
        evidence.counters[2].success = 1;
    });
}

#[test]
fn a_webhook_made_after_the_event_may_miss_it() {
    check_breaks(&["I1"], |evidence| evidence.hooks[3].kinds.clear());
    check_breaks(&[], |evidence| {
        evidence.hooks[3].kinds.clear();
        evidence.hooks[3].created = 100;
    });
}

#[test]
fn a_repeated_request_needs_a_kill() {
    let repeat = |evidence: &mut Evidence| evidence.received.push(evidence.received[0].clone());
    check_breaks(&["I4"], repeat);
    // Its bytes may still be under way when its sender is dead.
    for kill in [250, 201 - TRAVEL_MICROS] {
        let explained = check_breaks(&[], |evidence| {
            repeat(evidence);
            evidence.dispatcher_kills = vec![kill];
        });
        assert_eq!(explained.cut_off, 1);
    }
    check_breaks(&["I4"], |evidence| {
        repeat(evidence);
        evidence.dispatcher_kills = vec![201 - TRAVEL_MICROS - 1, 201 + CUT_OFF_MICROS + 1];
    });
}

#[test]
fn an_attempt_that_was_made_and_logged_twice_needs_a_kill_too() {
    let repeat = |class: &'static str| {
        move |evidence: &mut Evidence| {
            evidence.received.push(evidence.received[0].clone());
            let again = AttemptRow {
                class: class.to_owned(),
                ..evidence.attempts[0].clone()
            };
            evidence.attempts.push(again);
            evidence.bus_kills = Some(Vec::new());
        }
    };
    check_breaks(&["I4"], repeat(""));
    check_breaks(&[], repeat("OURS"));
    for (dispatchers, buses) in [(vec![250], vec![]), (vec![], vec![250])] {
        check_breaks(&[], |evidence| {
            repeat("")(evidence);
            evidence.dispatcher_kills = dispatchers.clone();
            evidence.bus_kills = Some(buses.clone());
        });
    }
}

#[test]
fn a_doubled_delivery_is_found() {
    check_breaks(&["I2", "I4", "I6"], |evidence| {
        let twin = DeliveryRow {
            id: Uuid::from_u128(9_999),
            attempts: 0,
            ..evidence.deliveries[0].clone()
        };
        evidence.deliveries.push(twin);
    });
}

#[test]
fn unexpected_requests_are_found() {
    let first = |change: fn(&mut Received)| {
        move |evidence: &mut Evidence| {
            let mut request = evidence.received[0].clone();
            change(&mut request);
            evidence.received.push(request);
        }
    };
    check_breaks(
        &["I2"],
        first(|request| request.path = "/nobody".to_owned()),
    );
    check_breaks(
        &["I2"],
        first(|request| request.event = Some(Uuid::from_u128(999))),
    );
    check_breaks(&["I2"], first(|request| request.event = None));
    check_breaks(
        &["I2"],
        first(|request| request.path = "/ok/deaf".to_owned()),
    );
    check_breaks(&["I2", "I7"], |evidence| {
        evidence.received[0].event = Some(Uuid::from_u128(105))
    });
}

#[test]
fn a_delivery_of_another_webhooks_event_is_found() {
    check_breaks(&["I2", "I6", "I7"], |evidence| {
        let row = DeliveryRow {
            id: Uuid::from_u128(9_999),
            webhook: DEAF,
            attempts: 0,
            ..evidence.deliveries[0].clone()
        };
        evidence.deliveries.push(row);
    });
}

#[test]
fn changed_bytes_and_bad_signatures_are_found() {
    check_breaks(&["I9"], |evidence| evidence.received[3].body_hash ^= 1);
    check_breaks(&["I9"], |evidence| {
        evidence.received[0].verified = Some(false)
    });
    check_breaks(&["I9"], |evidence| evidence.received[0].verified = None);
}

#[test]
fn an_open_delivery_is_found() {
    check_breaks(&["I3", "I6"], |evidence| {
        evidence.deliveries[6].state = DeliveryState::Retrying
    });
}

#[test]
fn too_many_attempts_and_gaps_are_found() {
    check_breaks(&["I4", "I6"], |evidence| evidence.attempts[3].number = 4);
    check_breaks(&["I4"], |evidence| {
        evidence.attempts.remove(3);
    });
    check_breaks(&["I4"], |evidence| evidence.max_attempts = 2);
}

#[test]
fn dishonest_states_are_found() {
    check_breaks(&["I7"], |evidence| evidence.received[0].status = 500);
    check_breaks(&["I6", "I8"], |evidence| {
        evidence.attempts.remove(4);
        evidence.received.remove(4);
        evidence.deliveries[2].attempts = 2;
    });
}

#[test]
fn wrong_counters_are_found() {
    check_breaks(&["I6"], |evidence| evidence.counters[0].success += 1);
    check_breaks(&["I6"], |evidence| evidence.counters[2].failure = 0);
    check_breaks(&["I6"], |evidence| evidence.counters[2].last_sent = Some(1));
    check_breaks(&["I6"], |evidence| {
        evidence.counters[2].last_delivered = Some(203)
    });
    check_breaks(&["I6"], |evidence| {
        evidence.counters[1].last_delivered = None
    });
    check_breaks(&["I6"], |evidence| evidence.counters.truncate(2));
    check_breaks(&["I6"], |evidence| evidence.deliveries[0].attempts = 2);
}

#[test]
fn a_disabling_too_early_twice_untold_or_of_a_healthy_webhook_is_found() {
    check_breaks(&["I10"], |evidence| evidence.disablings.told[0].run = 11);
    check_breaks(&[], |evidence| evidence.disablings.told[2].run = 7);
    check_breaks(&["I10"], |evidence| {
        let again = evidence.disablings.told[1].clone();
        evidence.disablings.told.push(again);
    });
    check_breaks(&["I10"], |evidence| {
        evidence.disablings.audited.pop();
    });
    check_breaks(&["I10"], |evidence| {
        evidence.disablings.audited.push(WIDE);
    });
    check_breaks(&["I10"], |evidence| {
        evidence.disablings.mails.pop();
    });
    check_breaks(&["I10"], |evidence| {
        let again = evidence.disablings.mails[0].clone();
        evidence.disablings.mails.push(again);
    });
    check_breaks(&["I10"], |evidence| {
        evidence.disablings.mails[0].episode = "none".to_owned();
    });
    check_breaks(&["I10"], |evidence| {
        evidence.disablings.told[0].webhook = WIDE;
        evidence.disablings.audited[0] = WIDE;
    });
}

#[test]
fn a_failed_attempt_to_a_healthy_endpoint_is_found_and_its_wait_is_told() {
    let fails = |class: &str| {
        let class = class.to_owned();
        move |evidence: &mut Evidence| evidence.attempts[0].class = class
    };
    check_breaks(&[], fails("OURS"));
    let report = check_breaks(&["I11"], fails("TEMPORARY"));
    assert!(report.to_string().contains("I11: attempt 1 of"), "{report}");
    let mut evidence = good();
    evidence.published[1].started = 160;
    let waits = check(&evidence).waits;
    assert_eq!((waits.before, waits.during), ((101, 3), (41, 1)));
}

#[test]
fn a_service_above_a_cap_is_found() {
    check_breaks(&["I12"], |evidence| evidence.vitals[0].peak.threads += 1);
    check_breaks(&["I12"], |evidence| {
        evidence.vitals[0].peak.resident_bytes += 1;
    });
    check_breaks(&["I12"], |evidence| {
        evidence.vitals[0].peak.descriptors += 1
    });
}
