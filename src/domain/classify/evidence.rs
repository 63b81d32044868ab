//! Evidence for a cause: what is found in an event, what it is worth, and in which order it counts.
//!
//! A clue is small and cheap, and an event may have many; only what decides, or what somebody wants
//! explained, becomes a [`Candidate`] with its words.

use std::cmp::Reverse;

use crate::domain::classification::{Cause, Disposition, Responder};
use crate::domain::classify::rules::{Place, Rule, Stage};
use crate::domain::classify::text::{Grammar, Reading};

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
    pub(super) order: (u8, u8, usize),
    pub(super) disposition: Option<Disposition>,
    pub(super) responder: Option<Responder>,
    pub(super) remediation: Option<&'a str>,
    pub(super) by_catalogue: bool,
    pub(super) whole_connector: bool,
}

impl Candidate<'_> {
    /// Why it counts most, or what the first one has before it.
    pub fn why(&self, first: &Self) -> String {
        if self == first {
            return format!("counts most, as {}", self.stage);
        }
        if self.stage != first.stage {
            return format!("{} counts less than {}", self.stage, first.stage);
        }
        match (self.order, first.order) {
            ((1, ..), (0, ..)) => "a status counts less than a rule's words".to_owned(),
            ((_, mine, _), (_, theirs, _)) if mine != theirs => {
                format!("{} is read before {}", first.field, self.field)
            }
            ((1, ..), _) => format!("the text names {} first", first.rule),
            _ => format!("{} stands before it in the rules", first.rule),
        }
    }
}

/// A cause before it is dressed as a candidate: what decides the order, and where to look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clue<'e> {
    pub(super) stage: Stage,
    /// Rules before statuses, then fields in the order of their worth, then the rules' order, or
    /// the statuses' places in the text.
    pub(super) order: (u8, u8, usize),
    pub(super) source: Source,
    pub(super) field: Field<'e>,
    pub(super) text: &'e str,
}

impl Clue<'_> {
    /// The best has the lowest. Of what one rule found the fullest quote comes first.
    #[inline]
    pub(super) fn rank(&self) -> (Stage, (u8, u8, usize), Reverse<usize>) {
        (self.stage, self.order, Reverse(self.text.len()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Rule(usize),
    Status(usize),
    Catalogue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Field<'e> {
    Reason,
    Result,
    DebugData(&'e str),
    DisplayMessage,
    LegacyEventType,
    EventType,
}

impl Field<'_> {
    /// The field's path in the System Log.
    pub(super) fn path(self) -> String {
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

/// Clues of an event as they are gathered.
pub(super) struct Clues<'c, 'e> {
    pub(super) rules: &'c [Rule],
    pub(super) deployment_rules: usize,
    pub(super) event_type: &'e str,
    /// Its name and id, in lower case.
    pub(super) application: Option<(String, String)>,
    pub(super) all: Vec<Clue<'e>>,
}

impl<'e> Clues<'_, 'e> {
    /// A rule whose words stand in a place, if it reads that place and speaks of such events.
    pub(super) fn add_rule(
        &mut self,
        place: Place,
        index: usize,
        worth: u8,
        field: Field<'e>,
        text: &'e str,
    ) {
        let rule = &self.rules[index];
        // Whatever stands in an error code may stand in an error text as well.
        let reads = rule.places.contains(&place)
            || (place == Place::Code && rule.places.contains(&Place::Text));
        let beside_status =
            !matches!(place, Place::Text | Place::Code) && !rule.with_status.is_empty();
        if !reads
            || beside_status
            || !rule.speaks_of(self.event_type)
            || !self.is_of(&rule.applications)
        {
            return;
        }
        let stage = if index < self.deployment_rules {
            Stage::Deployment
        } else {
            rule.stage(place)
        };
        self.all.push(Clue {
            stage,
            order: (0, worth, index),
            source: Source::Rule(index),
            field,
            text,
        });
    }

    fn is_of(&self, applications: &[String]) -> bool {
        let is = |wanted: &String| {
            let known = self.application.as_ref();
            known.is_some_and(|(name, id)| name == wanted || id == wanted)
        };
        applications.is_empty() || applications.iter().any(is)
    }

    pub(super) fn add_reading(
        &mut self,
        grammar: &Grammar,
        reading: &Reading<'e>,
        place: Place,
        field: Field<'e>,
        worth: u8,
    ) {
        for hit in &reading.statuses {
            let stage = match (place, grammar.status(hit.what).decisive) {
                (Place::Code, _) => Stage::Code,
                (_, true) => Stage::Decisive,
                (_, false) => Stage::Vague,
            };
            self.all.push(Clue {
                stage,
                order: (1, worth, hit.start),
                source: Source::Status(hit.what),
                field,
                text: &reading.text[hit.start..hit.end],
            });
        }
        for hit in &reading.rules {
            let with_status = &self.rules[hit.what].with_status;
            let stands_beside = |code: &u16| {
                let mut statuses = reading.statuses.iter();
                statuses.any(|status| grammar.status(status.what).code == *code)
            };
            if with_status.is_empty() || with_status.iter().any(stands_beside) {
                let text = &reading.text[hit.start..hit.end];
                self.add_rule(place, hit.what, worth, field, text);
            }
        }
    }
}
