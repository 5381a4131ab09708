//! What a scenario saw, as a table.

use std::fmt;

/// Facts in the order in which they were found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    facts: Vec<(String, String)>,
}

impl Report {
    pub(super) fn add(&mut self, what: impl Into<String>, seen: impl Into<String>) {
        self.facts.push((what.into(), seen.into()));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | seen |\n| --- | --- |")?;
        for (what, seen) in &self.facts {
            writeln!(f, "| {what} | {seen} |")?;
        }
        Ok(())
    }
}
