//! Searching a text for the phrases of all rules at once.
//!
//! A phrase is one part or several, joined by ` .. `: they stand in that order and in one clause,
//! at most `GAP_BYTES_MAX` bytes apart. A part is what may stand there: words, or a class of words
//! in braces, with `|` between alternatives. Words are whole words, unless a `*` opens a side.
//!
//! Texts are folded before they are searched (see `folded.rs`): so `user not found`
//! is also `USER_NOT_FOUND`, `userNotFound` and "User  not-found". Searching is one pass over the
//! text.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::domain::classify::folded::Folded;

/// What may lie between two parts of a phrase: a name with an id and an address, not a sentence.
const GAP_BYTES_MAX: usize = 100;

/// Words of a text that are looked at; a text with more is no error message.
const WORDS_MAX: usize = 2048;

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

/// A phrase taken apart: for each part what may stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phrase<'a> {
    pub parts: Vec<Vec<Alternative<'a>>>,
}

/// What may stand in a part of a phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alternative<'a> {
    Words(&'a str),
    Class { name: &'a str, words: &'a [String] },
}

impl<'a> Phrase<'a> {
    /// Words as they are, without a syntax.
    pub fn words(text: &'a str) -> Self {
        Self {
            parts: vec![vec![Alternative::Words(text)]],
        }
    }

    pub fn parse(text: &'a str, classes: &'a Classes) -> Result<Self, PhraseError> {
        let alternative = |text_of: &'a str| {
            let class = text_of
                .strip_prefix('{')
                .and_then(|rest| rest.strip_suffix('}'));
            match class {
                Some(name) => match classes.get(name) {
                    Some(words) => Ok(Alternative::Class { name, words }),
                    None => Err(PhraseError::UnknownClass {
                        phrase: text.to_owned(),
                        class: name.to_owned(),
                    }),
                },
                None if text_of.starts_with('{') && text_of.contains('}') => {
                    Err(PhraseError::StrayBrace(text.to_owned()))
                }
                None if is_empty(text_of) => Err(PhraseError::Empty(text.to_owned())),
                None => Ok(Alternative::Words(text_of)),
            }
        };
        let part = |part: &'a str| part.split('|').map(str::trim).map(alternative).collect();
        let parts = text.split(GAP).map(part).collect::<Result<_, _>>()?;
        Ok(Self { parts })
    }

    /// For each part all words that may stand there.
    pub fn words_of_parts(&self) -> Vec<Vec<&'a str>> {
        let words = |part: &Vec<Alternative<'a>>| {
            let mut all = Vec::new();
            for alternative in part {
                match *alternative {
                    Alternative::Words(words) => all.push(words),
                    Alternative::Class { words, .. } => {
                        all.extend(words.iter().map(String::as_str));
                    }
                }
            }
            all
        };
        self.parts.iter().map(words).collect()
    }
}

/// Whether nothing is left of a word to search for.
pub fn is_empty(word: &str) -> bool {
    Folded::of(word.trim_matches('*')).bytes.is_empty()
}

/// What is searched for, ready to be.
///
/// A *symbol* is a class of words, or words that a phrase names themselves. Words know their
/// symbols, and symbols the phrases that begin with them; so the work does not grow with phrases
/// whose beginning does not stand in the text.
#[derive(Debug)]
pub struct Phrases<T> {
    automaton: AhoCorasick,
    /// By the automaton's patterns.
    words: Vec<Word>,
    /// What a phrase of one part stands for, by its symbol.
    single: Vec<Vec<T>>,
    /// Phrases of several parts, by the symbols of the first.
    beginning: Vec<Vec<Sequence<T>>>,
    /// The symbols of each part but the first, sorted.
    parts: Vec<Vec<u32>>,
}

