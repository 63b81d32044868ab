//! Domain values to messages and back; what a message can't say of a domain value is named by
//! its field.
//!
//! Enum values have the same numbers on both sides, so axes convert by number. Moving text is
//! free here: values are taken apart, never copied, where the caller is done with them.

use std::time::Duration;

use crate::domain::catalogue::{Application, Catalogue, EventType};
use crate::domain::classification::{
    Category, Cause, Classification, Disposition, ObjectRef, Priority, Responder, Verdict,
};
use crate::domain::classify::Candidate;
use crate::domain::event::{
    Delivery, Entity, GroupPushCard, Intake, Outcome, ProvisioningEvent, Published, RawOrigin,
    Reception, Timestamp, Transaction,
};
use crate::domain::expression::Expression;
use crate::domain::filter::{EventTypePattern, Filter, Marks};
use crate::wire::v1;

/// A field of a message that can't be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FieldError {
    /// Path of the field in the request (`filter.event_types[2]`).
    pub field: String,
    pub problem: String,
    /// Where in an expression, counted in characters from 1.
    pub column: Option<usize>,
}

impl FieldError {
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
            column: None,
        }
    }
}

pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.seconds,
        nanos: i32::try_from(time.nanos).expect("nanoseconds of a second fit"),
    }
}

pub fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).expect("nanoseconds of a second fit"),
    }
}

pub fn intake(intake: Intake) -> v1::Intake {
    match intake {
        Intake::Grpc => v1::Intake::Grpc,
        Intake::EventHook => v1::Intake::EventHook,
        Intake::SystemLog => v1::Intake::SystemLog,
    }
}

/// Takes a timestamp of years 1 to 9999, which is what the message type allows.
pub fn read_timestamp(field: &str, time: prost_types::Timestamp) -> Result<Timestamp, FieldError> {
    let in_range = Timestamp::SECONDS.contains(&time.seconds);
    match u32::try_from(time.nanos) {
        Ok(nanos) if nanos < 1_000_000_000 && in_range => Ok(Timestamp {
            seconds: time.seconds,
            nanos,
        }),
        _ => Err(FieldError::new(
            field,
            "not a time between the years 1 and 9999",
        )),
    }
}

/// The typed form of an event. `reception` is none for what is classified and not kept.
pub fn event(event: ProvisioningEvent, reception: Option<&Reception>) -> v1::ProvisioningEvent {
    let (published_time, published_text) = match event.published {
        Published::Missing => (None, String::new()),
        Published::At(time) => (Some(timestamp(time)), String::new()),
        Published::Text(text) => (None, text),
    };
    let intake = reception.map_or(v1::Intake::Unspecified, |reception| {
        intake(reception.intake)
    });
    v1::ProvisioningEvent {
        uuid: event.uuid,
        org: reception
            .map(|reception| reception.org.clone())
            .unwrap_or_default(),
        published_time,
        published_text,
        event_type: event.event_type,
        legacy_event_type: event.legacy_event_type,
        version: event.version,
        severity: event.severity,
        display_message: event.display_message,
        outcome: (event.outcome != Outcome::default()).then_some(v1::Outcome {
            result: event.outcome.result,
            reason: event.outcome.reason,
        }),
        actor: event.actor.map(entity),
        targets: event.targets.into_iter().map(entity).collect(),
        transaction: (event.transaction != Transaction::default()).then_some(v1::Transaction {
            id: event.transaction.id,
            r#type: event.transaction.kind,
        }),
        client: (!event.client_ip.is_empty()).then_some(v1::Client {
            ip_address: event.client_ip,
        }),
        debug_data: event.debug_data,
        intake: intake.into(),
        received_time: reception.map(|reception| timestamp(reception.time)),
    }
}

