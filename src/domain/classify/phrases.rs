//! Searching a text for the phrases of all rules at once.
//!
//! A phrase is one part or several, joined by ` .. `: they stand in that order and in one clause,
//! at most [`GAP_BYTES_MAX`] bytes apart. A part is what may stand there: words, or a class of words
//! in braces, with `|` between alternatives. Words are whole words, unless a `*` opens a side.
//!
//! Texts are folded before they are searched: letters lose their case, and blanks, `_`, `-`,
//! quotes and the humps of `camelCase` only part words. So `user not found` is also
//! `USER_NOT_FOUND`, `userNotFound` and "User  not-found". German umlauts are `ae`, `oe`, `ue`, and
//! JSON's `\u00fc` is the letter it stands for. Searching is one pass, linear in the text.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, MatchKind};

/// What may lie between two parts of a phrase: a name with an id and an address, not a sentence.
const GAP_BYTES_MAX: usize = 100;

/// Words of a text that are looked at; a text with more is no error message.
const WORDS_MAX: usize = 1024;

/// Separates the parts of a phrase.
const GAP: &str = " .. ";

/// Why a phrase can't be searched for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PhraseError {
    #[error("the phrase {0:?} has a part without words, which would match everything")]
    Empty(String),
    #[error("the phrase {phrase:?} names {{{class}}}, but there is no such class of words")]
    UnknownClass { phrase: String, class: String },
    #[error("the phrase {0:?} has a brace that does not enclose the whole of an alternative")]
    StrayBrace(String),
    #[error("all phrases together are too large to search for")]
    TooLarge,
}

/// Classes of words, by name.
pub type Classes = HashMap<String, Vec<String>>;

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit<T> {
    pub what: T,
    pub start: usize,
    pub end: usize,
}

/// A phrase taken apart: for each part the words that may stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phrase<'a> {
    pub parts: Vec<Vec<&'a str>>,
}

impl<'a> Phrase<'a> {
    /// Words as they are, without a syntax.
    pub fn words(text: &'a str) -> Self {
        Self {
            parts: vec![vec![text]],
        }
    }

    pub fn parse(text: &'a str, classes: &'a Classes) -> Result<Self, PhraseError> {
        let mut parts = Vec::new();
        for part in text.split(GAP) {
            let mut words = Vec::new();
            for alternative in part.split('|').map(str::trim) {
                let class = alternative
                    .strip_prefix('{')
                    .and_then(|rest| rest.strip_suffix('}'));
                match class {
                    Some(class) => {
                        let known =
                            classes
                                .get(class)
                                .ok_or_else(|| PhraseError::UnknownClass {
                                    phrase: text.to_owned(),
                                    class: class.to_owned(),
                                })?;
                        words.extend(known.iter().map(String::as_str));
                    }
                    None if alternative.starts_with('{') && alternative.contains('}') => {
                        return Err(PhraseError::StrayBrace(text.to_owned()));
                    }
                    None => words.push(alternative),
                }
            }
            if words.is_empty() || words.iter().any(|word| is_empty(word)) {
                return Err(PhraseError::Empty(text.to_owned()));
            }
            parts.push(words);
        }
        Ok(Self { parts })
    }
}

/// Whether nothing is left of a word to search for.
pub fn is_empty(word: &str) -> bool {
    Folded::of(word.trim_matches('*')).bytes.is_empty()
}

/// What is searched for, ready to be.
#[derive(Debug)]
pub struct Phrases<T> {
    automaton: AhoCorasick,
    /// By the automaton's patterns.
    words: Vec<Word>,
    /// What a phrase of one part stands for, by its word.
    single: Vec<Vec<T>>,
    /// Where words stand in phrases of several parts.
    part_of: Vec<Vec<u32>>,
    /// Phrases of several parts by the first of them.
    beginning: Vec<Vec<Sequence<T>>>,
}

/// A folded word and its open sides.
#[derive(Clone, Copy, Debug)]
struct Word {
    open_left: bool,
    open_right: bool,
}

