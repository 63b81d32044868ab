//! A file or a pipe, cut into its events.
//!
//! NDJSON, JSON arrays, single objects and several after another, compact or over many lines: the
//! bytes tell which, nobody has to say. Every byte that is no space belongs to a piece, whether it
//! is JSON or not, and a piece that is broken off takes no neighbour with it: events begin at `{` at
//! the beginning of a line. Memory is bounded by the largest piece allowed, not by the input.

use std::io::{self, Read};

use bytes::Bytes;

/// What is read at once: large enough that system calls don't matter.
const CHUNK_BYTES: usize = 64 * 1024;

/// A part of the input that stands for one event (or an envelope of several).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) content: Content,
    /// Where it begins, counted from 1.
    pub(super) line: u64,
    /// Its place in a top-level array, counted from 0.
    pub(super) element: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Without spaces around it. It need not be JSON.
    Json(Bytes),
    /// Larger than allowed; its bytes were passed over.
    TooLarge { bytes: u64 },
    /// The input ended within a top-level array.
    Unclosed,
}

/// Cuts an input into pieces.
#[derive(Debug)]
pub(super) struct Splitter<R> {
    input: R,
    piece_bytes_max: usize,
    /// What the input is read into.
    chunk: Box<[u8]>,
    /// Read and not yet given out.
    buffer: Vec<u8>,
    /// Where in `buffer` the part not yet given out begins.
    start: usize,
    at_end: bool,
    line: u64,
    /// The next element's number, within a top-level array.
    element: Option<u64>,
    /// Bytes given out or passed over.
    pub(super) consumed: u64,
}

/// Where a piece ends.
enum End {
    /// Behind its last byte.
    At(usize),
    /// It was too large and has been passed over.
    Skipped(u64),
}

/// What the scan of an object or a list has seen so far.
#[derive(Default)]
struct Nesting {
    /// The brackets that are open.
    open: Vec<u8>,
    in_string: bool,
    escaped: bool,
    /// The last byte that is no space.
    last: u8,
}

enum Step {
    More,
    /// This byte closed the value.
    Closed,
    /// With this byte it is no JSON any more.
    Broken,
}

impl Nesting {
    fn step(&mut self, byte: u8, begins_line: bool) -> Step {
        if self.in_string {
            match byte {
                // No JSON text goes over the end of a line: this one was cut off.
                b'\n' => return Step::Broken,
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Step::More;
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return Step::More,
            b'"' => self.in_string = true,
            b'{' | b'[' => {
                let fits = match self.last {
                    b':' | b'[' => true,
                    b',' => self.open.last() == Some(&b'['),
                    _ => self.open.is_empty(),
                };
                if begins_line && byte == b'{' && !fits {
                    return Step::Broken;
                }
                self.open.push(byte);
            }
            b'}' | b']' => {
                // `{` and `}`, `[` and `]` are two apart in ASCII.
                if self.open.pop() != Some(byte - 2) {
                    return Step::Broken;
                }
                if self.open.is_empty() {
                    return Step::Closed;
                }
            }
            _ => {}
        }
        self.last = byte;
        Step::More
    }
}

impl<R: Read> Splitter<R> {
    pub(super) fn new(input: R, piece_bytes_max: usize) -> Self {
        Self {
            input,
            piece_bytes_max,
            chunk: vec![0; CHUNK_BYTES].into(),
            buffer: Vec::new(),
            start: 0,
            at_end: false,
            line: 1,
            element: None,
            consumed: 0,
        }
    }

