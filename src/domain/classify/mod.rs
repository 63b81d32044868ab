//! An event in, what it means out: rules as data, and the engine that applies them.
//!
//! Classifying is total and pure. It never fails, also not on an event of a type that Okta adds
//! tomorrow, with values nobody has seen; wording no rule knows is `UNKNOWN`. What decided is
//! quoted as evidence. The texts it gives are ours and stand in the data files beside this one.

mod assess;
mod check;
mod evidence;
mod folded;
mod names;
pub mod phrases;
pub mod rules;
mod text;
mod verdict;
mod wording;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::LazyLock;

use crate::domain::catalogue::{Catalogue, EventType, Family};
use crate::domain::classification::{
    Category, Cause, Classification, Disposition, Evidence, FailureSemantics, ObjectRef, Priority,
    Responder, Verdict,
};
use crate::domain::classify::assess::{concerns_group_push, disposition, priority};
pub use crate::domain::classify::evidence::Candidate;
use crate::domain::classify::evidence::{Clue, Clues, Field, Source};
use crate::domain::classify::phrases::{Classes, Phrase, PhraseError, Phrases};
use crate::domain::classify::rules::{
    InvalidRules, Owner, Place, Rule, RuleFile, RuleProblem, Stage,
};
use crate::domain::classify::text::{Grammar, cut};
use crate::domain::classify::verdict::{Hints, judge, name_removes_access};
use crate::domain::classify::wording::{Subject, Wording};
use crate::domain::event::{Entity, ProvisioningEvent};

static BUILT_IN: LazyLock<RuleFile> = LazyLock::new(|| {
    RuleFile::parse(include_str!("rules.toml"), Owner::BuiltIn)
        .expect("a test reads the built-in rules")
});

static EMBEDDED: LazyLock<Classifier> =
    LazyLock::new(|| Classifier::build(&BUILT_IN, None).expect("a test reads the built-in rules"));

/// Enough for any sentence that decides; evidence is stored with each event.
const EVIDENCE_BYTES_MAX: usize = 200;

/// Pieces of evidence that are explained; events have a handful.
const CANDIDATES_MAX: usize = 100;

/// Error texts and codes of the debug data that are read; Okta sends one or two.
const DEBUG_FIELDS_MAX: usize = 16;

/// Keys of the debug data that hold an error text, as `is_key` compares them.
const TEXT_KEYS: &[&str] = &[
    "errormessage",
    "apperrorcode",
    "detailedmessage",
    "message",
    "errordescription",
    "error",
    "reason",
];

/// Keys of the debug data that hold an error code; `app_error_code` holds either.
const CODE_KEYS: &[&str] = &["errorcode", "apperrorcode", "reasoncode", "code"];

/// Classifies by the catalogue and the rules that are built in.
pub fn classify(event: &ProvisioningEvent) -> Classification {
    Classifier::embedded().classify(event)
}

/// Compiled rules; cheap to share, and free of locks.
#[derive(Debug)]
pub struct Classifier {
    catalogue: &'static Catalogue,
    version: String,
    words: Classes,
    /// The deployment's come first.
    rules: Vec<Rule>,
    /// How many of them are the deployment's.
    deployment_rules: usize,
    /// Whether any rule speaks of some applications alone.
    by_application: bool,
    grammar: Grammar,
    names: Phrases<usize>,
    /// The rules whose words stand in the old names that are known: looking up beats searching.
    known_names: HashMap<&'static str, Vec<usize>>,
    results: HashMap<String, usize>,
    failure_without_outcome: Vec<String>,
    wording: Wording,
}

