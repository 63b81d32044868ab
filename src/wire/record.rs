//! A record: how one event lies in every journal, and how it is sent without encoding it again.
//!
//! Protobuf messages concatenate field by field, so a `StreamedEvent` on the wire is a *head*
//! (sequence, cursor, append time), made when it is sent from the record's place and header, then
//! the stored *body*, then, for who asks and may, the stored *raw* JSON.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | format, now 1 |
//! | 1 | flags: 1 = security relevant, 2 = the body has a `group_push_failed` |
//! | 6 | verdict, category, cause (0 = none), disposition, responder, priority: the contract's numbers |
//! | 8 | append time, nanoseconds since 1970, little endian like all that follows |
//! | 4 | length of the body |
//! | 4 | length of the raw JSON |
//! | 8 | XXH3-64 of body and raw JSON |
//! | 8 | XXH3-64 of the 32 bytes above |
//! | … | body: fields 4 to 7 of `StreamedEvent` |
//! | … | raw JSON, UTF-8 |
//!
//! This is the only place that knows the layout. The append time and the second checksum are
//! filled in by the writer ([`Draft::seal`]), all else before it, in parallel.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use xxhash_rust::xxh3::xxh3_64;

use super::{convert, v1};
use crate::domain::classification::{
    Category, Cause, Classification, Disposition, Priority, Responder, Verdict,
};
use crate::domain::cursor::{CURSOR_TEXT_LEN, Cursor, JournalId, Seq};
use crate::domain::event::{Delivery, ProvisioningEvent, RawOrigin, Reception, Timestamp};
use crate::domain::filter::{Details, Filter, Marks, Target};

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 40;
const CHECKED_BYTES: usize = 32;
const FLAG_SECURITY: u8 = 1;
const FLAG_GROUP_PUSH: u8 = 2;

// Tags of `StreamedEvent`: field number << 3 | wire type (0 varint, 2 length-delimited).
const TAG_SEQUENCE: u8 = 1 << 3;
const TAG_CURSOR: u8 = 2 << 3 | 2;
const TAG_APPEND_TIME: u8 = 3 << 3 | 2;
const TAG_GROUP_PUSH_FAILED: u8 = 6 << 3 | 2;
const TAG_RAW_JSON: u8 = 15 << 3 | 2;
/// `GroupPushFailed.event_details`.
const TAG_EVENT_DETAILS: u8 = 12 << 3 | 2;

/// When an event was appended: nanoseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppendTime(pub i64);

impl AppendTime {
    /// The nearest time that fits: years 1677 to 2262.
    pub fn from_timestamp(time: Timestamp) -> Self {
        Self(
            time.seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::from(time.nanos)),
        )
    }

    pub fn to_timestamp(self) -> Timestamp {
        Timestamp {
            seconds: self.0.div_euclid(1_000_000_000),
            nanos: u32::try_from(self.0.rem_euclid(1_000_000_000)).expect("below 10^9"),
        }
    }
}

/// Why stored bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the record is cut short")]
    Short,
    #[error("the record has format {found}, this version reads {FORMAT}")]
    Format { found: u8 },
    #[error("the record's checksum does not match")]
    Checksum,
    #[error("the record's body can't be decoded")]
    Body,
    #[error("the record's header holds value {value} where none is known")]
    Value { value: u8 },
}

/// What is kept of an event.
#[derive(Debug)]
pub struct Content<'a> {
    pub event: ProvisioningEvent,
    pub reception: &'a Reception,
    pub classification: Classification,
    /// What the card takes from the delivery, used where the classification says that the event
    /// is a failure of a group push.
    pub delivery: &'a Delivery,
    /// The card's `date_time`.
    pub date_time: String,
    pub raw_json: &'a str,
    pub raw_origin: RawOrigin,
}

/// A record that lacks only its append time.
#[derive(Debug)]
pub struct Draft(BytesMut);

impl Draft {
    /// Encodes all that does not depend on when and where the event is appended.
    pub fn new(content: Content<'_>) -> Self {
        let marks = convert::marks(&content.classification);
        let card = content
            .classification
            .group_push_failed
            .then(|| convert::card(&content.event, content.date_time, content.delivery));
        let body = v1::StreamedEvent {
            event: Some(convert::event(content.event, Some(content.reception))),
            classification: Some(convert::classification(content.classification)),
            group_push_failed: card,
            raw_json_origin: convert::raw_origin(content.raw_origin).into(),
            ..v1::StreamedEvent::default()
        };
        Self::encode(marks, &body, content.raw_json)
    }

