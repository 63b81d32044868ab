//! Whether an event's JSON fits an expression of Okta's log search.
//!
//! Text compares without regard to case, times as instants, numbers as numbers. A path into a list
//! holds if it holds for one element. What is null or missing fits neither a comparison nor its
//! opposite, also behind `not`: it fits `not … pr` alone.
//!
//! An event is gone through once, however many conditions there are; below its members only what
//! is on the way is looked at.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::value::RawValue;

use super::json::{each_field, elements, members, text};
use super::log_event::parse_time;
use crate::domain::event::Timestamp;
use crate::domain::expression::{Expression, Literal, Node, Operator};

/// Whether a LogEvent fits.
pub fn holds(expression: &Expression, log_event: &str) -> bool {
    // What was stored is valid.
    let Ok(members) = members(log_event) else {
        return false;
    };
    evaluate(expression.root(), &Event(members)) == Some(true)
}

/// A LogEvent's members.
struct Event<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Event<'a> {
    /// Calls `found` for each value at a path.
    fn find(&self, path: &[String], found: &mut dyn FnMut(&'a RawValue)) {
        let Some((name, rest)) = path.split_first() else {
            return;
        };
        for (member, value) in &self.0 {
            if is_named(member, name) {
                find(value, rest, found);
            }
        }
    }
}

/// `None`: can't be told, because there is no value.
fn evaluate(node: &Node, event: &Event<'_>) -> Option<bool> {
    match node {
        Node::And(nodes) => all(nodes, event, true),
        Node::Or(nodes) => all(nodes, event, false),
        Node::Not(node) => evaluate(node, event).map(|holds| !holds),
        Node::Present(path) => {
            let mut present = false;
            event.find(&path.0, &mut |value| present |= is_present(value));
            Some(present)
        }
        Node::Compare {
            path,
            operator,
            value: wanted,
        } => {
            let mut holds = None;
            event.find(&path.0, &mut |value| {
                if let Some(value) = text(value) {
                    let fits = compare(&value, *operator, wanted);
                    holds = Some(holds == Some(true) || fits);
                }
            });
            holds
        }
    }
}

/// `and` of nodes where `neutral` is true, else `or`: one of the other kind decides.
fn all(nodes: &[Node], event: &Event<'_>, neutral: bool) -> Option<bool> {
    let mut result = Some(neutral);
    for node in nodes {
        match evaluate(node, event) {
            Some(value) if value == neutral => {}
            Some(value) => return Some(value),
            None => result = None,
        }
    }
    result
}

/// Calls `found` for each value at a path; names compare without regard to case, lists are gone
/// through on the way and at the end.
fn find<'a>(value: &'a RawValue, path: &[String], found: &mut dyn FnMut(&'a RawValue)) {
    if value.get().starts_with('[') {
        let items = elements(value.get(), usize::MAX).map(|(items, _)| items);
        for item in items.unwrap_or_default() {
            find(item, path, found);
        }
        return;
    }
    let Some((name, rest)) = path.split_first() else {
        found(value);
        return;
    };
    // A value that was cut out of a larger one is valid, and what is no object has no members.
    let _ = each_field(value.get(), |member, value| {
        if is_named(member, name) {
            find(value, rest, found);
        }
    });
}

/// Whether a member has a name, which is in lower case.
fn is_named(member: &str, name: &str) -> bool {
    member.eq_ignore_ascii_case(name) || (!member.is_ascii() && member.to_lowercase() == name)
}

fn is_present(value: &RawValue) -> bool {
    let json = value.get();
    if json.starts_with('{') {
        let mut any = false;
        let _ = each_field(json, |_, _| any = true);
        return any;
    }
    text(value).is_some_and(|text| !text.is_empty())
}

