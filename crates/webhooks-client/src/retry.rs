//! When a call is tried again, pure.

use std::time::Duration;

use tonic::Code;

use crate::Refusal;

/// The longest pause before the second try; it doubles with each further one.
const FIRST: Duration = Duration::from_millis(100);

/// No pause is longer, unless the server asks for it.
const LONGEST: Duration = Duration::from_secs(2);

/// How long to wait before the next try; `None` = there is none. `draw` (0 to 1) spreads clients that
/// failed together.
pub(crate) fn pause(
    refusal: &Refusal,
    most_tries: u32,
    left: Duration,
    draw: f64,
) -> Option<Duration> {
    if refusal.code != Code::Unavailable || refusal.tries >= most_tries {
        return None;
    }
    let doubled = FIRST.saturating_mul(1 << refusal.tries.saturating_sub(1).min(16));
    let pause = doubled.min(LONGEST).mul_f64(draw.clamp(0.0, 1.0));
    let pause = pause.max(refusal.retry_after.unwrap_or_default());
    // A try that could not be answered in time is none.
    (pause < left).then_some(pause)
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    const LEFT: Duration = Duration::from_secs(10);

    fn refused(code: Code, tries: u32) -> Refusal {
        Refusal::of(Status::new(code, ""), tries)
    }

    #[test]
    fn only_what_is_unavailable_is_tried_again_and_not_for_ever() {
        let unavailable = |tries| pause(&refused(Code::Unavailable, tries), 4, LEFT, 1.0);
        assert_eq!(unavailable(1), Some(Duration::from_millis(100)));
        assert_eq!(unavailable(3), Some(Duration::from_millis(400)));
        assert_eq!(unavailable(4), None);
        for code in [
            Code::DeadlineExceeded,
            Code::ResourceExhausted,
            Code::Internal,
            Code::NotFound,
            Code::Aborted,
        ] {
            assert_eq!(pause(&refused(code, 1), 4, LEFT, 1.0), None, "{code:?}");
        }
    }

    #[test]
    fn pauses_are_spread_capped_and_never_beyond_the_deadline() {
        let refusal = refused(Code::Unavailable, 9);
        assert_eq!(pause(&refusal, 10, LEFT, 1.0), Some(LONGEST));
        assert_eq!(pause(&refusal, 10, LEFT, 0.5), Some(LONGEST / 2));
        assert_eq!(pause(&refusal, 10, LEFT, 0.0), Some(Duration::ZERO));
        assert_eq!(pause(&refusal, 10, LONGEST, 1.0), None);
        let asked = Refusal {
            retry_after: Some(Duration::from_secs(5)),
            ..refusal
        };
        assert_eq!(pause(&asked, 10, LEFT, 0.0), asked.retry_after);
        assert_eq!(pause(&asked, 10, Duration::from_secs(4), 0.0), None);
    }
}
