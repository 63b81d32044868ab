//! What is known without a server: the catalogue and the rules that are built in, as messages.

use crate::domain::catalogue::Catalogue;
use crate::domain::classify::Classifier;
use crate::domain::event::Delivery;
use crate::okta::group_push_failed::date_time;
use crate::okta::input::Found;
use crate::okta::log_event::NotAnEvent;
use crate::wire::{convert, v1};

/// How many names come along when one is not known.
const NEAREST: usize = 5;

/// Classifies as `ClassifierService.Classify` does.
pub(super) fn classify(
    classifier: &Classifier,
    found: Found<'_>,
    explain: bool,
) -> Result<v1::ClassifyResponse, NotAnEvent> {
    let delivery = found.envelope.as_deref().map(|envelope| Delivery {
        event_id: envelope.event_id.clone(),
        event_time: envelope.event_time.clone(),
        source: envelope.source.clone(),
        headers: Vec::new(),
    });
    let event = found.event?;
    let classification = classifier.classify(&event);
    let considered = if explain {
        convert::considered(&classifier.explain(&event))
    } else {
        Vec::new()
    };
    let date_time = date_time(&event.published);
    let delivery = delivery.unwrap_or_default();
    Ok(v1::ClassifyResponse {
        considered,
        ..convert::classified(event, classification, date_time, &delivery, found.json)
    })
}

/// All event types, by name.
pub(super) fn event_types() -> Vec<v1::EventTypeDescription> {
    let known = Catalogue::embedded();
    let describe = |known_type| convert::event_type(known, known_type);
    known.event_types().iter().map(describe).collect()
}

/// All applications, by name.
pub(super) fn applications() -> Vec<v1::ApplicationDescription> {
    let known = Catalogue::embedded();
    known
        .applications()
        .iter()
        .map(convert::application)
        .collect()
}

/// What a name or an alias of an application stands for.
pub(super) fn find_application(name: &str) -> Option<v1::ApplicationDescription> {
    Catalogue::embedded()
        .application(name)
        .map(convert::application)
}

/// What a name, also an older one, of an event type stands for.
pub(super) fn find_event_type(name: &str) -> Option<v1::EventTypeDescription> {
    let known = Catalogue::embedded();
    known
        .event_type(name)
        .or_else(|| known.event_type_once_called(name))
        .map(|known_type| convert::event_type(known, known_type))
}

/// Names of applications that may have been meant, the likeliest first.
pub(super) fn nearest_applications(name: &str) -> Vec<String> {
    let names = Catalogue::embedded().nearest_applications(name, NEAREST);
    names.into_iter().map(str::to_owned).collect()
}

/// Names of applications and event types that may have been meant, the likeliest first.
pub(super) fn nearest(name: &str) -> Vec<String> {
    let known = Catalogue::embedded();
    let mut names = known.nearest_event_types(name, NEAREST);
    let applications = known.nearest_applications(name, NEAREST);
    // Only types have dots in their names.
    if name.contains('.') {
        names.extend(applications);
    } else {
        names.splice(0..0, applications);
    }
    names.truncate(NEAREST);
    names.into_iter().map(str::to_owned).collect()
}
