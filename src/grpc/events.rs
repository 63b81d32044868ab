//! `EventService`: events in, a stream of them out, pages, single ones.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use prost::Message as _;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::classifier::{bad_token, page_size};
use super::codec::{Answer, StoredEvents};
use super::generated::event_service_server::EventService;
use super::status::{self, Refusal};
use crate::domain::cursor::Seq;
use crate::domain::event::Intake;
use crate::domain::filter::Filter;
use crate::engine::EngineSlot;
use crate::engine::intake::Input;
use crate::engine::query::QueryRange;
use crate::engine::sources::{Source, Sources};
use crate::engine::stream::{AtHead, Delivery, Ending, EventStream, OnGap};
use crate::engine::{Engine, Ingested, List, Outcome, Reader, Start, Subscribe, Which};
use crate::journal::Direction;
use crate::wire::record::RawPart;
use crate::wire::v1::{self, ErrorReason};
use crate::wire::{convert, page_token};

/// Events of a page where the request does not say, and at the most.
const PAGE_SIZE: (usize, usize) = (100, 1000);

/// Bytes of what a reader may call itself.
const READER_BYTES_MAX: usize = 256;

const HEARTBEAT_USUAL: Duration = Duration::from_secs(10);
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);
const HEARTBEAT_MAX: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub struct Events {
    engine: EngineSlot,
    source: Option<Arc<Source>>,
}

impl Events {
    pub fn new(engine: EngineSlot, sources: &Sources) -> Self {
        Self {
            engine,
            source: sources.find(Intake::Grpc, ""),
        }
    }
}

/// What became of one event, as the contract says it.
fn result(engine: &Engine, ingested: Ingested) -> v1::IngestResult {
    let mut result = v1::IngestResult {
        input_index: index(ingested.input_index),
        event_index: index(ingested.event_index),
        uuid: ingested.uuid,
        ..v1::IngestResult::default()
    };
    let (status, place, classification) = match ingested.outcome {
        Outcome::Accepted {
            seq,
            classification,
        } => (v1::IngestStatus::Accepted, Some(seq), Some(classification)),
        Outcome::Duplicate {
            seq,
            classification,
        } => (v1::IngestStatus::Duplicate, Some(seq), Some(classification)),
        Outcome::Filtered { classification } => {
            (v1::IngestStatus::Filtered, None, Some(classification))
        }
        Outcome::Rejected(rejection) => {
            let (reason, message, field) = status::rejection(&rejection);
            result.error = Some(v1::IngestError {
                reason: reason.into(),
                message,
                field,
            });
            (v1::IngestStatus::Rejected, None, None)
        }
    };
    result.status = status.into();
    if let Some(seq) = place {
        result.cursor = engine.cursor(seq);
        result.sequence = seq.get();
    }
    result.classification = classification.map(convert::classification);
    result
}

/// What a stream confirms to its reader.
#[derive(Clone, Debug)]
struct Confirmed {
    filter: v1::Filter,
    heartbeat: Duration,
    raw: RawPart,
    /// Empty without a subscription.
    session: String,
}

/// A reader's stream as the contract's messages.
#[derive(Debug)]
struct OpenStream {
    stream: EventStream,
    engine: Engine,
    confirmed: Confirmed,
}

impl OpenStream {
    async fn next(&mut self) -> Option<Result<Answer, Status>> {
        let answer = match self.stream.next().await? {
            Ok(delivery) => Ok(self.answer(delivery)),
            Err(error) => Err(status::broken_stream(self.engine.journal_id(), error).into()),
        };
        Some(answer)
    }