#[derive(Clone, Debug)]
struct Sequence<T> {
    rest: Vec<u32>,
    what: T,
}

/// Words that stand in a text, in reading order.
pub type Found = Vec<Hit<u32>>;

impl<T: Copy> Phrases<T> {
    /// Takes each phrase with what it stands for.
    pub fn new<'a>(
        phrases: impl IntoIterator<Item = (Phrase<'a>, T)>,
    ) -> Result<Self, PhraseError> {
        let mut words = Dictionary::default();
        let mut single: Vec<Vec<T>> = Vec::new();
        let mut part_of: Vec<Vec<u32>> = Vec::new();
        let mut parts: HashMap<Vec<u32>, u32> = HashMap::new();
        let mut beginning: Vec<Vec<Sequence<T>>> = Vec::new();
        for (phrase, what) in phrases {
            let ids: Vec<Vec<u32>> = phrase
                .parts
                .iter()
                .map(|part| {
                    let mut ids: Vec<u32> = part.iter().map(|word| words.id(word)).collect();
                    ids.sort_unstable();
                    ids.dedup();
                    ids
                })
                .collect();
            single.resize_with(words.words.len(), Vec::new);
            part_of.resize_with(words.words.len(), Vec::new);
            if let [only] = ids.as_slice() {
                for id in only {
                    single[*id as usize].push(what);
                }
                continue;
            }
            let mut sequence = ids.into_iter().map(|ids| {
                let next = u32::try_from(parts.len()).expect("files are far smaller");
                *parts.entry(ids.clone()).or_insert_with(|| {
                    for id in ids {
                        part_of[id as usize].push(next);
                    }
                    next
                })
            });
            let first = sequence.next().expect("a phrase has a part");
            let rest = sequence.collect();
            beginning.resize_with(parts.len(), Vec::new);
            beginning[first as usize].push(Sequence { rest, what });
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(&words.folded)
            .map_err(|_too_large| PhraseError::TooLarge)?;
        Ok(Self {
            automaton,
            words: words.words,
            single,
            part_of,
            beginning,
        })
    }

    /// The words of a text that phrases are made of.
    pub fn words(&self, text: &Folded) -> Found {
        let mut found: Found = self
            .automaton
            .find_overlapping_iter(&text.bytes)
            .filter_map(|found| {
                let what = found.pattern().as_u32();
                let word = self.words[what as usize];
                let whole = (word.open_left || text.begins_at(found.start()))
                    && (word.open_right || text.begins_at(found.end()));
                whole.then(|| Hit {
                    what,
                    start: text.origin(found.start()),
                    end: text.origin_of_end(found.end()),
                })
            })
            .take(WORDS_MAX)
            .collect();
        found.sort_by_key(|hit| hit.start);
        found
    }

    /// What the phrases of one part that were found stand for.
    pub fn singles<'a>(&'a self, found: &'a [Hit<u32>]) -> impl Iterator<Item = Hit<T>> + 'a {
        found.iter().flat_map(|hit| {
            let meanings = &self.single[hit.what as usize];
            meanings.iter().map(|&what| Hit {
                what,
                start: hit.start,
                end: hit.end,
            })
        })
    }

    /// What the phrases of several parts that were found stand for; `clauses` tells which words
    /// belong together.
    pub fn sequences(&self, found: &[Hit<u32>], clauses: &Clauses, mut hit: impl FnMut(Hit<T>)) {
        if !found
            .iter()
            .any(|word| !self.part_of[word.what as usize].is_empty())
        {
            return;
        }
        let spots = clauses.spots(found);
        for (index, first) in found.iter().enumerate() {
            for part in &self.part_of[first.what as usize] {
                for sequence in &self.beginning[*part as usize] {
                    if let Some(end) = self.rest_of(&sequence.rest, index, found, &spots) {
                        hit(Hit {
                            what: sequence.what,
                            start: first.start,
                            end,
                        });
                    }
                }
            }
        }
    }

    /// Where a phrase ends whose first parts end with the word at `before`, if the rest follows.
    fn rest_of(
        &self,
        rest: &[u32],
        before: usize,
        found: &[Hit<u32>],
        spots: &[Spot],
    ) -> Option<usize> {
        let Some((next, rest)) = rest.split_first() else {
            return Some(found[before].end);
        };
        for index in before + 1..found.len() {
            if found[index].start < found[before].end {
                continue;
            }
            if !spots[before].joins(spots[index]) {
                return None;
            }
            // The nearest counts: whatever stands farther off has no better chance.
            if self.part_of[found[index].what as usize].contains(next) {
                return self.rest_of(rest, index, found, spots);
            }
        }
        None
    }

    /// All that stands in a short text without names, such as an error code.
    pub fn hits(&self, text: &str) -> Vec<Hit<T>> {
        let found = self.words(&Folded::of(text));
        let mut hits: Vec<_> = self.singles(&found).collect();
        self.sequences(&found, &Clauses::of(text, &[]), |hit| hits.push(hit));
        hits
    }
}

#[derive(Debug, Default)]
struct Dictionary {
    ids: HashMap<(Vec<u8>, bool, bool), u32>,
    folded: Vec<Vec<u8>>,
    words: Vec<Word>,
}

impl Dictionary {
    fn id(&mut self, word: &str) -> u32 {
        let (open_left, open_right) = (word.starts_with('*'), word.ends_with('*'));
        let folded = Folded::of(word.trim_matches('*')).bytes;
        let next = u32::try_from(self.words.len()).expect("files are far smaller");
        *self
            .ids
            .entry((folded.clone(), open_left, open_right))
            .or_insert_with(|| {
                self.folded.push(folded);
                self.words.push(Word {
                    open_left,
                    open_right,
                });
                next
            })
    }
}

/// A text as phrases see it.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    bytes: Vec<u8>,
    /// Where each byte comes from, and whether a word begins there; one more for the end.
    marks: Vec<Mark>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    from: u32,
    to: u32,
    begins: bool,
}

