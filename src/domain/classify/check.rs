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

/// The problems of some rules of a classifier, in their order.
pub(super) fn problems(classifier: &Classifier, rules: &[Rule]) -> Vec<RuleProblem> {
    let mut problems = Vec::new();
    for rule in rules {
        for place in &rule.places {
            for example in &rule.matches {
                problems.extend(mismatch(classifier, rule, *place, example));
            }
            for example in &rule.misses {
                let event = event(rule, *place, &example.text);
                if classifier
                    .explain(&event)
                    .iter()
                    .any(|said| is_by(said, rule))
                {
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

/// Why a rule does not decide its example.
fn mismatch(
    classifier: &Classifier,
    rule: &Rule,
    place: Place,
    example: &Located,
) -> Option<RuleProblem> {
    let event = event(rule, place, &example.text);
    let said = classifier.explain(&event);
    let first = said.first();
    if first.is_some_and(|first| is_by(first, rule)) {
        return None;
    }
    let problem = match first {
        Some(first) if said.iter().any(|said| is_by(said, rule)) => format!(
            "its example {:?} is decided by {} ({}) before it",
            example.text, first.rule, first.stage
        ),
        _ => format!("it does not match its example {:?}", example.text),
    };
    Some(problem_at(rule, example.line, problem))
}

/// Why a phrase never decides, if that is so.
fn unheard(classifier: &Classifier, rule: &Rule, phrase: &Located) -> Option<RuleProblem> {
    let place = *rule.places.first()?;
    let mut before = None;
    for sample in samples(classifier, rule, place, &phrase.text) {
        let event = event(rule, place, &sample);
        let said = classifier.explain(&event);
        match said.first() {
            Some(first) if is_by(first, rule) => return None,
            Some(first) => before = Some((first.rule.clone(), first.cause)),
            // A phrase of words that stand for a name, say: the examples show that it can match.
            None => return None,
        }
    }
    let (other, cause) = before?;
    let problem = if cause == rule.cause {
        format!(
            "the phrase {:?} is never heard: {other} always speaks first",
            phrase.text
        )
    } else {
        format!(
            "the phrase {:?} contradicts {other}, which always speaks first and says {cause}, not {}",
            phrase.text, rule.cause
        )
    };
    Some(problem_at(rule, phrase.line, problem))
}

/// The shortest texts that a phrase matches: each word of each part once.
fn samples(classifier: &Classifier, rule: &Rule, place: Place, phrase: &str) -> Vec<String> {
    let Ok(phrase) = Phrase::parse(phrase, classifier.words()) else {
        return Vec::new();
    };
    let parts = phrase.words_of_parts();
    let status = match rule.with_status.first() {
        Some(code) if matches!(place, Place::Text | Place::Code) => {
            format!("HTTP {code}. Errors reported by remote server: ")
        }
        _ => String::new(),
    };
    let mut samples = Vec::new();
    for (varied, part) in parts.iter().enumerate() {
        for word in part {
            let words: Vec<_> = parts
                .iter()
                .enumerate()
                .map(|(index, part)| if index == varied { word } else { part[0] })
                .map(|word| word.trim_matches('*'))
                .collect();
            samples.push(format!("{status}{}", words.join(" ")));
        }
    }
    samples
}

/// An event whose only evidence is a text in one place, such as the rule speaks of.
fn event(rule: &Rule, place: Place, text: &str) -> ProvisioningEvent {
    let mut event = ProvisioningEvent {
        event_type: match rule.event_types.first() {
            Some(name) => name.replace('*', "new"),
            None => PLAIN_TYPE.to_owned(),
        },
        ..ProvisioningEvent::default()
    };
    if let Some(name) = rule.applications.first() {
        event.targets.push(Entity {
            kind: "AppInstance".to_owned(),
            display_name: name.clone(),
            ..Entity::default()
        });
    }
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
