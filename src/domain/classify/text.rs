//! Reads an error text: which words are a status, which are a name, which the app's own answer.
//!
//! Okta writes `<what it did> <name>: <HTTP phrase>. Errors reported by remote server: <answer>`,
//! with variations. A number counts as a status only where the text says so ("HTTP 403", "Error
//! code: 404", "404 Not Found"), and words inside the name of a user or a group count as
//! nothing, so neither a group "Rate Limit Admins" nor a user "Ann 404" misleads the rules. The
//! work is linear in the text, which is cut at a limit.

use crate::domain::classify::folded::Folded;
use crate::domain::classify::names::{
    Mask, add_addresses, add_known_names, add_quoted_names, ends_with_ignoring_case, is_word_start,
    merge, usable,
};
use crate::domain::classify::phrases::{Classes, Clauses, Hit, Phrase, PhraseError, Phrases};
use crate::domain::classify::rules::{NameLead, Place, Rule, RuleFile, StatusRule};

/// Okta cuts `outcome.reason` at 255 characters; debug data may hold a whole answer of the app.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// Of a status that is cut off at the end of a text this much must be there.
const CUT_STATUS_BYTES_MIN: usize = 10;

/// Words in front of a number that make it a status whatever follows. Blanks, quotes and the like
/// between are skipped.
const SURE_STATUS_LEADS: &[&str] = &[
    "http",
    "http/1.0",
    "http/1.1",
    "http/2",
    "http code",
    "http error",
    "http error code",
    "http status",
    "http status code",
    "httpstatus",
    "httpstatuscode",
    "http_status",
    "statuscode",
    "status code",
    "status_code",
    "status-code",
    "statuscode of",
    "status code of",
    "status code is",
    "response code",
    "response code is",
    "responsecode",
    "response status",
    "response status code",
    "returned code",
    "antwortcode",
    "statuscode lautet",
    "ステータスコード",
    "ステータス",
    "상태 코드",
    "상태코드",
    "응답 코드",
];

/// The same, where nothing but punctuation follows.
const STATUS_LEADS: &[&str] = &[
    "status",
    "error",
    "error code",
    "errorcode",
    "error_code",
    "fehlercode",
    "fehler",
    "エラーコード",
    "エラー",
    "오류 코드",
    "returned",
    "responded with",
    "returned a",
    "got",
    "got a",
    "received",
    "received a",
    "answered with",
    "failed with",
    "\"code",
];

/// What Okta's error texts are made of, ready to be searched for.
#[derive(Debug)]
pub(super) struct Grammar {
    phrases: Phrases<Piece>,
    statuses: Vec<StatusRule>,
    leads: Vec<NameLead>,
}

#[derive(Clone, Copy, Debug)]
enum Piece {
    Rule(usize),
    Phrase(usize),
    Lead(usize),
    RemoteMarker,
}

/// What was found in one text.
#[derive(Debug, Default)]
pub(super) struct Reading<'t> {
    /// The text, cut at the limit.
    pub(super) text: &'t str,
    /// Rules whose words stand there outside of names.
    pub(super) rules: Vec<Hit<usize>>,
    /// Places in the list of statuses, in reading order: Okta's own comes before the app's.
    pub(super) statuses: Vec<Hit<usize>>,
}