impl Folded {
    pub fn of(text: &str) -> Self {
        let mut folded = Self {
            bytes: Vec::with_capacity(text.len() + 8),
            marks: Vec::with_capacity(text.len() + 8),
        };
        // The character before, and the one before that.
        let mut before = Kind::Other;
        let mut at = 0;
        while let Some((c, bytes)) = next_char(&text[at..]) {
            let kind = Kind::of(c);
            let hump = match (before, kind) {
                (Kind::Lower | Kind::Digit, Kind::Upper) => true,
                // The last capital of `HTTPError` begins the next word.
                (Kind::Upper, Kind::Upper) => next_char(&text[at + bytes..])
                    .is_some_and(|(next, _)| Kind::of(next) == Kind::Lower),
                _ => false,
            };
            let begins = hump || !(before.is_of_word() && kind.is_of_word());
            folded.push(c, at, at + bytes, begins);
            before = kind;
            at += bytes;
        }
        let end = mark(text.len(), text.len(), true);
        folded.marks.push(end);
        folded
    }

    fn push(&mut self, c: char, from: usize, to: usize, begins: bool) {
        let mut buffer = [0; 4];
        let (plain, more);
        let bytes: &[u8] = match c {
            'a'..='z' | '0'..='9' => {
                plain = [c as u8];
                &plain
            }
            'A'..='Z' => {
                plain = [c.to_ascii_lowercase() as u8];
                &plain
            }
            '_' | '-' | '\'' | '`' | '\u{2018}' | '\u{2019}' => return,
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
                plain = [c as u8];
                &plain
            }
            c => {
                more = c.to_lowercase().next().unwrap_or(c);
                more.encode_utf8(&mut buffer).as_bytes()
            }
        };
        for (index, byte) in bytes.iter().enumerate() {
            self.bytes.push(*byte);
            self.marks.push(mark(from, to, begins && index == 0));
        }
    }

    /// Whether a word begins there, so that the one before has ended.
    fn begins_at(&self, at: usize) -> bool {
        self.marks[at].begins
    }

    fn origin(&self, at: usize) -> usize {
        self.marks[at].from as usize
    }

    fn origin_of_end(&self, at: usize) -> usize {
        at.checked_sub(1)
            .map_or(0, |last| self.marks[last].to as usize)
    }
}

