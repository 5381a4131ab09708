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
    /// The database is away, overloaded, shutting down, read-only, not open to us, not as we expect
    /// it, or asked for the transaction to be run again. The same call may succeed later (perhaps only
    /// when somebody has put something right); its outcome may be unknown, so every batch call is
    /// idempotent.
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
    /// The database refuses the values, whenever they come.
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
    /// What is not provably about the values is about the database: a changed password, a revoked
    /// right, a missing table, a broken disk pass when somebody has put them right, and nothing that
    /// waits for it may be thrown away meanwhile.
    fn from(error: sqlx::Error) -> Self {
        if is_about_values(&error) {
            Self::Database(error)
        } else {
            Self::Unavailable(error)
        }
    }
}

impl StoreError {
    /// For statements that change the schema or rights while a person waits: what repeating alone
    /// does not cure is told at once.
    pub(crate) fn of_schema(error: sqlx::Error) -> Self {
        if passes_by_itself(&error) {
            Self::Unavailable(error)
        } else {
            Self::Database(error)
        }
    }
}

fn is_about_values(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => database
            .code()
            .is_some_and(|code| is_about_values_state(&code, database.constraint())),
        // A value that cannot be written, a row that is not there or does not read: the same again.
        sqlx::Error::Encode(_)
        | sqlx::Error::RowNotFound
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. } => true,
        _ => false,
    }
}

/// SQLSTATEs that only other values would change: data exceptions (22, among them a NUL in a text), a
/// constraint that has a name (23) or a column that must not be null (23502), one statement that meets
/// the same row twice (21000), and a row that an index cannot take (54000). A check violation (23514)
/// without a constraint is a row that was on its way to the default partition while its day got a
/// partition of its own: the next time it goes there.
fn is_about_values_state(code: &str, constraint: Option<&str>) -> bool {
    code.starts_with("22")
        || (code.starts_with("23") && constraint.is_some())
        || ["23502", "21000", "54000"].contains(&code)
}

fn passes_by_itself(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(database) => {
            database.code().is_some_and(|code| is_passing_state(&code))
        }
        _ => false,
    }
}

/// SQLSTATEs that pass: by class, connection (08), resources (53), operator intervention such as
/// shutdown, crash recovery and statement timeout (57); and, alone, serialization failure,
/// deadlock, a lock not had in time, a standby that takes no writes, and a transaction that was given
/// up because this process stood still in it.
fn is_passing_state(code: &str) -> bool {
    ["08", "53", "57"]
        .iter()
        .any(|class| code.starts_with(class))
        || ["40001", "40P01", "55P03", "25006", "25P03", "25P04"].contains(&code)
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
    fn only_what_is_about_the_values_is_refused_for_good() {
        for (code, constraint) in [
            ("22021", None),
            ("22P02", None),
            ("23505", Some("c")),
            ("23514", Some("c")),
            ("23502", None),
            ("21000", None),
            ("54000", None),
        ] {
            assert!(is_about_values_state(code, constraint), "{code}");
        }
        for code in [
            "08006", "53300", "57P01", "57014", "40001", "40P01", "55P03", "25006", "25P03",
            "23514", "28P01", "28000", "3D000", "42501", "42P01", "42703", "0A000", "58030",
            "XX000", "XX001", "P0001", "F0000",
        ] {
            assert!(!is_about_values_state(code, None), "{code}");
        }
        assert!(StoreError::from(sqlx::Error::PoolTimedOut).is_retryable());
        assert!(!StoreError::from(sqlx::Error::RowNotFound).is_retryable());
        assert!(!StoreError::PlanLimit { limit: 1, used: 1 }.is_retryable());
    }

    #[test]
    fn a_person_who_changes_the_schema_is_told_at_once_what_does_not_pass() {
        for code in ["08006", "53300", "57P03", "40P01", "55P03", "25006"] {
            assert!(is_passing_state(code), "{code}");
        }
        for code in ["42704", "42501", "28P01", "42P07"] {
            assert!(!is_passing_state(code), "{code}");
        }
    }
}