    /// The next piece, or none at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Piece>> {
        if self.consumed == 0 {
            // A byte order mark, as Windows writes it.
            while !self.at_end && self.buffer.len() < 3 {
                self.fill()?;
            }
            if self.buffer.starts_with(b"\xef\xbb\xbf") {
                self.advance(3);
            }
        }
        loop {
            let Some(byte) = self.byte(self.start)? else {
                let unclosed = self.element.take();
                return Ok(unclosed.map(|element| Piece {
                    content: Content::Unclosed,
                    line: self.line,
                    element: Some(element),
                }));
            };
            match (byte, self.element) {
                (b' ' | b'\t' | b'\r' | b'\n', _) | (b',', Some(_)) => {}
                (b'[', None) => self.element = Some(0),
                (b']', Some(_)) => self.element = None,
                _ => break,
            }
            self.advance(self.start + 1);
        }
        let (line, element) = (self.line, self.element);
        if let Some(next) = &mut self.element {
            *next += 1;
        }
        let content = match self.scan()? {
            End::At(end) => {
                let json = Bytes::copy_from_slice(self.buffer[self.start..end].trim_ascii_end());
                self.advance(end);
                Content::Json(json)
            }
            End::Skipped(bytes) => Content::TooLarge { bytes },
        };
        Ok(Some(Piece {
            content,
            line,
            element,
        }))
    }

    /// Finds the end of the piece that begins at `start`.
    fn scan(&mut self) -> io::Result<End> {
        let nested = match self.buffer[self.start] {
            b'{' => true,
            b'[' => self.element.is_some(),
            _ => false,
        };
        if !nested {
            return self.scan_plain();
        }
        let mut nesting = Nesting::default();
        let mut at = self.start;
        loop {
            if at - self.start > self.piece_bytes_max {
                return self.skip(nesting, at);
            }
            let Some(byte) = self.byte(at)? else {
                return Ok(End::At(self.mend(at)));
            };
            let begins_line = at > self.start && self.buffer[at - 1] == b'\n';
            match nesting.step(byte, begins_line) {
                Step::More => at += 1,
                Step::Closed => return Ok(End::At(at + 1)),
                Step::Broken => {
                    let mended = self.mend(at + 1);
                    return if mended <= at {
                        Ok(End::At(mended))
                    } else {
                        self.line_end(at)
                    };
                }
            }
        }
    }

    /// Where a broken piece is to end so that it holds no other event's beginning.
    fn mend(&self, end: usize) -> usize {
        let piece = &self.buffer[self.start..end];
        piece
            .windows(2)
            .position(|pair| pair == b"\n{")
            .map_or(end, |newline| self.start + newline + 1)
    }

    /// The end of what is no object: of its line or, in an array, of the element.
    fn scan_plain(&mut self) -> io::Result<End> {
        if self.element.is_none() {
            return self.line_end(self.start);
        }
        let mut nesting = Nesting::default();
        let mut at = self.start;
        loop {
            if at - self.start > self.piece_bytes_max {
                return self.skip(nesting, at);
            }
            match self.byte(at)? {
                None | Some(b'\n') => return Ok(End::At(at)),
                Some(b',' | b']') if !nesting.in_string => return Ok(End::At(at)),
                // Only to know where texts begin and end.
                Some(byte) => _ = nesting.step(byte, false),
            }
            at += 1;
        }
    }

    fn line_end(&mut self, from: usize) -> io::Result<End> {
        let mut at = from;
        loop {
            if at - self.start > self.piece_bytes_max {
                return self.skip(Nesting::default(), at);
            }
            match self.byte(at)? {
                None | Some(b'\n') => return Ok(End::At(at)),
                Some(_) => at += 1,
            }
        }
    }

    /// Passes over the rest of a piece that is too large, of which `at` is the next byte.
    fn skip(&mut self, mut nesting: Nesting, at: usize) -> io::Result<End> {
        let began = self.consumed;
        self.advance(at);
        let mut to_line_end = nesting.open.is_empty();
        let mut begins_line = false;
        while let Some(byte) = self.byte(self.start)? {
            if to_line_end {
                if byte == b'\n' {
                    break;
                }
            } else {
                match nesting.step(byte, begins_line) {
                    Step::More => {}
                    Step::Closed => {
                        self.advance(self.start + 1);
                        break;
                    }
                    // An event that begins here is not part of it.
                    Step::Broken if begins_line => break,
                    Step::Broken => {
                        to_line_end = true;
                        continue;
                    }
                }
            }
            begins_line = byte == b'\n';
            self.advance(self.start + 1);
        }
        Ok(End::Skipped(self.consumed - began))
    }

