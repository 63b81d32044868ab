//! Cause rules: the form of the data files, and the matching of all of them in one pass.
//!
//! A rule names a cause for words that may stand in a certain place of an event. Literals of all
//! rules are searched at once and without regard to the case of ASCII letters, so a rule more
//! costs nearly nothing; a literal matches whole words unless a `*` opens that side. What the
//! words mean beyond that (status or name, Okta's words or the app's) is `text`'s business.

use aho_corasick::{AhoCorasick, MatchKind};
use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use serde::Deserialize;

use crate::domain::classification::{Cause, Disposition, Responder};

/// An error text is a few hundred bytes long; a regex that needs more than this to compile is a
/// mistake in a rules file.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// How much a piece of evidence is worth: the first stage that has any decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The deployment's own rules: whoever wrote them knows their apps.
    Deployment,
    /// The event type, or its old name, names the cause.
    Type,
    /// A status that means one thing only: 401, 404, 409, 429, 502, …
    Decisive,
    /// Known wording.
    Wording,
    /// A status that may mean many things: 400, 403, 422, 500.
    Vague,
    /// An error code in the debug data.
    Code,
    /// What is usual for the type.
    Usual,
}

/// The part of an event that a rule reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Error texts as a whole.
    Text,
    /// Only what the app answered: behind "Errors reported by remote server:".
    Remote,
    /// Error codes in the debug data.
    Code,
    LegacyEventType,
    /// Only types that the catalogue doesn't have; of the others it says itself what they mean.
    EventType,
    /// `outcome.result`.
    Result,
}

/// One rule, as it stands in a file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub id: String,
    #[serde(rename = "where")]
    pub places: Vec<Place>,
    /// Where the place's usual stage does not fit.
    pub stage: Option<Stage>,
    #[serde(default)]
    pub literals: Vec<String>,
    #[serde(default)]
    pub regexes: Vec<String>,
    /// The rule speaks only beside one of these statuses.
    #[serde(default)]
    pub with_status: Vec<u16>,
    /// The rule speaks only of these event types; a `*` at the end opens the name.
    #[serde(default)]
    pub event_types: Vec<String>,
    pub cause: Cause,
    /// What the rule knows better than the cause.
    pub disposition: Option<Disposition>,
    pub responder: Option<Responder>,
    pub remediation: Option<String>,
    /// Where the wording is known from.
    pub source: String,
    /// Examples that it must match, and such that it must not: a test runs both.
    #[serde(default)]
    pub matches: Vec<String>,
    #[serde(default)]
    pub misses: Vec<String>,
}

impl Rule {
    /// Whether it speaks of events of that type.
    pub fn speaks_of(&self, event_type: &str) -> bool {
        let fits = |wanted: &String| match wanted.strip_suffix('*') {
            Some(prefix) => event_type.starts_with(prefix),
            None => event_type == wanted,
        };
        self.event_types.is_empty() || self.event_types.iter().any(fits)
    }

    /// Where its word counts when read in that place.
    pub fn stage(&self, place: Place) -> Stage {
        self.stage.unwrap_or(match place {
            Place::Text | Place::Remote => Stage::Wording,
            Place::Code => Stage::Code,
            Place::LegacyEventType | Place::EventType => Stage::Type,
            Place::Result => Stage::Decisive,
        })
    }
}

/// What an HTTP status means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusRule {
    pub code: u16,
    /// The words Okta writes for it; without, only the number counts.
    pub phrase: Option<String>,
    pub cause: Cause,
    /// It means one thing only, whatever the text says beside it.
    #[serde(default)]
    pub decisive: bool,
    pub disposition: Option<Disposition>,
    pub responder: Option<Responder>,
}

/// Words of Okta's behind which the name of a user or a group follows.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameLead {
    pub lead: String,
    /// What ends the name; a colon and a blank unless given.
    pub until: Option<String>,
}

/// A rules file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleFile {
    pub version: String,
    /// Types that mean failure when Okta sends no outcome.
    #[serde(default)]
    pub failure_without_outcome: Vec<String>,
    /// Words behind which the app's own answer follows.
    #[serde(default)]
    pub remote_markers: Vec<String>,
    #[serde(default)]
    pub name_leads: Vec<NameLead>,
    #[serde(default)]
    pub status: Vec<StatusRule>,
    #[serde(default)]
    pub rule: Vec<Rule>,
}

/// Why a rules file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    #[error("the rules are no valid TOML of their form")]
    Syntax(#[from] toml::de::Error),
    /// The file reads well, but the rule of that name makes no sense.
    #[error("rule {rule}: {problem}")]
    Rule { rule: String, problem: String },
    #[error("the rules together are too large to match")]
    TooLarge(#[source] aho_corasick::BuildError),
}

impl RuleFile {
    /// Reads a rules file and checks each rule by itself.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        let file: Self = toml::from_str(text)?;
        let mut ids = std::collections::HashSet::new();
        for rule in &file.rule {
            let refuse = |problem: &str| RulesError::Rule {
                rule: rule.id.clone(),
                problem: problem.to_owned(),
            };
            if !ids.insert(rule.id.as_str()) {
                return Err(refuse("stands there twice"));
            }
            if rule.places.is_empty() {
                return Err(refuse("reads no part of the event"));
            }
            if rule.literals.is_empty() && rule.regexes.is_empty() {
                return Err(refuse("has no words to look for"));
            }
            if rule
                .literals
                .iter()
                .any(|literal| literal.trim_matches('*').is_empty())
            {
                return Err(refuse("has an empty literal, which would match everything"));
            }
            for regex in &rule.regexes {
                if compile(regex)?.is_match("") {
                    return Err(refuse("has a regex that matches everything"));
                }
            }
        }
        Ok(file)
    }
}