/// Folded words, their open sides and their symbols.
#[derive(Clone, Debug)]
struct Word {
    open_left: bool,
    open_right: bool,
    symbols: Vec<u32>,
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
        let mut dictionary = Dictionary::default();
        let mut single: Vec<Vec<T>> = Vec::new();
        let mut beginning: Vec<Vec<Sequence<T>>> = Vec::new();
        let mut places: HashMap<Vec<u32>, u32> = HashMap::new();
        let mut parts = Vec::new();
        for (phrase, what) in phrases {
            let mut symbols = phrase.parts.iter().map(|part| {
                let mut symbols: Vec<u32> =
                    part.iter().map(|one| dictionary.symbol(*one)).collect();
                symbols.sort_unstable();
                symbols.dedup();
                symbols
            });
            let first = symbols.next().unwrap_or_default();
            let rest: Vec<u32> = symbols
                .map(|symbols| {
                    let next = u32::try_from(parts.len()).expect("files are far smaller");
                    *places.entry(symbols).or_insert_with_key(|symbols| {
                        parts.push(symbols.clone());
                        next
                    })
                })
                .collect();
            single.resize_with(dictionary.symbols.len(), Vec::new);
            beginning.resize_with(dictionary.symbols.len(), Vec::new);
            for symbol in first {
                if rest.is_empty() {
                    single[symbol as usize].push(what);
                } else {
                    let rest = rest.clone();
                    beginning[symbol as usize].push(Sequence { rest, what });
                }
            }
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(&dictionary.folded)
            .map_err(|_too_large| PhraseError::TooLarge)?;
        Ok(Self {
            automaton,
            words: dictionary.words,
            single,
            beginning,
            parts,
        })
    }

    /// The words of a text that phrases are made of.
    pub fn words(&self, text: &Folded<'_>) -> Found {
        let mut found = Found::with_capacity(32);
        for hit in self.automaton.find_overlapping_iter(&text.bytes) {
            let what = hit.pattern().as_u32();
            let word = &self.words[what as usize];
            let whole = (word.open_left || text.begins_at(hit.start()))
                && (word.open_right || text.begins_at(hit.end()));
            if !whole {
                continue;
            }
            if found.len() == WORDS_MAX {
                break;
            }
            found.push(Hit {
                what,
                start: text.origin(hit.start()),
                end: text.origin_of_end(hit.end()),
            });
        }
        found.sort_by_key(|hit| hit.start);
        found
    }

    /// What the phrases of one part that were found stand for.
    pub fn singles<'a>(&'a self, found: &'a [Hit<u32>]) -> impl Iterator<Item = Hit<T>> + 'a {
        found.iter().flat_map(|hit| {
            let symbols = self.words[hit.what as usize].symbols.iter();
            let meanings = symbols.flat_map(|symbol| &self.single[*symbol as usize]);
            meanings.map(|&what| Hit {
                what,
                start: hit.start,
                end: hit.end,
            })
        })
    }

