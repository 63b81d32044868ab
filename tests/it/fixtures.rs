//! What Okta would send: System Log entries of the size and shape of real ones.
//!
//! Every event is made from a number, so the same number is the same event, byte for byte. The
//! people, applications and ids are made up.

use provident::wire::v1;
use serde_json::{Value, json};

/// A LogEvent and its name.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) uuid: String,
    pub(crate) json: String,
}

impl Given {
    pub(crate) fn value(&self) -> Value {
        serde_json::from_str(&self.json).unwrap()
    }
}

impl From<Given> for bytes::Bytes {
    fn from(given: Given) -> Self {
        given.json.into()
    }
}

impl From<&Given> for bytes::Bytes {
    fn from(given: &Given) -> Self {
        given.json.clone().into()
    }
}

/// What an event reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A user could not be created, because the application has no licence left.
    UserPushFailed,
    /// A profile was updated.
    ProfilePushed,
    /// Access could not be taken away.
    DeactivateFailed,
    /// A member could not be removed from a group.
    MemberRemoveFailed,
    /// The Group Push Failed card's event.
    GroupPushFailed,
    /// The application asked for patience.
    RateLimited,
    /// The application refused the login.
    AuthenticationFailed,
    /// A new type of the provisioning families, without an outcome.
    UnknownOfFamily,
    /// Somebody signed in: nothing to do with provisioning.
    Unrelated,
}

/// Kinds that are kept by default, as a busy org would send them.
pub(crate) const MIX: [Kind; 8] = [
    Kind::UserPushFailed,
    Kind::ProfilePushed,
    Kind::DeactivateFailed,
    Kind::MemberRemoveFailed,
    Kind::GroupPushFailed,
    Kind::RateLimited,
    Kind::AuthenticationFailed,
    Kind::UnknownOfFamily,
];

impl Kind {
    pub(crate) fn event_type(self) -> &'static str {
        match self {
            Self::UserPushFailed => "application.provision.user.push",
            Self::ProfilePushed => "application.provision.user.push_profile",
            Self::DeactivateFailed => "application.provision.user.deactivate",
            Self::MemberRemoveFailed => "application.provision.group_membership.remove",
            Self::GroupPushFailed => {
                "application.provision.group_push.mapping.update.or.delete.failed.with.error"
            }
            Self::RateLimited => "application.integration.rate_limit_exceeded",
            Self::AuthenticationFailed => "application.integration.authentication_failure",
            Self::UnknownOfFamily => "application.provision.badge.print",
            Self::Unrelated => "user.session.start",
        }
    }

    fn outcome(self) -> Value {
        let failure = |reason: &str| json!({"result": "FAILURE", "reason": reason});
        match self {
            Self::UserPushFailed => failure(
                "Error while creating user in Cloudboard: Bad Request. Errors reported by remote \
                 server: license limit exceeded, no seats available",
            ),
            Self::ProfilePushed | Self::Unrelated => json!({"result": "SUCCESS", "reason": null}),
            Self::DeactivateFailed => failure(
                "Error while trying to deprovision user: Forbidden. Errors reported by remote \
                 server: insufficient permissions",
            ),
            Self::MemberRemoveFailed => {
                failure("Could not remove member from group: 404 Not Found")
            }
            Self::GroupPushFailed => failure(
                "Changes to the Group push mapping could not take effect due to error: \
                 401 Unauthorized",
            ),
            Self::RateLimited => failure("429 Too Many Requests: API call limit reached"),
            Self::AuthenticationFailed => failure("401 Unauthorized: invalid API token"),
            Self::UnknownOfFamily => Value::Null,
        }
    }

    fn severity(self) -> &'static str {
        match self {
            Self::ProfilePushed | Self::Unrelated | Self::UnknownOfFamily => "INFO",
            Self::RateLimited => "WARN",
            _ => "ERROR",
        }
    }
}

