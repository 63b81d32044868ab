//! Which events a reader wants: values OR within a field, AND between fields.
//!
//! A filter is asked twice. [`Filter::admits_marks`] needs only what stands in a record's fixed
//! header and turns most events away; [`Filter::admits_details`] reads the rest, and is needed
//! only where [`Filter::needs_details`] says so. Both together decide, and with them the
//! [`Filter::expression`], which is about the event's JSON.

use crate::domain::classification::{Category, Cause, Disposition, Priority, Responder, Verdict};
use crate::domain::expression::Expression;

/// An event type that is asked for: exactly, or everything that begins with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventTypePattern {
    Exact(String),
    Prefix(String),
}

impl EventTypePattern {
    /// Reads `a.b.c` or `a.b.*`; a `*` elsewhere is not a pattern.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('*') {
            Some(prefix) if !prefix.contains('*') => Some(Self::Prefix(prefix.to_owned())),
            None if !text.is_empty() && !text.contains('*') => Some(Self::Exact(text.to_owned())),
            _ => None,
        }
    }

    fn matches(&self, event_type: &str) -> bool {
        match self {
            Self::Exact(name) => name == event_type,
            Self::Prefix(prefix) => event_type.starts_with(prefix.as_str()),
        }
    }
}

/// What a reader wants. An empty field excludes nothing, but for `verdicts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Empty means FAILURE, WARNING and UNDETERMINED.
    pub verdicts: Vec<Verdict>,
    pub event_types: Vec<EventTypePattern>,
    pub categories: Vec<Category>,
    pub causes: Vec<Cause>,
    pub dispositions: Vec<Disposition>,
    pub responders: Vec<Responder>,
    pub min_priority: Option<Priority>,
    pub security_only: bool,
    pub orgs: Vec<String>,
    pub application_ids: Vec<String>,
    /// Compared without regard to case.
    pub application_names: Vec<String>,
    pub group_ids: Vec<String>,
    pub user_ids: Vec<String>,
    pub transaction_ids: Vec<String>,
    /// Asked last, of the event's JSON, by who has it.
    pub expression: Option<Expression>,
}

/// The verdicts that a filter without verdicts asks for.
pub const DEFAULT_VERDICTS: [Verdict; 3] =
    [Verdict::Failure, Verdict::Warning, Verdict::Undetermined];

/// What the structured filter can tell from a record's header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    pub verdict: Verdict,
    pub category: Category,
    pub cause: Option<Cause>,
    pub disposition: Disposition,
    pub responder: Responder,
    pub priority: Priority,
    pub security_relevant: bool,
}

/// What the structured filter reads of an event beyond its marks.
#[derive(Clone, Debug, Default)]
pub struct Details<'a> {
    pub org: &'a str,
    pub event_type: &'a str,
    pub transaction_id: &'a str,
    /// The one that its classification gives, which knows more than the targets' names.
    pub application_name: &'a str,
    pub targets: Vec<Target<'a>>,
}

/// One of the things that an event is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target<'a> {
    pub kind: &'a str,
    pub id: &'a str,
    pub alternate_id: &'a str,
    pub display_name: &'a str,
}

impl Filter {
    /// A filter that every event passes.
    pub fn everything() -> Self {
        Self {
            verdicts: Verdict::ALL.to_vec(),
            ..Self::default()
        }
    }

    /// The filter with its defaults written out, as shown to the reader.
    #[must_use]
    pub fn effective(mut self) -> Self {
        if self.verdicts.is_empty() {
            self.verdicts = DEFAULT_VERDICTS.to_vec();
        }
        self
    }

    /// Whether an event with these marks can pass.
    pub fn admits_marks(&self, marks: &Marks) -> bool {
        let verdicts: &[Verdict] = if self.verdicts.is_empty() {
            &DEFAULT_VERDICTS
        } else {
            &self.verdicts
        };
        verdicts.contains(&marks.verdict)
            && any_of(&self.categories, &marks.category)
            && (self.causes.is_empty()
                || marks
                    .cause
                    .is_some_and(|cause| self.causes.contains(&cause)))
            && any_of(&self.dispositions, &marks.disposition)
            && any_of(&self.responders, &marks.responder)
            && self
                .min_priority
                .is_none_or(|least| marks.priority >= least)
            && (!self.security_only || marks.security_relevant)
    }

    /// Whether the marks don't decide alone.
    pub fn needs_details(&self) -> bool {
        !(self.event_types.is_empty()
            && self.orgs.is_empty()
            && self.application_ids.is_empty()
            && self.application_names.is_empty()
            && self.group_ids.is_empty()
            && self.user_ids.is_empty()
            && self.transaction_ids.is_empty())
    }

