//! Whether a licence expression (SPDX) asks for no more than what deny.toml allows.

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::metadata::{packages, text};

/// Every package whose licence is not allowed, or that has none.
pub(crate) fn refused(metadata: &Value, allowed: &[String]) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for package in packages(metadata)? {
        let name = format!("{} {}", text(package, "name")?, text(package, "version")?);
        // Ours.
        if package["source"].is_null() {
            continue;
        }
        let Some(expression) = package["license"].as_str() else {
            problems.push(format!("{name} names no licence"));
            continue;
        };
        match fits(expression, allowed) {
            Ok(true) => {}
            Ok(false) => problems.push(format!(
                "the licence of {name} is not allowed: {expression}"
            )),
            Err(error) => problems.push(format!("the licence of {name}: {error:#}")),
        }
    }
    Ok(problems)
}

/// The expression as SPDX has it: older crates write `/` for OR.
pub(crate) fn spdx(expression: &str) -> String {
    let words: Vec<&str> = expression.split('/').map(str::trim).collect();
    words.join(" OR ")
}

/// Whether one of each OR and all of each AND are allowed.
fn fits(expression: &str, allowed: &[String]) -> anyhow::Result<bool> {
    let expression = spdx(expression).replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = expression.split_whitespace().rev().collect();
    let fits = any(&mut words, allowed)?;
    match words.pop() {
        None => Ok(fits),
        Some(word) => bail!("{word:?} is left over"),
    }
}

/// `a OR b`. The words stand in reverse order.
fn any(words: &mut Vec<&str>, allowed: &[String]) -> anyhow::Result<bool> {
    let mut fits = all(words, allowed)?;
    while words.pop_if(|word| *word == "OR").is_some() {
        fits |= all(words, allowed)?;
    }
    Ok(fits)
}

/// `a AND b`, which binds tighter.
fn all(words: &mut Vec<&str>, allowed: &[String]) -> anyhow::Result<bool> {
    let mut fits = one(words, allowed)?;
    while words.pop_if(|word| *word == "AND").is_some() {
        fits &= one(words, allowed)?;
    }
    Ok(fits)
}

/// A licence, with its exception, or an expression in parentheses.
fn one(words: &mut Vec<&str>, allowed: &[String]) -> anyhow::Result<bool> {
    let word = words.pop().context("it ends too early")?;
    match word {
        "(" => {
            let fits = any(words, allowed)?;
            match words.pop() {
                Some(")") => Ok(fits),
                _ => bail!("a parenthesis is not closed"),
            }
        }
        ")" | "OR" | "AND" | "WITH" => bail!("{word:?} stands in the wrong place"),
        licence => {
            let mut name = licence.to_owned();
            if words.pop_if(|word| *word == "WITH").is_some() {
                let exception = words.pop().context("WITH nothing")?;
                name = format!("{licence} WITH {exception}");
            }
            Ok(allowed.contains(&name))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{fits, refused};

    fn allowed() -> Vec<String> {
        ["MIT", "ISC", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
            .map(str::to_owned)
            .to_vec()
    }

    #[test]
    fn one_of_an_or_and_all_of_an_and() {
        let check = |expression: &str, expected: bool| {
            assert_eq!(
                fits(expression, &allowed()).unwrap(),
                expected,
                "{expression}"
            );
        };
        check("MIT", true);
        check("GPL-3.0-only", false);
        check("GPL-3.0-only OR MIT", true);
        check("MIT/Apache-2.0", true);
        check("Unlicense / MIT", true);
        check("MIT AND GPL-3.0-only", false);
        check("GPL-3.0-only OR MIT AND ISC", true);
        check("MIT OR GPL-3.0-only AND GPL-2.0-only", true);
        check("(MIT OR GPL-3.0-only) AND ISC", true);
        check("(MIT OR ISC) AND GPL-3.0-only", false);
        check(
            "ISC AND (Apache-2.0 OR ISC) AND MIT AND (Apache-2.0 OR ISC OR MIT-0)",
            true,
        );
        check("Apache-2.0 WITH LLVM-exception", true);
        check("MIT WITH LLVM-exception", false);
    }

    #[test]
    fn what_is_no_expression_is_an_error() {
        for bad in [
            "", "MIT OR", "(MIT", "MIT)", "OR MIT", "MIT ISC", "MIT WITH",
        ] {
            assert!(fits(bad, &allowed()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_package_without_an_allowed_licence_is_named() {
        let package = |name: &str, license: Option<&str>, source: Option<&str>| json!({"name": name, "version": "1.0.0", "license": license, "source": source});
        let registry = Some("registry+https://example.com");
        let metadata = json!({"packages": [
            package("ours", None, None),
            package("good", Some("MIT"), registry),
            package("bad", Some("GPL-3.0-only"), registry),
            package("silent", None, registry),
            package("broken", Some("MIT OR"), registry),
        ]});
        assert_eq!(
            refused(&metadata, &allowed()).unwrap(),
            [
                "the licence of bad 1.0.0 is not allowed: GPL-3.0-only",
                "silent 1.0.0 names no licence",
                "the licence of broken 1.0.0: it ends too early",
            ]
        );
    }
}
