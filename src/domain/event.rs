//! A provisioning event and its parts, valid once built.
//!
//! The names are those of Okta's System Log. Okta's open vocabularies (severity, outcome, types
//! of entities and transactions) stay text, so a new value is kept and not refused. Nothing here
//! knows JSON, protobuf or a clock.

use std::collections::BTreeMap;

/// A moment in UTC: seconds since 1970 and nanoseconds of that second (0 to 999 999 999).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanos: u32,
}

impl Timestamp {
    /// Seconds of the years 1 to 9999, which is what protobuf's timestamps can say.
    pub const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
}

/// When Okta says it published an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Published {
    /// The field was absent or null.
    #[default]
    Missing,
    /// An RFC 3339 time with a zone.
    At(Timestamp),
    /// What stood there is no valid time (a day that does not exist, no zone): kept as sent.
    Text(String),
}

/// Who or what an event speaks of: its actor, a target, or an object of the Group Push card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entity {
    pub id: String,
    /// A login, an e-mail address; Okta also sends the text `unknown`.
    pub alternate_id: String,
    pub display_name: String,
    /// `User`, `AppUser`, `AppInstance`, `UserGroup`, `AppGroup`, `GroupPushMapping`, …: open.
    pub kind: String,
    /// `detailEntry`; values that are no text stand as JSON text.
    pub detail: BTreeMap<String, String>,
}

/// `outcome` of a System Log entry; both empty where Okta sent none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// `SUCCESS`, `FAILURE`, `SKIPPED`, …: open.
    pub result: String,
    /// The error text; absent even on real failures.
    pub reason: String,
}

/// `transaction` of a System Log entry: the same id means the same operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    pub id: String,
    /// `WEB` or `JOB`: open.
    pub kind: String,
}

/// One System Log entry, as far as provisioning needs it. Absent texts are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProvisioningEvent {
    /// In lower case, as uuids are compared. Empty only for what is classified and not kept.
    pub uuid: String,
    pub published: Published,
    pub event_type: String,
    /// The name in Okta's old Events API; often a finer hint at the cause than `event_type`.
    pub legacy_event_type: String,
    pub version: String,
    pub severity: String,
    pub display_message: String,
    pub outcome: Outcome,
    pub actor: Option<Entity>,
    pub targets: Vec<Entity>,
    pub transaction: Transaction,
    /// `client.ipAddress`; empty for jobs.
    pub client_ip: String,
    /// `debugContext.debugData`; values that are no text stand as JSON text.
    pub debug_data: BTreeMap<String, String>,
}

impl ProvisioningEvent {
    /// The first target of a type; Okta does not fix the targets' order.
    pub fn target(&self, kind: &str) -> Option<&Entity> {
        self.targets.iter().find(|target| target.kind == kind)
    }
}

/// The way in that an event took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Intake {
    Grpc,
    EventHook,
    SystemLog,
}

impl Intake {
    /// As it stands in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::EventHook => "event_hook",
            Self::SystemLog => "system_log",
        }
    }
}

/// Where and when an event came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reception {
    /// The org's Okta host in lower case.
    pub org: String,
    pub intake: Intake,
    pub time: Timestamp,
}

/// Where the raw JSON that is kept with an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawOrigin {
    /// Exactly as received.
    Received,
    /// Built by us from a typed event.
    BuiltFromEvent,
    /// Built by us from the fields of a Group Push Failed card.
    BuiltFromCard,
}

/// What the event hook's delivery said of an event; empty by other intakes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// `eventId` of the hook's envelope: one for each delivery request.
    pub event_id: String,
    /// `eventTime` of the hook's envelope, as sent.
    pub event_time: String,
    /// `source` of the hook's envelope.
    pub source: String,
    /// Kept HTTP headers of the delivery, each `key: value`.
    pub headers: Vec<String>,
}

/// The Okta Workflows card "Group Push Failed", field for field as somebody sends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupPushCard {
    pub date_time: String,
    pub message: String,
    pub event_type: String,
    pub version: String,
    pub actor: Option<Entity>,
    pub okta_application: Option<Entity>,
    pub group: Option<Entity>,
    pub group_push_mapping: Option<Entity>,
    pub uuid: String,
    /// The LogEvent as JSON; may be empty.
    pub event_details: String,
    pub debug_data: BTreeMap<String, String>,
    pub delivery: Delivery,
}
