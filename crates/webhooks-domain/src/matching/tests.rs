use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, PartialEq)]
struct Hook {
    id: Uuid,
    workspace: Uuid,
    links: Vec<Uuid>,
    triggers: Vec<String>,
    actions: Vec<String>,
    created_at: i64,
    participation: Participation,
}

impl Subscription for Hook {
    fn id(&self) -> Uuid {
        self.id
    }
    fn workspace_id(&self) -> Uuid {
        self.workspace
    }
    fn link_ids(&self) -> &[Uuid] {
        &self.links
    }
    fn triggers(&self) -> &[String] {
        &self.triggers
    }
    fn event_actions(&self) -> &[String] {
        &self.actions
    }
    fn created_at_micros(&self) -> i64 {
        self.created_at
    }
    fn participation(&self) -> Participation {
        self.participation
    }
}

const WORKSPACE: Uuid = Uuid::from_u128(1);
const LINK: Uuid = Uuid::from_u128(2);
const SECOND: i64 = 1_000_000;
const CREATED: i64 = 1_000 * SECOND;

fn hook() -> Hook {
    Hook {
        id: Uuid::from_u128(9),
        workspace: WORKSPACE,
        links: Vec::new(),
        triggers: vec!["KIND_EXIT".to_owned()],
        actions: Vec::new(),
        created_at: CREATED,
        participation: Participation::Deliver,
    }
}

fn event() -> EventFacts<'static> {
    EventFacts {
        workspace_id: WORKSPACE,
        link_id: LINK,
        step_kind: "KIND_EXIT",
        event_action: "CLIENT_REDIRECT",
        accepted_at_micros: CREATED,
        timestamp_micros: CREATED,
    }
}

fn check(hook: Hook, event: EventFacts<'_>, expected: VerdictReason) {
    assert_eq!(verdict(&hook, &event), expected);
    let mut index = WebhookIndex::new();
    let workspace = hook.workspace;
    index.upsert(Arc::new(hook));
    assert_eq!(index.matches(&event).len(), usize::from(expected.fires()));
    let explained = index.explain(&event, workspace);
    assert_eq!(explained.len(), 1);
    assert_eq!(explained[0].1, expected);
}

#[test]
fn scope_kind_and_status_decide() {
    use VerdictReason::*;
    let other = Uuid::from_u128(7);
    let kinds = |words: &[&str]| {
        words
            .iter()
            .map(|&word| word.to_owned())
            .collect::<Vec<_>>()
    };
    check(hook(), event(), Fires);
    check(
        hook(),
        EventFacts {
            workspace_id: other,
            ..event()
        },
        OtherWorkspace,
    );
    check(
        Hook {
            links: vec![LINK],
            ..hook()
        },
        event(),
        Fires,
    );
    check(
        Hook {
            links: vec![other, LINK, LINK],
            ..hook()
        },
        event(),
        Fires,
    );
    check(
        Hook {
            links: vec![other],
            ..hook()
        },
        event(),
        OtherLink,
    );
    check(
        Hook {
            triggers: kinds(&["KIND_ENTRY"]),
            ..hook()
        },
        event(),
        OtherKind,
    );
    check(
        Hook {
            triggers: kinds(&["KIND_ENTRY", "KIND_EXIT", "KIND_EXIT"]),
            ..hook()
        },
        event(),
        Fires,
    );
    check(
        Hook {
            triggers: kinds(&[]),
            ..hook()
        },
        event(),
        Fires,
    );
    check(
        Hook {
            participation: Participation::Hold,
            ..hook()
        },
        event(),
        Held,
    );
    check(
        Hook {
            participation: Participation::Ignore,
            ..hook()
        },
        event(),
        Disabled,
    );
}

#[test]
fn an_unknown_kind_fires_who_names_it_or_wants_every_kind() {
    use VerdictReason::*;
    let unknown = EventFacts {
        step_kind: "KIND_NEW",
        ..event()
    };
    check(hook(), unknown, OtherKind);
    check(
        Hook {
            triggers: Vec::new(),
            ..hook()
        },
        unknown,
        Fires,
    );
    check(
        Hook {
            triggers: vec!["KIND_NEW".to_owned()],
            ..hook()
        },
        unknown,
        Fires,
    );
}

#[test]
fn an_action_that_is_not_listed_makes_nothing() {
    use VerdictReason::*;
    let asking = |words: &[&str]| Hook {
        actions: words.iter().map(|&word| word.to_owned()).collect(),
        ..hook()
    };
    let doing = |event_action| EventFacts {
        event_action,
        ..event()
    };
    check(asking(&["CLIENT_REDIRECT"]), event(), Fires);
    check(asking(&["FORM_SUBMIT", "CLIENT_REDIRECT"]), event(), Fires);
    check(
        asking(&["CLIENT_REDIRECT"]),
        doing("EVENT_ACTION_CLIENT_REDIRECT"),
        Fires,
    );
    check(asking(&["FORM_SUBMIT"]), event(), OtherAction);
    check(asking(&["FORM_SUBMIT"]), doing("A_NEW_ONE"), OtherAction);
    check(asking(&["A_NEW_ONE"]), doing("A_NEW_ONE"), Fires);
    check(asking(&["FORM_SUBMIT"]), doing(""), OtherAction);
    check(hook(), doing(""), Fires);
    let other_kind = Hook {
        triggers: vec!["KIND_ENTRY".to_owned()],
        ..asking(&["FORM_SUBMIT"])
    };
    check(other_kind, event(), OtherKind);
}

