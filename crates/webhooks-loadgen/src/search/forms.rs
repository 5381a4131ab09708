//! The forms: what is asked for, and with which of the history's names.

use rand::{Rng as _, rngs::StdRng};
use webhooks_domain::event::format_micros;

use super::data::{BIG_LINKS, BIG_WEBHOOKS, DAY, History};

/// A way to ask.
pub(super) struct Form {
    pub(super) name: &'static str,
    /// Of the small workspace instead of the large one.
    pub(super) small: bool,
    /// Follows the pages until there are no more.
    pub(super) pages: bool,
    pub(super) path: fn(&History, &mut StdRng) -> String,
}

impl Form {
    pub(super) fn token<'a>(&self, history: &'a History) -> &'a str {
        let workspace = if self.small {
            &history.small
        } else {
            &history.big
        };
        &workspace.token
    }
}

const fn form(name: &'static str, path: fn(&History, &mut StdRng) -> String) -> Form {
    Form {
        name,
        small: false,
        pages: false,
        path,
    }
}

const fn paged(form: Form) -> Form {
    Form {
        pages: true,
        ..form
    }
}

const fn small(form: Form) -> Form {
    Form {
        small: true,
        ..form
    }
}

/// A webhook of the large workspace.
fn webhook(history: &History, random: &mut StdRng) -> String {
    history.webhooks[random.random_range(0..BIG_WEBHOOKS)].to_string()
}

/// A moment of the history.
fn moment(history: &History, random: &mut StdRng) -> i64 {
    random.random_range(history.from..history.to - DAY)
}

/// A range of so many hours from a random moment on.
fn range(history: &History, random: &mut StdRng, hours: i64) -> String {
    let from = moment(history, random);
    let to = from + hours * DAY / 24;
    format!(
        "createdAfter={}&createdBefore={}",
        format_micros(from),
        format_micros(to)
    )
}

/// The forms of `GET /v1/deliveries`, `/v1/events` and `/v1/webhooks`.
pub(super) const FORMS: &[Form] = &[
    form("workspace", |_, _| "/v1/deliveries?pageSize=100".to_owned()),
    paged(form(
        "workspace, page after page from a random moment",
        |h, r| {
            let to = format_micros(moment(h, r));
            format!("/v1/deliveries?pageSize=100&createdBefore={to}")
        },
    )),
    small(form("small workspace", |_, _| {
        "/v1/deliveries?pageSize=100".to_owned()
    })),
    form("webhook", |h, r| {
        format!("/v1/webhooks/{}/deliveries?pageSize=100", webhook(h, r))
    }),
    paged(form("webhook, page after page", |h, r| {
        format!("/v1/webhooks/{}/deliveries?pageSize=100", webhook(h, r))
    })),
    form("webhook, a page of 1,000", |h, r| {
        format!("/v1/webhooks/{}/deliveries?pageSize=1000", webhook(h, r))
    }),
    form("webhook, an hour", |h, r| {
        let (webhook, range) = (webhook(h, r), range(h, r, 1));
        format!("/v1/deliveries?webhookId={webhook}&{range}")
    }),
    form("workspace, an hour", |h, r| {
        format!("/v1/deliveries?{}", range(h, r, 1))
    }),
    form("workspace, a day and a half", |h, r| {
        format!("/v1/deliveries?{}", range(h, r, 36))
    }),
    form("webhook, FAILED", |h, r| {
        format!("/v1/deliveries?webhookId={}&state=FAILED", webhook(h, r))
    }),
    form("workspace, FAILED", |_, _| {
        "/v1/deliveries?state=FAILED".to_owned()
    }),
    form("workspace, FAILED, a day and a half", |h, r| {
        format!("/v1/deliveries?state=FAILED&{}", range(h, r, 36))
    }),
    paged(form(
        "workspace, HELD (1 in 50,000), page after page",
        |_, _| "/v1/deliveries?state=HELD".to_owned(),
    )),
    paged(form(
        "webhook, status 418 (1 in 500,000), page after page",
        |h, r| format!("/v1/deliveries?webhookId={}&statusCode=418", webhook(h, r)),
    )),
    form("workspace, class PERMANENT", |_, _| {
        "/v1/deliveries?class=PERMANENT".to_owned()
    }),
    form("workspace, status 5xx", |_, _| {
        "/v1/deliveries?statusCode=5xx".to_owned()
    }),
    form("link", |h, r| {
        let link = h.link(r.random_range(0..BIG_LINKS));
        format!("/v1/deliveries?linkId={link}")
    }),
    form("link, FAILED", |h, r| {
        let link = h.link(r.random_range(0..BIG_LINKS));
        format!("/v1/deliveries?linkId={link}&state=FAILED")
    }),
    form("event", |h, r| {
        format!("/v1/deliveries?eventId={}", h.event(r))
    }),
    form("event, webhook", |h, r| {
        let (event, webhook) = (h.event(r), webhook(h, r));
        format!("/v1/deliveries?eventId={event}&webhookId={webhook}")
    }),
    form("event that there is not", |_, r| {
        let event = uuid::Uuid::from_u128(r.random());
        format!("/v1/deliveries?eventId={event}")
    }),
    form("journey", |h, r| {
        format!("/v1/deliveries?lbid={}", h.journey(r))
    }),
    form("journey, FAILED", |h, r| {
        format!("/v1/deliveries?lbid={}&state=FAILED", h.journey(r))
    }),
    form("journey that there is not", |_, r| {
        format!("/v1/deliveries?lbid=none-{}", r.random::<u64>())
    }),
    form("workspace, REPLAY", |_, _| {
        "/v1/deliveries?trigger=REPLAY".to_owned()
    }),
    form("one delivery", |h, r| {
        let one = h.deliveries_known[r.random_range(0..h.deliveries_known.len())];
        format!("/v1/deliveries/{one}")
    }),
    form("events", |_, _| "/v1/events?pageSize=100".to_owned()),
    paged(form(
        "events, page after page from a random moment",
        |h, r| {
            let to = format_micros(moment(h, r));
            format!("/v1/events?pageSize=100&acceptedBefore={to}")
        },
    )),
    form("one event with its verdicts", |h, r| {
        format!("/v1/events/{}", h.event(r))
    }),
    form("webhooks", |_, _| "/v1/webhooks".to_owned()),
    form("health of a webhook", |h, r| {
        format!("/v1/webhooks/{}/health", webhook(h, r))
    }),
];
