//! Code out of documents: what a page shows is what runs.

use std::path::PathBuf;

use anyhow::Context as _;

/// The root of the sources.
pub(crate) fn root() -> PathBuf {
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors()
        .nth(2)
        .expect("this crate lies two folders deep")
        .to_owned()
}

/// The code block of `docs/<page>` that stands below `<!-- run: <name> -->`.
pub(crate) fn code(page: &str, name: &str) -> anyhow::Result<String> {
    let file = root().join("docs").join(page);
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let block = block(&text, name);
    let block = block.with_context(|| format!("docs/{page} has no code named {name}"))?;
    Ok(block.to_owned())
}

fn block<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<!-- run: {name} -->\n```"))?;
    let (_, code) = rest.split_once('\n')?;
    let end = code.find("\n```")?;
    code.get(..end + 1)
}

#[test]
fn a_block_is_what_stands_between_the_fences() {
    let page = "x\n<!-- run: a -->\n```js\none\n\ntwo\n```\ny\n<!-- run: b -->\n```\nthree\n```\n";
    assert_eq!(block(page, "a"), Some("one\n\ntwo\n"));
    assert_eq!(block(page, "b"), Some("three\n"));
    assert_eq!(block(page, "c"), None);
}