impl Grammar {
    /// Takes the grammar of `file` and those of `rules` that read texts and codes, with the classes
    /// of words that they name.
    pub(super) fn new(
        file: &RuleFile,
        classes: &Classes,
        rules: &[Rule],
    ) -> Result<Self, PhraseError> {
        let reads = |rule: &&Rule| {
            rule.places
                .iter()
                .any(|place| matches!(place, Place::Text | Place::Code))
        };
        let mut phrases = Vec::new();
        for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| reads(rule)) {
            for phrase in &rule.phrases {
                phrases.push((Phrase::parse(&phrase.text, classes)?, Piece::Rule(index)));
            }
        }
        for (index, status) in file.status.iter().enumerate() {
            if let Some(phrase) = &status.phrase {
                phrases.push((Phrase::words(phrase), Piece::Phrase(index)));
            }
        }
        for (index, lead) in file.name_leads.iter().enumerate() {
            phrases.push((Phrase::words(&lead.lead), Piece::Lead(index)));
        }
        for marker in &file.remote_markers {
            phrases.push((Phrase::words(marker), Piece::RemoteMarker));
        }
        Ok(Self {
            phrases: Phrases::new(phrases)?,
            statuses: file.status.clone(),
            leads: file.name_leads.clone(),
        })
    }

    pub(super) fn status(&self, index: usize) -> &StatusRule {
        &self.statuses[index]
    }

    /// Reads a text; `names` are those of the event's targets.
    pub(super) fn read<'t>(&self, text: &'t str, names: &[&str]) -> Reading<'t> {
        let text = cut(text, TEXT_BYTES_MAX);
        let mut reading = Reading {
            text,
            ..Reading::default()
        };
        let mut words = self.phrases.words(&Folded::of(text));
        let pieces: Vec<Hit<Piece>> = self.phrases.singles(&words).collect();
        let masks = self.masks(text, &pieces, names);
        let is_masked = |start: usize, end: usize| {
            // They are sorted and apart: only the last that begins before the end can reach in.
            let before = masks.partition_point(|&(from, _)| from < end);
            before > 0 && start < masks[before - 1].1
        };
        words.retain(|word| !is_masked(word.start, word.end));
        for Hit { what, start, end } in pieces {
            if is_masked(start, end) {
                continue;
            }
            match what {
                Piece::Rule(what) => reading.rules.push(Hit { what, start, end }),
                Piece::Phrase(what) if stands_as_status(text, start, end) => {
                    reading.statuses.push(Hit { what, start, end });
                }
                Piece::Phrase(_) | Piece::Lead(_) | Piece::RemoteMarker => {}
            }
        }
        let clauses = || Clauses::of(text, &masks);
        self.phrases.sequences(&words, clauses, |hit| {
            if let Piece::Rule(what) = hit.what {
                let Hit { start, end, .. } = hit;
                reading.rules.push(Hit { what, start, end });
            }
        });
        let mut add_status = |hit: Hit<usize>| {
            if !is_masked(hit.start, hit.end) {
                reading.statuses.push(hit);
            }
        };
        self.add_numbers(text, &mut add_status);
        self.cut_status(text).into_iter().for_each(add_status);
        reading.statuses.sort_by_key(|hit| (hit.start, hit.end));
        reading
    }

    /// The parts of a text that only name a user or a group: sorted, and apart.
    fn masks(&self, text: &str, pieces: &[Hit<Piece>], names: &[&str]) -> Vec<Mask> {
        let mut masks: Vec<Mask> = Vec::new();
        let (mut leads, mut remote) = (Vec::new(), None);
        for &Hit { what, start, end } in pieces {
            match what {
                Piece::Lead(what) => leads.push(Hit { what, start, end }),
                Piece::RemoteMarker => remote = remote.or(Some(start)),
                Piece::Rule(_) | Piece::Phrase(_) => {}
            }
        }
        let names = || usable(names);
        let status_at = remote.and_then(|remote| {
            let before = text[..remote].trim_end_matches([' ', ':']);
            before.rfind(": ")
        });

        let mut read_to = 0;
        for lead in leads {
            // Words in a name lead nowhere, and no part of the text is searched twice.
            if lead.start < read_to {
                continue;
            }
            let rest = &text[lead.end..];
            if !rest.starts_with([' ', '`', '\'', '"', '<', '(']) {
                continue;
            }
            let name = rest.trim_start_matches([' ', '`', '\'', '"', '<', '(']);
            let known = names()
                .filter(|known| name.starts_with(known))
                .map(str::len)
                .max()
                .unwrap_or(0);
            let from = text.len() - name.len() + known;
            let to = match (&self.leads[lead.what].until, remote) {
                (Some(until), _) => text[from..]
                    .find(until.as_str())
                    .map_or(text.len(), |at| from + at),
                // A name may hold a colon: the status is what stands right before the app's answer.
                (None, Some(remote)) if from <= remote => {
                    status_at.filter(|at| *at >= from).unwrap_or(from)
                }
                (None, _) => text[from..].find(": ").map_or(text.len(), |at| from + at),
            };
            masks.push((lead.end, to));
            read_to = to;
        }

        let is_status = |name: &str| {
            let mut phrases = self.statuses.iter().filter_map(|one| one.phrase.as_deref());
            phrases.any(|phrase| phrase.eq_ignore_ascii_case(name))
        };
        // A group that is called like a status must not hide the status.
        add_known_names(text, names(), is_status, &mut masks);
        add_addresses(text, &mut masks);
        add_quoted_names(text, &mut masks);
        merge(&mut masks);
        masks
    }

    /// Numbers that the text calls a status.
    fn add_numbers(&self, text: &str, mut found: impl FnMut(Hit<usize>)) {
        let bytes = text.as_bytes();
        let begin = text.len() - text.trim_start().len();
        let mut at = 0;
        while at < bytes.len() {
            if !bytes[at].is_ascii_digit() {
                at += 1;
                continue;
            }
            let start = at;
            while at < bytes.len() && bytes[at].is_ascii_digit() {
                at += 1;
            }
            if at - start != 3 {
                continue;
            }
            let code = bytes[start..at]
                .iter()
                .fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
            let Some(index) = self.statuses.iter().position(|status| status.code == code) else {
                continue;
            };
            if let Some(end) = self.number_end(text, begin, (start, at), index) {
                found(Hit {
                    what: index,
                    start,
                    end,
                });
            }
        }
    }

    /// A status whose words are cut off where Okta cuts a reason.
    fn cut_status(&self, text: &str) -> Option<Hit<usize>> {
        let start = text.rfind(['.', ':']).map_or(0, |at| at + 1);
        let tail = text[start..].trim();
        if tail.len() < CUT_STATUS_BYTES_MIN {
            return None;
        }
        let what = self.statuses.iter().position(|status| {
            status.phrase.as_deref().is_some_and(|phrase| {
                phrase.len() > tail.len() && starts_with_ignoring_case(phrase, tail)
            })
        })?;
        Some(Hit {
            what,
            start: text.len() - text[start..].trim_start().len(),
            end: text.trim_end().len(),
        })
    }

    /// Where the status ends that begins with the number from `start` to `end`, if it is one.
    fn number_end(
        &self,
        text: &str,
        begin: usize,
        (start, end): (usize, usize),
        index: usize,
    ) -> Option<usize> {
        let (before, after) = (&text[..start], &text[end..]);
        // Part of a longer word: an id, an address, a decimal, a path.
        let glued_before =
            |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | '+' | '/');
        let glued_after = |c: char| c.is_alphanumeric() || matches!(c, '_' | '@' | '/' | '%');
        let mut behind = after.chars();
        let (next, second) = (behind.next(), behind.next());
        let goes_on =
            matches!((next, second), (Some('-' | '.' | ','), Some(c)) if c.is_alphanumeric());
        if before.chars().next_back().is_some_and(glued_before)
            || next.is_some_and(glued_after)
            || goes_on
        {
            return None;
        }

        let words = after.trim_start_matches([' ', '-', ':', ',', '"', '\'', ')']);
        for phrase in self.statuses[index]
            .phrase
            .as_deref()
            .into_iter()
            .chain(["Client Error", "Server Error"])
        {
            if starts_with_ignoring_case(words, phrase) {
                return Some(text.len() - words.len() + phrase.len());
            }
        }

        let lead = before.trim_end_matches([' ', ':', '=', '"', '\'', '#', '(', '\\', '[']);
        let ends_there = is_end(after);
        let leads = |words: &[&str]| {
            words.iter().any(|word| {
                ends_with_ignoring_case(lead, word) && is_word_start(text, lead.len() - word.len())
            })
        };
        let said = leads(SURE_STATUS_LEADS) || (ends_there && leads(STATUS_LEADS));
        // The title of an error page begins with it.
        let begins = start == begin || before.ends_with('>');
        let alone = begins
            && (ends_there || after.starts_with(" Errors reported") || before.ends_with('>'));
        (said || alone).then_some(end)
    }
}