    fn encode(marks: Marks, body: &v1::StreamedEvent, raw_json: &str) -> Self {
        let body_len = body.encoded_len();
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + body_len + raw_json.len());
        let mut flags = 0;
        if marks.security_relevant {
            flags |= FLAG_SECURITY;
        }
        if body.group_push_failed.is_some() {
            flags |= FLAG_GROUP_PUSH;
        }
        bytes.put_slice(&[
            FORMAT,
            flags,
            marks.verdict.number(),
            marks.category.number(),
            marks.cause.map_or(0, Cause::number),
            marks.disposition.number(),
            marks.responder.number(),
            marks.priority.number(),
        ]);
        bytes.put_i64_le(0);
        bytes.put_u32_le(length(body_len));
        bytes.put_u32_le(length(raw_json.len()));
        bytes.put_u64_le(0);
        bytes.put_u64_le(0);
        body.encode(&mut bytes).expect("the buffer grows");
        bytes.put_slice(raw_json.as_bytes());
        let checksum = xxh3_64(&bytes[HEADER_BYTES..]);
        bytes[24..CHECKED_BYTES].copy_from_slice(&checksum.to_le_bytes());
        Self(bytes)
    }

    /// The finished record's size.
    pub fn record_bytes(&self) -> usize {
        self.0.len()
    }

    /// Sets the append time, and so finishes the record.
    pub fn seal(mut self, time: AppendTime) -> Bytes {
        self.0[8..16].copy_from_slice(&time.0.to_le_bytes());
        let checksum = xxh3_64(&self.0[..CHECKED_BYTES]);
        self.0[CHECKED_BYTES..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        self.0.freeze()
    }
}

/// Lengths are bounded by the limits on events, far below 4 GiB.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("an event is smaller than 4 GiB")
}

/// A stored event, ready to be sent. Cheap to clone: it shares the record's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    pub seq: Seq,
    pub append_time: AppendTime,
    pub marks: Marks,
    group_push: bool,
    body: Bytes,
    raw: Bytes,
}

/// Whether the raw JSON goes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawPart {
    Sent,
    Withheld,
}

impl StoredEvent {
    /// Takes a record apart that comes from a journal, and checks both checksums.
    pub fn parse(seq: Seq, record: &Bytes) -> Result<Self, RecordError> {
        let event = Self::take_apart(seq, record)?;
        let header = &record[..HEADER_BYTES];
        let checksum = |at: usize| (&header[at..at + 8]).get_u64_le();
        if checksum(32) != xxh3_64(&header[..CHECKED_BYTES])
            || checksum(24) != xxh3_64(&record[HEADER_BYTES..])
        {
            return Err(RecordError::Checksum);
        }
        Ok(event)
    }

    /// Takes a record apart that this process has just sealed.
    pub fn of_sealed(seq: Seq, record: &Bytes) -> Self {
        Self::take_apart(seq, record).expect("a sealed record has the layout it was given")
    }

    fn take_apart(seq: Seq, record: &Bytes) -> Result<Self, RecordError> {
        let header: &[u8; HEADER_BYTES] = record.first_chunk().ok_or(RecordError::Short)?;
        if header[0] != FORMAT {
            return Err(RecordError::Format { found: header[0] });
        }
        let mut fields = &header[8..];
        let time = fields.get_i64_le();
        let body_len = fields.get_u32_le() as usize;
        let raw_len = fields.get_u32_le() as usize;
        let body_end = HEADER_BYTES + body_len;
        if record.len() != body_end + raw_len {
            return Err(RecordError::Short);
        }
        let unknown = |at: usize| RecordError::Value { value: header[at] };
        let marks = Marks {
            verdict: Verdict::from_number(header[2]).ok_or_else(|| unknown(2))?,
            category: Category::from_number(header[3]).ok_or_else(|| unknown(3))?,
            cause: match header[4] {
                0 => None,
                number => Some(Cause::from_number(number).ok_or_else(|| unknown(4))?),
            },
            disposition: Disposition::from_number(header[5]).ok_or_else(|| unknown(5))?,
            responder: Responder::from_number(header[6]).ok_or_else(|| unknown(6))?,
            priority: Priority::from_number(header[7]).ok_or_else(|| unknown(7))?,
            security_relevant: header[1] & FLAG_SECURITY != 0,
        };
        Ok(Self {
            seq,
            append_time: AppendTime(time),
            marks,
            group_push: header[1] & FLAG_GROUP_PUSH != 0,
            body: record.slice(HEADER_BYTES..body_end),
            raw: record.slice(body_end..),
        })
    }