/// The uuid of event number `number`.
pub(crate) fn uuid(number: u64) -> String {
    format!(
        "{:08x}-7b1e-11f1-9c3a-{number:012x}",
        (number ^ 0x5eed_cafe) & 0xffff_ffff
    )
}

/// The number of the event of that uuid.
pub(crate) fn number(text: &str) -> u64 {
    let number = u64::from_str_radix(&text[24..], 16).unwrap();
    assert_eq!(text, uuid(number), "not a uuid of ours");
    number
}

/// The id of the application of event number `number`: there are five.
pub(crate) fn application_id(number: u64) -> String {
    format!("0oa7cloudboard{:03}x1d7", number % 5)
}

/// The name of the application of event number `number`.
pub(crate) fn application_name(number: u64) -> String {
    format!("Cloudboard {}", number % 5)
}

/// The id of the group of event number `number`: there are seven.
pub(crate) fn group_id(number: u64) -> String {
    format!("00g4designers{:03}xx1d7", number % 7)
}

/// The id of the user of event number `number`: there are eleven.
pub(crate) fn user_id(number: u64) -> String {
    format!("00u9engineer{:03}xxx1d7", number % 11)
}

/// The id of the transaction of event number `number`: four events share one.
pub(crate) fn transaction_id(number: u64) -> String {
    format!("gmrXy{:08}AAABk", number / 4)
}

/// When event number `number` was published, as Okta writes it.
pub(crate) fn published(number: u64) -> String {
    format!(
        "2026-03-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        number / 86_400_000 % 28 + 1,
        number / 3_600_000 % 24,
        number / 60_000 % 60,
        number / 1_000 % 60,
        number % 1_000
    )
}

/// Event number `number`, of about 1.3 KiB.
pub(crate) fn log_event(kind: Kind, number: u64) -> Given {
    let entity = |id: String, kind: &str, name: String| {
        json!({
            "id": id,
            "type": kind,
            "alternateId": "unknown",
            "displayName": name,
            "detailEntry": null,
        })
    };
    let application = entity(
        application_id(number),
        "AppInstance",
        application_name(number),
    );
    let user = json!({
        "id": user_id(number),
        "type": "User",
        "alternateId": format!("engineer{}@acme.example", number % 11),
        "displayName": format!("Engineer {}", number % 11),
        "detailEntry": null,
    });
    let group = entity(
        group_id(number),
        "UserGroup",
        format!("Designers {}", number % 7),
    );
    let mapping = entity(
        format!("gPm2mapping{:03}xxxx1d7", number % 7),
        "GroupPushMapping",
        format!("Designers {}", number % 7),
    );
    let targets = match kind {
        Kind::UserPushFailed | Kind::ProfilePushed | Kind::DeactivateFailed => {
            vec![user, application]
        }
        Kind::MemberRemoveFailed => vec![group, user, application],
        Kind::GroupPushFailed => vec![mapping, group, application],
        Kind::RateLimited | Kind::AuthenticationFailed | Kind::UnknownOfFamily => vec![application],
        Kind::Unrelated => vec![user],
    };
    let uuid = uuid(number);
    let event = json!({
        "uuid": uuid,
        "published": published(number),
        "eventType": kind.event_type(),
        "legacyEventType": format!("app.api.outer.{}", kind.event_type().rsplit('.').next().unwrap()),
        "version": "0",
        "severity": kind.severity(),
        "displayMessage": format!("What Okta says of {}", kind.event_type()),
        "outcome": kind.outcome(),
        "actor": {
            "id": "00u1sync0agent000x1d7",
            "type": "SystemPrincipal",
            "alternateId": "system@okta.example",
            "displayName": "Okta System",
            "detailEntry": null,
        },
        "target": targets,
        "transaction": {"type": "JOB", "id": transaction_id(number), "detail": {}},
        "client": {
            "userAgent": null, "zone": null, "device": null, "id": null,
            "ipAddress": "198.51.100.7",
            "geographicalContext": null,
        },
        "authenticationContext": {
            "authenticationProvider": null, "credentialProvider": null, "credentialType": null,
            "issuer": null, "interface": null, "authenticationStep": 0,
            "rootSessionId": "trsOuterTests", "externalSessionId": "trsOuterTests",
        },
        "securityContext": {
            "asNumber": null, "asOrg": null, "isp": null, "domain": null, "isProxy": null,
        },
        "debugContext": {"debugData": {
            "appname": "cloudboard",
            "traceId": format!("7a51c0de-{number:012}"),
            "attempt": number % 3,
        }},
        "request": {"ipChain": []},
    });
    Given {
        uuid,
        json: event.to_string(),
    }
}

