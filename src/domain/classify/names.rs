//! The parts of an error text that only name somebody or something: words in them are no evidence.
//!
//! Names are known from the event's targets, stand in quotes behind a noun, or are addresses and
//! links. Each search is linear in the text. What Okta's own words lead to is `text`'s business.

use crate::domain::classify::text::cut;

/// Shorter names stand in too many words to be told from them; no text has longer ones whole.
const NAME_BYTES: std::ops::RangeInclusive<usize> = 3..=256;

/// Events have about three targets; the limit bounds the work for one with thousands.
const NAMES_MAX: usize = 16;

/// A quoted text longer than this is no name.
const QUOTED_BYTES_MAX: usize = 120;

/// Where a name stands: from, to.
pub(super) type Mask = (usize, usize);

/// Nouns behind which a quoted text is a name.
const NAMED_NOUNS: &[&str] = &[
    "user",
    "users",
    "group",
    "groups",
    "role",
    "team",
    "named",
    "called",
    "name",
    "member",
    "account",
    "app",
    "application",
    "gruppe",
    "benutzer",
    "グループ",
    "ユーザー",
    "그룹",
    "사용자",
];

/// Pairs of quotes that names stand in.
const QUOTES: &[(char, char)] = &[
    ('"', '"'),
    ('\'', '\''),
    ('`', '`'),
    ('\u{201c}', '\u{201d}'),
    ('\u{201e}', '\u{201c}'),
    ('\u{2018}', '\u{2019}'),
    ('「', '」'),
    ('『', '』'),
];

/// Of the names of an event's targets those that can be told from other words.
pub(super) fn usable<'n>(names: &[&'n str]) -> impl Iterator<Item = &'n str> {
    names
        .iter()
        .copied()
        .filter(|name| NAME_BYTES.contains(&name.len()) && *name != "unknown")
        .take(NAMES_MAX)
}

/// Masks names of the event's targets, wherever they stand, but those that are exempt.
pub(super) fn add_known_names<'n>(
    text: &str,
    names: impl Iterator<Item = &'n str>,
    is_exempt: impl Fn(&str) -> bool,
    masks: &mut Vec<Mask>,
) {
    for name in names {
        // A name of one plain word could be any word; it counts as a name only where the text
        // says that it is one.
        let unmistakable = !name.bytes().all(|byte| byte.is_ascii_alphabetic());
        let first = name.chars().next().unwrap_or_default();
        for (start, _) in text.match_indices(first) {
            if !text[start..].starts_with(name) {
                continue;
            }
            let end = start + name.len();
            let whole = is_word_start(text, start) && is_word_end(text, end);
            if whole && !is_exempt(name) && (unmistakable || is_called_a_name(&text[..start])) {
                masks.push((start, end));
            }
        }
    }
}

/// Whether a text ends in words, or a quote, behind which a name stands.
fn is_called_a_name(before: &str) -> bool {
    before.ends_with([
        '"', '\'', '`', '<', '[', '「', '『', '\u{201c}', '\u{201e}', '\u{2018}',
    ]) || (before.ends_with(' ') && ends_with_noun(before))
}

fn ends_with_noun(before: &str) -> bool {
    let word = before.trim_end_matches([' ', ':', '=']);
    NAMED_NOUNS.iter().any(|noun| {
        ends_with_ignoring_case(word, noun) && is_word_start(word, word.len() - noun.len())
    })
}

/// Masks what is quoted behind a noun: it names a user or a group, whatever words it has.
pub(super) fn add_quoted_names(text: &str, masks: &mut Vec<Mask>) {
    let mut read_to = 0;
    // All quotes but the plain ones begin with one of two bytes.
    let may_quote = |byte: u8| matches!(byte, b'"' | b'\'' | b'`' | 0xe2 | 0xe3);
    for (at, opening) in text.char_indices() {
        if !may_quote(text.as_bytes()[at]) {
            continue;
        }
        let Some((_, closing)) = QUOTES.iter().find(|(quote, _)| *quote == opening) else {
            continue;
        };
        if at < read_to || !ends_with_noun(&text[..at]) || text[..at].ends_with([':', '=']) {
            continue;
        }
        let from = at + opening.len_utf8();
        if let Some(length) = cut(&text[from..], QUOTED_BYTES_MAX).find(*closing) {
            masks.push((from, from + length));
            read_to = from + length + closing.len_utf8();
        }
    }
}

/// Masks e-mail addresses and links: words and numbers in them are part of a name.
pub(super) fn add_addresses(text: &str, masks: &mut Vec<Mask>) {
    let is_of_address = |byte: &u8| {
        byte.is_ascii_graphic() && !b"\"'`<>()[]{},;=:\\".contains(byte) || *byte == b'@'
    };
    let bytes = text.as_bytes();
    let mut read_to = 0;
    for (at, _) in text.match_indices('@') {
        if at < read_to {
            continue;
        }
        let before = bytes[read_to..at]
            .iter()
            .rev()
            .take_while(|b| is_of_address(b));
        let from = at - before.count();
        let to = at + bytes[at..].iter().take_while(|b| is_of_address(b)).count();
        // A Java object's `Name@1f2e` is no address, and has no dot behind.
        if text[at..to].contains('.') {
            masks.push((from, to));
        }
        read_to = to;
    }
    read_to = 0;
    for (from, _) in text.match_indices("://") {
        if from < read_to {
            continue;
        }
        let path = bytes[from + 3..]
            .iter()
            .take_while(|b| is_of_address(b) || matches!(b, b':' | b'='))
            .count();
        read_to = from + 3 + path;
        masks.push((from, read_to));
    }
}

/// Sorts masks and joins those that touch.
pub(super) fn merge(masks: &mut Vec<Mask>) {
    masks.sort_unstable();
    masks.dedup_by(|next, kept| {
        let overlap = next.0 <= kept.1;
        if overlap {
            kept.1 = kept.1.max(next.1);
        }
        overlap
    });
}

/// Only ASCII counts: Japanese and Korean write no blanks between words.
#[inline]
pub(super) fn is_word_start(text: &str, start: usize) -> bool {
    let bytes = text.as_bytes();
    start == 0
        || start >= bytes.len()
        || !(bytes[start - 1].is_ascii_alphanumeric() && bytes[start].is_ascii_alphanumeric())
}

#[inline]
fn is_word_end(text: &str, end: usize) -> bool {
    end == text.len() || is_word_start(text, end)
}

#[inline]
pub(super) fn ends_with_ignoring_case(text: &str, suffix: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= suffix.len()
        && bytes[bytes.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
}
