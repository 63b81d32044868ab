//! The sentences of an answer: what happened in one, what to do in one to three.
//!
//! The texts are data (`wording.toml`); here they are picked and the names filled in. A missing
//! name degrades to "a user" or "the app". Every combination of verdict, operation and resource
//! has a sentence, also of a type that nobody knows.

use serde::Deserialize;

use crate::domain::catalogue::EventType;
use crate::domain::classification::{
    Category, Cause, Classification, Disposition, FailureSemantics, ObjectRef, Operation, Resource,
    Verdict,
};
use crate::domain::classify::text::cut;
use crate::domain::classify::verdict::Progress;
use crate::domain::event::ProvisioningEvent;

/// A name longer than this makes no sentence; Okta's own limit for a group's name is 255
/// characters, so this cuts only what is no name.
const NAME_BYTES_MAX: usize = 256;

/// What the sentences are about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) event: &'a ProvisioningEvent,
    pub(super) known: Option<&'a EventType>,
    /// Complete but for its sentences.
    pub(super) answer: &'a Classification,
    pub(super) progress: Progress,
    pub(super) removes_access: bool,
}

/// The texts, as they stand in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wording {
    sentence: Vec<Sentence>,
    action: Vec<Action>,
    why: Vec<Why>,
    remedy: Vec<Remedy>,
}

/// Whole sentences, without their full stop, for types that no action describes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sentence {
    event_types: Vec<String>,
    failure: Option<String>,
    warning: Option<String>,
    success: Option<String>,
    /// The cause that the catalogue names is in the sentence already.
    #[serde(default)]
    says_why: bool,
    /// No app is to blame, which is what the causes' words speak of.
    #[serde(default)]
    alone: bool,
}

/// How to say what Okta was doing: "could not `does` `what`", "`did` `what`".
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    operation: Operation,
    resource: Resource,
    category: Option<Category>,
    does: String,
    did: String,
    what: String,
}

/// A cause as the end of a sentence.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    cause: Cause,
    #[serde(default)]
    resources: Vec<Resource>,
    text: String,
}

/// What to do about a cause; the first that fits counts, and an empty condition always fits.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remedy {
    cause: Cause,
    #[serde(default)]
    categories: Vec<Category>,
    #[serde(default)]
    operations: Vec<Operation>,
    #[serde(default)]
    resources: Vec<Resource>,
    disposition: Option<Disposition>,
    /// Only where a removal of access failed.
    #[serde(default)]
    security_relevant: bool,
    text: String,
}

/// An event that is none of ours.
pub(super) fn unrelated(event_type: &str) -> String {
    if event_type.is_empty() {
        return "The event has no type, so it is not about provisioning.".to_owned();
    }
    format!(
        "{} is not about provisioning.",
        cut(event_type, NAME_BYTES_MAX)
    )
}

impl Wording {
    pub(super) fn embedded() -> Self {
        toml::from_str(include_str!("wording.toml")).expect("a test reads the built-in wording")
    }

    /// One sentence that says what happened, to whom, and why.
    pub(super) fn summary(&self, of: &Subject<'_>) -> String {
        let mut text = self.what_happened(of);
        if let Some(why) = self.why(of) {
            text.push_str(": ");
            text.push_str(&why);
        }
        text.push('.');
        text
    }

    /// The sentences written for the event's type.
    fn own(&self, of: &Subject<'_>) -> Option<&Sentence> {
        self.sentence
            .iter()
            .find(|sentence| sentence.event_types.contains(&of.event.event_type))
    }

