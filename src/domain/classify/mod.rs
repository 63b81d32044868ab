//! An event in, what it means out: rules as data, and the engine that applies them.
//!
//! Classifying is total and pure. It never fails, also not on an event of a type that Okta adds
//! tomorrow, with values nobody has seen; wording no rule knows is `UNKNOWN`. What decided is
//! quoted as evidence. The texts it gives are ours and stand in the data files beside this one.

mod assess;
pub mod rules;
mod text;
mod verdict;
mod wording;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use crate::domain::catalogue::{Catalogue, EventType, Family};
use crate::domain::classification::{
    Category, Cause, Classification, Disposition, Evidence, FailureSemantics, ObjectRef, Priority,
    Responder, Verdict,
};
use crate::domain::classify::assess::{concerns_group_push, disposition, priority};
use crate::domain::classify::rules::{Place, Rule, RuleFile, RulesError, Searcher, Stage};
use crate::domain::classify::text::{Grammar, Reading, cut};
use crate::domain::classify::verdict::{Hints, judge, name_removes_access};
use crate::domain::classify::wording::{Subject, Wording};
use crate::domain::event::{Entity, ProvisioningEvent};

static EMBEDDED: LazyLock<Classifier> =
    LazyLock::new(|| Classifier::build("").expect("a test reads the built-in rules"));

/// Enough for any sentence that decides; evidence is stored with each event.
const EVIDENCE_BYTES_MAX: usize = 200;

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

/// A piece of evidence for a cause, and how much it is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    pub stage: Stage,
    pub cause: Cause,
    /// Id of the rule, `status.404`, or `event_type` where the catalogue names the cause.
    pub rule: String,
    pub field: String,
    /// The words it goes by, from that field.
    pub text: &'a str,
    disposition: Option<Disposition>,
    responder: Option<Responder>,
    remediation: Option<&'a str>,
    by_catalogue: bool,
}

/// A cause before it is dressed as a candidate: what decides the order, and where to look.
#[derive(Clone, Copy, Debug)]
struct Clue<'e> {
    stage: Stage,
    /// Rules before statuses, then fields in the order of their worth, then the rules' order, or
    /// the statuses' places in the text.
    order: (u8, u8, usize),
    source: Source,
    field: Field<'e>,
    text: &'e str,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Rule(usize),
    Status(usize),
    Catalogue,
}

#[derive(Clone, Copy, Debug)]
enum Field<'e> {
    Reason,
    Result,
    DebugData(&'e str),
    DisplayMessage,
    LegacyEventType,
    EventType,
}

impl Field<'_> {
    /// The field's path in the System Log.
    fn path(self) -> String {
        match self {
            Self::Reason => "outcome.reason".to_owned(),
            Self::Result => "outcome.result".to_owned(),
            Self::DebugData(key) => format!("debugContext.debugData.{key}"),
            Self::DisplayMessage => "displayMessage".to_owned(),
            Self::LegacyEventType => "legacyEventType".to_owned(),
            Self::EventType => "eventType".to_owned(),
        }
    }
}

/// Compiled rules; cheap to share, and free of locks.
#[derive(Debug)]
pub struct Classifier {
    catalogue: &'static Catalogue,
    version: String,
    /// The deployment's come first.
    rules: Vec<Rule>,
    /// How many of them are the deployment's.
    deployment_rules: usize,
    grammar: Grammar,
    names: Searcher<usize>,
    codes: Searcher<usize>,
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
    /// Only `version` and `rule` of the file count.
    pub fn with_rules(file: &str) -> Result<Self, RulesError> {
        Self::build(file)
    }

    /// The version of the built-in rules, and of the deployment's where there are some.
    pub fn rule_set_version(&self) -> &str {
        &self.version
    }

    /// All rules, in the order in which they are asked.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    fn build(deployment: &str) -> Result<Self, RulesError> {
        let own = RuleFile::parse(include_str!("rules.toml"))?;
        let mut version = own.version.clone();
        let mut rules = Vec::new();
        if !deployment.is_empty() {
            let theirs = RuleFile::parse(deployment)?;
            let _ = write!(version, "+{}", theirs.version);
            rules = theirs.rule;
        }
        let deployment_rules = rules.len();
        rules.extend(own.rule.iter().cloned());

