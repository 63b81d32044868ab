//! From what somebody sends to what is appended: read, classify, encode, each event by itself.
//!
//! Every input becomes LogEvent JSON first, so an event means the same whatever form it came in.
//! This is pure work, done before and beside the writer; nothing here waits or stores.

use bytes::Bytes;

use super::identity;
use super::writer::Prepared;
use crate::domain::classification::{Classification, Verdict};
use crate::domain::classify::Classifier;
use crate::domain::event::{
    Delivery, GroupPushCard, Intake, ProvisioningEvent, Published, RawOrigin, Reception, Timestamp,
};
use crate::okta::group_push_failed::{self, CardError};
use crate::okta::input::{self, Envelope, TooManyEvents};
use crate::okta::log_event::{self, NotAnEvent, Purpose};
use crate::okta::org::{CallOrg, OrgError, Orgs};
use crate::wire::record::{Content, Draft};

/// One input of a call.
#[derive(Clone, Debug)]
pub enum Input {
    /// A LogEvent, an array of them, an event hook's envelope, a log stream's record, or several
    /// of those, one on each line.
    Json(Bytes),
    /// The same as the body of an event hook's delivery, with the headers that are kept of it.
    Delivery { json: Bytes, headers: Vec<String> },
    /// A typed event, and the org that it names (empty: none).
    Event {
        event: Box<ProvisioningEvent>,
        org: String,
        /// Size of the message that it came as.
        bytes: usize,
    },
    Card {
        card: Box<GroupPushCard>,
        /// Size of the message that it came as.
        bytes: usize,
    },
    /// What was sent can't be an event: a field is missing or out of range.
    Unusable { field: String, problem: String },
}

impl Input {
    /// About how much work reading it is, in bytes of JSON.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Json(json) | Self::Delivery { json, .. } => json.len(),
            Self::Event { bytes, .. } | Self::Card { bytes, .. } => *bytes,
            Self::Unusable { .. } => 0,
        }
    }
}

/// Which events are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Everything but UNRELATED.
    Provisioning,
    /// FAILURE, WARNING and UNDETERMINED.
    Failures,
    All,
}

impl Keep {
    pub(super) fn keeps(self, verdict: Verdict) -> bool {
        match self {
            Self::All => true,
            Self::Provisioning => verdict != Verdict::Unrelated,
            Self::Failures => {
                matches!(
                    verdict,
                    Verdict::Failure | Verdict::Warning | Verdict::Undetermined
                )
            }
        }
    }
}

