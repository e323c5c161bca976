//! Lines from a stream of bytes that arrives in pieces of any size (NDJSON). At most one line is buffered, of bounded
//! length.

use bytes::{Bytes, BytesMut};

/// A line with its number, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NdjsonLine {
    pub(crate) number: u64,
    pub(crate) text: LineText,
}

/// The content of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LineText {
    /// The bytes of the line, without its end.
    Whole(Bytes),
    /// The line has more bytes than are allowed; they were skipped.
    TooLong,
}

/// A splitter of a stream into lines. Blank lines are counted and left out.
#[derive(Debug)]
pub(crate) struct LineSplitter {
    max_bytes: usize,
    number: u64,
    rest: BytesMut,
    skipping: Skipping,
}

/// Whether the next bytes belong to a line that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skipping {
    Yes,
    No,
}

impl LineSplitter {
    /// Splits into lines of at most `max_bytes`.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, number: 0, rest: BytesMut::new(), skipping: Skipping::No }
    }

    /// Takes a piece of the stream, and adds the lines that end in it to `out`.
    pub(crate) fn push(&mut self, mut piece: Bytes, out: &mut Vec<NdjsonLine>) {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let head = piece.split_to(end + 1).slice(..end);
            self.end_line(head, out);
        }
        if self.skipping == Skipping::No {
            self.rest.extend_from_slice(&piece[..piece.len().min(self.max_bytes + 2)]);
            if self.rest.len() > self.max_bytes + 1 {
                // The line is too long wherever it ends; a CR can be its last byte.
                self.rest.clear();
                self.skipping = Skipping::Yes;
            }
        }
    }

    /// Ends the stream, whose last line can be without a line end.
    pub(crate) fn finish(mut self, out: &mut Vec<NdjsonLine>) {
        if self.skipping == Skipping::Yes || !self.rest.is_empty() {
            self.end_line(Bytes::new(), out);
        }
    }

    fn end_line(&mut self, tail: Bytes, out: &mut Vec<NdjsonLine>) {
        self.number += 1;
        let skipped = std::mem::replace(&mut self.skipping, Skipping::No) == Skipping::Yes;
        let mut line = if self.rest.is_empty() {
            tail
        } else {
            self.rest.extend_from_slice(&tail[..tail.len().min(self.max_bytes + 2)]);
            self.rest.split().freeze()
        };
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        if self.number == 1 && line.starts_with("\u{feff}".as_bytes()) {
            line = line.slice(3..);
        }
        let text = if skipped || line.len() > self.max_bytes { LineText::TooLong } else { LineText::Whole(line) };
        let blank = matches!(&text, LineText::Whole(line) if line.iter().all(u8::is_ascii_whitespace));
        if !blank {
            out.push(NdjsonLine { number: self.number, text });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(pieces: &[&[u8]], max_bytes: usize) -> Vec<(u64, Option<String>)> {
        let (mut lines, mut out) = (LineSplitter::new(max_bytes), Vec::new());
        for piece in pieces {
            lines.push(Bytes::copy_from_slice(piece), &mut out);
        }
        lines.finish(&mut out);
        let text = |text| match text {
            LineText::Whole(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            LineText::TooLong => None,
        };
        out.into_iter().map(|line| (line.number, text(line.text))).collect()
    }

    #[test]
    fn lines_are_numbered_as_people_count_them() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(cut(&[b"\xef\xbb\xbfa\r\n\n  \nb"], 10), [(1, some("a")), (4, some("b"))]);
        assert_eq!(cut(&[b"a", b"b", b"\n"], 10), [(1, some("ab"))]);
        assert_eq!(cut(&[], 10), []);
    }

    #[test]
    fn a_long_line_is_skipped_and_the_next_is_not() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(cut(&[b"abcd\nabcde\nf"], 4), [(1, some("abcd")), (2, None), (3, some("f"))]);
        assert_eq!(cut(&[b"abc", b"defghi", b"jk\nf\n"], 4), [(1, None), (2, some("f"))]);
        assert_eq!(cut(&[b"abcdefgh"], 4), [(1, None)]);
        assert_eq!(cut(&[b"abcd\r\n"], 4), [(1, some("abcd"))]);
    }

    proptest! {
        #[test]
        fn how_a_stream_is_cut_changes_nothing(text in "[ab\r\n]{0,60}", size in 1_usize..9, max in 1_usize..7) {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            prop_assert_eq!(cut(&pieces, max), cut(&[text.as_bytes()], max));
        }
    }
}