fn compare(value: &str, operator: Operator, wanted: &Literal) -> bool {
    let ordering = match wanted {
        Literal::Number(wanted) => match value.parse::<f64>() {
            Ok(number) => number.partial_cmp(wanted),
            Err(_no_number) => return operator == Operator::NotEqual,
        },
        Literal::Bool(wanted) => {
            let same = value.eq_ignore_ascii_case(if *wanted { "true" } else { "false" });
            return match operator {
                Operator::Equal => same,
                Operator::NotEqual => !same,
                _ => false,
            };
        }
        Literal::Text(wanted) => {
            let value = value.to_lowercase();
            match operator {
                Operator::Contains => return value.contains(wanted.as_str()),
                Operator::StartsWith => return value.starts_with(wanted.as_str()),
                Operator::EndsWith => return value.ends_with(wanted.as_str()),
                _ => {}
            }
            match (time(wanted), time(&value)) {
                (Some(wanted), Some(value)) => Some(value.cmp(&wanted)),
                _ => Some(value.as_str().cmp(wanted)),
            }
        }
    };
    let Some(ordering) = ordering else {
        return false;
    };
    match operator {
        Operator::Equal => ordering == Ordering::Equal,
        Operator::NotEqual => ordering != Ordering::Equal,
        Operator::Greater => ordering == Ordering::Greater,
        Operator::GreaterOrEqual => ordering != Ordering::Less,
        Operator::Less => ordering == Ordering::Less,
        Operator::LessOrEqual => ordering != Ordering::Greater,
        // Numbers have no parts.
        Operator::Contains | Operator::StartsWith | Operator::EndsWith => false,
    }
}

/// A time, if the text is one. Each begins with its year, most texts do not.
fn time(text: &str) -> Option<Timestamp> {
    let may_be = text.starts_with(|first: char| first.is_ascii_digit() || "+-".contains(first));
    may_be.then(|| parse_time(text)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"eventType":"application.provision.user.push","version":0,"severity":"ERROR",
        "published":"2026-01-02T03:04:05.000Z","outcome":{"result":"FAILURE","reason":null},
        "client":{},"legacyEventType":"","securityContext":{"isProxy":false},
        "target":[{"type":"AppUser","id":"0ua1"},{"type":"AppInstance","displayName":"Größe \"AG\"",
        "detailEntry":null}],"debugContext":{"debugData":{"appname":"scim","attempt":12,"Url":"/a?b"}}}"#;

    fn check(text: &str, expected: bool) {
        let expression = Expression::parse(text).unwrap();
        assert_eq!(holds(&expression, EVENT), expected, "{text}");
    }

    #[test]
    fn what_works_in_okta_s_log_search_works_here() {
        for fits in [
            r#"eventType sw "application.provision""#,
            r#"EVENTTYPE eq "Application.Provision.User.Push" and severity EQ "error""#,
            r#"eventType ew ".push" and eventType co "USER""#,
            r#"target.type eq "AppInstance" and target.id eq "0ua1""#,
            r#"target.displayName eq "GRÖßE \"ag\"""#,
            r#"debugContext.debugData.url co "?B""#,
            "debugContext.debugData.attempt gt 9",
            r#"debugContext.debugData.attempt eq "12""#,
            r#"version eq 0 and version eq "0""#,
            "securityContext.isProxy eq false and securityContext.isProxy ne true",
            r#"published gt "2026-01-02T03:04:04Z" and published le "2026-01-02T04:04:05+01:00""#,
            r#"published eq "2026-01-02T03:04:05Z""#,
            r#"outcome.result eq "FAILURE" and not (outcome.reason pr)"#,
            r#"target.type ne "AppUser""#,
            r#"not (severity eq "INFO" or severity eq "WARN")"#,
            "target pr and target.id pr and outcome pr",
        ] {
            check(fits, true);
            check(&format!("not ({fits})"), false);
        }
    }

    #[test]
    fn what_is_null_or_missing_fits_nothing_but_that_it_is_not_there() {
        for path in [
            "outcome.reason",
            "nothing",
            "target.detailEntry",
            "outcome.result.deeper",
        ] {
            for operator in ["eq", "ne", "co", "sw", "ew", "gt", "ge", "lt", "le"] {
                check(&format!("{path} {operator} \"x\""), false);
                check(&format!("not ({path} {operator} \"x\")"), false);
            }
            check(&format!("{path} pr"), false);
            check(&format!("not {path} pr"), true);
            check(&format!("{path} eq \"x\" or severity pr"), true);
            check(
                &format!("not ({path} eq \"x\" and severity eq \"INFO\")"),
                true,
            );
        }
        for empty in ["client", "legacyEventType"] {
            check(&format!("{empty} pr"), false);
        }
    }
}