    fn what_happened(&self, of: &Subject<'_>) -> String {
        let event_type = of.event.event_type.as_str();
        let own = self.own(of).and_then(|sentence| match of.answer.verdict {
            Verdict::Failure => sentence.failure.as_deref(),
            Verdict::Warning if of.progress == Progress::Done => sentence.warning.as_deref(),
            Verdict::Success => sentence.success.as_deref(),
            _ => None,
        });
        if let Some(own) = own {
            return fill(own, of);
        }

        let Some(known) = of.known else {
            return unknown_type(of);
        };
        let describes_itself = matches!(
            known.failure_semantics,
            FailureSemantics::Never | FailureSemantics::Warns
        );
        if of.answer.unexpected {
            return format!(
                "Okta reported a failure of {event_type}, which is not known to fail{}",
                context(of)
            );
        }
        let action = self.action.iter().find(|action| {
            action.operation == known.operation
                && action.resource == known.resource
                && action
                    .category
                    .is_none_or(|category| category == known.category)
        });
        let Some(action) =
            action.filter(|_| !describes_itself || of.answer.verdict == Verdict::Failure)
        else {
            // Its description says it best, as long as nothing failed.
            return match of.answer.verdict {
                Verdict::Failure => {
                    format!("Okta reported a failure of {event_type}{}", context(of))
                }
                _ => format!("{}{}", first_sentence(&known.description), context(of)),
            };
        };

        let what = fill(&action.what, of);
        let push = if of.answer.group_push_failed && known.category != Category::GroupPush {
            " for a group push"
        } else {
            ""
        };
        let Action { does, did, .. } = action;
        match (of.answer.verdict, of.progress) {
            (Verdict::Failure, _) => format!("Okta could not {does} {what}{push}"),
            (_, Progress::Skipped) => format!("Okta skipped a step and did not {does} {what}"),
            (_, Progress::Deferred) => format!("Okta put a step off and did not yet {does} {what}"),
            (_, Progress::Scheduled) => {
                format!("Okta is going to {does} {what} at a time that was set")
            }
            (Verdict::Undetermined, _) => {
                format!("Okta tried to {does} {what} and did not say whether it worked")
            }
            (_, _) => format!("Okta {did} {what}"),
        }
    }

    fn why(&self, of: &Subject<'_>) -> Option<String> {
        let cause = of.answer.cause?;
        if self.own(of).is_some_and(|sentence| sentence.alone) {
            return None;
        }
        let by_type = of
            .answer
            .evidence
            .as_ref()
            .is_some_and(|evidence| evidence.rule == "event_type");
        if by_type
            && (of.answer.verdict == Verdict::Warning
                || self.own(of).is_some_and(|sentence| sentence.says_why))
        {
            return None;
        }
        if of.answer.verdict == Verdict::Warning && cause == Cause::Unknown {
            return None;
        }
        if cause == Cause::Unknown && !of.event.outcome.reason.is_empty() {
            return Some("the error text names no cause that is known here".to_owned());
        }
        let fits = |why: &&Why| {
            why.cause == cause
                && (why.resources.is_empty()
                    || of
                        .answer
                        .resource
                        .is_some_and(|resource| why.resources.contains(&resource)))
        };
        self.why.iter().find(fits).map(|why| fill(&why.text, of))
    }

    /// What to do: the rule's own advice, else the cause's, else the type's.
    pub(super) fn remediation(
        &self,
        of: &Subject<'_>,
        of_rule: Option<&str>,
        by_catalogue: bool,
    ) -> String {
        let answer = of.answer;
        let cause = answer.cause.unwrap_or(Cause::Unknown);
        let of_type = of
            .known
            .map(|known| known.remediation.as_str())
            .filter(|text| !text.is_empty());
        let of_cause = || {
            let fits = |remedy: &&Remedy| {
                remedy.cause == cause
                    && (!remedy.security_relevant || answer.security_relevant)
                    && (remedy.categories.is_empty()
                        || remedy.categories.contains(&answer.category))
                    && (remedy.operations.is_empty()
                        || answer
                            .operation
                            .is_some_and(|one| remedy.operations.contains(&one)))
                    && (remedy.resources.is_empty()
                        || answer
                            .resource
                            .is_some_and(|one| remedy.resources.contains(&one)))
                    && remedy
                        .disposition
                        .is_none_or(|one| one == answer.disposition)
            };
            self.remedy
                .iter()
                .find(fits)
                .map(|remedy| remedy.text.as_str())
                .unwrap_or_default()
        };
        let must_check = answer.security_relevant && cause == Cause::TargetNotFound;
        let (text, complete) = match (of_rule, of_type) {
            (Some(text), _) => (text, must_check),
            _ if must_check => (of_cause(), true),
            // Its author knew that the type takes access away.
            (None, Some(text)) if by_catalogue || cause == Cause::Unknown => (text, true),
            _ => (of_cause(), false),
        };
        let mut text = fill(text, of);
        if must_check && of_rule.is_some() {
            text.push_str(&fill(" Check in {app} that the access is really gone.", of));
        }
        if answer.security_relevant && !complete {
            text.push_str(
                " Until then the access stands: if that can't wait, take it away in {app} by hand."
                    .replace("{app}", app(of))
                    .as_str(),
            );
        }
        text
    }
}

/// What to do about an event that doesn't say how it ended.
pub(super) fn undetermined_remediation(of: &Subject<'_>) -> String {
    let look = "Look in Okta's System Log for other events of the same transaction, which say how it ended.";
    if of.removes_access {
        format!(
            "{look} Check in {} that the access is really gone.",
            app(of)
        )
    } else {
        look.to_owned()
    }
}