fn mark(from: usize, to: usize, begins: bool) -> Mark {
    let short = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    Mark {
        from: short(from),
        to: short(to),
        begins,
    }
}

/// The first character of a text and its length there; an escape of JSON is what it stands for.
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
            'a'..='z' => Self::Lower,
            'A'..='Z' => Self::Upper,
            '0'..='9' => Self::Digit,
            // Latin letters with accents.
            '\u{c0}'..='\u{24f}' if c.is_uppercase() => Self::Upper,
            '\u{c0}'..='\u{24f}' => Self::Lower,
            _ => Self::Other,
        }
    }

    fn is_of_word(self) -> bool {
        self != Self::Other
    }
}

/// Where the clauses of a text end: words on two sides of that say nothing together.
#[derive(Debug, Default)]
pub struct Clauses {
    /// Sorted.
    ends: Vec<usize>,
    /// Names, which may be long and have any characters: sorted, and apart.
    names: Vec<(usize, usize)>,
}

impl Clauses {
    /// Takes a text and the places of names in it, sorted and apart.
    pub fn of(text: &str, names: &[(usize, usize)]) -> Self {
        let bytes = text.as_bytes();
        let mut ends = Vec::new();
        for (at, byte) in bytes.iter().enumerate() {
            let next = bytes.get(at + 1).copied().unwrap_or(b' ');
            let ends_clause = match byte {
                b'.' | b'!' | b'?' | b';' => {
                    next.is_ascii_whitespace() || matches!(next, b'"' | b'\\' | b'<')
                }
                b':' => next == b' ',
                b'\n' | b'|' | b'{' | b'}' | b'<' | b'>' => true,
                b',' => matches!(next, b'"') || text[at + 1..].starts_with(" \""),
                // The ideographic full stop.
                0xe3 => text[at..].starts_with('。'),
                _ => false,
            };
            let in_name = || {
                let before = names.partition_point(|&(from, _)| from <= at);
                before > 0 && at < names[before - 1].1
            };
            if ends_clause && !in_name() {
                ends.push(at);
            }
        }
        Self {
            ends,
            names: names.to_vec(),
        }
    }

    /// Where words stand that are in no name.
    fn spots(&self, found: &[Hit<u32>]) -> Vec<Spot> {
        let mut names = self.names.iter().peekable();
        let (mut ends, mut named) = (0, 0);
        found
            .iter()
            .map(|word| {
                while let Some((from, to)) = names.next_if(|(_, to)| *to <= word.start) {
                    named += to - from;
                }
                while self.ends.get(ends).is_some_and(|end| *end < word.start) {
                    ends += 1;
                }
                Spot {
                    clause: ends,
                    start: word.start - named,
                    end: word.end - named,
                }
            })
            .collect()
    }
}

/// Where a word stands: in which clause, and from where to where in a text without names.
#[derive(Clone, Copy, Debug)]
struct Spot {
    clause: usize,
    start: usize,
    end: usize,
}