/// Whether words of a status stand where Okta, or a program, writes a status: between
/// punctuation, not within a sentence such as "User not found".
fn stands_as_status(text: &str, start: usize, end: usize) -> bool {
    let before = text[..start].trim_end();
    let begins = match before.chars().next_back() {
        None | Some(':' | '.' | '(' | '>' | '-' | '[' | ',' | ';' | '=' | '|') => true,
        // A quoted status is a value: `"message":"Not Found"`. A name may be quoted as well.
        Some(quote @ ('"' | '\'' | '`')) => before
            .trim_end_matches(quote)
            .trim_end()
            .chars()
            .next_back()
            .is_none_or(|c| matches!(c, ':' | '=' | '(' | '{')),
        Some(_) => false,
    };
    begins
        && (is_end(&text[end..])
            || text[end..].starts_with(" Errors reported")
            || text[end..].starts_with(" for url"))
}

fn is_end(after: &str) -> bool {
    after
        .trim_start_matches(' ')
        .chars()
        .next()
        .is_none_or(|c| {
            matches!(
                c,
                '.' | ','
                    | ':'
                    | ';'
                    | ')'
                    | ']'
                    | '}'
                    | '"'
                    | '\''
                    | '`'
                    | '<'
                    | '|'
                    | '!'
                    | '\n'
                    | '\r'
                    | '\\'
            )
        })
}

