//! What a caller says of an event's hop, and whether the event may enter with it. Why such an event is
//! refused, and why nothing is signed: `docs/adr/0008-hops.md`.

use webhooks_bus::Pulled;
use webhooks_domain::{
    event::reason,
    hop::{self, Hop},
};

use crate::refusal::{Refusal, RefusalKind};

/// The hop in a header's text; absent, it is that of an event which its publisher made.
///
/// # Errors
/// [`RefusalKind::Invalid`] with the header's name.
pub(crate) fn read(text: Option<&str>) -> Result<Hop, Refusal> {
    let Some(text) = text else {
        return Ok(Hop::default());
    };
    Hop::parse(text.trim()).map_err(|error| bad("not_a_hop", &error.to_string()))
}

/// The hop in a message's headers, whose names may be in any case.
///
/// # Errors
/// As [`read`]; also when there are several.
pub(crate) fn of_message(pulled: &Pulled) -> Result<Hop, Refusal> {
    let mut values = pulled.header_in_any_case(hop::HEADER);
    let first = values.next();
    if values.next().is_some() {
        return Err(bad(reason::DUPLICATE_KEY, "it stands there more than once"));
    }
    read(first)
}

/// Whether an event with this hop is taken.
///
/// # Errors
/// [`RefusalKind::Loop`]: it comes from a delivery whose event came from a delivery.
pub(crate) fn judge(hop: Hop) -> Result<(), Refusal> {
    if hop.may_enter() {
        return Ok(());
    }
    Err(Refusal::of_field(
        RefusalKind::Loop,
        hop::HEADER,
        "loop",
        "this event and the one before it were passed on from deliveries: it goes in a circle",
    ))
}

fn bad(reason: &'static str, why: &str) -> Refusal {
    Refusal::of_field(
        RefusalKind::Invalid,
        hop::HEADER,
        reason,
        format!("the header {}: {why}", hop::HEADER),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_is_read_and_what_is_none_is_told_by_the_headers_name() {
        assert_eq!(read(None), Ok(Hop::default()));
        assert_eq!(read(Some(" 1 ")), Ok(Hop::of(1)));
        for bad in ["", "x", "-1", "256", "1, 1"] {
            let refusal = read(Some(bad)).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Invalid, "{bad:?}");
            let problem = &refusal.problems[0];
            assert_eq!(
                (&*problem.field, problem.reason),
                ("x-linkbreakers-hop", "not_a_hop"),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn an_event_enters_when_it_was_passed_on_once_and_not_twice() {
        for (number, kind) in [
            (0, None),
            (1, None),
            (2, Some(RefusalKind::Loop)),
            (255, Some(RefusalKind::Loop)),
        ] {
            let judged = judge(Hop::of(number));
            assert_eq!(judged.err().map(|refusal| refusal.kind), kind, "{number}");
        }
    }
}
