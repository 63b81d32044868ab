//! Messages as pages for people. Everything that came from outside goes through [`plain`].

use anstyle::Style;

use super::output::{BOLD, DIM, GREEN, RED, RED_BOLD, YELLOW, plain, wrapped};
use crate::domain::classification::{
    Category, Cause, Disposition, DocumentedIn, FailureSemantics, Operation, Priority, Resource,
    Responder, Verdict,
};
use crate::wire::v1;

/// Where text that explains is broken: what is read easily, and fits beside its label.
const TEXT_WIDTH: usize = 88;

/// The width of the column of labels.
const LABEL_WIDTH: usize = 10;

/// Builds a page line by line.
#[derive(Debug, Default)]
pub(super) struct Page(pub(super) String);

impl Page {
    pub(super) fn line(&mut self, text: impl AsRef<str>) {
        self.0.push_str(text.as_ref());
        self.0.push('\n');
    }

    /// A label and what it says, over several lines if it is long; nothing if that is empty.
    pub(super) fn field(&mut self, label: &str, text: &str) {
        if text.is_empty() {
            return;
        }
        for (index, line) in wrapped(text, TEXT_WIDTH).iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            self.line(format!("    {DIM}{label:LABEL_WIDTH$}{DIM:#} {line}"));
        }
    }
}

/// The name of an enum value in words; what this version does not know is a number.
macro_rules! words {
    ($axis:ident, $number:expr) => {{
        let number: i32 = $number;
        u8::try_from(number)
            .ok()
            .and_then($axis::from_number)
            .map_or_else(
                || match number {
                    0 => String::new(),
                    number => format!("(value {number})"),
                },
                |value| value.name().to_lowercase().replace('_', " "),
            )
    }};
}

fn priority_style(priority: i32) -> Style {
    match u8::try_from(priority).ok().and_then(Priority::from_number) {
        Some(Priority::Critical) => RED_BOLD,
        Some(Priority::High) => RED,
        Some(Priority::Medium) => YELLOW,
        _ => DIM,
    }
}

fn verdict_style(verdict: i32) -> Style {
    match u8::try_from(verdict).ok().and_then(Verdict::from_number) {
        Some(Verdict::Failure) => RED,
        Some(Verdict::Warning | Verdict::Undetermined) => YELLOW,
        Some(Verdict::Success) => GREEN,
        _ => DIM,
    }
}

/// An event of the stream.
pub(super) fn streamed(page: &mut Page, streamed: &v1::StreamedEvent) {
    let event = streamed.event.clone().unwrap_or_default();
    let place = format!("#{}", streamed.sequence);
    let time = streamed.append_time;
    write_event(page, &event, streamed.classification.as_ref(), &place, time);
    if let Some(raw) = &streamed.raw_json {
        page.line(format!("    {DIM}raw{DIM:#}        {}", plain(raw)));
    }
}

/// An event that was only classified.
pub(super) fn classified(page: &mut Page, answer: &v1::ClassifyResponse) {
    let event = answer.event.clone().unwrap_or_default();
    write_event(page, &event, answer.classification.as_ref(), "", None);
    if answer.considered.is_empty() {
        return;
    }
    // In front of the empty line that ends the event.
    page.0.pop();
    for (index, considered) in answer.considered.iter().enumerate() {
        let evidence = considered.evidence.clone().unwrap_or_default();
        let text = format!(
            "{}: {}, by \"{}\" in {}: {}",
            plain(&evidence.rule),
            words!(Cause, considered.cause),
            plain(&evidence.text),
            plain(&evidence.field),
            plain(&considered.why)
        );
        page.field(if index == 0 { "evidence" } else { "" }, &text);
    }
    page.line("");
}

