//! One way to print an error with its causes.

use std::error::Error;

/// The error and its sources, joined by `: `, each once.
///
/// Our own messages never repeat their source; some libraries' do, and then the source is left out.
#[must_use]
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let message = cause.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::error_chain;

    #[derive(Debug, thiserror::Error)]
    #[error("could not publish")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("request failed: {0}")]
    struct Middle(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("connection refused")]
    struct Inner;

    #[test]
    fn causes_are_joined_and_never_repeated() {
        assert_eq!(
            error_chain(&Outer(Middle(Inner))),
            "could not publish: request failed: connection refused"
        );
        assert_eq!(error_chain(&Inner), "connection refused");
    }
}