/// A type of a family, of which nothing but its name is known.
fn unknown_type(of: &Subject<'_>) -> String {
    let event_type = cut(&of.event.event_type, NAME_BYTES_MAX);
    let context = context(of);
    match (of.answer.verdict, of.progress) {
        (Verdict::Failure, _) => format!("Okta reported a failure of {event_type}{context}"),
        (_, Progress::Skipped) => format!("Okta skipped {event_type}{context}"),
        (_, Progress::Deferred) => format!("Okta put off {event_type}{context}"),
        (_, Progress::Scheduled) => format!("Okta scheduled {event_type}{context}"),
        (Verdict::Undetermined, _) => {
            format!("Okta reported {event_type}{context} and did not say whether it worked")
        }
        (_, _) => format!("Okta reported a success of {event_type}{context}"),
    }
}

/// Whom an event is about, for sentences that have no place for it: " (Ann Lee in Slack)".
fn context(of: &Subject<'_>) -> String {
    let user = name(of.answer.user.as_ref());
    let group = name(of.answer.group.as_ref()).map(|name| format!("the group {name}"));
    let object = match (user, group) {
        (Some(user), Some(group)) => Some(format!("{user}, {group}")),
        (Some(user), None) => Some(user.to_owned()),
        (None, group) => group,
    };
    match (object, name(of.answer.application.as_ref())) {
        (Some(object), Some(app)) => format!(" ({object} in {app})"),
        (Some(object), None) => format!(" ({object})"),
        (None, Some(app)) => format!(" ({app})"),
        (None, None) => String::new(),
    }
}

fn name(object: Option<&ObjectRef>) -> Option<&str> {
    object
        .map(|object| cut(object.name.trim(), NAME_BYTES_MAX))
        .filter(|name| !name.is_empty())
}

fn app<'a>(of: &Subject<'a>) -> &'a str {
    name(of.answer.application.as_ref()).unwrap_or("the app")
}

fn first_sentence(text: &str) -> &str {
    text.split_once(". ")
        .map_or(text, |(first, _)| first)
        .trim_end_matches('.')
}

/// Puts names in: `{app}`, `{user}`, `{group}` (with its article).
fn fill(template: &str, of: &Subject<'_>) -> String {
    let mut text = String::with_capacity(template.len() + 64);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let Some((place, after)) = after.split_once('}') else {
            text.push('{');
            rest = after;
            break;
        };
        match place {
            "app" => text.push_str(app(of)),
            "user" => text.push_str(name(of.answer.user.as_ref()).unwrap_or("a user")),
            "group" => match name(of.answer.group.as_ref()) {
                Some(name) => text.extend(["the group ", name]),
                None => text.push_str("a group"),
            },
            // A test sees to it that the built-in texts have no other; a deployment's rule keeps its own.
            other => text.extend(["{", other, "}"]),
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::catalogue::Catalogue;

    #[test]
    fn every_cause_says_why_and_what_to_do() {
        let wording = Wording::embedded();
        for cause in Cause::ALL {
            // The last entry fits whatever the others leave.
            let why = wording.why.iter().rfind(|why| why.cause == *cause);
            assert!(why.is_some_and(|why| why.resources.is_empty()), "{cause}");
            let remedy = wording.remedy.iter().rfind(|remedy| remedy.cause == *cause);
            let open = |remedy: &Remedy| {
                remedy.categories.is_empty()
                    && remedy.operations.is_empty()
                    && remedy.resources.is_empty()
                    && remedy.disposition.is_none()
                    && !remedy.security_relevant
            };
            assert!(remedy.is_some_and(open), "{cause}");
        }
    }

    #[test]
    fn sentences_are_for_types_that_exist_and_end_without_a_stop() {
        for sentence in Wording::embedded().sentence {
            for name in &sentence.event_types {
                assert!(Catalogue::embedded().event_type(name).is_some(), "{name}");
            }
            for text in [sentence.failure, sentence.warning, sentence.success]
                .into_iter()
                .flatten()
            {
                assert!(!text.ends_with('.') && !text.contains(": "), "{text}");
            }
        }
    }

    #[test]
    fn a_summary_of_nothing_is_a_sentence_still() {
        assert_eq!(
            unrelated(""),
            "The event has no type, so it is not about provisioning."
        );
        assert_eq!(first_sentence("One. Two."), "One");
        assert_eq!(first_sentence("One."), "One");
    }
}