impl Spot {
    fn joins(self, next: Self) -> bool {
        self.clause == next.clause && next.start.saturating_sub(self.end) <= GAP_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn phrases(list: &[&str]) -> Phrases<usize> {
        let classes = Classes::from([
            ("user".to_owned(), vec!["user*".into(), "ユーザー".into()]),
            (
                "gone".to_owned(),
                vec!["not found".into(), "見つかりません".into()],
            ),
        ]);
        let parsed = list
            .iter()
            .enumerate()
            .map(|(index, text)| (Phrase::parse(text, &classes).unwrap(), index));
        Phrases::new(parsed).unwrap()
    }

    #[test]
    fn words_are_whole_unless_a_star_opens_a_side() {
        let check = |phrase: &str, text: &str, expected: &[&str]| {
            let found: Vec<_> = phrases(&[phrase])
                .hits(text)
                .iter()
                .map(|hit| text[hit.start..hit.end].to_owned())
                .collect();
            assert_eq!(found, expected, "{phrase:?} in {text:?}");
        };
        check("blank", "field is Blank.", &["Blank"]);
        check("blank", "blanket order", &[]);
        check("blank*", "blanket order", &["blank"]);
        check("not found", "cannot found", &[]);
        check("见", "x见y", &["见"]);
        check("limit exceeded", "DomainUserLimitExceeded", &["LimitExceeded"]);
        check("license limit", "ERR_LICENSE_LIMIT_X", &["LICENSE_LIMIT"]);
        check("license limit", "license-limit", &["license-limit"]);
        check("http error", "HTTPError", &["HTTPError"]);
        check("doesnt exist", "it doesn\u{2019}t exist", &["doesn\u{2019}t exist"]);
        check("gelöscht", "GELOESCHT", &["GELOESCHT"]);
        check("gelöscht", r"gel\u00f6scht", &[r"gel\u00f6scht"]);
        check("user x", r"a\nuser\tx", &[r"user\tx"]);
        check("404", "４０４", &["４０４"]);
        check("見つかりません", "ユーザーが見つかりませんでした", &["見つかりません"]);
    }

    #[test]
    fn the_parts_of_a_phrase_stand_in_order_in_one_clause() {
        let check = |text: &str, expected: Option<&str>| {
            let hits = phrases(&["{user} .. {gone}|is gone"]).hits(text);
            let found = hits.first().map(|hit| &text[hit.start..hit.end]);
            assert_eq!(found, expected, "{text:?}");
        };
        check(
            "The user ann@x.example was not found.",
            Some("user ann@x.example was not found"),
        );
        check("Users: not found", None);
        check("Bad user. Page not found", None);
        check("not found: user", None);
        check(r#"{"user":"a","page":"not found"}"#, None);
        check("ユーザー「a」が見つかりません", Some("ユーザー「a」が見つかりません"));
        check("the user is gone", Some("user is gone"));
        check(&format!("user {} not found", "x".repeat(200)), None);
    }

    #[test]
    fn a_long_name_between_the_parts_does_not_part_them() {
        let text = format!("user {} not found", "x. ".repeat(70));
        let phrases = phrases(&["{user} .. {gone}"]);
        let found = phrases.words(&Folded::of(&text));
        let clauses = Clauses::of(&text, &[(5, text.len() - 10)]);
        let mut hits = 0;
        phrases.sequences(&found, &clauses, |_| hits += 1);
        assert_eq!(hits, 1);
    }

    #[test]
    fn a_phrase_that_makes_no_sense_is_refused() {
        let classes = Classes::new();
        let check = |text: &str, expected: &str| {
            let error = Phrase::parse(text, &classes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("", "without words");
        check("a .. ", "without words");
        check("a|", "without words");
        check("**", "without words");
        check("- _", "without words");
        check("{user}", "no such class");
        check("{user}s", "brace");
        assert!(Phrase::parse("{\"status\"", &classes).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_folded_and_points_back(text in "([a-zA-Z0-9_ '\\-.:{}]|\\\\u00f6|[äöÜß見ﬁ１İ]|.){0,40}") {
            let phrases = phrases(&["{user} .. {gone}", "*a*", "*oe*", "*0*"]);
            for hit in phrases.hits(&text) {
                prop_assert!(text.get(hit.start..hit.end).is_some_and(|found| !found.is_empty()));
            }
            let folded = Folded::of(&text);
            prop_assert_eq!(folded.bytes.len() + 1, folded.marks.len());
        }
    }
}
