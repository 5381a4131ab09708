//! What the running service's role may do, where it is not the one that owns the schema.
//!
//! Migrations are run by the owner. The service gets what it does and no more: the tables of
//! configuration are its to read and write; the audit log only to read and add to; the migrations'
//! record only to read. History is partitioned by day and the service makes and drops its partitions,
//! which only an owner can: so it owns events, deliveries and attempts.
//!
//! Roles belong to a server and not to a database, and hosted servers let nobody make them from
//! SQL. So the role is made by whoever runs the server, and named to `webhooks migrate --app-role`,
//! which grants. It grants what is there: after every migration it must run again.

use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use crate::{Store, error::StoreError};

/// Longest name of a role.
const NAME_MAX_BYTES: usize = 63;

/// Tables that are only read and added to.
const APPEND_ONLY: &[&str] = &["audit_log"];

/// Tables that are only read.
const READ_ONLY: &[&str] = &["_sqlx_migrations"];

/// What the role of this connection may do to the audit log beyond reading and adding to it, or could
/// by taking the place of a role that it belongs to.
const TOO_MUCH: &str = "
SELECT
  EXISTS (SELECT FROM pg_roles r WHERE r.rolsuper AND pg_has_role(r.oid, 'MEMBER')) AS is_superuser,
  pg_has_role(n.nspowner, 'MEMBER') AS owns_schema,
  pg_has_role(c.relowner, 'MEMBER') AS owns_table,
  has_any_column_privilege(c.oid, 'UPDATE') AS may_update,
  has_table_privilege(c.oid, 'DELETE') AS may_delete,
  has_table_privilege(c.oid, 'TRUNCATE') AS may_truncate
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass('audit_log')";

/// Each column of [`TOO_MUCH`] in words.
const IN_WORDS: [(&str, &str); 6] = [
    ("is_superuser", "is a superuser"),
    ("owns_schema", "owns the schema"),
    ("owns_table", "owns the audit log"),
    ("may_update", "may change the audit log"),
    ("may_delete", "may delete from the audit log"),
    ("may_truncate", "may empty the audit log"),
];

/// A table, and whether it belongs to history.
struct Table {
    name: String,
    history: bool,
}

impl Store {
    /// What the role that this store connects as may do and a running service's must not, in words
    /// that go on with "the role …". Empty = nothing; the schema has to be there.
    ///
    /// # Errors
    /// When the database fails, or there is no audit log.
    pub async fn role_may_too_much(&self) -> Result<Vec<&'static str>, StoreError> {
        let row = sqlx::query(TOO_MUCH)
            .fetch_optional(&self.pool)
            .await?
            .ok_or(StoreError::NotFound("the audit log"))?;
        let mut all = Vec::new();
        for (column, words) in IN_WORDS {
            let may: bool = row.try_get(column)?;
            if may {
                all.push(words);
            }
        }
        Ok(all)
    }

    /// Lets `role`, which exists, run the service on this schema: all of it in one transaction, as
    /// often as is liked. What it was granted before beyond that is taken back.
    ///
    /// # Errors
    /// [`StoreError::Role`] for a name that is none, else when the database refuses: there is no such
    /// role, or this user owns not everything or is no member of the role (`GRANT role TO user`).
    pub async fn grant_to(&self, role: &str) -> Result<(), StoreError> {
        let role = quoted(role)?;
        let mut connection = self.pool.acquire().await?;
        let mut tx = connection.begin().await?;
        let select =
            "SELECT c.relname::text AS name, c.relkind = 'p' OR c.relispartition AS history
            FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace
            AND c.relkind IN ('r', 'p') ORDER BY c.relname";
        let mut tables = Vec::new();
        for row in sqlx::query(select).fetch_all(&mut *tx).await? {
            tables.push(Table {
                name: row.try_get("name")?,
                history: row.try_get("history")?,
            });
        }
        let schema: String = sqlx::query_scalar("SELECT quote_ident(current_schema())")
            .fetch_one(&mut *tx)
            .await?;
        for statement in statements(&role, &schema, &tables) {
            // Names of the catalogue and a checked one, all quoted.
            sqlx::raw_sql(AssertSqlSafe(statement))
                .execute(&mut *tx)
                .await
                .map_err(StoreError::of_schema)?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// What is granted, in order.
fn statements(role: &str, schema: &str, tables: &[Table]) -> Vec<String> {
    let mut all = vec![
        format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}"),
        format!("GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}"),
    ];
    for table in tables {
        let name = format!("\"{}\"", table.name.replace('"', "\"\""));
        if table.history {
            all.push(format!("ALTER TABLE {name} OWNER TO {role}"));
            continue;
        }
        let rights = if READ_ONLY.contains(&table.name.as_str()) {
            "SELECT"
        } else if APPEND_ONLY.contains(&table.name.as_str()) {
            "SELECT, INSERT"
        } else {
            "SELECT, INSERT, UPDATE, DELETE"
        };
        all.push(format!("REVOKE ALL ON TABLE {name} FROM {role}"));
        all.push(format!("GRANT {rights} ON TABLE {name} TO {role}"));
    }
    all
}

fn quoted(role: &str) -> Result<String, StoreError> {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if (1..=NAME_MAX_BYTES).contains(&role.len()) && role.bytes().all(harmless) {
        Ok(format!("\"{role}\""))
    } else {
        Err(StoreError::Role(role.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_do_harm_are_refused() {
        assert_eq!(quoted("webhooks_app").unwrap(), "\"webhooks_app\"");
        for bad in ["", "a b", "a\"; DROP", "Ä", &"x".repeat(64)] {
            quoted(bad).unwrap_err();
        }
    }

    #[test]
    fn the_audit_log_is_never_granted_whole() {
        let table = |name: &str, history| Table {
            name: name.to_owned(),
            history,
        };
        let tables = [
            table("audit_log", false),
            table("webhooks", false),
            table("events", true),
        ];
        let text = statements("\"app\"", "public", &tables).join("\n");
        assert!(
            text.contains("GRANT SELECT, INSERT ON TABLE \"audit_log\""),
            "{text}"
        );
        assert!(
            text.contains("GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE \"webhooks\""),
            "{text}"
        );
        assert!(
            text.contains("ALTER TABLE \"events\" OWNER TO \"app\""),
            "{text}"
        );
    }
}
