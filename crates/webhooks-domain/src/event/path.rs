//! Where a walk is, told only when somebody asks.
//!
//! A path is a chain of stack frames, so the common case (nothing to report) allocates nothing.

/// Longest path that is written out, in bytes: member names are the publisher's, and may be long.
const MAX_PATH_BYTES: usize = 200;

/// One step of a path, and the steps before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    name: &'p str,
}

impl<'p> Path<'p> {
    /// The document itself.
    pub(crate) const ROOT: Path<'static> = Path {
        parent: None,
        name: "",
    };

    /// The member `name` of what this path points at.
    pub(crate) fn member<'c>(&'c self, name: &'c str) -> Path<'c> {
        Path {
            parent: Some(self),
            name,
        }
    }

    /// Dotted from the root, elements of arrays as `[]`; cut with an ellipsis when very long.
    pub(crate) fn dotted(&self) -> String {
        let mut names = Vec::new();
        let mut at = Some(self);
        while let Some(path) = at {
            if path.parent.is_some() {
                names.push(path.name);
            }
            at = path.parent;
        }
        names.reverse();
        let mut dotted = names.join(".").replace(".[]", "[]");
        if dotted.len() > MAX_PATH_BYTES {
            let mut end = MAX_PATH_BYTES;
            while !dotted.is_char_boundary(end) {
                end -= 1;
            }
            dotted.truncate(end);
            dotted.push('\u{2026}');
        }
        dotted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_dotted_from_the_root_and_bounded() {
        let event = Path::ROOT.member("event");
        let tags = event.member("tags");
        assert_eq!(tags.member("[]").member("id").dotted(), "event.tags[].id");
        let long = "\u{e9}".repeat(500);
        let dotted = event.member(&long).dotted();
        assert!(dotted.len() <= MAX_PATH_BYTES + 3 && dotted.ends_with('\u{2026}'));
    }
}
