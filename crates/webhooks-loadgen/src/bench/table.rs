//! The table.

use std::fmt;

/// One figure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// What it is.
    pub(super) figure: String,
    /// What we reach.
    pub(super) ours: String,
    /// What the machine can do at all.
    pub(super) limit: String,
    /// What we want.
    pub(super) aim: String,
    /// How it was taken.
    pub(super) how: String,
}

/// All figures, in the order of measuring.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) rows: Vec<Row>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        writeln!(
            f,
            "{cores} cores run everything: four services, nats-server, PostgreSQL, the generator and the receiver. \
             Every attempt is recorded in Postgres.\n"
        )?;
        writeln!(
            f,
            "| figure | here | limit in this run | aim | how |\n| --- | --- | --- | --- | --- |"
        )?;
        for Row {
            figure,
            ours,
            limit,
            aim,
            how,
        } in &self.rows
        {
            writeln!(f, "| {figure} | **{ours}** | {limit} | {aim} | {how} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_five_columns() {
        let row = Row {
            figure: "a".into(),
            ours: "b".into(),
            limit: "c".into(),
            aim: "d".into(),
            how: "e".into(),
        };
        let text = Table { rows: vec![row] }.to_string();
        assert!(text.ends_with("| a | **b** | c | d | e |\n"), "{text}");
    }
}
