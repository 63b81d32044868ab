//! A text as phrases see it: letters without their case, and where words begin.
//!
//! Blanks, `_`, `-`, apostrophes and the humps of camelCase only part words, so they are left out and
//! remembered as beginnings. German umlauts become two letters, full-width letters plain ones, and
//! JSON's escapes what they stand for. Each byte knows where it came from, so that words are quoted
//! as they stood there. One pass, linear in the text.

/// A text as phrases see it.
#[derive(Clone, Debug)]
pub struct Folded<'t> {
    text: &'t str,
    pub(super) bytes: Vec<u8>,
    /// Where the character of each byte begins in the text, twice, and one more if a word begins
    /// there; at the end one for the end.
    marks: Vec<u32>,
}

impl<'t> Folded<'t> {
    pub fn of(text: &'t str) -> Self {
        let mut folded = Self {
            text,
            bytes: Vec::with_capacity(text.len() + 8),
            marks: Vec::with_capacity(text.len() + 8),
        };
        let mut before = Kind::Other;
        let mut at = 0;
        while let Some(&byte) = text.as_bytes().get(at) {
            let plain = PLAIN[byte as usize];
            let (kind, bytes);
            if plain.alone {
                (kind, bytes) = (plain.kind, 1);
                let begins = Kind::begins_word(before, kind, || Kind::at(text, at + 1));
                if let Some(folded_byte) = plain.folded {
                    folded.bytes.push(folded_byte);
                    folded.marks.push(mark(at, begins));
                }
            } else {
                let (c, length) = next_char(&text[at..]).unwrap_or((' ', 1));
                (kind, bytes) = (Kind::of(c), length);
                let begins = Kind::begins_word(before, kind, || Kind::at(text, at + bytes));
                folded.push(c, at, begins);
            }
            before = kind;
            at += bytes;
        }
        folded.marks.push(mark(text.len(), true));
        folded
    }

    fn push(&mut self, c: char, from: usize, begins: bool) {
        let mut buffer = [0; 4];
        let (plain, more);
        let bytes: &[u8] = match c {
            '\u{2018}' | '\u{2019}' => return,
            c if c.is_whitespace() => return,
            'ä' | 'Ä' => b"ae",
            'ö' | 'Ö' => b"oe",
            'ü' | 'Ü' => b"ue",
            'ß' => b"ss",
            // Full-width forms of ASCII, as Japanese texts have them.
            '\u{ff01}'..='\u{ff5e}' => {
                let ascii = u8::try_from(u32::from(c) - 0xfee0).unwrap_or_default();
                plain = [ascii.to_ascii_lowercase()];
                &plain
            }
            c if c.is_ascii() => {
                let Some(folded) = PLAIN[c as usize].folded else {
                    return;
                };
                plain = [folded];
                &plain
            }
            c => {
                more = c.to_lowercase().next().unwrap_or(c);
                more.encode_utf8(&mut buffer).as_bytes()
            }
        };
        for (index, byte) in bytes.iter().enumerate() {
            self.bytes.push(*byte);
            self.marks.push(mark(from, begins && index == 0));
        }
    }

    /// Whether a word begins there, so that the one before has ended.
    #[inline]
    pub(super) fn begins_at(&self, at: usize) -> bool {
        self.marks[at] & 1 == 1
    }

    #[inline]
    pub(super) fn origin(&self, at: usize) -> usize {
        (self.marks[at] / 2) as usize
    }

    #[inline]
    pub(super) fn origin_of_end(&self, at: usize) -> usize {
        let Some(last) = at.checked_sub(1) else {
            return 0;
        };
        let from = self.origin(last);
        from + next_char(&self.text[from..]).map_or(0, |(_, bytes)| bytes)
    }
}

/// What becomes of each ASCII character but the backslash, which may begin an escape.
static PLAIN: [Plain; 256] = {
    let none = Plain {
        alone: false,
        kind: Kind::Other,
        folded: None,
    };
    let mut table = [none; 256];
    let mut c: u8 = 0;
    while c < 128 {
        table[c as usize] = Plain {
            alone: c != b'\\',
            kind: match c {
                b'a'..=b'z' => Kind::Lower,
                b'A'..=b'Z' => Kind::Upper,
                b'0'..=b'9' => Kind::Digit,
                _ => Kind::Other,
            },
            folded: match c {
                b'_' | b'-' | b'\'' | b'`' | b' ' | b'\t'..=b'\r' => None,
                _ => Some(c.to_ascii_lowercase()),
            },
        };
        c += 1;
    }
    table
};

#[derive(Clone, Copy)]
struct Plain {
    /// It stands for itself, whatever follows.
    alone: bool,
    kind: Kind,
    /// None where it only parts words.
    folded: Option<u8>,
}

#[inline]
fn mark(from: usize, begins: bool) -> u32 {
    // Texts are cut at a limit long before this matters.
    u32::try_from(from * 2 + usize::from(begins)).unwrap_or(u32::MAX)
}

/// The first character of a text and its length there; an escape of JSON is what it stands for.
#[inline]
fn next_char(text: &str) -> Option<(char, usize)> {
    let first = text.chars().next()?;
    if first != '\\' {
        return Some((first, first.len_utf8()));
    }
    let escape = text[1..].chars().next();
    match escape {
        Some('n' | 'r' | 't') => Some((' ', 2)),
        Some('u') => {
            let code = text
                .get(2..6)
                .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            let c = code
                .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                .and_then(char::from_u32);
            Some(c.map_or(('\\', 1), |c| (c, 6)))
        }
        _ => Some((' ', 1)),
    }
}

/// What a character is to the question where words begin. Japanese and Korean write no blanks
/// between words, so each of their characters may begin one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lower,
    Upper,
    Digit,
    Other,
}

impl Kind {
    fn of(c: char) -> Self {
        match c {
            'A'..='Z' => Self::Upper,
            '0'..='9' => Self::Digit,
            // Latin letters with accents.
            '\u{c0}'..='\u{24f}' if c.is_uppercase() => Self::Upper,
            'a'..='z' | '\u{c0}'..='\u{24f}' => Self::Lower,
            _ => Self::Other,
        }
    }

    /// The kind of the character at a place of a text.
    fn at(text: &str, at: usize) -> Self {
        next_char(&text[at..]).map_or(Self::Other, |(c, _)| Self::of(c))
    }

    /// Whether a word begins with a character of `kind` that stands behind one of `before`.
    #[inline]
    fn begins_word(before: Self, kind: Self, next: impl FnOnce() -> Self) -> bool {
        match (before, kind) {
            (Self::Other, _) | (_, Self::Other) | (Self::Lower | Self::Digit, Self::Upper) => true,
            // The last capital of `HTTPError` begins the next word.
            (Self::Upper, Self::Upper) => next() == Self::Lower,
            _ => false,
        }
    }
}