fn compile(regex: &str) -> Result<Regex, RulesError> {
    RegexBuilder::new(regex)
        .case_insensitive(true)
        .size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|error| RulesError::Rule {
            rule: regex.to_owned(),
            problem: error.to_string(),
        })
}

/// Where words were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit<T> {
    pub what: T,
    pub start: usize,
    pub end: usize,
}

/// Searches a text for many literals at once.
#[derive(Debug)]
pub struct Searcher<T> {
    automaton: AhoCorasick,
    literals: Vec<Literal<T>>,
}

#[derive(Debug)]
struct Literal<T> {
    what: T,
    open_left: bool,
    open_right: bool,
}

impl<T: Copy> Searcher<T> {
    /// Takes each literal with what it stands for.
    pub fn new<'a>(words: impl IntoIterator<Item = (&'a str, T)>) -> Result<Self, RulesError> {
        let mut patterns = Vec::new();
        let mut literals = Vec::new();
        for (word, what) in words {
            let (open_left, open_right) = (word.starts_with('*'), word.ends_with('*'));
            patterns.push(word.trim_matches('*'));
            literals.push(Literal {
                what,
                open_left,
                open_right,
            });
        }
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .build(patterns)
            .map_err(RulesError::TooLarge)?;
        Ok(Self {
            automaton,
            literals,
        })
    }

    /// All places where a literal stands as whole words, by their ends.
    pub fn hits(&self, text: &str) -> impl Iterator<Item = Hit<T>> {
        self.automaton
            .find_overlapping_iter(text)
            .filter_map(move |found| {
                let literal = &self.literals[found.pattern().as_usize()];
                let (start, end) = (found.start(), found.end());
                let whole = (literal.open_left || is_word_start(text, start))
                    && (literal.open_right || is_word_end(text, end));
                whole.then_some(Hit {
                    what: literal.what,
                    start,
                    end,
                })
            })
    }
}

/// Only ASCII counts: Japanese and Korean write no blanks between words.
pub fn is_word_start(text: &str, start: usize) -> bool {
    let bytes = text.as_bytes();
    start == 0
        || !(bytes[start - 1].is_ascii_alphanumeric() && bytes[start].is_ascii_alphanumeric())
}

pub fn is_word_end(text: &str, end: usize) -> bool {
    let bytes = text.as_bytes();
    end == bytes.len()
        || !(bytes[end - 1].is_ascii_alphanumeric() && bytes[end].is_ascii_alphanumeric())
}

/// The few rules that literals can't say, tried only if the set says that one matches.
#[derive(Debug)]
pub struct Regexes {
    set: RegexSet,
    each: Vec<(Regex, usize)>,
}

impl Regexes {
    /// Takes each regex with its rule's place in the list.
    pub fn new<'a>(
        regexes: impl IntoIterator<Item = (&'a str, usize)>,
    ) -> Result<Self, RulesError> {
        let mut each = Vec::new();
        for (regex, rule) in regexes {
            each.push((compile(regex)?, rule));
        }
        let set = RegexSetBuilder::new(each.iter().map(|(regex, _)| regex.as_str()))
            .case_insensitive(true)
            .size_limit(REGEX_BYTES_MAX)
            .build()
            .map_err(|error| RulesError::Rule {
                rule: "all regexes".to_owned(),
                problem: error.to_string(),
            })?;
        Ok(Self { set, each })
    }

    pub fn hits(&self, text: &str, mut found: impl FnMut(Hit<usize>)) {
        if self.each.is_empty() || !self.set.is_match(text) {
            return;
        }
        for (regex, rule) in &self.each {
            for hit in regex.find_iter(text) {
                found(Hit {
                    what: *rule,
                    start: hit.start(),
                    end: hit.end(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_matches_whole_words_unless_a_star_opens_it() {
        let check = |word: &str, text: &str, expected: bool| {
            let searcher = Searcher::new([(word, ())]).unwrap();
            assert_eq!(
                searcher.hits(text).next().is_some(),
                expected,
                "{word:?} in {text:?}"
            );
        };
        check("blank", "field is Blank.", true);
        check("blank", "blanket order", false);
        check("blank*", "blanket order", true);
        check("limitExceeded", "DomainUserLimitExceeded", false);
        check("*limitExceeded", "DomainUserLimitExceeded", true);
        check("license_limit", "ERR_LICENSE_LIMIT_X", true);
        check("見つかりません", "ユーザーが見つかりませんでした", true);
    }

    #[test]
    fn a_rules_file_that_makes_no_sense_is_refused() {
        let check = |rules: &str, expected: &str| {
            let error = RuleFile::parse(&format!("version = 'x'\n{rules}"))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        };
        let rule = |more: &str| {
            format!(
                "[[rule]]\nid='a'\nwhere=['text']\ncause='DUPLICATE'\nsource='own words'\n{more}\n"
            )
        };
        assert!(RuleFile::parse(&format!("version='x'\n{}", rule("literals=['x']"))).is_ok());
        check(&rule(""), "no words");
        check(&rule("literals=['**']"), "match everything");
        check(&rule("regexes=['x*']"), "matches everything");
        check(&rule("regexes=['(']"), "(");
        check(&rule("literals=['x']").repeat(2), "twice");
        check(&rule("literals=['x']\nwhen=1"), "TOML");
    }
}
