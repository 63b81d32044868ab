//! Cause rules: the form of the data files, and their reading, with every mistake and its line.
//!
//! A rule names a cause for phrases that may stand in a certain place of an event. Most of what a
//! rule says is optional; where it says nothing, the cause and the event type decide. A
//! deployment's file has `version`, `[words]` and `[[rule]]` alone: statuses and the grammar of
//! Okta's texts are ours.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, ValueDeserializer};

use crate::domain::classification::{Cause, Disposition, Responder};
use crate::domain::classify::phrases::{Classes, Phrase, is_empty};

/// A rules file is written by people; one that is longer is something else.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Words of all classes together. Classes may contain classes, so a short file could have very many.
const CLASS_WORDS_MAX: usize = 50_000;

/// Names of files and rules go into every answer.
const NAME_BYTES_MAX: usize = 100;

/// A phrase, a word of a class; the longest built-in phrase has about 800 bytes.
const PHRASE_BYTES_MAX: usize = 4096;
const PARTS_MAX: usize = 8;
const WORD_BYTES_MAX: usize = 200;

/// One to three sentences, kept with every event that they are for.
const REMEDIATION_BYTES_MAX: usize = 2000;

/// What a remediation may name.
const PLACEHOLDERS: [&str; 3] = ["app", "user", "group"];

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
    /// Wording that says little, where nothing says more.
    LooseWording,
    /// An error code in the debug data.
    Code,
    /// What is usual for the type.
    Usual,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deployment => "the deployment's own rule",
            Self::Type => "the event type or its old name",
            Self::Decisive => "a decisive status",
            Self::Wording => "known wording",
            Self::Vague => "a vague status",
            Self::LooseWording => "loose wording",
            Self::Code => "an error code",
            Self::Usual => "what is usual for the type",
        })
    }
}

/// The part of an event that a rule reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Error texts, and what stands in the debug data as an error code.
    Text,
    /// Error codes in the debug data alone.
    Code,
    LegacyEventType,
    /// Only types that the catalogue doesn't have; of the others it says itself what they mean. A
    /// deployment's rules read all.
    EventType,
    /// `outcome.result`, as a whole.
    Result,
}

/// A text of a file, and the line it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub line: usize,
    pub text: String,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    pub id: String,
    /// Where it begins in its file.
    pub line: usize,
    pub places: Vec<Place>,
    /// Where the place's usual stage does not fit.
    pub stage: Option<Stage>,
    pub phrases: Vec<Located>,
    /// The rule speaks only beside one of these statuses.
    pub with_status: Vec<u16>,
    /// The rule speaks only of these event types; a `*` at the end opens the name.
    pub event_types: Vec<String>,
    /// The rule speaks only of these applications, by name or id, in lower case.
    pub applications: Vec<String>,
    pub cause: Cause,
    /// What the rule knows better than the cause.
    pub disposition: Option<Disposition>,
    pub responder: Option<Responder>,
    pub remediation: Option<String>,
    /// Nothing of the application works while this lasts.
    pub whole_connector: bool,
    /// Built-in rules that this one stands in for.
    pub overrides: Vec<String>,
    /// Where the wording is known from.
    pub source: String,
    /// Examples that it must match, and such that it must not.
    pub matches: Vec<Located>,
    pub misses: Vec<Located>,
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
        match (self.stage, place) {
            (_, Place::Code) => self.stage.unwrap_or(Stage::Code).max(Stage::Code),
            (Some(stage), _) => stage,
            (None, Place::Text) => Stage::Wording,
            (None, Place::LegacyEventType | Place::EventType) => Stage::Type,
            (None, Place::Result) => Stage::Decisive,
        }
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
#[derive(Clone, Debug, Default)]
pub struct RuleFile {
    pub version: String,
    /// Words that mean the same, by a name that phrases call them by.
    pub words: Classes,
    pub rules: Vec<Rule>,
    /// Types that mean failure when Okta sends no outcome.
    pub failure_without_outcome: Vec<String>,
    /// Words behind which the app's own answer follows.
    pub remote_markers: Vec<String>,
    pub name_leads: Vec<NameLead>,
    pub status: Vec<StatusRule>,
}