    /// The size of the whole record.
    pub fn record_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len() + self.raw.len()
    }

    /// The event's JSON as it was received or built; empty if it is no text, which none is that was
    /// stored.
    pub fn raw_json(&self) -> &str {
        std::str::from_utf8(&self.raw).unwrap_or_default()
    }

    /// Whether a filter's fields let the event pass, its expression apart; decodes the body only if the marks don't decide.
    pub fn passes(&self, filter: &Filter) -> Result<bool, RecordError> {
        if !filter.admits_marks(&self.marks) {
            return Ok(false);
        }
        if !filter.needs_details() {
            return Ok(true);
        }
        let body = Searched::decode(self.body.clone()).or(Err(RecordError::Body))?;
        let event = body.event.unwrap_or_default();
        let classification = body.classification.unwrap_or_default();
        let application = classification.application.unwrap_or_default();
        let transaction = event.transaction.unwrap_or_default();
        let targets = event.targets.iter().map(SearchedEntity::target);
        Ok(filter.admits_details(&Details {
            org: text(&event.org)?,
            event_type: text(&event.event_type)?,
            transaction_id: text(&transaction.id)?,
            application_name: text(&application.name)?,
            targets: targets.collect::<Result<_, _>>()?,
        }))
    }

    /// The size of what [`Self::put`] writes.
    pub fn wire_len(&self, raw: RawPart) -> usize {
        let mut len = self.head_len() + self.body.len();
        if raw == RawPart::Sent {
            if self.group_push {
                let details = field_len(self.raw.len());
                len += field_len(details);
            }
            len += field_len(self.raw.len());
        }
        len
    }

    /// Writes the event as the content of a `StreamedEvent`.
    pub fn put(&self, journal: JournalId, raw: RawPart, out: &mut impl BufMut) {
        out.put_u8(TAG_SEQUENCE);
        encode_varint(self.seq.get(), out);
        put_field(TAG_CURSOR, &Cursor::new(journal, self.seq).encode(), out);
        let time = self.timestamp();
        out.put_u8(TAG_APPEND_TIME);
        encode_varint(time.encoded_len() as u64, out);
        time.encode_raw(out);
        out.put_slice(&self.body);
        if raw == RawPart::Sent {
            if self.group_push {
                // A second occurrence of a message field is merged into the first, so the card
                // in the body gets its details without being stored with them.
                out.put_u8(TAG_GROUP_PUSH_FAILED);
                encode_varint(field_len(self.raw.len()) as u64, out);
                put_field(TAG_EVENT_DETAILS, &self.raw, out);
            }
            put_field(TAG_RAW_JSON, &self.raw, out);
        }
    }

    fn head_len(&self) -> usize {
        let time = self.timestamp().encoded_len();
        1 + encoded_len_varint(self.seq.get()) + field_len(CURSOR_TEXT_LEN) + field_len(time)
    }

    fn timestamp(&self) -> prost_types::Timestamp {
        super::convert::timestamp(self.append_time.to_timestamp())
    }
}

/// What a filter reads of a `StreamedEvent`: the same fields, all else passed over, and texts left
/// where they lie.
#[derive(Clone, PartialEq, Message)]
struct Searched {
    #[prost(message, optional, tag = "4")]
    event: Option<SearchedEvent>,
    #[prost(message, optional, tag = "5")]
    classification: Option<SearchedClassification>,
}

#[derive(Clone, PartialEq, Message)]
struct SearchedEvent {
    #[prost(bytes = "bytes", tag = "2")]
    org: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    event_type: Bytes,
    #[prost(message, repeated, tag = "12")]
    targets: Vec<SearchedEntity>,
    #[prost(message, optional, tag = "13")]
    transaction: Option<SearchedTransaction>,
}

#[derive(Clone, PartialEq, Message)]
struct SearchedEntity {
    #[prost(bytes = "bytes", tag = "1")]
    id: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    alternate_id: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    display_name: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    kind: Bytes,
}

