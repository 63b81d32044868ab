//! Answers made of stored bytes, written to the wire without encoding them again.
//!
//! An [`Answer`] is one message of the contract in the form that is cheapest to send: events stay
//! the slices they are stored as, everything else is a message. What is written is byte for byte
//! what the usual encoder would write.

use std::marker::PhantomData;

use bytes::BufMut;
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder};

use crate::domain::cursor::JournalId;
use crate::wire::record::{RawPart, StoredEvent};
use crate::wire::v1;

/// `SubscribeResponse.batch`, `EventBatch.events`, `ListEventsResponse.events`,
/// `GetEventResponse.event`: field number << 3 | length-delimited.
const TAG_BATCH: u8 = 2 << 3 | 2;
const TAG_EVENTS: u8 = 1 << 3 | 2;
const TAG_NEXT_PAGE_TOKEN: u8 = 2 << 3 | 2;

/// Stored events, and how they are to be sent.
#[derive(Debug)]
pub struct StoredEvents {
    pub journal: JournalId,
    pub raw: RawPart,
    pub events: Vec<StoredEvent>,
}

/// One answer of a method whose answers hold stored events.
#[derive(Debug)]
pub enum Answer {
    /// A `SubscribeResponse` that is not a batch.
    Control(Box<v1::SubscribeResponse>),
    /// A `SubscribeResponse` with a batch.
    Batch(StoredEvents),
    /// A `ListEventsResponse`.
    Page {
        events: StoredEvents,
        next_page_token: String,
    },
    /// A `GetEventResponse`; of the events there is one.
    Event(StoredEvents),
}

impl Answer {
    /// How many bytes [`Self::put`] writes at the most.
    fn len_max(&self) -> usize {
        /// A tag and a length.
        const FRAME: usize = 1 + 10;
        match self {
            Self::Control(message) => message.encoded_len(),
            Self::Batch(stored) => FRAME + stored.fields_len(),
            Self::Page {
                events,
                next_page_token,
            } => events.fields_len() + FRAME + next_page_token.len(),
            Self::Event(stored) => stored.fields_len(),
        }
    }

    fn put(&self, out: &mut impl BufMut) {
        match self {
            Self::Control(message) => message.encode_raw(out),
            Self::Batch(stored) => {
                out.put_u8(TAG_BATCH);
                encode_varint(stored.fields_len() as u64, out);
                stored.put_fields(out);
            }
            Self::Page {
                events,
                next_page_token,
            } => {
                events.put_fields(out);
                if !next_page_token.is_empty() {
                    out.put_u8(TAG_NEXT_PAGE_TOKEN);
                    encode_varint(next_page_token.len() as u64, out);
                    out.put_slice(next_page_token.as_bytes());
                }
            }
            Self::Event(stored) => stored.put_fields(out),
        }
    }
}

impl StoredEvents {
    fn fields_len(&self) -> usize {
        self.events
            .iter()
            .map(|event| {
                let len = event.wire_len(self.raw);
                1 + encoded_len_varint(len as u64) + len
            })
            .sum()
    }

    /// Writes each event as one occurrence of field 1.
    fn put_fields(&self, out: &mut impl BufMut) {
        for event in &self.events {
            out.put_u8(TAG_EVENTS);
            encode_varint(event.wire_len(self.raw) as u64, out);
            event.put(self.journal, self.raw, out);
        }
    }
}

/// Sends [`Answer`]s, receives messages.
#[derive(Debug)]
pub struct AnswerCodec<T>(PhantomData<T>);

impl<T> Default for AnswerCodec<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Default + Send + 'static> Codec for AnswerCodec<T> {
    type Encode = Answer;
    type Decode = T;
    type Encoder = AnswerEncoder;
    type Decoder = ProstDecoder<T>;

    fn encoder(&mut self) -> AnswerEncoder {
        AnswerEncoder
    }

    fn decoder(&mut self) -> ProstDecoder<T> {
        ProstCodec::<T, T>::default().decoder()
    }
}

/// Writes an [`Answer`].
#[derive(Debug)]
pub struct AnswerEncoder;

impl Encoder for AnswerEncoder {
    type Item = Answer;
    type Error = Status;

    fn encode(&mut self, answer: Answer, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // A buffer that grows step by step is copied each time, and holds up to twice its content
        // for as long as the reader takes.
        out.reserve(answer.len_max());
        answer.put(out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::classification::Verdict;
    use crate::domain::classify::Classifier;
    use crate::domain::cursor::Seq;
    use crate::domain::event::{
        Delivery, Intake, ProvisioningEvent, RawOrigin, Reception, Timestamp,
    };
    use crate::wire::record::{AppendTime, Content, Draft};

    fn stored(raw: RawPart) -> StoredEvents {
        let event = |seq: u64| {
            let event = ProvisioningEvent {
                uuid: format!("u{seq}"),
                event_type: "application.provision.user.push".into(),
                ..ProvisioningEvent::default()
            };
            let reception = Reception {
                org: "o".into(),
                intake: Intake::Grpc,
                time: Timestamp::default(),
            };
            let draft = Draft::new(Content {
                classification: Classifier::embedded().classify(&event),
                event,
                reception: &reception,
                delivery: &Delivery::default(),
                date_time: String::new(),
                raw_json: "{}",
                raw_origin: RawOrigin::Received,
            });
            let record: Bytes = draft.seal(AppendTime(7));
            StoredEvent::parse(Seq::new(seq), &record).unwrap()
        };
        let journal = JournalId {
            id: [1; 8],
            epoch: 1,
        };
        StoredEvents {
            journal,
            raw,
            events: (1..=3).map(event).collect(),
        }
    }

    fn sent(answer: &Answer) -> Vec<u8> {
        let mut bytes = Vec::new();
        answer.put(&mut bytes);
        bytes
    }

    #[test]
    fn stored_bytes_are_the_messages_the_usual_encoder_writes() {
        for raw in [RawPart::Sent, RawPart::Withheld] {
            let bytes = sent(&Answer::Batch(stored(raw)));
            let message = v1::SubscribeResponse::decode(bytes.as_slice()).unwrap();
            assert_eq!(message.encode_to_vec(), bytes);
            let Some(v1::subscribe_response::Message::Batch(batch)) = message.message else {
                panic!("not a batch");
            };
            let sequences: Vec<_> = batch.events.iter().map(|event| event.sequence).collect();
            assert_eq!(sequences, [1, 2, 3]);
            assert_eq!(batch.events[0].raw_json.is_some(), raw == RawPart::Sent);
            let verdict = batch.events[0].classification.as_ref().unwrap().verdict;
            assert_ne!(verdict, i32::from(Verdict::Unrelated.number()));

            let page = Answer::Page {
                events: stored(raw),
                next_page_token: "next".to_owned(),
            };
            let bytes = sent(&page);
            let message = v1::ListEventsResponse::decode(bytes.as_slice()).unwrap();
            assert_eq!(
                (message.events.len(), message.next_page_token.as_str()),
                (3, "next")
            );
            assert_eq!(message.encode_to_vec(), bytes);
        }
    }
}
