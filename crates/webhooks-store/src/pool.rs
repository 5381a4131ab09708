//! The connection pool, migrations, and the check that they have run.

use std::{fmt, time::Duration};

use sqlx::{
    ConnectOptions as _, Connection as _, PgPool, Postgres, Transaction,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::error::StoreError;

/// The schema this program was built with.
static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// How to reach the database. `Debug` leaves the URL out, for it holds a password.
#[derive(Clone)]
pub struct StoreSettings {
    /// `postgres://user:password@host:port/database`.
    pub url: String,
    /// Most connections at a time.
    pub max_connections: u32,
    /// How long a call waits for a connection before it fails as unavailable.
    pub acquire_timeout: Duration,
    /// How long the server works on one statement before it gives up.
    pub statement_timeout: Duration,
}

impl StoreSettings {
    /// The defaults: 20 connections, 2 s to get one, 5 s a statement.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_connections: 20,
            acquire_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSettings")
            .field("max_connections", &self.max_connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .finish_non_exhaustive()
    }
}

/// The ledger of record. A cheap clone: all clones share one pool.
#[derive(Clone)]
pub struct Store {
    pub(crate) pool: PgPool,
    /// Without a statement timeout, for migrations.
    patient: PgConnectOptions,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("connections", &self.pool.size())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Makes a store that connects when it is first used, so that a service can start before its
    /// database. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Url`] when the URL cannot be read.
    pub fn connect(settings: &StoreSettings) -> Result<Self, StoreError> {
        let patient: PgConnectOptions = settings.url.parse().map_err(StoreError::Url)?;
        let patient = patient.application_name("webhooks");
        let timeout = settings.statement_timeout.as_millis().to_string();
        let options = patient.clone().options([
            ("statement_timeout", timeout.as_str()),
            // A client that stalls inside a transaction must not keep its locks for ever.
            ("idle_in_transaction_session_timeout", timeout.as_str()),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(settings.max_connections)
            .acquire_timeout(settings.acquire_timeout)
            .connect_lazy_with(options);
        Ok(Self { pool, patient })
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// When none comes within the acquire timeout.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Brings the schema to this program's version. Safe to run at the same time from several
    /// processes (an advisory lock lets one work and the others wait), and again.
    ///
    /// # Errors
    /// When a migration fails or an applied one was changed since.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let mut connection = self
            .patient
            .connect()
            .await
            .map_err(StoreError::of_schema)?;
        MIGRATIONS
            .run(&mut connection)
            .await
            .map_err(|error| match error {
                sqlx::migrate::MigrateError::Execute(error) => StoreError::of_schema(error),
                error => StoreError::Migrate(error),
            })?;
        connection.close().await?;
        Ok(())
    }

    /// Whether the schema is exactly the one this program was built with.
    ///
    /// # Errors
    /// [`StoreError::Schema`] with both versions when it is not; when `found` is the larger, a
    /// newer release has migrated already.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        let expected = MIGRATIONS
            .iter()
            .map(|migration| migration.version)
            .max()
            .unwrap_or(0);
        let applied = "SELECT max(version) FROM _sqlx_migrations WHERE success";
        let found = match sqlx::query_scalar::<_, Option<i64>>(applied)
            .fetch_one(&self.pool)
            .await
        {
            Ok(found) => found,
            Err(error) if is_undefined_table(&error) => None,
            Err(error) => return Err(error.into()),
        };
        if found == Some(expected) {
            Ok(())
        } else {
            Err(StoreError::Schema { found, expected })
        }
    }

    /// Begins to read things that are to be of one moment. Rows and total of a page are: a client takes
    /// what is absent from a list for deleted.
    pub(crate) async fn begin_reading(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        Ok(self.pool.begin_with(begin).await?)
    }

    /// Closes every connection, after the calls under way.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn is_undefined_table(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|database| database.code())
        .as_deref()
        == Some("42P01")
}
