//! The Okta Workflows card "Group Push Failed": a card that somebody sends us becomes a LogEvent.
//!
//! A card usually carries the LogEvent it was made from (`event_details`). Then that is the event,
//! and the card's other fields have to agree with it; else a LogEvent is built from the fields.
//! Of a delivery's HTTP headers only harmless ones are ever kept.

use super::log_event::{self, NotAnEvent, Purpose, parse_time};
use crate::domain::event::{Delivery, Entity, GroupPushCard, ProvisioningEvent, Published};

/// Headers of a delivery that are kept; none can hold a secret.
const KEPT_HEADERS: [&str; 3] = ["content-type", "user-agent", "date"];

/// Headers that are never kept.
const SECRET_HEADERS: [&str; 4] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
];

/// Why a card can't be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// `event_details` is no Okta event.
    #[error(transparent)]
    Details(NotAnEvent),
    #[error("`{field}` says {card:?} where `event_details` says {details:?}")]
    Disagrees {
        field: &'static str,
        card: String,
        details: String,
    },
}

/// The LogEvent of a card, and whether it was built from the fields.
#[derive(Debug)]
pub struct CardEvent {
    pub json: String,
    pub built: bool,
    pub delivery: Delivery,
}

/// The card's LogEvent, and what its delivery said.
pub fn into_log_event(card: GroupPushCard) -> Result<CardEvent, CardError> {
    let details = card.event_details.trim();
    let (json, built) = if details.is_empty() {
        (None, true)
    } else {
        let event = log_event::parse(details, Purpose::Classify).map_err(CardError::Details)?;
        agree(&card, &event)?;
        (Some(details.to_owned()), false)
    };
    let delivery = Delivery {
        headers: kept_headers(card.delivery.headers.clone(), &[]),
        ..card.delivery.clone()
    };
    let json = json.unwrap_or_else(|| log_event::to_json(&build(card)));
    Ok(CardEvent {
        json,
        built,
        delivery,
    })
}

fn build(card: GroupPushCard) -> ProvisioningEvent {
    let as_target = |entity: Option<Entity>, kind: &str| {
        entity.map(|entity| Entity {
            kind: kind.to_owned(),
            ..entity
        })
    };
    ProvisioningEvent {
        uuid: card.uuid,
        published: published(&card.date_time),
        event_type: card.event_type,
        version: card.version,
        display_message: card.message,
        actor: card.actor,
        targets: [
            as_target(card.okta_application, "AppInstance"),
            as_target(card.group, "UserGroup"),
            as_target(card.group_push_mapping, "GroupPushMapping"),
        ]
        .into_iter()
        .flatten()
        .collect(),
        debug_data: card.debug_data,
        ..ProvisioningEvent::default()
    }
}

fn agree(card: &GroupPushCard, details: &ProvisioningEvent) -> Result<(), CardError> {
    fn id(entity: Option<&Entity>) -> &str {
        entity.map_or("", |entity| &entity.id)
    }
    let target = |kind| id(details.target(kind));
    let uuid = card.uuid.to_ascii_lowercase();
    let pairs = [
        ("uuid", uuid.as_str(), details.uuid.as_str()),
        ("event_type", &card.event_type, &details.event_type),
        ("version", &card.version, &details.version),
        ("message", &card.message, &details.display_message),
        (
            "actor.id",
            id(card.actor.as_ref()),
            id(details.actor.as_ref()),
        ),
        (
            "okta_application.id",
            id(card.okta_application.as_ref()),
            target("AppInstance"),
        ),
        ("group.id", id(card.group.as_ref()), target("UserGroup")),
        (
            "group_push_mapping.id",
            id(card.group_push_mapping.as_ref()),
            target("GroupPushMapping"),
        ),
    ];
    let disagrees = |field, card: &str, details: &str| CardError::Disagrees {
        field,
        card: card.to_owned(),
        details: details.to_owned(),
    };
    for (field, card, details) in pairs {
        if !card.is_empty() && card != details {
            return Err(disagrees(field, card, details));
        }
    }
    if !card.date_time.is_empty() && published(&card.date_time) != details.published {
        return Err(disagrees(
            "date_time",
            &card.date_time,
            &date_time(&details.published),
        ));
    }
    Ok(())
}