    /// What the phrases of several parts that were found stand for; `clauses` tells which words
    /// belong together, and is asked only if any do.
    pub fn sequences(
        &self,
        found: &[Hit<u32>],
        clauses: impl FnOnce() -> Clauses,
        mut hit: impl FnMut(Hit<T>),
    ) {
        let mut present = Bits::new(self.beginning.len());
        for word in found {
            for symbol in &self.words[word.what as usize].symbols {
                present.set(*symbol);
            }
        }
        let may_stand = |part: &u32| {
            let symbols = &self.parts[*part as usize];
            symbols.iter().any(|symbol| present.has(*symbol))
        };
        let mut clauses = Some(clauses);
        let mut spots = Vec::new();
        for (index, first) in found.iter().enumerate() {
            for symbol in &self.words[first.what as usize].symbols {
                for sequence in &self.beginning[*symbol as usize] {
                    if !sequence.rest.iter().all(may_stand) {
                        continue;
                    }
                    if let Some(clauses) = clauses.take() {
                        spots = clauses().spots(found);
                    }
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
        let wanted = &self.parts[*next as usize];
        for index in before + 1..found.len() {
            if found[index].start < found[before].end {
                continue;
            }
            if !spots[before].joins(spots[index]) {
                return None;
            }
            // The nearest counts: whatever stands farther off has no better chance.
            let symbols = &self.words[found[index].what as usize].symbols;
            if symbols
                .iter()
                .any(|symbol| wanted.binary_search(symbol).is_ok())
            {
                return self.rest_of(rest, index, found, spots);
            }
        }
        None
    }

    /// All that stands in a short text without names, such as an error code.
    pub fn hits(&self, text: &str) -> Vec<Hit<T>> {
        let found = self.words(&Folded::of(text));
        let mut hits: Vec<_> = self.singles(&found).collect();
        self.sequences(&found, || Clauses::of(text, &[]), |hit| hits.push(hit));
        hits
    }
}

/// A set of small numbers.
#[derive(Debug)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(max: usize) -> Self {
        Self(vec![0; max / 64 + 1])
    }

    fn set(&mut self, bit: u32) {
        self.0[bit as usize / 64] |= 1 << (bit % 64);
    }

    fn has(&self, bit: u32) -> bool {
        self.0[bit as usize / 64] & (1 << (bit % 64)) != 0
    }
}

#[derive(Debug, Default)]
struct Dictionary {
    ids: HashMap<(Vec<u8>, bool, bool), u32>,
    folded: Vec<Vec<u8>>,
    words: Vec<Word>,
    /// By the text of an alternative: a class's is in braces.
    symbols: HashMap<String, u32>,
}

impl Dictionary {
    fn symbol(&mut self, alternative: Alternative<'_>) -> u32 {
        let next = u32::try_from(self.symbols.len()).expect("files are far smaller");
        let (name, words) = match alternative {
            Alternative::Words(words) => (words.to_owned(), vec![words]),
            Alternative::Class { name, words } => (
                format!("{{{name}}}"),
                words.iter().map(String::as_str).collect(),
            ),
        };
        let symbol = *self.symbols.entry(name).or_insert(next);
        if symbol == next {
            for word in words {
                let id = self.id(word);
                self.words[id].symbols.push(symbol);
            }
        }
        symbol
    }

    fn id(&mut self, word: &str) -> usize {
        let (open_left, open_right) = (word.starts_with('*'), word.ends_with('*'));
        let folded = Folded::of(word.trim_matches('*')).bytes;
        let next = u32::try_from(self.words.len()).expect("files are far smaller");
        let id = *self
            .ids
            .entry((folded.clone(), open_left, open_right))
            .or_insert_with(|| {
                self.folded.push(folded);
                self.words.push(Word {
                    open_left,
                    open_right,
                    symbols: Vec::new(),
                });
                next
            });
        id as usize
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
        let (mut ends, mut passed) = (0, 0);
        found
            .iter()
            .map(|word| {
                while let Some((from, to)) = names.next_if(|(_, to)| *to <= word.start) {
                    passed += to - from;
                }
                while self.ends.get(ends).is_some_and(|end| *end < word.start) {
                    ends += 1;
                }
                Spot {
                    clause: ends,
                    start: word.start - passed,
                    end: word.end - passed,
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
        check(
            "limit exceeded",
            "DomainUserLimitExceeded",
            &["LimitExceeded"],
        );
        check("license limit", "ERR_LICENSE_LIMIT_X", &["LICENSE_LIMIT"]);
        check("license limit", "license-limit", &["license-limit"]);
        check("http error", "HTTPError", &["HTTPError"]);
        check(
            "doesnt exist",
            "it doesn\u{2019}t exist",
            &["doesn\u{2019}t exist"],
        );
        check("gelöscht", "GELOESCHT", &["GELOESCHT"]);
        check("gelöscht", r"gel\u00f6scht", &[r"gel\u00f6scht"]);
        check("user x", r"a\nuser\tx", &[r"user\tx"]);
        check("404", "４０４", &["４０４"]);
        check(
            "見つかりません",
            "ユーザーが見つかりませんでした",
            &["見つかりません"],
        );
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
        check(
            "ユーザー「a」が見つかりません",
            Some("ユーザー「a」が見つかりません"),
        );
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
        phrases.sequences(&found, || clauses, |_| hits += 1);
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
        }
    }
}