impl Classifier {
    /// The rules that are built in.
    pub fn embedded() -> &'static Self {
        &EMBEDDED
    }

    /// The rules that are built in, behind those of a deployment's file: theirs win.
    ///
    /// # Errors
    /// If anything is wrong with the file: its form, a rule that never speaks, an example that its
    /// rule does not match. All of it is told.
    pub fn with_rules(file: &str) -> Result<Self, InvalidRules> {
        let theirs = RuleFile::parse(file, Owner::Deployment(&BUILT_IN))?;
        let unusable = |error: PhraseError| {
            InvalidRules(vec![RuleProblem {
                line: 1,
                rule: String::new(),
                problem: error.to_string(),
            }])
        };
        let classifier = Self::build(&BUILT_IN, Some(theirs)).map_err(unusable)?;
        InvalidRules::check(check::problems(&classifier, classifier.deployment_rules()))?;
        Ok(classifier)
    }

    /// The version of the built-in rules, and of the deployment's where there are some.
    pub fn rule_set_version(&self) -> &str {
        &self.version
    }

    /// The deployment's rules.
    pub fn deployment_rules(&self) -> &[Rule] {
        &self.rules[..self.deployment_rules]
    }

    /// The classes of words that phrases may name.
    fn words(&self) -> &Classes {
        &self.words
    }

    /// All rules, in the order in which they are asked.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    fn build(own: &RuleFile, deployment: Option<RuleFile>) -> Result<Self, PhraseError> {
        let mut version = own.version.clone();
        let mut words = &own.words;
        let theirs = deployment.unwrap_or_default();
        if !theirs.version.is_empty() {
            let _ = write!(version, "+{}", theirs.version);
            words = &theirs.words;
        }
        let overridden = |rule: &&Rule| {
            let names = theirs.rules.iter().flat_map(|theirs| &theirs.overrides);
            names.into_iter().any(|name| *name == rule.id)
        };
        let ours = own.rules.iter().filter(|rule| !overridden(rule));
        let rules: Vec<Rule> = theirs.rules.iter().chain(ours).cloned().collect();

        let mut names = Vec::new();
        let mut results = HashMap::new();
        for (index, rule) in rules.iter().enumerate() {
            let reads = |place| rule.places.contains(&place);
            for phrase in rule.phrases.iter().map(|phrase| phrase.text.as_str()) {
                if reads(Place::LegacyEventType) || reads(Place::EventType) {
                    names.push((Phrase::parse(phrase, words)?, index));
                }
                if reads(Place::Result) {
                    results.entry(phrase.to_ascii_uppercase()).or_insert(index);
                }
            }
        }
        let names = Phrases::new(names)?;
        let catalogue = Catalogue::embedded();
        let heard = |name: &str| names.hits(name).iter().map(|hit| hit.what).collect();
        let known_names = catalogue
            .all_legacy_event_types()
            .map(|name| (name, heard(name)))
            .collect();
        Ok(Self {
            catalogue,
            known_names,
            version,
            words: words.clone(),
            grammar: Grammar::new(own, words, &rules)?,
            names,
            results,
            failure_without_outcome: own.failure_without_outcome.clone(),
            wording: Wording::embedded(),
            deployment_rules: theirs.rules.len(),
            by_application: rules.iter().any(|rule| !rule.applications.is_empty()),
            rules,
        })
    }

    /// Says what an event means. Never fails and never panics, whatever the event holds.
    pub fn classify(&self, event: &ProvisioningEvent) -> Classification {
        let known = self.catalogue.event_type(&event.event_type);
        let family = if known.is_some() {
            None
        } else {
            self.catalogue.family(&event.event_type)
        };
        let mut answer = self.frame(event, known, family);
        if known.is_none() && family.is_none() {
            answer.summary = wording::unrelated(&event.event_type);
            return answer;
        }

        // Most events succeed; their texts are not read at all.
        let mut clues: Option<Vec<Clue<'_>>> = None;
        let (verdict, progress) = judge(event, known, || {
            let clues = clues.insert(self.clues(event, known, answer.application.as_ref()));
            Hints {
                failure_without_outcome: self.failure_without_outcome.contains(&event.event_type),
                cause_named: clues
                    .iter()
                    .any(|clue| matches!(clue.field, Field::Reason | Field::LegacyEventType)),
            }
        });
        answer.verdict = verdict;
        let removes_access = known.map_or_else(
            || name_removes_access(&event.event_type),
            |known| known.removes_access,
        );
        let failed = verdict == Verdict::Failure;
        let mut remediation = None;
        let mut by_catalogue = false;
        let mut whole_connector = false;

        match verdict {
            Verdict::Failure | Verdict::Warning => {
                let clues =
                    clues.unwrap_or_else(|| self.clues(event, known, answer.application.as_ref()));
                let decisive = clues
                    .iter()
                    .min_by_key(|clue| clue.rank())
                    .map(|clue| self.candidate(clue, known));
                let cause = decisive
                    .as_ref()
                    .map_or(Cause::Unknown, |candidate| candidate.cause);
                answer.cause = Some(cause);
                (answer.disposition, answer.responder) =
                    disposition(cause, decisive.as_ref(), known, progress);
                if let Some(candidate) = decisive {
                    remediation = candidate.remediation;
                    by_catalogue = candidate.by_catalogue;
                    whole_connector = candidate.whole_connector;
                    answer.evidence = Some(Evidence {
                        rule: candidate.rule,
                        field: candidate.field,
                        text: candidate.text.to_owned(),
                    });
                }
                answer.security_relevant = failed && removes_access;
                answer.unexpected = failed
                    && known
                        .is_some_and(|known| known.failure_semantics == FailureSemantics::Never);
                answer.group_push_failed = failed && concerns_group_push(event, known);
                answer.priority = priority(&answer, known, whole_connector);
            }
            Verdict::Undetermined => {
                (answer.disposition, answer.responder) =
                    (Disposition::Undetermined, Responder::OktaAdmin);
                answer.priority = Priority::Medium;
            }
            Verdict::Success | Verdict::Unrelated => {}
        }

        let subject = Subject {
            event,
            known,
            answer: &answer,
            progress,
            removes_access,
        };
        let summary = self.wording.summary(&subject);
        let remediation = match verdict {
            Verdict::Failure | Verdict::Warning => {
                self.wording
                    .remediation(&subject, remediation, by_catalogue)
            }
            Verdict::Undetermined => wording::undetermined_remediation(&subject),
            Verdict::Success | Verdict::Unrelated => String::new(),
        };
        answer.summary = summary;
        answer.remediation = remediation;
        answer
    }

    /// All evidence for a cause, the best first; what `classify` goes by is the first.
    pub fn explain<'a>(&'a self, event: &'a ProvisioningEvent) -> Vec<Candidate<'a>> {
        let known = self.catalogue.event_type(&event.event_type);
        let application = application(event);
        let mut clues = self.clues(event, known, application.as_ref());
        clues.sort_by_key(Clue::rank);
        // The fullest quote of a rule comes first; its others say no more.
        let mut said = HashSet::new();
        clues.retain(|clue| said.insert((clue.source, clue.field)));
        clues
            .iter()
            .take(CANDIDATES_MAX)
            .map(|clue| self.candidate(clue, known))
            .collect()
    }

    /// The answer for a success, before anything is known but the type.
    fn frame(
        &self,
        event: &ProvisioningEvent,
        known: Option<&EventType>,
        family: Option<&Family>,
    ) -> Classification {
        let (category, operation, resource) = match (known, family) {
            (Some(known), _) => (known.category, Some(known.operation), Some(known.resource)),
            (None, Some(family)) => (family.category, family.operation, family.resource),
            (None, None) => (Category::Other, None, None),
        };
        Classification {
            verdict: Verdict::Unrelated,
            category,
            operation,
            resource,
            cause: None,
            disposition: Disposition::Informational,
            responder: Responder::Nobody,
            priority: Priority::Low,
            security_relevant: false,
            summary: String::new(),
            remediation: String::new(),
            application: application(event),
            user: object(event, &["AppUser", "User"], &["appusername"]),
            group: object(
                event,
                &["UserGroup", "AppGroup"],
                &["groupname", "usergroupname"],
            ),
            evidence: None,
            rule_set_version: self.version.clone(),
            known_event_type: known.is_some(),
            unexpected: false,
            group_push_failed: false,
        }
    }

    /// Everything that may speak for a cause, in no order.
    fn clues<'e>(
        &self,
        event: &'e ProvisioningEvent,
        known: Option<&EventType>,
        application: Option<&ObjectRef>,
    ) -> Vec<Clue<'e>> {
        let mut clues = Clues {
            rules: &self.rules,
            deployment_rules: self.deployment_rules,
            event_type: &event.event_type,
            application: application
                .filter(|_| self.by_application)
                .map(|known| (known.name.to_lowercase(), known.id.to_lowercase())),
            all: Vec::new(),
        };
        self.add_type_clues(event, known, &mut clues);
        let result = event.outcome.result.as_str();
        if let Some(&rule) = self
            .results
            .get(result.trim().to_ascii_uppercase().as_str())
        {
            clues.add_rule(Place::Result, rule, 0, Field::Result, result);
        }

        // What stands in a name counts as nothing in any of the texts.
        let mut names: Vec<&str> = event
            .targets
            .iter()
            .flat_map(|target| [target.display_name.as_str(), target.alternate_id.as_str()])
            .filter(|name| !name.is_empty())
            .collect();
        // Only so many are looked for: the longest are the least likely to be other words.
        names.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        names.dedup();
        let mut worth = 0;
        let mut read = |place: Place, field: Field<'e>, text: &'e str| {
            let reading = self.grammar.read(text, &names);
            clues.add_reading(&self.grammar, &reading, place, field, worth);
            worth = worth.saturating_add(1);
        };
        let reason = event.outcome.reason.as_str();
        if !reason.is_empty() {
            read(Place::Text, Field::Reason, reason);
        }
        let fields = |keys: &'static [&'static str]| {
            let fields = event.debug_data.iter();
            fields
                .filter(move |(key, value)| !value.is_empty() && is_key(key, keys))
                .take(DEBUG_FIELDS_MAX)
        };
        for (key, value) in fields(TEXT_KEYS).filter(|(_, value)| *value != reason) {
            read(Place::Text, Field::DebugData(key), value);
        }
        // Mostly the type's own title. The Group Push Failed card has the error here, and no reason.
        if reason.trim().is_empty() && !event.display_message.is_empty() {
            read(Place::Text, Field::DisplayMessage, &event.display_message);
        }
        for (key, value) in fields(CODE_KEYS) {
            let value = cut(value, EVIDENCE_BYTES_MAX);
            read(Place::Code, Field::DebugData(key), value);
        }
        clues.all
    }

    fn add_type_clues<'e>(
        &self,
        event: &'e ProvisioningEvent,
        known: Option<&EventType>,
        clues: &mut Clues<'_, 'e>,
    ) {
        // Of a type in the catalogue only the deployment knows better, and some types kept their
        // old name.
        let kept = known.is_some_and(|known| known.name == event.legacy_event_type);
        let names = [
            (
                Place::LegacyEventType,
                Field::LegacyEventType,
                &event.legacy_event_type,
                0,
                kept,
            ),
            (
                Place::EventType,
                Field::EventType,
                &event.event_type,
                2,
                known.is_some(),
            ),
        ];
        for (place, field, name, worth, is_known) in names {
            if is_known && self.deployment_rules == 0 {
                continue;
            }
            let mut add = |rule: usize| {
                if !is_known || rule < self.deployment_rules {
                    clues.add_rule(place, rule, worth, field, name);
                }
            };
            if let Some(rules) = self.known_names.get(name.as_str()) {
                rules.iter().copied().for_each(add);
            } else {
                for hit in self.names.hits(cut(name, EVIDENCE_BYTES_MAX)) {
                    add(hit.what);
                }
            }
        }
        if let Some(known) = known.filter(|known| known.cause.is_some()) {
            clues.all.push(Clue {
                stage: if known.cause_is_final {
                    Stage::Type
                } else {
                    Stage::Usual
                },
                order: (0, 1, 0),
                source: Source::Catalogue,
                field: Field::EventType,
                text: &event.event_type,
            });
        }
    }

    fn candidate<'a>(&'a self, clue: &Clue<'a>, known: Option<&'a EventType>) -> Candidate<'a> {
        let bare = Candidate {
            stage: clue.stage,
            order: clue.order,
            cause: Cause::Unknown,
            rule: String::new(),
            field: clue.field.path(),
            text: cut(clue.text, EVIDENCE_BYTES_MAX),
            disposition: None,
            responder: None,
            remediation: None,
            by_catalogue: false,
            whole_connector: false,
        };
        match clue.source {
            Source::Rule(index) => {
                let rule = &self.rules[index];
                Candidate {
                    cause: rule.cause,
                    rule: rule.id.clone(),
                    disposition: rule.disposition,
                    responder: rule.responder,
                    remediation: rule.remediation.as_deref(),
                    whole_connector: rule.whole_connector,
                    ..bare
                }
            }
            Source::Status(index) => {
                let status = self.grammar.status(index);
                Candidate {
                    cause: status.cause,
                    rule: format!("status.{}", status.code),
                    responder: status.responder,
                    ..bare
                }
            }
            Source::Catalogue => Candidate {
                cause: known
                    .and_then(|known| known.cause)
                    .unwrap_or(Cause::Unknown),
                rule: "event_type".to_owned(),
                disposition: known.and_then(EventType::stated_disposition),
                responder: known.and_then(|known| known.responder),
                by_catalogue: true,
                ..bare
            },
        }
    }
}