fn write_event(
    page: &mut Page,
    event: &v1::ProvisioningEvent,
    classification: Option<&v1::Classification>,
    place: &str,
    kept: Option<prost_types::Timestamp>,
) {
    let none = v1::Classification::default();
    let meaning = classification.unwrap_or(&none);
    let when = match (event.published_time.or(kept), event.published_text.as_str()) {
        (Some(time), _) => shown_time(time),
        (None, text) => plain(text),
    };
    let verdict = words!(Verdict, meaning.verdict).to_uppercase();
    let colour = verdict_style(meaning.verdict);
    let mut head = format!("{colour}{verdict}{colour:#}");
    if matches!(
        u8::try_from(meaning.verdict)
            .ok()
            .and_then(Verdict::from_number),
        Some(Verdict::Failure | Verdict::Warning | Verdict::Undetermined)
    ) {
        let colour = priority_style(meaning.priority);
        let priority = words!(Priority, meaning.priority).to_uppercase();
        head = format!("{colour}{priority}{colour:#} {head}");
    }
    if !when.is_empty() {
        head = format!("{DIM}{when}{DIM:#} {head}");
    }
    page.line(format!("{head}  {BOLD}{}{BOLD:#}", plain(&meaning.summary)));
    if meaning.security_relevant {
        page.line(format!(
            "    {RED_BOLD}security{RED_BOLD:#}   access that was to be removed may still be there"
        ));
    }
    page.field("who acts", &who_acts(meaning));
    page.field("what to do", &plain(&meaning.remediation));
    page.field("cause", &cause(meaning));
    page.field("app", &object(meaning.application.as_ref()));
    page.field("user", &object(meaning.user.as_ref()));
    page.field("group", &object(meaning.group.as_ref()));
    let mut names = vec![plain(&event.event_type)];
    names.extend([&event.org, &event.uuid].map(|text| plain(text)));
    names.push(place.to_owned());
    names.retain(|name| !name.is_empty());
    page.field("event", &names.join(" · "));
    if meaning.unexpected {
        page.field(
            "odd",
            "events of this type never report failures, as far as we know",
        );
    }
    page.line("");
}

pub(super) fn shown_time(time: prost_types::Timestamp) -> String {
    match jiff::Timestamp::new(time.seconds, time.nanos) {
        Ok(time) => format!("{time:.0}"),
        Err(_out_of_range) => String::new(),
    }
}

fn who_acts(meaning: &v1::Classification) -> String {
    let responder = match u8::try_from(meaning.responder)
        .ok()
        .and_then(Responder::from_number)
    {
        Some(Responder::Nobody) => "nobody".to_owned(),
        Some(Responder::OktaAdmin) => "the Okta administrator".to_owned(),
        Some(Responder::AppOwner) => "the owner of the application".to_owned(),
        Some(Responder::AppVendor) => "the vendor of the application".to_owned(),
        Some(Responder::Network) => "whoever runs the network".to_owned(),
        None => words!(Responder, meaning.responder),
    };
    let disposition = u8::try_from(meaning.disposition)
        .ok()
        .and_then(Disposition::from_number);
    match disposition {
        Some(Disposition::Informational) => String::new(),
        Some(Disposition::SelfHealing) => format!("{responder}: expected to pass by itself"),
        Some(Disposition::ActionRequired) => format!("{responder}: stays so until somebody acts"),
        Some(Disposition::Undetermined) => format!("{responder}: can't be told whether it passes"),
        None => responder,
    }
}

fn cause(meaning: &v1::Classification) -> String {
    let cause = words!(Cause, meaning.cause);
    let Some(evidence) = meaning.evidence.as_ref().filter(|_| !cause.is_empty()) else {
        return cause;
    };
    let text = match plain(&evidence.text) {
        text if text.is_empty() => text,
        text => format!(", by \"{text}\""),
    };
    let field = match plain(&evidence.field) {
        field if field.is_empty() => field,
        field => format!(" in {field}"),
    };
    format!("{cause}{text}{field} (rule {})", plain(&evidence.rule))
}

fn object(object: Option<&v1::ObjectRef>) -> String {
    match object {
        None => String::new(),
        Some(object) if object.name.is_empty() => plain(&object.id),
        Some(object) if object.id.is_empty() => plain(&object.name),
        Some(object) => format!("{} ({})", plain(&object.name), plain(&object.id)),
    }
}