impl SearchedEntity {
    fn target(&self) -> Result<Target<'_>, RecordError> {
        Ok(Target {
            kind: text(&self.kind)?,
            id: text(&self.id)?,
            alternate_id: text(&self.alternate_id)?,
            display_name: text(&self.display_name)?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct SearchedTransaction {
    #[prost(bytes = "bytes", tag = "1")]
    id: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct SearchedClassification {
    #[prost(message, optional, tag = "12")]
    application: Option<SearchedRef>,
}

#[derive(Clone, PartialEq, Message)]
struct SearchedRef {
    #[prost(bytes = "bytes", tag = "2")]
    name: Bytes,
}

fn text(bytes: &[u8]) -> Result<&str, RecordError> {
    std::str::from_utf8(bytes).or(Err(RecordError::Body))
}

/// Bytes of a length-delimited field with a tag of one byte.
fn field_len(content: usize) -> usize {
    1 + encoded_len_varint(content as u64) + content
}

fn put_field(tag: u8, content: &[u8], out: &mut impl BufMut) {
    out.put_u8(tag);
    encode_varint(content.len() as u64, out);
    out.put_slice(content);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::filter::EventTypePattern;

    const MARKS: Marks = Marks {
        verdict: Verdict::Failure,
        category: Category::GroupPush,
        cause: None,
        disposition: Disposition::Undetermined,
        responder: Responder::OktaAdmin,
        priority: Priority::High,
        security_relevant: true,
    };
    const JOURNAL: JournalId = JournalId {
        id: [7; 8],
        epoch: 1,
    };

    fn body(card: bool) -> v1::StreamedEvent {
        v1::StreamedEvent {
            event: Some(v1::ProvisioningEvent {
                uuid: "u".into(),
                ..Default::default()
            }),
            group_push_failed: card.then(|| v1::GroupPushFailed {
                uuid: "u".into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn sent(stored: &StoredEvent, raw: RawPart) -> v1::StreamedEvent {
        let mut bytes = Vec::new();
        stored.put(JOURNAL, raw, &mut bytes);
        assert_eq!(bytes.len(), stored.wire_len(raw));
        v1::StreamedEvent::decode(bytes.as_slice()).unwrap()
    }

    #[test]
    fn head_body_and_raw_are_one_message() {
        let record = Draft::encode(MARKS, &body(true), "{\"a\":1}").seal(AppendTime(1_500_000_001));
        let stored = StoredEvent::parse(Seq::new(300), &record).unwrap();
        assert_eq!(stored.marks, MARKS);

        let with_raw = sent(&stored, RawPart::Sent);
        assert_eq!(with_raw.sequence, 300);
        assert_eq!(
            with_raw.cursor,
            Cursor::new(JOURNAL, Seq::new(300)).to_string()
        );
        assert_eq!(
            with_raw.append_time.unwrap(),
            prost_types::Timestamp {
                seconds: 1,
                nanos: 500_000_001
            }
        );
        assert_eq!(with_raw.raw_json.as_deref(), Some("{\"a\":1}"));
        let card = with_raw.group_push_failed.unwrap();
        assert_eq!(
            (card.uuid.as_str(), card.event_details.as_str()),
            ("u", "{\"a\":1}")
        );

        let without = sent(&stored, RawPart::Withheld);
        assert_eq!(without.raw_json, None);
        assert_eq!(without.group_push_failed.unwrap().event_details, "");
    }

    #[test]
    fn a_filter_reads_the_fields_that_the_contract_names() {
        let text = |name: &str| name.to_owned();
        let body = v1::StreamedEvent {
            event: Some(v1::ProvisioningEvent {
                org: text("the org"),
                event_type: text("the.type"),
                targets: vec![v1::Entity {
                    id: text("the id"),
                    alternate_id: text("the alternate id"),
                    display_name: text("the name"),
                    r#type: text("AppInstance"),
                    ..Default::default()
                }],
                transaction: Some(v1::Transaction {
                    id: text("the transaction"),
                    r#type: text("JOB"),
                }),
                ..Default::default()
            }),
            classification: Some(v1::Classification {
                application: Some(v1::ObjectRef {
                    id: text("other id"),
                    name: text("other name"),
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let record = Draft::encode(MARKS, &body, "{}").seal(AppendTime(1));
        let stored = StoredEvent::parse(Seq::FIRST, &record).unwrap();
        let check = |set: fn(&mut Filter, String), fits: &[&str]| {
            for name in fits.iter().chain(&["no such thing"]) {
                let mut filter = Filter::everything();
                set(&mut filter, text(name));
                let passes = stored.passes(&filter).unwrap();
                assert_eq!(passes, fits.contains(name), "{filter:?}");
            }
        };
        check(|filter, org| filter.orgs.push(org), &["the org"]);
        check(
            |filter, kind| filter.event_types.push(EventTypePattern::Exact(kind)),
            &["the.type"],
        );
        check(|filter, id| filter.application_ids.push(id), &["the id"]);
        check(
            |filter, name| filter.application_names.push(name),
            &["the name", "the alternate id", "other name"],
        );
        check(
            |filter, id| filter.transaction_ids.push(id),
            &["the transaction"],
        );
    }

    #[test]
    fn one_flipped_bit_is_found() {
        let record = Draft::encode(MARKS, &body(false), "{}").seal(AppendTime(5));
        for bit in 0..record.len() * 8 {
            let mut damaged = record.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                StoredEvent::parse(Seq::FIRST, &damaged.into()).is_err(),
                "bit {bit}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_refused(bytes: Vec<u8>) {
            let _ = StoredEvent::parse(Seq::FIRST, &Bytes::from(bytes));
        }

        #[test]
        fn every_time_is_read_back(nanos in i64::MIN + 1_000_000_000..=i64::MAX) {
            let time = AppendTime(nanos);
            prop_assert_eq!(AppendTime::from_timestamp(time.to_timestamp()), time);
        }
    }
}
