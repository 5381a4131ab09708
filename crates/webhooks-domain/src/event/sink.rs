//! Output that is mostly a copy of the input.

/// Collects spans of `input` and copies them in runs: spans that touch are copied at once, so
/// an event that is minified and wholly allowed costs a handful of copies.
#[derive(Debug)]
pub(crate) struct Sink<'a> {
    input: &'a [u8],
    out: Vec<u8>,
    run: (usize, usize),
}

impl<'a> Sink<'a> {
    pub(crate) fn new(input: &'a [u8], capacity: usize) -> Self {
        Self {
            input,
            out: Vec::with_capacity(capacity),
            run: (0, 0),
        }
    }

    /// Appends the input's bytes from `start` to `end`.
    #[inline]
    pub(crate) fn span(&mut self, start: usize, end: usize) {
        if start != self.run.1 {
            self.flush();
            self.run.0 = start;
        }
        self.run.1 = end;
    }

    /// Appends bytes that are not in the input.
    pub(crate) fn literal(&mut self, bytes: &[u8]) {
        self.flush();
        self.out.extend_from_slice(bytes);
    }

    fn flush(&mut self) {
        let (start, end) = self.run;
        self.out.extend_from_slice(&self.input[start..end]);
        self.run.0 = end;
    }

    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        self.flush();
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_literals_come_out_in_order() {
        let mut sink = Sink::new(b"0123456789", 0);
        sink.span(2, 4);
        sink.span(4, 5);
        sink.span(7, 8);
        sink.literal(b"-");
        sink.span(8, 9);
        sink.span(0, 0);
        sink.span(1, 2);
        assert_eq!(sink.into_bytes(), b"2347-81");
        assert_eq!(Sink::new(b"abc", 8).into_bytes(), b"");
    }
}