/// The domain's view of a typed event; `org`, `intake` and `received_time` are not part of it.
pub fn read_event(event: v1::ProvisioningEvent) -> Result<ProvisioningEvent, FieldError> {
    let published = match event.published_time {
        Some(time) => Published::At(read_timestamp("published_time", time)?),
        None if event.published_text.is_empty() => Published::Missing,
        None => Published::Text(event.published_text),
    };
    let outcome = event.outcome.unwrap_or_default();
    let transaction = event.transaction.unwrap_or_default();
    Ok(ProvisioningEvent {
        uuid: event.uuid,
        published,
        event_type: event.event_type,
        legacy_event_type: event.legacy_event_type,
        version: event.version,
        severity: event.severity,
        display_message: event.display_message,
        outcome: Outcome {
            result: outcome.result,
            reason: outcome.reason,
        },
        actor: event.actor.map(read_entity),
        targets: event.targets.into_iter().map(read_entity).collect(),
        transaction: Transaction {
            id: transaction.id,
            kind: transaction.r#type,
        },
        client_ip: event.client.unwrap_or_default().ip_address,
        debug_data: event.debug_data,
    })
}

fn entity(entity: Entity) -> v1::Entity {
    v1::Entity {
        id: entity.id,
        alternate_id: entity.alternate_id,
        display_name: entity.display_name,
        r#type: entity.kind,
        detail: entity.detail,
    }
}

fn read_entity(entity: v1::Entity) -> Entity {
    Entity {
        id: entity.id,
        alternate_id: entity.alternate_id,
        display_name: entity.display_name,
        kind: entity.r#type,
        detail: entity.detail,
    }
}

pub fn classification(given: Classification) -> v1::Classification {
    v1::Classification {
        verdict: given.verdict.number().into(),
        category: given.category.number().into(),
        operation: given.operation.map_or(0, |value| value.number().into()),
        resource: given.resource.map_or(0, |value| value.number().into()),
        cause: given.cause.map_or(0, |value| value.number().into()),
        disposition: given.disposition.number().into(),
        responder: given.responder.number().into(),
        priority: given.priority.number().into(),
        security_relevant: given.security_relevant,
        summary: given.summary,
        remediation: given.remediation,
        application: given.application.map(object_ref),
        user: given.user.map(object_ref),
        group: given.group.map(object_ref),
        evidence: given.evidence.map(|evidence| v1::Evidence {
            rule: evidence.rule,
            field: evidence.field,
            text: evidence.text,
        }),
        rule_set_version: given.rule_set_version,
        known_event_type: given.known_event_type,
        unexpected: given.unexpected,
    }
}

fn object_ref(object: ObjectRef) -> v1::ObjectRef {
    v1::ObjectRef {
        id: object.id,
        name: object.name,
    }
}

/// What the catalogue knows of an event type.
pub fn event_type(catalogue: &Catalogue, known: &EventType) -> v1::EventTypeDescription {
    v1::EventTypeDescription {
        event_type: known.name.clone(),
        description: known.description.clone(),
        category: known.category.number().into(),
        operation: known.operation.number().into(),
        resource: known.resource.number().into(),
        failure_semantics: known.failure_semantics.number().into(),
        event_hook_eligible: known.event_hook_eligible,
        removes_access: known.removes_access,
        typical_causes: known
            .typical_causes
            .iter()
            .map(|cause| cause.number().into())
            .collect(),
        usual_disposition: known.usual_disposition().number().into(),
        responder: known.usual_responder().number().into(),
        remediation: known.remediation.clone(),
        applications: owned(&catalogue.applications_emitting(&known.name)),
        legacy_event_types: catalogue.legacy_event_types(&known.name).to_vec(),
        oauth_scopes: owned(known.oauth_scopes()),
        documented: known
            .documented
            .iter()
            .map(|place| place.number().into())
            .collect(),
    }
}

