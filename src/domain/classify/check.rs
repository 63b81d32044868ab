//! What is wrong with rules as they stand together: examples that don't hold, phrases nobody hears.
//!
//! Each rule has to speak for its own examples. A phrase whose words another rule always decides
//! first is never heard: where the two mean the same it is dead weight, where they differ they
//! contradict each other.

use crate::domain::classify::phrases::Phrase;
use crate::domain::classify::rules::{Located, Place, Rule, RuleProblem};
use crate::domain::classify::{Candidate, Classifier};
use crate::domain::event::{Entity, ProvisioningEvent};

/// A type that any rule may speak of, and that says nothing itself.
const PLAIN_TYPE: &str = "application.provision.user.push_profile";

/// Texts tried of one phrase: each of its words once, as long as these last.
const SAMPLES_MAX: usize = 300;

/// Applications and event types that one rule is tried with, and statuses.
const CONTEXTS_MAX: usize = 64;

/// The problems of some rules of a classifier, in their order.
pub(super) fn problems(classifier: &Classifier, rules: &[Rule]) -> Vec<RuleProblem> {
    let mut problems = Vec::new();
    for rule in rules {
        for place in &rule.places {
            for example in &rule.matches {
                problems.extend(mismatch(classifier, rule, *place, example));
            }
            for example in &rule.misses {
                let speaks = |event: &ProvisioningEvent| {
                    let said = classifier.explain(event);
                    said.iter().any(|said| is_by(said, rule))
                };
                if events(rule, *place, &example.text).any(|event| speaks(&event)) {
                    let problem = format!("it matches {:?}, which it must miss", example.text);
                    problems.push(problem_at(rule, example.line, problem));
                }
            }
        }
        for phrase in &rule.phrases {
            problems.extend(unheard(classifier, rule, phrase));
        }
    }
    problems
}

fn is_by(candidate: &Candidate<'_>, rule: &Rule) -> bool {
    candidate.rule == rule.id
}

fn problem_at(rule: &Rule, line: usize, problem: String) -> RuleProblem {
    RuleProblem {
        line,
        rule: rule.id.clone(),
        problem,
    }
}

/// Why a rule decides its example nowhere.
fn mismatch(
    classifier: &Classifier,
    rule: &Rule,
    place: Place,
    example: &Located,
) -> Option<RuleProblem> {
    let mut before = None;
    for event in events(rule, place, &example.text) {
        let said = classifier.explain(&event);
        let Some(first) = said.first() else {
            continue;
        };
        if is_by(first, rule) {
            return None;
        }
        if said.iter().any(|said| is_by(said, rule)) {
            before = Some(format!("{} ({})", first.rule, first.stage));
        }
    }
    let problem = match before {
        Some(before) => format!(
            "its example {:?} is decided by {before} before it",
            example.text
        ),
        None => format!("it does not match its example {:?}", example.text),
    };
    Some(problem_at(rule, example.line, problem))
}

/// Why a phrase decides nowhere, if that is so.
fn unheard(classifier: &Classifier, rule: &Rule, phrase: &Located) -> Option<RuleProblem> {
    let parsed = Phrase::parse(&phrase.text, classifier.words()).ok()?;
    let parts = parsed.words_of_parts();
    let mut before = None;
    for sample in samples(&parts).take(SAMPLES_MAX) {
        for (place, text) in beside_statuses(rule, &sample) {
            for event in events(rule, place, &text) {
                let said = classifier.explain(&event);
                match said.first() {
                    Some(first) if is_by(first, rule) => return None,
                    Some(first) => before = Some((first.rule.clone(), first.cause)),
                    None => {}
                }
            }
        }
    }
    // With so many words not all were tried.
    if parts.iter().map(Vec::len).sum::<usize>() > SAMPLES_MAX {
        return None;
    }
    let phrase_text = &phrase.text;
    let problem = match before {
        None => format!("the phrase {phrase_text:?} is not even found in its own words"),
        Some((other, cause)) if cause == rule.cause => {
            format!("the phrase {phrase_text:?} is never heard: {other} always speaks first")
        }
        Some((other, cause)) => format!(
            "the phrase {phrase_text:?} contradicts {other}, which always speaks first and says {cause}, not {}",
            rule.cause
        ),
    };
    Some(problem_at(rule, phrase.line, problem))
}

/// The shortest texts that a phrase matches: each word of each part once.
fn samples<'a>(parts: &'a [Vec<&'a str>]) -> impl Iterator<Item = String> + 'a {
    parts.iter().enumerate().flat_map(move |(varied, part)| {
        part.iter().map(move |word| {
            let words: Vec<_> = parts
                .iter()
                .enumerate()
                .map(|(index, part)| if index == varied { word } else { part[0] })
                .map(|word| word.trim_matches('*'))
                .collect();
            words.join(" ")
        })
    })
}

/// A text for each place that the rule reads, and beside each status that it wants.
fn beside_statuses(rule: &Rule, text: &str) -> Vec<(Place, String)> {
    let mut texts = Vec::new();
    for place in &rule.places {
        let bare = rule.with_status.is_empty() || !matches!(place, Place::Text | Place::Code);
        if bare {
            texts.push((*place, text.to_owned()));
            continue;
        }
        for code in rule.with_status.iter().take(CONTEXTS_MAX) {
            let text = format!("HTTP {code}. Errors reported by remote server: {text}");
            texts.push((*place, text));
        }
    }
    texts
}

/// Events whose only evidence is a text in one place, such as the rule speaks of: one for each
/// application and event type that it names.
fn events<'a>(
    rule: &'a Rule,
    place: Place,
    text: &'a str,
) -> impl Iterator<Item = ProvisioningEvent> + 'a {
    fn or_none<T>(all: &[T]) -> impl Iterator<Item = Option<&T>> + Clone {
        let none = all.is_empty().then_some(None);
        all.iter().map(Some).chain(none)
    }
    or_none(&rule.applications)
        .flat_map(move |application| {
            or_none(&rule.event_types)
                .map(move |event_type| event(place, text, application, event_type))
        })
        .take(CONTEXTS_MAX)
}

fn event(
    place: Place,
    text: &str,
    application: Option<&String>,
    event_type: Option<&String>,
) -> ProvisioningEvent {
    let mut event = ProvisioningEvent {
        event_type: event_type.map_or(PLAIN_TYPE.to_owned(), |name| name.replace('*', "new")),
        targets: application
            .map(|name| Entity {
                kind: "AppInstance".to_owned(),
                display_name: name.clone(),
                ..Entity::default()
            })
            .into_iter()
            .collect(),
        ..ProvisioningEvent::default()
    };
    match place {
        Place::Text => text.clone_into(&mut event.outcome.reason),
        Place::Code => drop(
            event
                .debug_data
                .insert("errorCode".to_owned(), text.to_owned()),
        ),
        Place::LegacyEventType => text.clone_into(&mut event.legacy_event_type),
        Place::EventType => event.event_type = format!("{text}.new"),
        Place::Result => text.clone_into(&mut event.outcome.result),
    }
    event
}