/// One mistake in a rules file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleProblem {
    pub line: usize,
    /// The rule's id; empty where it is about none.
    pub rule: String,
    pub problem: String,
}

impl fmt::Display for RuleProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if !self.rule.is_empty() {
            write!(f, "rule {}: ", self.rule)?;
        }
        f.write_str(&self.problem)
    }
}

/// All that is wrong with a rules file, by line; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", list(.0))]
pub struct InvalidRules(pub Vec<RuleProblem>);

fn list(problems: &[RuleProblem]) -> String {
    let lines: Vec<_> = problems.iter().map(RuleProblem::to_string).collect();
    lines.join("\n")
}

impl InvalidRules {
    /// A file whose bytes are no text.
    pub fn not_utf8(error: &std::string::FromUtf8Error) -> Self {
        let good = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        Self(vec![RuleProblem {
            line: 1 + good.matches('\n').count(),
            rule: String::new(),
            problem: "this is no UTF-8 text".to_owned(),
        }])
    }

    pub(super) fn check(mut problems: Vec<RuleProblem>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort_by_key(|problem| problem.line);
        problems.dedup();
        Err(Self(problems))
    }
}

/// Whose file is read.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    BuiltIn,
    /// It may use the built-in classes of words, and stands beside the built-in rules.
    Deployment(&'a RuleFile),
}

impl RuleFile {
    /// Reads a rules file and checks each rule by itself.
    pub fn parse(text: &str, owner: Owner<'_>) -> Result<Self, InvalidRules> {
        let mut reader = Reader {
            text,
            lines: std::iter::once(0)
                .chain(text.match_indices('\n').map(|(at, _)| at + 1))
                .collect(),
            owner,
            problems: Vec::new(),
        };
        let file = reader.file();
        InvalidRules::check(reader.problems)?;
        Ok(file)
    }
}

/// Whether a text may be a name: short, in one line. Empty ones are told of elsewhere.
fn is_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX && !text.contains(char::is_control)
}

fn name_problem(key: &str) -> String {
    format!("`{key}` must be one line of at most {NAME_BYTES_MAX} bytes")
}

struct Reader<'a> {
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    owner: Owner<'a>,
    problems: Vec<RuleProblem>,
}

type Entry<'i> = (Spanned<DeString<'i>>, Spanned<DeValue<'i>>);