/// What the catalogue knows of an application.
pub fn application(known: &Application) -> v1::ApplicationDescription {
    v1::ApplicationDescription {
        name: known.name.clone(),
        aliases: known.aliases.clone(),
        event_types: known.event_types.clone(),
        assumed: known.assumed,
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// What the structured filter reads of a classification without decoding it.
pub fn marks(classification: &Classification) -> Marks {
    Marks {
        verdict: classification.verdict,
        category: classification.category,
        cause: classification.cause,
        disposition: classification.disposition,
        responder: classification.responder,
        priority: classification.priority,
        security_relevant: classification.security_relevant,
    }
}

pub fn raw_origin(origin: RawOrigin) -> v1::RawJsonOrigin {
    match origin {
        RawOrigin::Received => v1::RawJsonOrigin::Received,
        RawOrigin::BuiltFromEvent => v1::RawJsonOrigin::BuiltFromEvent,
        RawOrigin::BuiltFromCard => v1::RawJsonOrigin::BuiltFromGroupPushFailed,
    }
}

/// The answer of `Classify`; `date_time` is the card's, `raw_json` is the event's.
pub fn classified(
    event: ProvisioningEvent,
    given: Classification,
    date_time: String,
    delivery: &Delivery,
    raw_json: &str,
) -> v1::ClassifyResponse {
    let card = given.group_push_failed.then(|| v1::GroupPushFailed {
        event_details: raw_json.to_owned(),
        ..card(&event, date_time, delivery)
    });
    v1::ClassifyResponse {
        event: Some(self::event(event, None)),
        classification: Some(classification(given)),
        group_push_failed: card,
        considered: Vec::new(),
    }
}

/// All evidence for a cause, the best first.
pub fn considered(candidates: &[Candidate<'_>]) -> Vec<v1::ConsideredEvidence> {
    let consider = |candidate: &Candidate<'_>| v1::ConsideredEvidence {
        evidence: Some(v1::Evidence {
            rule: candidate.rule.clone(),
            field: candidate.field.clone(),
            text: candidate.text.to_owned(),
        }),
        cause: candidate.cause.number().into(),
        why: candidate.why(&candidates[0]),
    };
    candidates.iter().map(consider).collect()
}

/// The Group Push Failed card of an event, without `event_details`: those are the raw JSON, which
/// is kept beside.
pub fn card(
    event: &ProvisioningEvent,
    date_time: String,
    delivery: &Delivery,
) -> v1::GroupPushFailed {
    let target = |kind: &str| event.target(kind).cloned().map(entity);
    v1::GroupPushFailed {
        date_time,
        message: event.display_message.clone(),
        event_id: delivery.event_id.clone(),
        event_type: event.event_type.clone(),
        event_time: delivery.event_time.clone(),
        version: event.version.clone(),
        actor: event.actor.clone().map(entity),
        okta_application: target("AppInstance"),
        group: target("UserGroup"),
        group_push_mapping: target("GroupPushMapping"),
        uuid: event.uuid.clone(),
        event_details: String::new(),
        headers: delivery.headers.clone(),
        source: delivery.source.clone(),
        debug_context: (!event.debug_data.is_empty()).then(|| v1::DebugContext {
            debug_data: event.debug_data.clone(),
        }),
    }
}

/// A card that somebody sends us, taken apart.
pub fn read_card(card: v1::GroupPushFailed) -> GroupPushCard {
    GroupPushCard {
        date_time: card.date_time,
        message: card.message,
        event_type: card.event_type,
        version: card.version,
        actor: card.actor.map(read_entity),
        okta_application: card.okta_application.map(read_entity),
        group: card.group.map(read_entity),
        group_push_mapping: card.group_push_mapping.map(read_entity),
        uuid: card.uuid,
        event_details: card.event_details,
        debug_data: card.debug_context.unwrap_or_default().debug_data,
        delivery: Delivery {
            event_id: card.event_id,
            event_time: card.event_time,
            source: card.source,
            headers: card.headers,
        },
    }
}

/// Reads a filter; each bad value is named by its place below `field`.
pub fn read_filter(field: &str, filter: v1::Filter) -> Result<Filter, FieldError> {
    check_size(field, &filter)?;
    let event_types = filter
        .event_types
        .iter()
        .enumerate()
        .map(|(index, text)| {
            EventTypePattern::parse(text).ok_or_else(|| {
                FieldError::new(
                    format!("{field}.event_types[{index}]"),
                    format!("{text:?} is neither an event type nor a prefix that ends in `*`"),
                )
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Filter {
        verdicts: axis(field, "verdicts", &filter.verdicts, Verdict::from_number)?,
        event_types,
        categories: axis(
            field,
            "categories",
            &filter.categories,
            Category::from_number,
        )?,
        causes: axis(field, "causes", &filter.causes, Cause::from_number)?,
        dispositions: axis(
            field,
            "dispositions",
            &filter.dispositions,
            Disposition::from_number,
        )?,
        responders: axis(
            field,
            "responders",
            &filter.responders,
            Responder::from_number,
        )?,
        min_priority: match filter.min_priority {
            0 => None,
            number => Some(value(
                &format!("{field}.min_priority"),
                number,
                Priority::from_number,
            )?),
        },
        security_only: filter.security_only,
        orgs: filter
            .orgs
            .iter()
            .map(|org| org.to_ascii_lowercase())
            .collect(),
        application_ids: filter.application_ids,
        application_names: filter.application_names,
        group_ids: filter.group_ids,
        user_ids: filter.user_ids,
        transaction_ids: filter.transaction_ids,
        expression: match filter.expression.as_str() {
            "" => None,
            text => Some(Expression::parse(text).map_err(|error| FieldError {
                field: format!("{field}.expression"),
                column: Some(error.column),
                problem: error.to_string(),
            })?),
        },
    })
}

/// Every event that comes is held against every value of every reader's filter.
const FILTER_VALUES_MAX: usize = 1000;
const FILTER_TEXT_BYTES_MAX: usize = 512;

fn check_size(field: &str, filter: &v1::Filter) -> Result<(), FieldError> {
    let texts = [
        ("event_types", &filter.event_types),
        ("orgs", &filter.orgs),
        ("application_ids", &filter.application_ids),
        ("application_names", &filter.application_names),
        ("group_ids", &filter.group_ids),
        ("user_ids", &filter.user_ids),
        ("transaction_ids", &filter.transaction_ids),
    ];
    let numbers = [
        ("verdicts", &filter.verdicts),
        ("categories", &filter.categories),
        ("causes", &filter.causes),
        ("dispositions", &filter.dispositions),
        ("responders", &filter.responders),
    ];
    let counts = texts
        .map(|(name, values)| (name, values.len()))
        .into_iter()
        .chain(numbers.map(|(name, values)| (name, values.len())));
    for (name, count) in counts {
        if count > FILTER_VALUES_MAX {
            let problem = format!("{count} values, at most {FILTER_VALUES_MAX} are taken");
            return Err(FieldError::new(format!("{field}.{name}"), problem));
        }
    }
    for (name, values) in texts {
        for (index, text) in values.iter().enumerate() {
            if text.len() > FILTER_TEXT_BYTES_MAX {
                let problem = format!(
                    "{} bytes, at most {FILTER_TEXT_BYTES_MAX} are taken",
                    text.len()
                );
                return Err(FieldError::new(format!("{field}.{name}[{index}]"), problem));
            }
        }
    }
    Ok(())
}

fn axis<T>(
    field: &str,
    name: &str,
    numbers: &[i32],
    from_number: fn(u8) -> Option<T>,
) -> Result<Vec<T>, FieldError> {
    let entries = numbers.iter().enumerate();
    entries
        .map(|(index, number)| value(&format!("{field}.{name}[{index}]"), *number, from_number))
        .collect()
}

/// Reads a value of an axis by its number in the contract.
pub fn value<T>(
    field: &str,
    number: i32,
    from_number: fn(u8) -> Option<T>,
) -> Result<T, FieldError> {
    u8::try_from(number)
        .ok()
        .and_then(from_number)
        .ok_or_else(|| {
            FieldError::new(
                field,
                format!("{number} is no value that this version knows"),
            )
        })
}

/// The message of a filter, as a reader is shown it.
pub fn filter(filter: &Filter) -> v1::Filter {
    fn numbers<T: Copy>(values: &[T], number: fn(T) -> u8) -> Vec<i32> {
        values.iter().map(|value| number(*value).into()).collect()
    }
    v1::Filter {
        verdicts: numbers(&filter.verdicts, Verdict::number),
        event_types: filter
            .event_types
            .iter()
            .map(|pattern| match pattern {
                EventTypePattern::Exact(name) => name.clone(),
                EventTypePattern::Prefix(prefix) => format!("{prefix}*"),
            })
            .collect(),
        categories: numbers(&filter.categories, Category::number),
        causes: numbers(&filter.causes, Cause::number),
        dispositions: numbers(&filter.dispositions, Disposition::number),
        responders: numbers(&filter.responders, Responder::number),
        min_priority: filter
            .min_priority
            .map_or(0, |priority| priority.number().into()),
        security_only: filter.security_only,
        orgs: filter.orgs.clone(),
        application_ids: filter.application_ids.clone(),
        application_names: filter.application_names.clone(),
        group_ids: filter.group_ids.clone(),
        user_ids: filter.user_ids.clone(),
        transaction_ids: filter.transaction_ids.clone(),
        expression: filter
            .expression
            .as_ref()
            .map_or_else(String::new, |expression| expression.text().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_axis_has_the_contracts_numbers() {
        fn check<T: Copy>(
            all: &[T],
            name: fn(T) -> &'static str,
            wire: impl Fn(T) -> String,
            prefix: &str,
        ) {
            for value in all {
                assert_eq!(format!("{prefix}_{}", name(*value)), wire(*value));
            }
        }
        use crate::domain::classification::{DocumentedIn, FailureSemantics, Operation, Resource};
        macro_rules! check_axis {
            ($axis:ident, $prefix:literal) => {
                check(
                    $axis::ALL,
                    $axis::name,
                    |value| {
                        let wire = v1::$axis::try_from(i32::from(value.number())).unwrap();
                        wire.as_str_name().to_owned()
                    },
                    $prefix,
                );
                assert!(v1::$axis::try_from(i32::try_from($axis::ALL.len()).unwrap() + 1).is_err());
            };
        }
        check_axis!(Verdict, "VERDICT");
        check_axis!(Category, "CATEGORY");
        check_axis!(Operation, "OPERATION");
        check_axis!(Resource, "RESOURCE");
        check_axis!(Cause, "CAUSE");
        check_axis!(Disposition, "DISPOSITION");
        check_axis!(Responder, "RESPONDER");
        check_axis!(Priority, "PRIORITY");
        check_axis!(FailureSemantics, "FAILURE_SEMANTICS");
        check_axis!(DocumentedIn, "DOCUMENTED_IN");
    }

    #[test]
    fn a_bad_filter_names_its_field() {
        let check = |filter: v1::Filter, field: &str| {
            assert_eq!(read_filter("filter", filter).unwrap_err().field, field);
        };
        check(
            v1::Filter {
                causes: vec![1, 99],
                ..Default::default()
            },
            "filter.causes[1]",
        );
        check(
            v1::Filter {
                verdicts: vec![0],
                ..Default::default()
            },
            "filter.verdicts[0]",
        );
        check(
            v1::Filter {
                event_types: vec!["a.*".into(), "*b".into()],
                ..Default::default()
            },
            "filter.event_types[1]",
        );
    }

    #[test]
    fn a_filter_has_a_size() {
        let many = v1::Filter {
            user_ids: vec![String::new(); 1001],
            ..Default::default()
        };
        assert_eq!(
            read_filter("filter", many).unwrap_err().field,
            "filter.user_ids"
        );
        let long = v1::Filter {
            event_types: vec!["a".repeat(513)],
            ..Default::default()
        };
        assert_eq!(
            read_filter("filter", long).unwrap_err().field,
            "filter.event_types[0]"
        );
    }

    #[test]
    fn a_filter_is_shown_as_it_was_asked() {
        let asked = v1::Filter {
            verdicts: vec![1, 3],
            event_types: vec!["a.*".into(), "b".into()],
            min_priority: 3,
            orgs: vec!["acme.okta.com".into()],
            ..Default::default()
        };
        assert_eq!(
            filter(&read_filter("filter", asked.clone()).unwrap()),
            asked
        );
    }
}
