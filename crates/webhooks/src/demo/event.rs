//! The sample event, with a time of its own.

use serde_json::Value;
use uuid::Uuid;
use webhooks_domain::event::format_micros;

/// As publishers send it: the product's sample without the webhook.
const SAMPLE: &str = include_str!("step_completed.json");

/// The time in the sample.
const SAMPLE_TIMESTAMP: &str = "2025-10-10T16:12:28.161007Z";

/// One event to publish.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) body: String,
    timestamp: String,
}

impl Event {
    /// The sample, completed at this moment.
    pub(crate) fn new(now_micros: i64) -> Self {
        let timestamp = format_micros(now_micros);
        Self {
            id: Uuid::new_v4().to_string(),
            body: SAMPLE.trim_end().replace(SAMPLE_TIMESTAMP, &timestamp),
            timestamp,
        }
    }

    /// Whether a request, as the receiver shows it, carries this event. The time tells: it is the
    /// only thing in the body that no other publish of the sample has.
    pub(crate) fn is_in(&self, request: &Value) -> bool {
        let mark = format!("\"timestamp\":\"{}\"", self.timestamp);
        request["body"]
            .as_str()
            .is_some_and(|body| body.contains(&mark))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use webhooks_domain::event::{EventLimits, parse_event};

    use super::{Event, SAMPLE, SAMPLE_TIMESTAMP};
    use crate::demo::WORKSPACE;

    #[test]
    fn the_sample_is_the_products_without_the_webhook() {
        let products =
            include_str!("../../../webhooks-domain/tests/data/step_completed.sample.json");
        let mut products: serde_json::Value = serde_json::from_str(products).unwrap();
        products.as_object_mut().unwrap().remove("webhook");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(SAMPLE).unwrap(),
            products
        );
        assert_eq!(SAMPLE.matches(SAMPLE_TIMESTAMP).count(), 1);
    }

    #[test]
    fn it_is_a_valid_event_of_the_demo_workspace() {
        let event = Event::new(1_760_112_748_161_007);
        let parsed = parse_event(event.body.as_bytes(), &EventLimits::DEFAULT).unwrap();
        assert_eq!(parsed.workspace_id, WORKSPACE);
        assert!(
            event.is_in(&json!({"body": format!("{{\"timestamp\":\"{}\"}}", event.timestamp)}))
        );
        assert!(!event.is_in(&json!({"body": "{}"})));
    }
}
