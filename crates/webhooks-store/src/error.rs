//! What can go wrong, sorted by what a caller does about it.

use std::error::Error as StdError;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The workspace has as many webhooks as its plan allows.
    #[error("the plan allows {limit} webhooks and {used} exist")]
    PlanLimit {
        /// What the plan allows.
        limit: u32,
        /// How many there are.
        used: u32,
    },
    /// There are as many of something as there may be.
    #[error("there are {limit} {what} already")]
    Full {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u32,
    },
    /// Something that the call needs does not exist (`workspace`, …).
    #[error("{0} not found")]
    NotFound(&'static str),
    /// The row is not in the state the caller expected: an id that is taken, a revision that has
    /// moved on, an idempotency key that somebody else finished.
    #[error("{0} conflicts with what is stored")]
    Conflict(&'static str),
    /// More records than one call takes.
    #[error("a batch of {given} is over the limit of {limit}")]
    BatchTooLarge {
        /// How many were given.
        given: usize,
        /// The limit.
        limit: usize,
    },
    /// The database is away, overloaded, shutting down, read-only, or asked for the transaction to
    /// be run again. The same call may succeed later; its outcome may be unknown, so every batch
    /// call is idempotent.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// A stored value has no meaning in this release.
    #[error("the stored {what} cannot be read")]
    Corrupt {
        /// Which value.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The schema is not the one this program was built with. `found` above `expected` is a newer
    /// release's schema, `None` an empty database.
    #[error("the schema is at version {found:?} and this program needs {expected}")]
    Schema {
        /// The newest version applied.
        found: Option<i64>,
        /// The newest version this program knows.
        expected: i64,
    },
    /// A migration failed, or the applied ones are not the embedded ones.
    #[error("the schema could not be migrated")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The name of a role that cannot be one.
    #[error("{0:?} is no name of a role")]
    Role(String),
    /// The connection URL cannot be used.
    #[error("the database URL is not usable")]
    Url(#[source] sqlx::Error),
    /// A statement failed for a reason that repeating will not change.
    #[error("the statement failed")]
    Database(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    pub(crate) fn corrupt(
        what: &'static str,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::Corrupt {
            what,
            source: source.into(),
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if is_passing(&error) {
            Self::Unavailable(error)
        } else {
            Self::Database(error)
        }
    }
}

fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(database) => database
            .code()
            .is_some_and(|code| is_passing_state(&code, database.constraint())),
        _ => false,
    }
}

/// SQLSTATEs that pass: by class, connection (08), resources (53), operator intervention such as
/// shutdown, crash recovery and statement timeout (57); and, alone, serialization failure,
/// deadlock, a lock not had in time, a standby that takes no writes, and a transaction that was given
/// up because this process stood still in it. A check violation (23514)
/// without a constraint is a row that was on its way to the default partition while its day got a
/// partition of its own: the next time it goes there.
fn is_passing_state(code: &str, constraint: Option<&str>) -> bool {
    ["08", "53", "57"]
        .iter()
        .any(|class| code.starts_with(class))
        || ["40001", "40P01", "55P03", "25006", "25P03", "25P04"].contains(&code)
        || (code == "23514" && constraint.is_none())
}

/// Whether the statement hit a unique constraint.
pub(crate) fn is_duplicate(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|database| database.is_unique_violation())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        for code in [
            "08006", "53300", "57P01", "57P03", "57014", "40001", "40P01", "55P03", "25006",
            "25P03", "25P04", "23514",
        ] {
            assert!(is_passing_state(code, None), "{code}");
        }
        for code in ["23505", "23514", "22021", "42P01", "42601", "40002"] {
            assert!(!is_passing_state(code, Some("c")), "{code}");
        }
        assert!(StoreError::from(sqlx::Error::PoolTimedOut).is_retryable());
        assert!(!StoreError::from(sqlx::Error::RowNotFound).is_retryable());
        assert!(!StoreError::PlanLimit { limit: 1, used: 1 }.is_retryable());
    }
}