    /// Whether an event whose marks pass is wanted.
    pub fn admits_details(&self, details: &Details<'_>) -> bool {
        let any_target =
            |wanted: &[String], kinds: &[&str], same: fn(&Target<'_>, &str) -> bool| {
                details
                    .targets
                    .iter()
                    .filter(|target| kinds.contains(&target.kind))
                    .any(|target| wanted.iter().any(|name| same(target, name)))
            };
        let same_id: fn(&Target<'_>, &str) -> bool = |target, id| target.id == id;
        let same_name: fn(&Target<'_>, &str) -> bool = |target, name| {
            same_text(target.display_name, name) || same_text(target.alternate_id, name)
        };
        (self.event_types.is_empty()
            || self
                .event_types
                .iter()
                .any(|pattern| pattern.matches(details.event_type)))
            && (self.orgs.is_empty() || self.orgs.iter().any(|wanted| wanted == details.org))
            && (self.application_ids.is_empty()
                || any_target(&self.application_ids, &["AppInstance"], same_id))
            && (self.application_names.is_empty()
                || self
                    .application_names
                    .iter()
                    .any(|name| same_text(name, details.application_name))
                || any_target(&self.application_names, &["AppInstance"], same_name))
            && (self.group_ids.is_empty()
                || any_target(&self.group_ids, &["UserGroup", "AppGroup"], same_id))
            && (self.user_ids.is_empty()
                || any_target(&self.user_ids, &["User", "AppUser"], same_id))
            && (self.transaction_ids.is_empty()
                || self
                    .transaction_ids
                    .iter()
                    .any(|id| id == details.transaction_id))
    }
}

fn any_of<T: PartialEq>(wanted: &[T], value: &T) -> bool {
    wanted.is_empty() || wanted.contains(value)
}

/// Same without regard to case, also beyond ASCII.
fn same_text(left: &str, right: &str) -> bool {
    left.eq_ignore_ascii_case(right)
        || left
            .chars()
            .flat_map(char::to_lowercase)
            .eq(right.chars().flat_map(char::to_lowercase))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks {
        verdict: Verdict::Failure,
        category: Category::User,
        cause: Some(Cause::Timeout),
        disposition: Disposition::SelfHealing,
        responder: Responder::Nobody,
        priority: Priority::High,
        security_relevant: false,
    };

    fn details() -> Details<'static> {
        let target = |kind, id, display_name| Target {
            kind,
            id,
            display_name,
            ..Target::default()
        };
        Details {
            org: "acme.okta.com",
            event_type: "application.provision.user.push",
            application_name: "Slack",
            targets: vec![
                target("AppUser", "0ua1", "Ann"),
                target("AppInstance", "0oa1", "Größe AG"),
                target("UserGroup", "00g1", "Sales"),
            ],
            ..Details::default()
        }
    }

    fn check(filter: &Filter, expected: bool) {
        let admitted = filter.admits_marks(&MARKS)
            && (!filter.needs_details() || filter.admits_details(&details()));
        assert_eq!(admitted, expected, "{filter:?}");
    }

    #[test]
    fn an_empty_filter_wants_what_is_not_known_to_be_well() {
        let none = Filter::default();
        check(&none, true);
        for verdict in Verdict::ALL {
            let admitted = none.admits_marks(&Marks {
                verdict: *verdict,
                ..MARKS
            });
            assert_eq!(admitted, DEFAULT_VERDICTS.contains(verdict), "{verdict}");
            assert!(Filter::everything().admits_marks(&Marks {
                verdict: *verdict,
                ..MARKS
            }));
        }
    }

    #[test]
    fn values_of_a_field_are_alternatives_and_fields_are_all_needed() {
        let either = Filter {
            categories: vec![Category::Group, Category::User],
            ..Filter::default()
        };
        check(&either, true);
        check(
            &Filter {
                causes: vec![Cause::Duplicate],
                ..either.clone()
            },
            false,
        );
        check(
            &Filter {
                min_priority: Some(Priority::Critical),
                ..either.clone()
            },
            false,
        );
        check(
            &Filter {
                security_only: true,
                ..either
            },
            false,
        );
    }

    #[test]
    fn details_are_found_by_the_targets_type() {
        let with = |change: fn(&mut Filter)| {
            let mut filter = Filter::default();
            change(&mut filter);
            filter
        };
        check(&with(|f| f.user_ids = vec!["0ua1".into()]), true);
        check(&with(|f| f.user_ids = vec!["0oa1".into()]), false);
        check(&with(|f| f.group_ids = vec!["00g1".into()]), true);
        check(
            &with(|f| f.application_names = vec!["grÖSSE ag".into(), "GRÖßE AG".into()]),
            true,
        );
        check(&with(|f| f.application_names = vec!["slack".into()]), true);
        check(&with(|f| f.orgs = vec!["other.okta.com".into()]), false);
        check(
            &with(|f| {
                f.event_types = vec![EventTypePattern::parse("application.provision.*").unwrap()];
            }),
            true,
        );
        check(
            &with(|f| {
                f.event_types = vec![EventTypePattern::parse("application.provision").unwrap()];
            }),
            false,
        );
    }

    #[test]
    fn a_star_stands_at_the_end_or_nowhere() {
        assert_eq!(EventTypePattern::parse("a.*.b"), None);
        assert_eq!(EventTypePattern::parse(""), None);
        assert_eq!(
            EventTypePattern::parse("*"),
            Some(EventTypePattern::Prefix(String::new()))
        );
    }
}