    /// The byte at a place of the buffer, which is read as far as need be.
    fn byte(&mut self, at: usize) -> io::Result<Option<u8>> {
        while at >= self.buffer.len() && !self.at_end {
            self.fill()?;
        }
        Ok(self.buffer.get(at).copied())
    }

    fn fill(&mut self) -> io::Result<()> {
        let read = loop {
            match self.input.read(&mut self.chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.buffer.extend_from_slice(&self.chunk[..read]);
        self.at_end = read == 0;
        Ok(())
    }

    /// Gives up what lies before `to`.
    fn advance(&mut self, to: usize) {
        let gone = &self.buffer[self.start..to];
        self.consumed += gone.len() as u64;
        self.line += gone
            .iter()
            .map(|byte| u64::from(*byte == b'\n'))
            .sum::<u64>();
        self.start = to;
        // Moving what is left costs less than what was read since the last time.
        if self.start >= CHUNK_BYTES && self.start * 2 >= self.buffer.len() {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 10_000;

    /// Gives at most `step` bytes at a time.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(into.len()).min(self.0.len());
            into[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn pieces(input: &[u8], step: usize) -> Vec<Piece> {
        let mut splitter = Splitter::new(Dribble(input, step), LIMIT);
        let mut pieces = Vec::new();
        while let Some(piece) = splitter.next().unwrap() {
            pieces.push(piece);
        }
        assert_eq!(splitter.consumed, input.len() as u64);
        pieces
    }

    fn shown(piece: &Piece) -> String {
        let content = match &piece.content {
            Content::Json(json) => String::from_utf8_lossy(json).into_owned(),
            Content::TooLarge { bytes } => format!("too large {bytes}"),
            Content::Unclosed => "unclosed".to_owned(),
        };
        match piece.element {
            Some(element) => format!("{}[{element}] {content}", piece.line),
            None => format!("{} {content}", piece.line),
        }
    }

    fn check(input: &str, expected: &[&str]) {
        for step in [1, 7, 100_000] {
            let found: Vec<_> = pieces(input.as_bytes(), step).iter().map(shown).collect();
            assert_eq!(found, expected, "{input}");
        }
    }

    #[test]
    fn the_bytes_tell_the_format() {
        check("", &[]);
        check(" \n\n", &[]);
        check("{\"a\":1}", &["1 {\"a\":1}"]);
        check(
            "{\"a\":1}\r\n\n {\"b\":\"}\\\"\"}\n",
            &["1 {\"a\":1}", "3 {\"b\":\"}\\\"\"}"],
        );
        check("\u{feff}{}\n{}", &["1 {}", "2 {}"]);
        check("[]", &[]);
        check(
            "[{},\n{\"a\":[1,{}]}, 5]",
            &["1[0] {}", "2[1] {\"a\":[1,{}]}", "2[2] 5"],
        );
        check(
            "[\n  {\n    \"a\": 1\n  }\n]\n",
            &["2[0] {\n    \"a\": 1\n  }"],
        );
        check(
            "{\n\"a\": [\n{\n\"b\": 1\n}\n]\n}\n{}",
            &["1 {\n\"a\": [\n{\n\"b\": 1\n}\n]\n}", "8 {}"],
        );
        check("[{}]\n[{},{}]\n", &["1[0] {}", "2[0] {}", "2[1] {}"]);
        check("{}{}", &["1 {}", "1 {}"]);
        check(
            "[\"a,]\", [1], null]",
            &["1[0] \"a,]\"", "1[1] [1]", "1[2] null"],
        );
    }

    #[test]
    fn what_is_no_json_is_a_piece_too() {
        check("hello, world\n{}\n5", &["1 hello, world", "2 {}", "3 5"]);
        check("{\"a\":1]}\n{}", &["1 {\"a\":1]}", "2 {}"]);
        check("{\"a\":\"b\n{}\n", &["1 {\"a\":\"b", "2 {}"]);
        check(
            "{\"a\":\n{\"b\":1}\n{\"c\":2}\n",
            &["1 {\"a\":", "2 {\"b\":1}", "3 {\"c\":2}"],
        );
        check(
            "[{}, {\"a\":",
            &["1[0] {}", "1[1] {\"a\":", "1[2] unclosed"],
        );
    }

    #[test]
    fn what_is_too_large_is_passed_over() {
        let large = "x".repeat(3 * LIMIT);
        let line = format!("{{\"a\":\"{large}\"}}");
        let told = format!("1 too large {}", line.len());
        check(&format!("{line}\n{{}}\n"), &[&told, "2 {}"]);
        check(
            &format!("[{line},\n{{}}]"),
            &[&told.replace("1 ", "1[0] "), "2[1] {}"],
        );
        check(
            &format!("{{\"a\":\"{large}\n{{}}\n"),
            &[&format!("1 too large {}", line.len() - 2), "2 {}"],
        );
        check(
            &format!("{large}\n{{}}"),
            &[&format!("1 too large {}", large.len()), "2 {}"],
        );
        let tall = format!("{{\"a\":[\n{}1]}}", "1,\n".repeat(LIMIT));
        check(
            &format!("{tall}\n{{}}"),
            &[
                &format!("1 too large {}", tall.len()),
                &format!("{} {{}}", LIMIT + 3),
            ],
        );
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<i64>().prop_map(Into::into),
            "[ -~\\n\\p{L}]{0,12}".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map("[a-z{}\\[\\]\",:]{0,4}", inner, 0..4)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    fn object() -> impl Strategy<Value = serde_json::Value> {
        prop::collection::btree_map("[a-z]{0,4}", json(), 0..5)
            .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into())
    }

    fn read(pieces: &[Piece]) -> Vec<serde_json::Value> {
        pieces
            .iter()
            .map(|piece| match &piece.content {
                Content::Json(json) => serde_json::from_slice(json).unwrap(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn all_events_come_out_however_they_are_written(
            events in prop::collection::vec(object(), 0..6),
            pretty: bool,
            array: bool,
            step in 1..50_usize,
        ) {
            let mut text = String::new();
            if array {
                let all = serde_json::Value::from(events.clone());
                text = if pretty { serde_json::to_string_pretty(&all) } else { serde_json::to_string(&all) }.unwrap();
            } else {
                for event in &events {
                    text += &if pretty { serde_json::to_string_pretty(event) } else { serde_json::to_string(event) }.unwrap();
                    text.push('\n');
                }
            }
            prop_assert_eq!(read(&pieces(text.as_bytes(), step)), events);
        }

        #[test]
        fn a_line_that_was_cut_off_harms_no_other(
            before in prop::collection::vec(object(), 0..3),
            cut in object(),
            at: prop::sample::Index,
            after in prop::collection::vec(object(), 0..3),
            step in 1..50_usize,
        ) {
            let whole = cut.to_string();
            let mut end = 1 + at.index(whole.len() - 1);
            while !whole.is_char_boundary(end) {
                end += 1;
            }
            let mut lines: Vec<_> = before.iter().map(ToString::to_string).collect();
            lines.push(whole[..end].to_owned());
            lines.extend(after.iter().map(ToString::to_string));
            let found = pieces(lines.join("\n").as_bytes(), step);
            let found: Vec<_> = found.iter().map(|piece| match &piece.content {
                Content::Json(json) => String::from_utf8_lossy(json).into_owned(),
                other => panic!("{other:?}"),
            }).collect();
            let lines: Vec<_> = lines.iter().map(|line| line.trim_end()).collect();
            prop_assert_eq!(found, lines);
        }

        #[test]
        fn any_bytes_end_and_are_told_whole(input: Vec<u8>, step in 1..50_usize) {
            let kept: usize = pieces(&input, step).iter().map(|piece| match &piece.content {
                Content::Json(json) => json.len(),
                _ => 0,
            }).sum();
            prop_assert!(kept <= input.len());
        }
    }
}