/// All that is known of an event type.
pub(super) fn event_type(page: &mut Page, known: &v1::EventTypeDescription) {
    page.line(format!("{BOLD}{}{BOLD:#}", plain(&known.event_type)));
    page.field("means", &plain(&known.description));
    let operation = format!(
        "{} {}",
        words!(Operation, known.operation),
        words!(Resource, known.resource)
    );
    page.field(
        "about",
        &format!("{}: {}", words!(Category, known.category), operation.trim()),
    );
    let semantics = u8::try_from(known.failure_semantics)
        .ok()
        .and_then(FailureSemantics::from_number);
    page.field(
        "reports",
        match semantics {
            Some(FailureSemantics::Always) => "only failures",
            Some(FailureSemantics::ByOutcome) => "successes and failures: its outcome tells which",
            Some(FailureSemantics::Warns) => "that something was left out or will fail later",
            Some(FailureSemantics::Never) => "changes, not attempts that can fail",
            None => "",
        },
    );
    if known.removes_access {
        page.field(
            "security",
            "takes access away: when it fails, somebody may still have it",
        );
    }
    let causes: Vec<_> = known
        .typical_causes
        .iter()
        .map(|cause| words!(Cause, *cause))
        .collect();
    page.field("causes", &causes.join(", "));
    page.field(
        "usually",
        &who_acts(&v1::Classification {
            responder: known.responder,
            disposition: known.usual_disposition,
            ..v1::Classification::default()
        }),
    );
    page.field("what to do", &plain(&known.remediation));
    page.field(
        "comes by",
        if known.event_hook_eligible {
            "event hook and System Log"
        } else {
            "System Log only: event hooks can't carry it"
        },
    );
    page.field("scopes", &plain(&known.oauth_scopes.join(", ")));
    page.field("apps", &plain(&known.applications.join(", ")));
    page.field("once", &plain(&known.legacy_event_types.join(", ")));
    let places: Vec<_> = known
        .documented
        .iter()
        .map(|place| words!(DocumentedIn, *place))
        .collect();
    page.field("source", &places.join(", "));
}

/// All that is known of an application.
pub(super) fn application(page: &mut Page, known: &v1::ApplicationDescription) {
    page.line(format!("{BOLD}{}{BOLD:#}", plain(&known.name)));
    page.field("also", &plain(&known.aliases.join(", ")));
    if known.assumed {
        page.field(
            "note",
            "Okta's lists do not name it: its event types are assumed",
        );
    }
    for (index, name) in known.event_types.iter().enumerate() {
        page.field(if index == 0 { "reports" } else { "" }, &plain(name));
    }
}

/// Event types as a table by category.
pub(super) fn event_types(page: &mut Page, known: &[v1::EventTypeDescription]) {
    let mut categories: Vec<_> = known.iter().map(|known| known.category).collect();
    categories.sort_unstable();
    categories.dedup();
    let width = known
        .iter()
        .map(|known| known.event_type.chars().count())
        .max()
        .unwrap_or_default();
    for category in categories {
        let name = words!(Category, category);
        page.line(format!("{BOLD}{name}{BOLD:#}"));
        for known in known.iter().filter(|known| known.category == category) {
            let mut marks = vec![
                words!(Operation, known.operation),
                words!(Resource, known.resource),
            ];
            if known.event_hook_eligible {
                marks.push("[hook]".to_owned());
            }
            if known.removes_access {
                marks.push(format!("{RED}[removes access]{RED:#}"));
            }
            let name = plain(&known.event_type);
            page.line(format!("  {name:width$}  {}", marks.join(" ")));
        }
    }
}

/// Applications as a table.
pub(super) fn applications(page: &mut Page, known: &[v1::ApplicationDescription]) {
    let width = known
        .iter()
        .map(|known| known.name.chars().count())
        .max()
        .unwrap_or_default();
    for known in known {
        let types = known.event_types.len();
        let note = if known.assumed { " (assumed)" } else { "" };
        let also = match plain(&known.aliases.join(", ")) {
            names if names.is_empty() => names,
            names => format!("  {DIM}also {names}{DIM:#}"),
        };
        let name = plain(&known.name);
        page.line(format!("{name:width$}  {types:3} event types{note}{also}"));
    }
}