/// Events `from..from + count`, their kinds taken in turn.
pub(crate) fn mixed(from: u64, count: u64) -> Vec<Given> {
    (from..from + count).map(mixed_one).collect()
}

/// Event number `number`, its kind taken in turn.
pub(crate) fn mixed_one(number: u64) -> Given {
    let turn = usize::try_from(number % MIX.len() as u64).unwrap();
    log_event(MIX[turn], number)
}

/// An event hook's delivery from `host`.
pub(crate) fn envelope(host: &str, events: &[Given]) -> String {
    let events: Vec<Value> = events.iter().map(Given::value).collect();
    json!({
        "eventType": "com.okta.event_hook",
        "eventTypeVersion": "1.0",
        "cloudEventsVersion": "0.1",
        "source": format!("https://{host}/api/v1/eventHooks/who1outertests0x1d7"),
        "eventId": "d1e71bd0-0000-4000-8000-0dd0c0ffee00",
        "data": {"events": events},
        "eventTime": "2026-03-01T10:00:00.000Z",
        "contentType": "application/json",
    })
    .to_string()
}

/// A typed event with some of everything.
pub(crate) fn typed_event(number: u64) -> v1::ProvisioningEvent {
    v1::ProvisioningEvent {
        uuid: uuid(number),
        org: "acme.okta.com".to_owned(),
        published_time: Some(prost_types::Timestamp {
            seconds: 1_770_000_000,
            nanos: 120_000_000,
        }),
        event_type: Kind::UserPushFailed.event_type().to_owned(),
        severity: "ERROR".to_owned(),
        outcome: Some(v1::Outcome {
            result: "FAILURE".to_owned(),
            reason: "429 Too Many Requests".to_owned(),
        }),
        targets: vec![v1::Entity {
            id: application_id(number),
            r#type: "AppInstance".to_owned(),
            display_name: application_name(number),
            ..v1::Entity::default()
        }],
        ..v1::ProvisioningEvent::default()
    }
}

/// The Workflows card of a failed group push, without `event_details`.
pub(crate) fn card(number: u64) -> v1::GroupPushFailed {
    let entity = |id: String, name: String, kind: &str| {
        Some(v1::Entity {
            id,
            display_name: name,
            alternate_id: "unknown".to_owned(),
            r#type: kind.to_owned(),
            ..v1::Entity::default()
        })
    };
    v1::GroupPushFailed {
        date_time: published(number),
        message: "Group push failed".to_owned(),
        event_id: "d1e71bd0-0000-4000-8000-0dd0c0ffee01".to_owned(),
        event_type: Kind::GroupPushFailed.event_type().to_owned(),
        event_time: "2026-03-01T10:00:00.000Z".to_owned(),
        version: "0".to_owned(),
        okta_application: entity(
            application_id(number),
            application_name(number),
            "AppInstance",
        ),
        group: entity(group_id(number), "Designers".to_owned(), "UserGroup"),
        group_push_mapping: entity("gPm2mapping".to_owned(), String::new(), "GroupPushMapping"),
        uuid: uuid(number),
        headers: vec![
            "User-Agent: Okta Event Hook".to_owned(),
            "Authorization: not to be kept".to_owned(),
        ],
        source: "https://acme.okta.com/api/v1/eventHooks/who1outertests0x1d7".to_owned(),
        ..v1::GroupPushFailed::default()
    }
}