    fn answer(&self, delivery: Delivery) -> Answer {
        use v1::subscribe_response::Message;
        let cursor = |seq: Seq| self.engine.cursor(seq);
        let message = match delivery {
            Delivery::Batch(events) => {
                return Answer::Batch(StoredEvents {
                    journal: self.engine.journal_id(),
                    raw: self.confirmed.raw,
                    events,
                });
            }
            Delivery::Confirmation {
                start,
                earliest,
                head,
            } => Message::Confirmation(v1::Confirmation {
                effective_filter: Some(self.confirmed.filter.clone()),
                start_cursor: cursor(start),
                earliest_cursor: cursor(earliest),
                head_cursor: cursor(head),
                heartbeat_interval: Some(convert::duration(self.confirmed.heartbeat)),
                journal_id: self.engine.journal_id().to_string(),
                session: self.confirmed.session.clone(),
            }),
            Delivery::Heartbeat { at, head } => Message::Heartbeat(v1::Heartbeat {
                cursor: cursor(at),
                head_cursor: cursor(head),
            }),
            Delivery::CaughtUp { at } => Message::CaughtUp(v1::CaughtUp { cursor: cursor(at) }),
            Delivery::Gap {
                first_lost,
                last_lost,
            } => Message::Gap(v1::Gap {
                first_lost_sequence: first_lost.get(),
                last_lost_sequence: last_lost.get(),
                resume_cursor: cursor(last_lost),
                reason: v1::GapReason::Trimmed.into(),
            }),
            Delivery::Ending { at, reason } => {
                let reason = match reason {
                    Ending::HeadReached => v1::EndingReason::HeadReached,
                    Ending::Drain => v1::EndingReason::Drain,
                    Ending::MaxAge => v1::EndingReason::MaxAge,
                    Ending::SubscriptionChanged => v1::EndingReason::SubscriptionChanged,
                };
                Message::Ending(v1::StreamEnding {
                    cursor: cursor(at),
                    reason: reason.into(),
                })
            }
        };
        Answer::Control(Box::new(v1::SubscribeResponse {
            message: Some(message),
        }))
    }
}

type AnswerStream = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

#[tonic::async_trait]
impl EventService for Events {
    async fn ingest(
        &self,
        request: Request<v1::IngestRequest>,
    ) -> Result<Response<v1::IngestResponse>, Status> {
        let request = request.into_inner();
        let inputs = request.inputs.into_iter().map(input);
        let engine = super::engine(&self.engine)?;
        let ingested = engine
            .ingest(&request.org, inputs, Intake::Grpc)
            .await
            .map_err(Refusal::from)?;
        if let Some(source) = &self.source {
            source.took(&ingested);
        }
        let results = ingested
            .into_iter()
            .map(|ingested| result(engine, ingested))
            .collect();
        Ok(Response::new(v1::IngestResponse { results }))
    }