#[test]
fn events_from_before_a_webhook_do_not_fire_it() {
    use VerdictReason::*;
    let at = |accepted_at_micros, timestamp_micros| EventFacts {
        accepted_at_micros,
        timestamp_micros,
        ..event()
    };
    check(hook(), at(CREATED - 2 * SECOND, CREATED), Fires);
    check(
        hook(),
        at(CREATED - 2 * SECOND - 1, CREATED),
        AcceptedBeforeCreation,
    );
    check(hook(), at(CREATED, CREATED - 300 * SECOND), Fires);
    check(
        hook(),
        at(CREATED, CREATED - 300 * SECOND - 1),
        HappenedBeforeCreation,
    );
    check(hook(), at(CREATED, i64::MAX), Fires);
    check(hook(), at(i64::MAX, i64::MIN), HappenedBeforeCreation);
}

#[test]
fn a_disabled_webhook_is_known_but_never_matches() {
    let mut index = WebhookIndex::new();
    index.upsert(Arc::new(hook()));
    let former = index.upsert(Arc::new(Hook {
        participation: Participation::Ignore,
        ..hook()
    }));
    assert_eq!(former.as_deref(), Some(&hook()));
    assert!(index.matches(&event()).is_empty());
    assert_eq!(
        index.explain(&event(), WORKSPACE)[0].1,
        VerdictReason::Disabled
    );
    assert_eq!((index.len(), index.is_empty()), (1, false));
    assert!(index.get(hook().id).is_some());
}

#[test]
fn an_index_that_lost_everything_keeps_nothing() {
    let mut index = WebhookIndex::new();
    let many = Hook {
        links: vec![LINK, Uuid::from_u128(3)],
        triggers: vec!["A".to_owned(), "B".to_owned()],
        ..hook()
    };
    index.upsert(Arc::new(many));
    assert_eq!(index.drawers.len(), 2);
    assert!(index.remove(hook().id).is_some());
    assert!(index.remove(hook().id).is_none());
    assert!(index.is_empty() && index.drawers.is_empty() && index.by_workspace.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Upsert(Hook),
    Remove(Uuid),
}

fn small_uuid(count: u128) -> impl Strategy<Value = Uuid> {
    (1..=count).prop_map(Uuid::from_u128)
}

fn kind() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["KIND_EXIT", "KIND_ENTRY", "KIND_NEW"]).prop_map(str::to_owned)
}

fn action() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["A", "B"]).prop_map(str::to_owned)
}

fn any_hook() -> impl Strategy<Value = Hook> {
    let participation = prop::sample::select(vec![
        Participation::Deliver,
        Participation::Hold,
        Participation::Ignore,
    ]);
    (
        small_uuid(12),
        small_uuid(2),
        prop::collection::vec(small_uuid(3), 0..3),
        prop::collection::vec(kind(), 0..3),
        prop::collection::vec(action(), 0..2),
        0..400 * SECOND,
        participation,
    )
        .prop_map(
            |(id, workspace, links, triggers, actions, created_at, participation)| Hook {
                id,
                workspace,
                links,
                triggers,
                actions,
                created_at,
                participation,
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any_hook().prop_map(Step::Upsert),
        1 => small_uuid(12).prop_map(Step::Remove),
    ]
}

proptest! {
    #[test]
    fn the_index_agrees_with_the_rule_after_any_changes(
        steps in prop::collection::vec(step(), 0..40),
        workspace_id in small_uuid(2),
        link_id in small_uuid(3),
        step_kind in kind(),
        event_action in action(),
        accepted_at_micros in 0..400 * SECOND,
        timestamp_micros in 0..400 * SECOND,
    ) {
        let mut index = WebhookIndex::new();
        let mut naive: BTreeMap<Uuid, Hook> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Upsert(hook) => {
                    let former = index.upsert(Arc::new(hook.clone()));
                    let expected = naive.insert(hook.id, hook);
                    prop_assert_eq!(former.as_deref(), expected.as_ref());
                }
                Step::Remove(id) => {
                    let removed = index.remove(id);
                    let expected = naive.remove(&id);
                    prop_assert_eq!(removed.as_deref(), expected.as_ref());
                }
            }
        }
        prop_assert_eq!(index.len(), naive.len());
        let facts = EventFacts { workspace_id, link_id, step_kind: &step_kind, event_action: &event_action, accepted_at_micros, timestamp_micros };
        let found: Vec<(Uuid, Participation)> = index
            .matches(&facts)
            .into_iter()
            .map(|found| (found.webhook.id, found.participation))
            .collect();
        let expected: Vec<(Uuid, Participation)> = naive
            .values()
            .filter(|hook| verdict(*hook, &facts).fires())
            .map(|hook| (hook.id, hook.participation))
            .collect();
        prop_assert_eq!(found, expected);
        let explained: Vec<(Uuid, VerdictReason)> = index
            .explain(&facts, workspace_id)
            .into_iter()
            .map(|(hook, reason)| (hook.id, reason))
            .collect();
        let expected: Vec<(Uuid, VerdictReason)> = naive
            .values()
            .filter(|hook| hook.workspace == workspace_id)
            .map(|hook| (hook.id, verdict(hook, &facts)))
            .collect();
        prop_assert_eq!(explained, expected);
    }
}