fn starts_with_ignoring_case(text: &str, prefix: &str) -> bool {
    text.as_bytes()
        .get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// The longest start of a text that fits, ending at a whole character.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::classify::rules::Owner;

    /// The statuses read from a text, quoted, and the words of rules.
    fn check(text: &str, names: &[&str], statuses: &[&str], words: &[&str]) {
        let file = RuleFile::parse(include_str!("rules.toml"), Owner::BuiltIn).unwrap();
        let grammar = Grammar::new(&file, &file.words, &file.rules).unwrap();
        let reading = grammar.read(text, names);
        let read: Vec<_> = reading
            .statuses
            .iter()
            .map(|hit| &text[hit.start..hit.end])
            .collect();
        assert_eq!(read, statuses, "statuses in {text:?}");
        let mut read: Vec<_> = reading
            .rules
            .iter()
            .map(|hit| &text[hit.start..hit.end])
            .collect();
        read.dedup();
        assert_eq!(read, words, "words in {text:?}");
    }

    #[test]
    fn a_status_is_read_where_the_text_says_that_it_is_one() {
        check("Bad Gateway", &[], &["Bad Gateway"], &["Bad Gateway"]);
        check(
            "x: Forbidden. Errors reported by remote server: y",
            &[],
            &["Forbidden"],
            &[],
        );
        check(
            "Error code: 404, error: Not Found.",
            &[],
            &["404", "Not Found"],
            &["Not Found"],
        );
        check("HTTP 403 Forbidden", &[], &["403 Forbidden"], &[]);
        check("HTTP/1.1 403", &[], &["403"], &[]);
        check("{\"status\":\"403\",\"detail\":\"x\"}", &[], &["403"], &[]);
        check("status code 403.", &[], &["403"], &[]);
        check("403", &[], &["403"], &[]);
        check("x: Too Many Req", &[], &["Too Many Req"], &[]);
        check("of a: Too Many Req", &["a: Too Many Req"], &[], &[]);
        check(
            "Group Forbidden stays, as 403 do, at 403@x.y or a-403 or 403.5 or /403/",
            &[],
            &[],
            &[],
        );
        check("status 403 of 500 rows", &[], &[], &[]);
    }

    #[test]
    fn a_name_is_cut_out_as_far_as_it_goes() {
        let named = "Error while creating user group Already Exists: Forbidden. Errors reported by remote server: no";
        check(named, &[], &["Forbidden"], &[]);
        check(
            "Error while creating user group A: Already Exists: null",
            &["A: Already Exists"],
            &[],
            &[],
        );
        check(
            "Error while creating user group A: null: Already exists",
            &[],
            &[],
            &["Already", "Already exists"],
        );
        check(
            "Error while creating user: Already exists",
            &[],
            &[],
            &["Already", "Already exists"],
        );
        check(
            "the group 'Forbidden' already exists",
            &["Forbidden"],
            &[],
            &["already", "already exists"],
        );
    }
}