/// Whether a key of the debug data is one of `keys`; Okta writes them in snake case, camel case
/// and lower case.
fn is_key(key: &str, keys: &[&str]) -> bool {
    keys.iter().any(|wanted| {
        let mut letters = key
            .bytes()
            .filter(|byte| *byte != b'_')
            .map(|byte| byte.to_ascii_lowercase());
        wanted.bytes().all(|byte| letters.next() == Some(byte)) && letters.next().is_none()
    })
}

fn application(event: &ProvisioningEvent) -> Option<ObjectRef> {
    object(event, &["AppInstance"], &["appname", "appdisplayname"])
}

/// The first target of the kinds, in their order, by id; its name from whichever has one.
fn object(event: &ProvisioningEvent, kinds: &[&str], name_keys: &[&str]) -> Option<ObjectRef> {
    let targets = || kinds.iter().filter_map(|kind| event.target(kind));
    let name = targets().map(entity_name).find(|name| !name.is_empty());
    let name = name.or_else(|| {
        event
            .debug_data
            .iter()
            .find(|(key, value)| !value.is_empty() && is_key(key, name_keys))
            .map(|(_, value)| value.as_str())
    });
    let id = targets()
        .map(|target| target.id.as_str())
        .find(|id| !id.is_empty());
    (id.is_some() || name.is_some()).then(|| ObjectRef {
        id: id.unwrap_or_default().to_owned(),
        name: name.unwrap_or_default().to_owned(),
    })
}

/// What people call it; Okta sends the text `unknown` where it has no name.
fn entity_name(entity: &Entity) -> &str {
    [entity.display_name.as_str(), entity.alternate_id.as_str()]
        .into_iter()
        .find(|name| !name.is_empty() && !name.eq_ignore_ascii_case("unknown"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
