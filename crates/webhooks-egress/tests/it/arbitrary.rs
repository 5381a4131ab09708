//! Answers and endpoints of arbitrary bytes: an attempt always ends, as one of the things it can end as.

use std::time::Duration;

use http::Uri;
use proptest::prelude::*;
use webhooks_domain::endpoint::{AddressPolicy, EndpointUrl, Outcome};
use webhooks_domain::retry::{MAX_RETRY_AFTER, parse_retry_after};
use webhooks_egress::{Egress, EgressConfig};

use crate::hostile::kit::{Hostile, Step};
use crate::{config, egress, post};

/// Pieces of answers, as they are and out of place.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 103 Hints\r\n\r\n",
        "HTTP/1.1 429 Busy\r\n",
        "HTTP/1.0 500 No\r\n",
        "HTTP/1.1 ",
        "\r\n",
        "\n",
        "\r\n\r\n",
        "content-length: 5\r\n",
        "content-length: 99999999999999999999\r\n",
        "transfer-encoding: chunked\r\n",
        "connection: close\r\n",
        "connection: upgrade\r\nupgrade: h2c\r\n",
        "retry-after: ",
        "5\r\nhello\r\n",
        "0\r\n\r\n",
        "ffffffffffffffff\r\n",
        ": ",
    ])
    .prop_map(|text| text.as_bytes().to_vec());
    let noise = prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![3 => known, 1 => noise]
}

struct Rig {
    runtime: tokio::runtime::Runtime,
    egress: Egress,
}

impl Rig {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let egress = runtime.block_on(async {
            egress(EgressConfig {
                attempt_timeout: Duration::from_secs(20),
                ..config()
            })
        });
        Self { runtime, egress }
    }
}

#[test]
fn any_bytes_are_an_answer_or_none_and_never_a_panic() {
    let rig = Rig::new();
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(400)
    };
    let answers = (any::<bool>(), prop::collection::vec(piece(), 0..12));
    proptest!(config, |((proper, pieces) in answers)| {
        let mut bytes = if proper { b"HTTP/1.1 503 Busy\r\n".to_vec() } else { Vec::new() };
        bytes.extend(pieces.concat());
        let result = rig.runtime.block_on(async {
            let receiver = Hostile::start(vec![Step::Request, Step::Send(bytes), Step::Fin]).await;
            let result = post(&rig.egress, &receiver.http_url()).await;
            assert!(receiver.requests() <= 1);
            result
        });
        prop_assert!(matches!(
            result.outcome,
            Outcome::Success | Outcome::HttpError | Outcome::InvalidResponse | Outcome::Unreachable
        ), "{:?}", result);
        prop_assert_eq!(result.class.is_none(), result.outcome == Outcome::Success);
        prop_assert_eq!(result.failure.is_none(), result.outcome == Outcome::Success);
        prop_assert!(result.response_body.len() <= 16 * 1024);
        for (name, value) in result.response_headers.kept() {
            let plain = |text: &str| !text.chars().any(|c| c.is_control() && c != '\t');
            prop_assert!(plain(name) && plain(&value), "{}: {:?}", name, value);
        }
        let wish = result.response_headers.get("retry-after");
        if let Some(wait) = wish.and_then(|value| parse_retry_after(value, 0)) {
            prop_assert!(wait <= MAX_RETRY_AFTER);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// Otherwise a webhook could be saved that no attempt can be made for.
    #[test]
    fn what_is_accepted_as_an_endpoint_can_be_written_into_a_request(
        host in "[a-z0-9_-]{1,10}\\.example|[1-9]{1,3}\\.8\\.8\\.8|\\[2606:4700::[0-9a-f]{1,4}\\]",
        port in prop::option::of(1024_u16..),
        tail in "([/?][ -~]{0,30}){0,3}|[/?]\\PC{0,20}|",
    ) {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let text = format!("https://{host}{port}{tail}");
        if let Ok(url) = EndpointUrl::parse(&text, &AddressPolicy::default()) {
            let written = Uri::try_from(url.url().as_str());
            prop_assert!(written.is_ok(), "{}: {:?}", url.url(), written);
        }
    }
}