    type SubscribeStream = AnswerStream;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<AnswerStream>, Status> {
        let request = request.into_inner();
        let asked = read_subscribe(request)?;
        let session = match &asked.reader {
            Reader::Subscription { session, .. } => session.clone(),
            Reader::Unnamed { .. } => String::new(),
        };
        let (heartbeat, raw) = (asked.heartbeat, asked.raw);
        let engine = super::engine(&self.engine)?;
        let journal = engine.journal_id();
        let stream = engine
            .subscribe(asked)
            .await
            .map_err(|error| status::not_opened(journal, error))?;
        let confirmed = Confirmed {
            filter: convert::filter(&stream.filter().clone().effective()),
            heartbeat,
            raw,
            session,
        };
        let open = OpenStream {
            stream,
            engine: engine.clone(),
            confirmed,
        };
        let answers = futures_util::stream::unfold(open, |mut open| async move {
            open.next().await.map(|answer| (answer, open))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<Answer>, Status> {
        let mut request = request.into_inner();
        let events_max = page_size(request.page_size, PAGE_SIZE)?;
        let token = std::mem::take(&mut request.page_token);
        request.page_size = 0;
        let engine = super::engine(&self.engine)?;
        let journal = engine.journal_id();
        // The token holds for this journal and this request, whatever its page size.
        let asked = [journal.to_string().into_bytes(), request.encode_to_vec()].concat();
        let rest = if token.is_empty() {
            None
        } else {
            let (lowest, highest) =
                page_token::parse(&asked, &token).map_err(|error| bad_token(&error))?;
            Some(QueryRange {
                lowest: Seq::new(lowest),
                highest: Seq::new(highest),
            })
        };
        let direction = match v1::ListOrder::try_from(request.order) {
            Ok(v1::ListOrder::Unspecified | v1::ListOrder::OldestFirst) => Direction::OldestFirst,
            Ok(v1::ListOrder::NewestFirst) => Direction::NewestFirst,
            Err(_) => return Err(unknown_value("order", request.order).into()),
        };
        let time = |field: &str, time: Option<prost_types::Timestamp>| {
            time.map(|time| convert::read_timestamp(field, time))
                .transpose()
        };
        let raw = raw_part(request.include_raw);
        let page = engine
            .list(List {
                filter: read_filter("filter", request.filter)?,
                start: time("start_time", request.start_time).map_err(Refusal::from)?,
                end: time("end_time", request.end_time).map_err(Refusal::from)?,
                direction,
                events_max,
                raw,
                rest,
            })
            .await
            .map_err(|error| status::unreadable(journal, error))?;
        let next_page_token = page.rest.map_or(String::new(), |rest| {
            page_token::encode(&asked, (rest.lowest.get(), rest.highest.get()))
        });
        let events = StoredEvents {
            journal,
            raw,
            events: page.events,
        };
        Ok(Response::new(Answer::Page {
            events,
            next_page_token,
        }))
    }

    async fn get_event(
        &self,
        request: Request<v1::GetEventRequest>,
    ) -> Result<Response<Answer>, Status> {
        use v1::get_event_request::Event as Asked;
        let request = request.into_inner();
        let which = match request.event {
            Some(Asked::Cursor(cursor)) => Which::Cursor(cursor),
            Some(Asked::Key(key)) if key.uuid.is_empty() => {
                let problem = "must not be empty";
                return Err(Refusal::field(ErrorReason::FieldInvalid, "key.uuid", problem).into());
            }
            Some(Asked::Key(key)) => Which::Key {
                org: key.org,
                uuid: key.uuid,
            },
            None => {
                let problem = "set `cursor` or `key`";
                return Err(Refusal::field(ErrorReason::FieldInvalid, "event", problem).into());
            }
        };
        let engine = super::engine(&self.engine)?;
        let journal = engine.journal_id();
        let event = engine
            .get(which)
            .await
            .map_err(|error| status::not_given(journal, error))?;
        let raw = raw_part(request.include_raw);
        Ok(Response::new(Answer::Event(StoredEvents {
            journal,
            raw,
            events: vec![event],
        })))
    }
}

fn read_subscribe(request: v1::SubscribeRequest) -> Result<Subscribe, Status> {
    use v1::subscribe_request::Start as Asked;
    let unnamed = |start: Start| -> Result<Reader, Status> {
        Ok(Reader::Unnamed {
            start,
            filter: read_filter("filter", request.filter.clone())?,
        })
    };
    let reader = match request.start {
        None => {
            let problem = "say where to start: `cursor`, `time`, `position` or `subscription_id`";
            return Err(Refusal::field(ErrorReason::FieldInvalid, "start", problem).into());
        }
        Some(Asked::SubscriptionId(_)) if request.filter.is_some() => {
            let problem = "must be unset with `subscription_id`: the subscription has its own";
            return Err(Refusal::field(ErrorReason::FieldInvalid, "filter", problem).into());
        }
        Some(Asked::SubscriptionId(_)) if request.reader.len() > READER_BYTES_MAX => {
            let problem = format!("must have at most {READER_BYTES_MAX} bytes");
            return Err(Refusal::field(ErrorReason::FieldInvalid, "reader", problem).into());
        }
        Some(Asked::SubscriptionId(id)) => Reader::Subscription {
            id,
            session: Uuid::new_v4().to_string(),
            name: request.reader,
        },
        Some(Asked::Cursor(cursor)) => unnamed(Start::Cursor(cursor))?,
        Some(Asked::Time(time)) => unnamed(start_time(time)?)?,
        Some(Asked::Position(position)) => unnamed(start_position(position)?)?,
    };
    let heartbeat = match request.heartbeat_interval {
        None => HEARTBEAT_USUAL,
        Some(asked) => Duration::try_from(asked)
            .ok()
            .filter(|asked| (HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(asked))
            .ok_or_else(|| {
                let problem = "must be between 1 s and 60 s";
                Refusal::field(ErrorReason::FieldInvalid, "heartbeat_interval", problem)
            })?,
    };
    let on_gap = match v1::OnGap::try_from(request.on_gap) {
        Ok(v1::OnGap::Unspecified | v1::OnGap::Fail) => OnGap::Fail,
        Ok(v1::OnGap::Skip) => OnGap::Skip,
        Err(_) => return Err(unknown_value("on_gap", request.on_gap).into()),
    };
    Ok(Subscribe {
        reader,
        heartbeat,
        on_gap,
        at_head: if request.stop_at_head {
            AtHead::Stop
        } else {
            AtHead::Follow
        },
        raw: raw_part(request.include_raw),
    })
}

/// A start at a time.
pub fn start_time(time: prost_types::Timestamp) -> Result<Start, Refusal> {
    Ok(Start::Time(convert::read_timestamp("time", time)?))
}

/// A start at an end of the journal.
pub fn start_position(position: i32) -> Result<Start, Refusal> {
    match v1::Position::try_from(position) {
        Ok(v1::Position::Earliest) => Ok(Start::Earliest),
        Ok(v1::Position::Latest) => Ok(Start::Latest),
        Ok(v1::Position::Unspecified) | Err(_) => Err(unknown_value("position", position)),
    }
}

/// The filter in a field of a request; an unset one is an empty one.
pub fn read_filter(field: &str, filter: Option<v1::Filter>) -> Result<Filter, Refusal> {
    convert::read_filter(field, filter.unwrap_or_default()).map_err(status::bad_filter)
}

fn unknown_value(field: &str, number: i32) -> Refusal {
    let problem = format!("{number} is no value that this version knows");
    Refusal::field(ErrorReason::FieldInvalid, field, problem)
}

fn raw_part(include: bool) -> RawPart {
    if include {
        RawPart::Sent
    } else {
        RawPart::Withheld
    }
}

fn index(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn input(input: v1::IngestInput) -> Input {
    use v1::ingest_input::Input as Given;
    match input.input {
        None => empty_input(),
        Some(Given::Json(json)) => Input::Json(json),
        Some(Given::Event(event)) => typed_input(*event),
        Some(Given::GroupPushFailed(card)) => card_input(*card),
    }
}

/// An input with nothing set.
pub fn empty_input() -> Input {
    Input::Unusable {
        field: "input".to_owned(),
        problem: "the input holds nothing, set `json`, `event` or `group_push_failed`".to_owned(),
    }
}

/// An input with a typed event.
pub fn typed_input(mut event: v1::ProvisioningEvent) -> Input {
    let bytes = event.encoded_len();
    let org = std::mem::take(&mut event.org);
    match convert::read_event(event) {
        Ok(event) => Input::Event {
            event: Box::new(event),
            org,
            bytes,
        },
        Err(error) => Input::Unusable {
            field: format!("event.{}", error.field),
            problem: error.problem,
        },
    }
}

/// An input with a Group Push Failed card.
pub fn card_input(card: v1::GroupPushFailed) -> Input {
    let bytes = card.encoded_len();
    Input::Card {
        card: Box::new(convert::read_card(card)),
        bytes,
    }
}