/// The card's `date_time`: when the event was published, as Okta writes times.
pub fn date_time(published: &Published) -> String {
    match published {
        Published::Missing => String::new(),
        Published::At(time) => log_event::format_time(*time).unwrap_or_default(),
        Published::Text(text) => text.clone(),
    }
}

fn published(text: &str) -> Published {
    if text.is_empty() {
        Published::Missing
    } else {
        parse_time(text).map_or_else(|| Published::Text(text.to_owned()), Published::At)
    }
}

/// What is kept of a delivery's headers, each `name: value`: those that tell something, and those of
/// `more` that hold no secret.
pub fn kept_headers(headers: Vec<String>, more: &[String]) -> Vec<String> {
    headers
        .into_iter()
        .filter(|header| {
            let name = header
                .split(':')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase();
            let is_asked_for = more.iter().any(|kept| kept.eq_ignore_ascii_case(&name));
            KEPT_HEADERS.contains(&name.as_str())
                || (is_asked_for && !SECRET_HEADERS.contains(&name.as_str()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> GroupPushCard {
        let entity = |id: &str| {
            Some(Entity {
                id: id.into(),
                ..Entity::default()
            })
        };
        GroupPushCard {
            uuid: "U-1".into(),
            event_type: "application.provision.group_push.mapping.update.or.delete.failed".into(),
            date_time: "2026-01-02T03:04:05.000Z".into(),
            okta_application: entity("0oa1"),
            group: entity("00g1"),
            group_push_mapping: entity("gPm1"),
            ..GroupPushCard::default()
        }
    }

    #[test]
    fn a_card_without_details_is_built_from_its_fields() {
        let built = into_log_event(card()).unwrap();
        assert!(built.built);
        let event = log_event::parse(&built.json, Purpose::Keep).unwrap();
        assert_eq!(event.uuid, "u-1");
        assert_eq!(event.target("GroupPushMapping").unwrap().id, "gPm1");
        assert!(matches!(event.published, Published::At(_)));
    }

    #[test]
    fn details_stand_and_the_rest_has_to_agree() {
        let details = |group: &str| {
            format!(
                r#"{{"uuid":"u-1","eventType":"{}","published":"2026-01-02T04:04:05+01:00","target":[
                   {{"type":"GroupPushMapping","id":"gPm1"}},{{"type":"UserGroup","id":"{group}"}},
                   {{"type":"AppInstance","id":"0oa1"}}]}}"#,
                card().event_type
            )
        };
        let good = into_log_event(GroupPushCard {
            event_details: details("00g1"),
            ..card()
        })
        .unwrap();
        assert!(!good.built);
        let error = into_log_event(GroupPushCard {
            event_details: details("00g2"),
            ..card()
        })
        .unwrap_err();
        assert!(
            matches!(
                error,
                CardError::Disagrees {
                    field: "group.id",
                    ..
                }
            ),
            "{error}"
        );
        let error = into_log_event(GroupPushCard {
            event_details: "{".into(),
            ..card()
        })
        .unwrap_err();
        assert!(matches!(error, CardError::Details(_)));
    }

    #[test]
    fn secrets_are_cut_out_of_the_headers() {
        let headers = [
            "User-Agent: Okta",
            "authorization: s3cret",
            "Cookie: a",
            "X-Key: k",
        ];
        assert_eq!(
            kept_headers(headers.map(str::to_owned).to_vec(), &[]),
            ["User-Agent: Okta"]
        );
        let more = ["Authorization", "x-key", "cookie"].map(str::to_owned);
        assert_eq!(
            kept_headers(headers.map(str::to_owned).to_vec(), &more),
            ["User-Agent: Okta", "X-Key: k"]
        );
    }
}