        let reading = |places: &'static [Place]| {
            rules
                .iter()
                .enumerate()
                .filter(move |(_, rule)| rule.places.iter().any(|place| places.contains(place)))
                .flat_map(|(index, rule)| {
                    rule.literals.iter().map(move |word| (word.as_str(), index))
                })
        };
        let mut results = HashMap::new();
        for (word, index) in reading(&[Place::Result]) {
            results.entry(word.to_ascii_uppercase()).or_insert(index);
        }
        Ok(Self {
            catalogue: Catalogue::embedded(),
            version,
            grammar: Grammar::new(&own, &rules)?,
            names: Searcher::new(reading(&[Place::LegacyEventType, Place::EventType]))?,
            codes: Searcher::new(reading(&[Place::Code]))?,
            results,
            failure_without_outcome: own.failure_without_outcome,
            wording: Wording::embedded(),
            deployment_rules,
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
            let clues = clues.insert(self.clues(event, known));
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

        match verdict {
            Verdict::Failure | Verdict::Warning => {
                let clues = clues.unwrap_or_else(|| self.clues(event, known));
                let decisive = clues
                    .iter()
                    .min_by_key(|clue| (clue.stage, clue.order))
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
                    answer.evidence = Some(Evidence {
                        rule: candidate.rule,
                        field: candidate.field,
                        text: cut(candidate.text, EVIDENCE_BYTES_MAX).to_owned(),
                    });
                }
                answer.security_relevant = failed && removes_access;
                answer.unexpected = failed
                    && known
                        .is_some_and(|known| known.failure_semantics == FailureSemantics::Never);
                answer.group_push_failed = failed && concerns_group_push(event, known);
                answer.priority = priority(&answer, known);
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
        let mut clues = self.clues(event, known);
        clues.sort_by_key(|clue| (clue.stage, clue.order));
        clues
            .iter()
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
            application: object(event, &["AppInstance"], &["appname", "appdisplayname"]),
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
    fn clues<'e>(&self, event: &'e ProvisioningEvent, known: Option<&EventType>) -> Vec<Clue<'e>> {
        let mut clues = Vec::new();
        self.add_type_clues(event, known, &mut clues);
        if let Some(&rule) = self
            .results
            .get(event.outcome.result.trim().to_ascii_uppercase().as_str())
        {
            let stage = self.stage(rule, Place::Result);
            clues.push(Clue {
                stage,
                order: (0, 0, rule),
                source: Source::Rule(rule),
                field: Field::Result,
                text: &event.outcome.result,
            });
        }

        // What stands in a name counts as nothing in any of the texts.
        let names: Vec<&str> = event
            .targets
            .iter()
            .flat_map(|target| [target.display_name.as_str(), target.alternate_id.as_str()])
            .filter(|name| !name.is_empty())
            .collect();
        let mut worth = 0;
        let mut read = |field: Field<'e>, text: &'e str| {
            self.add_text_clues(
                &event.event_type,
                &self.grammar.read(text, &names),
                field,
                worth,
                &mut clues,
            );
            worth = worth.saturating_add(1);
        };
        let reason = event.outcome.reason.as_str();
        if !reason.is_empty() {
            read(Field::Reason, reason);
        }
        for (key, value) in &event.debug_data {
            if !value.is_empty() && value != reason && is_key(key, TEXT_KEYS) {
                read(Field::DebugData(key), value);
            }
        }
        // Mostly the type's own title. The Group Push Failed card has the error here, and no reason.
        if reason.is_empty() && !event.display_message.is_empty() {
            read(Field::DisplayMessage, &event.display_message);
        }

        for (key, value) in &event.debug_data {
            if is_key(key, CODE_KEYS) {
                let value = cut(value, EVIDENCE_BYTES_MAX);
                for hit in self
                    .codes
                    .hits(value)
                    .filter(|hit| self.rules[hit.what].speaks_of(&event.event_type))
                {
                    let text = &value[hit.start..hit.end];
                    let stage = self.stage(hit.what, Place::Code);
                    clues.push(Clue {
                        stage,
                        order: (0, 0, hit.what),
                        source: Source::Rule(hit.what),
                        field: Field::DebugData(key),
                        text,
                    });
                }
            }
        }
        clues
    }

    fn add_type_clues<'e>(
        &self,
        event: &'e ProvisioningEvent,
        known: Option<&EventType>,
        clues: &mut Vec<Clue<'e>>,
    ) {
        // Of a type in the catalogue only the deployment knows better.
        let mut read =
            |place: Place, field: Field<'e>, name: &'e str, worth: u8, rules_max: usize| {
                for hit in self.names.hits(cut(name, EVIDENCE_BYTES_MAX)) {
                    let rule = &self.rules[hit.what];
                    let speaks = rule.places.contains(&place)
                        && rule.with_status.is_empty()
                        && rule.speaks_of(&event.event_type);
                    if speaks && hit.what < rules_max {
                        let stage = self.stage(hit.what, place);
                        clues.push(Clue {
                            stage,
                            order: (0, worth, hit.what),
                            source: Source::Rule(hit.what),
                            field,
                            text: name,
                        });
                    }
                }
            };
        let rules_max = if known.is_some() {
            self.deployment_rules
        } else {
            usize::MAX
        };
        read(
            Place::EventType,
            Field::EventType,
            &event.event_type,
            2,
            rules_max,
        );
        // Some types kept their old name.
        let kept = known.is_some_and(|known| known.name == event.legacy_event_type);
        let rules_max = if kept {
            self.deployment_rules
        } else {
            usize::MAX
        };
        read(
            Place::LegacyEventType,
            Field::LegacyEventType,
            &event.legacy_event_type,
            0,
            rules_max,
        );
        if let Some(known) = known.filter(|known| known.cause.is_some()) {
            clues.push(Clue {
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

    fn add_text_clues<'e>(
        &self,
        event_type: &str,
        reading: &Reading<'e>,
        field: Field<'e>,
        worth: u8,
        clues: &mut Vec<Clue<'e>>,
    ) {
        for hit in &reading.statuses {
            let stage = if self.grammar.status(hit.what).decisive {
                Stage::Decisive
            } else {
                Stage::Vague
            };
            let text = &reading.text[hit.start..hit.end];
            clues.push(Clue {
                stage,
                order: (1, worth, hit.start),
                source: Source::Status(hit.what),
                field,
                text,
            });
        }
        for hit in &reading.rules {
            let rule = &self.rules[hit.what];
            let answered = reading.remote.is_some_and(|remote| hit.start >= remote);
            let place = if answered && rule.places.contains(&Place::Remote) {
                Place::Remote
            } else {
                Place::Text
            };
            if !rule.speaks_of(event_type) {
                continue;
            }
            let stands_beside = |code: &u16| {
                reading
                    .statuses
                    .iter()
                    .any(|status| self.grammar.status(status.what).code == *code)
            };
            if rule.places.contains(&place)
                && (rule.with_status.is_empty() || rule.with_status.iter().any(stands_beside))
            {
                let text = &reading.text[hit.start..hit.end];
                clues.push(Clue {
                    stage: self.stage(hit.what, place),
                    order: (0, worth, hit.what),
                    source: Source::Rule(hit.what),
                    field,
                    text,
                });
            }
        }
    }

    fn stage(&self, rule: usize, place: Place) -> Stage {
        if rule < self.deployment_rules {
            Stage::Deployment
        } else {
            self.rules[rule].stage(place)
        }
    }

    fn candidate<'a>(&'a self, clue: &Clue<'a>, known: Option<&'a EventType>) -> Candidate<'a> {
        let bare = Candidate {
            stage: clue.stage,
            cause: Cause::Unknown,
            rule: String::new(),
            field: clue.field.path(),
            text: clue.text,
            disposition: None,
            responder: None,
            remediation: None,
            by_catalogue: false,
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
                    ..bare
                }
            }
            Source::Status(index) => {
                let status = self.grammar.status(index);
                Candidate {
                    cause: status.cause,
                    rule: format!("status.{}", status.code),
                    disposition: status.disposition,
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