/// Why an event is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error(transparent)]
    NotAnEvent(#[from] NotAnEvent),
    /// The same of a typed input, whose fields are named as the contract has them.
    #[error("{problem}")]
    NotAnEventIn { form: Form, problem: NotAnEvent },
    #[error(transparent)]
    Card(#[from] CardError),
    #[error(transparent)]
    Org(#[from] OrgError),
    #[error("{problem}")]
    Unusable { field: String, problem: String },
    #[error("an event of this org and uuid is known with another `{field}`, the first one stands")]
    Conflict { field: &'static str },
}

impl Rejection {
    /// The field it is about, as a path in the input; empty where the whole event is meant.
    pub fn field(&self) -> String {
        match self {
            Self::NotAnEvent(problem) => problem.field().to_owned(),
            Self::NotAnEventIn { form, problem } => match problem.field() {
                "" => form.field().to_owned(),
                "eventType" => format!("{}.event_type", form.field()),
                field => format!("{}.{field}", form.field()),
            },
            Self::Card(CardError::Details(_)) => format!("{}.event_details", Form::Card.field()),
            Self::Card(CardError::Disagrees { field, .. }) => {
                format!("{}.{field}", Form::Card.field())
            }
            Self::Org(_) => "org".to_owned(),
            Self::Unusable { field, .. } => field.clone(),
            Self::Conflict { field } => (*field).to_owned(),
        }
    }
}

/// A typed form of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Event,
    Card,
}

impl Form {
    /// The input's field of this form.
    fn field(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Card => "group_push_failed",
        }
    }
}

/// An event that was read, with what goes along.
#[derive(Debug)]
struct Read {
    json: Bytes,
    event: ProvisioningEvent,
    origin: RawOrigin,
    delivery: Delivery,
    /// The org that the event or its envelope names; empty: none.
    named_org: String,
}

/// What was received of an event, and what it was read as.
type Found = (Bytes, Result<Read, Rejection>);

/// What became of one event before the writer.
#[derive(Debug)]
pub struct Taken {
    pub input_index: usize,
    pub event_index: usize,
    /// In lower case; empty where it could not be read.
    pub uuid: String,
    pub published: Option<Timestamp>,
    /// What was received of it; empty where it was built from fields.
    pub raw: Bytes,
    pub outcome: Result<Kept, Rejection>,
}

/// An event that is an Okta event.
#[derive(Debug)]
pub struct Kept {
    pub classification: Classification,
    /// None where the event is not kept under the setting `ingest.keep`.
    pub prepared: Option<Prepared>,
}

/// An event that was classified and is not to be kept.
#[derive(Debug)]
pub struct Classified {
    pub event: ProvisioningEvent,
    pub classification: Classification,
    pub delivery: Delivery,
    pub json: Bytes,
}

/// What events are read and classified with.
#[derive(Debug)]
pub struct Preparation {
    pub classifier: &'static Classifier,
    pub orgs: Orgs,
    pub keep: Keep,
    pub event_bytes_max: usize,
}

impl Preparation {
    /// Reads, classifies and encodes all events of a call, if it has not too many.
    pub fn prepare(
        &self,
        call: &CallOrg,
        inputs: Vec<Input>,
        intake: Intake,
        events_max: usize,
        now: Timestamp,
    ) -> Result<Vec<Taken>, TooManyEvents> {
        let mut taken = Vec::with_capacity(inputs.len());
        for (input_index, input) in inputs.into_iter().enumerate() {
            let before = taken.len();
            let reads = self
                .read(input, events_max - before)
                .map_err(|more| TooManyEvents {
                    events: before + more.events,
                })?;
            for (event_index, (raw, read)) in reads.into_iter().enumerate() {
                let (uuid, published, outcome) = match read {
                    Ok(read) => (
                        read.event.uuid.clone(),
                        match read.event.published {
                            Published::At(time) => Some(time),
                            Published::Missing | Published::Text(_) => None,
                        },
                        self.prepare_one(call, read, intake, now),
                    ),
                    Err(rejection) => (String::new(), None, Err(rejection)),
                };
                taken.push(Taken {
                    input_index,
                    event_index,
                    uuid,
                    published,
                    raw,
                    outcome,
                });
            }
        }
        Ok(taken)
    }

    /// Classifies the one event of an input.
    pub fn classify(&self, input: Input) -> Result<Classified, Rejection> {
        let read = self.read_single(input, Purpose::Classify)?;
        Ok(Classified {
            classification: self.classifier.classify(&read.event),
            event: read.event,
            delivery: read.delivery,
            json: read.json,
        })
    }

    /// Reads an input that is one event, and not what holds events.
    fn read_single(&self, input: Input, purpose: Purpose) -> Result<Read, Rejection> {
        match input {
            Input::Unusable { field, problem } => Err(Rejection::Unusable { field, problem }),
            Input::Json(json) | Input::Delivery { json, .. } => self.read_one(json, purpose),
            Input::Event { event, org, .. } => {
                let json = Bytes::from(log_event::to_json(&event));
                let read =
                    self.read_built(Form::Event, json, purpose, RawOrigin::BuiltFromEvent)?;
                Ok(Read {
                    named_org: org,
                    ..read
                })
            }
            Input::Card { card, .. } => self.read_card(*card, purpose),
        }
    }

    /// Reads an input that is to be kept, which may hold many events; each with what was received
    /// of it.
    fn read(&self, input: Input, events_max: usize) -> Result<Vec<Found>, TooManyEvents> {
        match input {
            Input::Json(json) => self.read_json(&json, &[], events_max),
            Input::Delivery { json, headers } => self.read_json(&json, &headers, events_max),
            _ if events_max == 0 => Err(TooManyEvents { events: 1 }),
            single => Ok(vec![(
                Bytes::new(),
                self.read_single(single, Purpose::Keep),
            )]),
        }
    }

    fn read_json(
        &self,
        json: &Bytes,
        headers: &[String],
        events_max: usize,
    ) -> Result<Vec<Found>, TooManyEvents> {
        let found = input::read(json, Purpose::Keep, events_max)?;
        let reads = found.into_iter().map(|found| {
            let raw = if found.json.is_empty() {
                json.clone()
            } else {
                json.slice_ref(found.json.as_bytes())
            };
            (raw.clone(), self.read_found(found, raw, headers))
        });
        Ok(reads.collect())
    }

    fn read_found(
        &self,
        found: input::Found<'_>,
        json: Bytes,
        headers: &[String],
    ) -> Result<Read, Rejection> {
        let event = found.event?;
        self.check_size(json.len())?;
        let Envelope {
            source,
            event_id,
            event_time,
        } = found.envelope.as_deref().cloned().unwrap_or_default();
        Ok(Read {
            json,
            event,
            origin: RawOrigin::Received,
            named_org: source.clone(),
            delivery: Delivery {
                event_id,
                event_time,
                source,
                headers: headers.to_vec(),
            },
        })
    }

    fn read_one(&self, json: Bytes, purpose: Purpose) -> Result<Read, Rejection> {
        self.check_size(json.len())?;
        let event = input::read_one(&json, purpose)?;
        Ok(Read {
            json,
            event,
            origin: RawOrigin::Received,
            delivery: Delivery::default(),
            named_org: String::new(),
        })
    }

    fn read_card(&self, card: GroupPushCard, purpose: Purpose) -> Result<Read, Rejection> {
        let card = group_push_failed::into_log_event(card)?;
        let origin = if card.built {
            RawOrigin::BuiltFromCard
        } else {
            RawOrigin::Received
        };
        let read = self.read_built(Form::Card, Bytes::from(card.json), purpose, origin)?;
        Ok(Read {
            named_org: card.delivery.source.clone(),
            delivery: card.delivery,
            ..read
        })
    }

    fn read_built(
        &self,
        form: Form,
        json: Bytes,
        purpose: Purpose,
        origin: RawOrigin,
    ) -> Result<Read, Rejection> {
        let text = std::str::from_utf8(&json).expect("it was made from text");
        let event = self
            .check_size(json.len())
            .and_then(|()| log_event::parse(text, purpose))
            .map_err(|problem| Rejection::NotAnEventIn { form, problem })?;
        Ok(Read {
            json,
            event,
            origin,
            delivery: Delivery::default(),
            named_org: String::new(),
        })
    }

    fn check_size(&self, bytes: usize) -> Result<(), NotAnEvent> {
        if bytes > self.event_bytes_max {
            return Err(NotAnEvent::TooLarge {
                bytes,
                bytes_max: self.event_bytes_max,
            });
        }
        Ok(())
    }

    fn prepare_one(
        &self,
        call: &CallOrg,
        read: Read,
        intake: Intake,
        now: Timestamp,
    ) -> Result<Kept, Rejection> {
        let org = self.orgs.of_event(call, &read.named_org)?;
        let classification = self.classifier.classify(&read.event);
        if !self.keep.keeps(classification.verdict) {
            return Ok(Kept {
                classification,
                prepared: None,
            });
        }
        let uuid = read.event.uuid.clone();
        let key = identity::dedupe_key(&org, &uuid);
        let fingerprint = identity::fingerprint(&read.event);
        let draft = Draft::new(Content {
            date_time: group_push_failed::date_time(&read.event.published),
            event: read.event,
            reception: &Reception {
                org,
                intake,
                time: now,
            },
            classification: classification.clone(),
            delivery: &read.delivery,
            raw_json: std::str::from_utf8(&read.json).expect("it was read as text"),
            raw_origin: read.origin,
        });
        Ok(Kept {
            classification,
            prepared: Some(Prepared {
                uuid,
                key,
                fingerprint,
                draft,
            }),
        })
    }
}