impl Reader<'_> {
    fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    fn problem(&mut self, offset: usize, rule: &str, problem: impl Into<String>) {
        self.problem_in(self.line(offset), rule, problem);
    }

    fn problem_in(&mut self, line: usize, rule: &str, problem: impl Into<String>) {
        self.problems.push(RuleProblem {
            line,
            rule: rule.to_owned(),
            problem: problem.into(),
        });
    }

    fn file(&mut self) -> RuleFile {
        let mut file = RuleFile::default();
        if self.text.len() > FILE_BYTES_MAX {
            self.problem(
                0,
                "",
                format!("the file has more than {FILE_BYTES_MAX} bytes"),
            );
            return file;
        }
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            self.problem(at, "", error.message().replace('\n', ", "));
        }
        if !errors.is_empty() {
            // What could be read may be in the wrong table: judging it would mislead.
            return file;
        }
        let built_in = matches!(self.owner, Owner::BuiltIn);
        let mut rules = None;
        let mut words = None;
        for (key, value) in table.into_inner() {
            let at = key.span().start;
            let name = key.get_ref().as_ref();
            match name {
                "version" => {
                    file.version = self.take("", "version", value).unwrap_or_default();
                }
                "words" => words = Some(value),
                "rule" => rules = Some(value),
                "failure_without_outcome" if built_in => {
                    file.failure_without_outcome = self.take("", name, value).unwrap_or_default();
                }
                "remote_markers" if built_in => {
                    file.remote_markers = self.take("", name, value).unwrap_or_default();
                }
                "name_leads" if built_in => {
                    file.name_leads = self.take("", name, value).unwrap_or_default();
                }
                "status" if built_in => {
                    file.status = self.take("", name, value).unwrap_or_default();
                }
                other => self.problem(
                    at,
                    "",
                    format!("`{other}` is not known; a rules file has version, [words], [[rule]]"),
                ),
            }
        }
        if file.version.trim().is_empty() {
            self.problem(
                0,
                "",
                "`version` is missing: a name for this state of the file",
            );
        }
        if !is_name(&file.version) {
            self.problem(0, "", name_problem("version"));
        }
        if let Owner::Deployment(ours) = self.owner {
            file.words.clone_from(&ours.words);
        }
        if let Some(words) = words {
            self.words(words, &mut file.words);
        }
        if let Some(rules) = rules {
            file.rules = self.rules(rules, &file.words);
        }
        file
    }

    /// The value of a key, if it has the right form.
    fn take<T: DeserializeOwned>(
        &mut self,
        rule: &str,
        key: &str,
        value: Spanned<DeValue<'_>>,
    ) -> Option<T> {
        let at = value.span().start;
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Some(value),
            Err(error) => {
                let at = error.span().map_or(at, |span| span.start);
                let problem = format!("`{key}`: {}", error.message());
                self.problem(at, rule, problem.replace('\n', ", "));
                None
            }
        }
    }

    fn located(&mut self, rule: &str, key: &str, value: Spanned<DeValue<'_>>) -> Vec<Located> {
        let texts: Vec<Spanned<String>> = self.take(rule, key, value).unwrap_or_default();
        texts
            .into_iter()
            .map(|text| Located {
                line: self.line(text.span().start),
                text: text.into_inner(),
            })
            .collect()
    }

    fn words(&mut self, value: Spanned<DeValue<'_>>, classes: &mut Classes) {
        let at = value.span().start;
        let DeValue::Table(table) = value.into_inner() else {
            self.problem(at, "", "`words` is a section: write [words]");
            return;
        };
        let mut table: Vec<Entry<'_>> = table.into_iter().collect();
        // A class may contain those that stand before it.
        table.sort_by_key(|(key, _)| key.span().start);
        let mut total: usize = classes.values().map(Vec::len).sum();
        for (key, value) in table {
            let at = key.span().start;
            let name = key.get_ref().as_ref();
            if classes.contains_key(name) {
                self.problem(
                    at,
                    "",
                    format!("the words {name} are built in: take another name"),
                );
                continue;
            }
            let mut class: Vec<String> = Vec::new();
            for Located { line, text } in self.located("", &format!("words.{name}"), value) {
                let inner = text
                    .strip_prefix('{')
                    .and_then(|rest| rest.strip_suffix('}'));
                match inner.map(|inner| classes.get(inner)) {
                    Some(Some(inner)) => class.extend(inner.iter().cloned()),
                    Some(None) => {
                        self.problem_in(line, "", format!("no class {text} stands before {name}"));
                    }
                    None if is_empty(&text) => {
                        self.problem_in(
                            line,
                            "",
                            format!("{name} has an empty word, which would match everything"),
                        );
                    }
                    None if text.len() > WORD_BYTES_MAX => {
                        let problem = format!("{name} has a word of over {WORD_BYTES_MAX} bytes");
                        self.problem_in(line, "", problem);
                    }
                    None => class.push(text),
                }
            }
            class.sort_unstable();
            class.dedup();
            total += class.len();
            if total > CLASS_WORDS_MAX {
                self.problem(
                    at,
                    "",
                    format!("all words together are more than {CLASS_WORDS_MAX}"),
                );
                return;
            }
            classes.insert(name.to_owned(), class);
        }
    }

    fn rules(&mut self, value: Spanned<DeValue<'_>>, classes: &Classes) -> Vec<Rule> {
        let at = value.span().start;
        let DeValue::Array(tables) = value.into_inner() else {
            self.problem(
                at,
                "",
                "`rule` is a list: write [[rule]] in front of each rule",
            );
            return Vec::new();
        };
        let mut rules = Vec::new();
        let mut ids = HashSet::new();
        for table in tables {
            let at = table.span().start;
            let DeValue::Table(table) = table.into_inner() else {
                self.problem(at, "", "a rule is a table: write [[rule]] in front of it");
                continue;
            };
            if let Some(rule) = self.rule(at, table, classes) {
                if !ids.insert(rule.id.clone()) {
                    self.problem(at, &rule.id, "stands there twice");
                }
                rules.push(rule);
            }
        }
        rules
    }

    /// A rule, if it can be one; all that is wrong with it is told.
    fn rule(&mut self, at: usize, table: DeTable<'_>, classes: &Classes) -> Option<Rule> {
        let known = self.problems.len();
        let mut cause = None;
        let id = table
            .iter()
            .find(|(key, _)| key.get_ref().as_ref() == "id")
            .and_then(|(_, value)| value.get_ref().as_str())
            .unwrap_or_default()
            .trim()
            .to_owned();
        if !is_name(&id) {
            self.problem(at, "", name_problem("id"));
            return None;
        }
        let mut rule = Rule {
            line: self.line(at),
            places: vec![Place::Text],
            stage: None,
            phrases: Vec::new(),
            with_status: Vec::new(),
            event_types: Vec::new(),
            applications: Vec::new(),
            cause: Cause::Unknown,
            disposition: None,
            responder: None,
            remediation: None,
            whole_connector: false,
            overrides: Vec::new(),
            source: String::new(),
            matches: Vec::new(),
            misses: Vec::new(),
            id: id.clone(),
        };
        let built_in = matches!(self.owner, Owner::BuiltIn);
        for (key, value) in table {
            let at = key.span().start;
            let name = key.get_ref().as_ref();
            match name {
                "id" => drop(self.take::<String>(&id, "id", value)),
                "where" => rule.places = self.take(&id, name, value).unwrap_or_default(),
                "stage" if built_in => rule.stage = self.take(&id, name, value),
                "phrases" => rule.phrases = self.located(&id, "phrases", value),
                "with_status" => rule.with_status = self.take(&id, name, value).unwrap_or_default(),
                "event_types" => rule.event_types = self.take(&id, name, value).unwrap_or_default(),
                "applications" => {
                    let names: Vec<String> = self.take(&id, name, value).unwrap_or_default();
                    rule.applications = names.iter().map(|name| name.to_lowercase()).collect();
                }
                "cause" => cause = self.take(&id, name, value),
                "disposition" => rule.disposition = self.take(&id, name, value),
                "responder" => rule.responder = self.take(&id, name, value),
                "remediation" => rule.remediation = self.take(&id, name, value),
                "whole_connector" => {
                    rule.whole_connector = self.take(&id, name, value).unwrap_or_default();
                }
                "overrides" if !built_in => {
                    rule.overrides = self.take(&id, name, value).unwrap_or_default();
                }
                "source" => rule.source = self.take(&id, name, value).unwrap_or_default(),
                "matches" => rule.matches = self.located(&id, "matches", value),
                "misses" => rule.misses = self.located(&id, "misses", value),
                other => self.problem(
                    at,
                    &id,
                    format!(
                        "`{other}` is not known; a rule has id, where, phrases, with_status, \
                         event_types, applications, cause, disposition, responder, remediation, \
                         whole_connector, overrides, source, matches, misses"
                    ),
                ),
            }
        }
        let readable = self.problems.len() == known;
        self.check(at, &rule, classes, readable);
        if cause.is_none() && readable {
            self.problem(at, &id, "`cause` is missing");
        }
        rule.cause = cause?;
        Some(rule)
    }

    fn check(&mut self, at: usize, rule: &Rule, classes: &Classes, readable: bool) {
        let id = rule.id.as_str();
        if id.is_empty() {
            self.problem(
                at,
                "",
                "`id` is missing: the name that evidence calls the rule by",
            );
        }
        for Located { line, text } in &rule.phrases {
            if text.len() > PHRASE_BYTES_MAX {
                let problem = format!("a phrase has more than {PHRASE_BYTES_MAX} bytes");
                self.problem_in(*line, id, problem);
                continue;
            }
            match Phrase::parse(text, classes) {
                Err(error) => self.problem_in(*line, id, error.to_string()),
                Ok(phrase) if phrase.parts.len() > PARTS_MAX => {
                    let problem = format!("the phrase has more than {PARTS_MAX} parts");
                    self.problem_in(*line, id, problem);
                }
                Ok(_) => {}
            }
            if rule.places.contains(&Place::Result)
                && (text.contains(['{', '|', '*']) || text.contains(" .. "))
            {
                let problem = "`result` is compared as a whole: give each value as a phrase";
                self.problem_in(*line, id, problem);
            }
        }
        let remediation = rule.remediation.as_deref().unwrap_or_default();
        if remediation.len() > REMEDIATION_BYTES_MAX {
            let problem = format!("`remediation` has more than {REMEDIATION_BYTES_MAX} bytes");
            self.problem(at, id, problem);
        }
        for rest in remediation.split('{').skip(1) {
            let name = rest.split_once('}').map(|(name, _)| name);
            if !name.is_some_and(|name| PLACEHOLDERS.contains(&name)) {
                let problem =
                    "`remediation` can name {app}, {user} and {group}, and no other braces";
                self.problem(at, id, problem);
            }
        }
        if let Owner::Deployment(ours) = self.owner {
            if ours.rules.iter().any(|known| known.id == id) {
                self.problem(
                    at,
                    id,
                    "is a built-in rule's id; take another, and name that rule in `overrides` to replace it",
                );
            }
            for overridden in &rule.overrides {
                if !ours.rules.iter().any(|known| known.id == *overridden) {
                    self.problem(
                        at,
                        id,
                        format!("overrides {overridden:?}, which is no built-in rule"),
                    );
                }
            }
        }
        // What could not be read is not missing.
        if !readable {
            return;
        }
        for (is_missing, problem) in [
            (
                rule.places.is_empty(),
                "`where` is empty: the rule reads no part of the event",
            ),
            (
                rule.phrases.is_empty(),
                "`phrases` is missing: the rule has no words to look for",
            ),
            (
                rule.matches.is_empty(),
                "`matches` is missing: an example that the rule must match",
            ),
            (
                rule.source.trim().is_empty(),
                "`source` is missing: where the wording is known from",
            ),
            (
                matches!(self.owner, Owner::BuiltIn) && rule.misses.is_empty(),
                "`misses` is missing: an example that the rule must not match",
            ),
        ] {
            if is_missing {
                self.problem(at, id, problem);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::classify::Classifier;

    /// The problems of a deployment's file, in the order of their lines.
    fn problems(text: &str) -> Vec<String> {
        let ours =
            RuleFile::parse(include_str!("rules.toml"), Owner::BuiltIn).expect("they are read");
        match RuleFile::parse(text, Owner::Deployment(&ours)) {
            Ok(_) => Vec::new(),
            Err(InvalidRules(problems)) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    const GOOD: &str = "version = 'acme-1'\n[words]\nvault = ['vault', '{user}']\n[[rule]]\nid = 'acme.vault'\nphrases = ['{vault} .. sealed']\ncause = 'REMOTE_NOT_READY'\nsource = 'run book'\nmatches = ['The vault is sealed']\n";

    #[test]
    fn a_good_file_is_read() {
        assert_eq!(problems(GOOD), Vec::<String>::new());
    }

    #[test]
    fn all_mistakes_are_told_with_their_lines() {
        let check = |old: &str, new: &str, expected: &[&str]| {
            assert!(GOOD.contains(old), "{old}");
            assert_eq!(problems(&GOOD.replace(old, new)), expected);
        };
        check(
            "version = 'acme-1'",
            "",
            &["line 1: `version` is missing: a name for this state of the file"],
        );
        check(
            "source = 'run book'\n",
            "",
            &["line 4: rule acme.vault: `source` is missing: where the wording is known from"],
        );
        check(
            "matches = ['The vault is sealed']",
            "",
            &["line 4: rule acme.vault: `matches` is missing: an example that the rule must match"],
        );
        check(
            "phrases = ['{vault} .. sealed']",
            "phrases = ['x',\n'{wolf}', 'a .. ']",
            &[
                "line 7: rule acme.vault: the phrase \"{wolf}\" names {wolf}, but there is no such class of words",
                "line 7: rule acme.vault: the phrase \"a .. \" has a part without words, which would match everything",
            ],
        );
        check(
            "id = 'acme.vault'",
            "id = 'text.duplicate'\noverrides = ['text.nothing']",
            &[
                "line 4: rule text.duplicate: is a built-in rule's id; take another, and name that rule in `overrides` to replace it",
                "line 4: rule text.duplicate: overrides \"text.nothing\", which is no built-in rule",
            ],
        );
        check(
            "vault = ['vault', '{user}']",
            "vault = ['vault', '{later}', ' ']\nuser = []",
            &[
                "line 3: no class {later} stands before vault",
                "line 3: vault has an empty word, which would match everything",
                "line 4: the words user are built in: take another name",
            ],
        );
        let twice = format!("{GOOD}[[rule]]{}", GOOD.split("[[rule]]").last().unwrap());
        assert_eq!(
            problems(&twice),
            ["line 10: rule acme.vault: stands there twice"]
        );
    }

    #[test]
    fn several_mistakes_in_one_rule_are_all_told() {
        let found = problems(
            "version = 1\nstage = 2\n[[rule]]\nid = 'a'\ncause = 'SUNSPOTS'\nwhere = 'text'\nstage = 'type'\nphrases = ['x']\nresponder = 3\n",
        );
        let lines: Vec<_> = found
            .iter()
            .map(|problem| problem.split(':').next().unwrap())
            .collect();
        assert_eq!(
            lines,
            [
                "line 1", "line 1", "line 2", "line 5", "line 6", "line 7", "line 9"
            ],
            "{found:#?}"
        );
        assert!(found[3].contains("SUNSPOTS") && found[3].contains("RATE_LIMITED"));
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_line() {
        assert!(problems("version = 'a'\nrule = [\n")[0].starts_with("line "));
        assert!(problems(&"#".repeat(FILE_BYTES_MAX + 1))[0].contains("bytes"));
        assert!(problems("version = 'a'\nrule = 1\nwords = 2\n").len() == 2);
        assert!(problems("version = 'a'\nrule = [1]\n")[0].contains("[[rule]]"));
    }

    #[test]
    fn classes_within_classes_are_bounded() {
        let mut file =
            "version = 'a'\n[words]\nw0 = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']\n".to_owned();
        for index in 1..20_000 {
            let _ = writeln!(file, "w{index} = ['{{w{}}}', 'x{index}']", index - 1);
        }
        assert!(problems(&file)[0].contains("all words together"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_file_of_rules_or_refused_by_line(
            lines in proptest::collection::vec(
                "(version|id|phrases|words|where|cause|matches|source|stage|x) = ('[a-z.{}|* ]{0,12}'|\\['[a-z .|{}*]{0,9}', '\\{user\\} .. x'\\]|[0-9n\\[]{1,3})|\\[\\[rule\\]\\]|\\[words\\]|.{0,12}",
                0..12,
            ),
        ) {
            let file = lines.join("\n");
            if let Err(InvalidRules(problems)) = Classifier::with_rules(&file) {
                prop_assert!(!problems.is_empty());
                for problem in problems {
                    prop_assert!((1..=lines.len().max(1)).contains(&problem.line), "{problem}");
                }
            }
        }
    }
}
