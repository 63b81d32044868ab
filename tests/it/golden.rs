//! Formats that outlive a process: what was written once is read for ever, and a change of the
//! contract shows in review.
//!
//! `PROVIDENT_WRITE_GOLDEN=1 cargo test golden` writes the listings of the contract and of the
//! sentences anew: they are there to be read. The record and the subscription are
//! never written anew: they stand for those that lie in journals.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};
use provident::domain::catalogue::Catalogue;
use provident::domain::classification::{Category, Cause, Operation, Resource, Verdict};
use provident::domain::classify::classify;
use provident::domain::cursor::{JournalId, Seq};
use provident::domain::event::{Entity, ProvisioningEvent};
use provident::wire::record::{RawPart, StoredEvent};
use provident::wire::subscription::StoredSubscription;
use provident::wire::{DESCRIPTOR, v1};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// One line for each thing of the contract that a client can see.
fn contract() -> String {
    let files = FileDescriptorSet::decode(DESCRIPTOR).unwrap();
    let mut lines = Vec::new();
    for file in files
        .file
        .iter()
        .filter(|file| file.package().starts_with("provident"))
    {
        for service in &file.service {
            for method in &service.method {
                let stream = if method.server_streaming() {
                    "stream "
                } else {
                    ""
                };
                lines.push(format!(
                    "rpc {}.{}({}) returns ({stream}{})",
                    service.name(),
                    method.name(),
                    method.input_type(),
                    method.output_type(),
                ));
            }
        }
        for message in &file.message_type {
            message_lines(message, &mut lines);
        }
        for values in &file.enum_type {
            for value in &values.value {
                lines.push(format!(
                    "enum {} {} = {}",
                    values.name(),
                    value.name(),
                    value.number()
                ));
            }
        }
    }
    lines.sort_unstable();
    lines.iter().fold(String::new(), |mut text, line| {
        writeln!(text, "{line}").unwrap();
        text
    })
}

fn message_lines(message: &DescriptorProto, lines: &mut Vec<String>) {
    for field in &message.field {
        let kind = match field.r#type() {
            Type::Message | Type::Enum => field.type_name().to_owned(),
            kind => kind
                .as_str_name()
                .trim_start_matches("TYPE_")
                .to_ascii_lowercase(),
        };
        let repeated = if field.label() == Label::Repeated {
            "repeated "
        } else {
            ""
        };
        let optional = if field.proto3_optional() {
            "optional "
        } else {
            ""
        };
        lines.push(format!(
            "message {} {:>3} {repeated}{optional}{kind} {}",
            message.name(),
            field.number(),
            field.name(),
        ));
    }
}

#[test]
fn the_contract_is_as_it_was_reviewed() {
    compare("contract.txt", &contract(), "the contract");
}

/// Whether a listing is as somebody has read it.
fn compare(name: &str, now: &str, what: &str) {
    let path = golden(name);
    #[expect(clippy::disallowed_methods, reason = "how this file is written anew")]
    let write = std::env::var("PROVIDENT_WRITE_GOLDEN").is_ok();
    if write {
        std::fs::write(&path, now).unwrap();
    }
    let reviewed = std::fs::read_to_string(&path).unwrap();
    assert!(
        now == reviewed,
        "{what} changed; look at the difference that\n\
        `PROVIDENT_WRITE_GOLDEN=1 cargo test golden` makes in tests/golden/{name}"
    );
}

#[test]
fn a_record_of_the_first_format_is_still_read() {
    let record = Bytes::from(std::fs::read(golden("record-1.bin")).unwrap());
    let stored = StoredEvent::parse(Seq::new(42), &record).unwrap();
    assert_eq!(stored.marks.verdict, Verdict::Failure);
    assert_eq!(stored.marks.cause, Some(Cause::CredentialsInvalid));
    assert!(stored.marks.security_relevant);
    let mut bytes = Vec::new();
    stored.put(
        JournalId {
            id: [1; 8],
            epoch: 1,
        },
        RawPart::Sent,
        &mut bytes,
    );
    let event = v1::StreamedEvent::decode(bytes.as_slice()).unwrap();
    assert_eq!(event.sequence, 42);
    assert_eq!(
        event.event.unwrap().uuid,
        "6f0f4b2e-7d11-4a7e-9a55-0c1f5a3e0001"
    );
    assert!(
        event
            .raw_json
            .unwrap()
            .contains("Token is invalid or expired")
    );
    assert!(event.classification.unwrap().summary.contains("Ann Lee"));
}

#[test]
fn a_subscription_of_the_first_format_is_still_read() {
    let stored = std::fs::read(golden("subscription-1.bin")).unwrap();
    let stored = StoredSubscription::parse(&stored).unwrap();
    assert_eq!(stored.committed(), Seq::new(1234));
    assert_eq!(stored.session, "f3a2");
    assert_eq!(stored.activity_time().unwrap().seconds, 1_790_000_007);
    assert_eq!(stored.etag(), "6ab13b80-5-1");
    let filter = stored.filter().unwrap();
    assert_eq!(filter.application_names, ["Slack"]);
    assert_eq!(filter.categories, [Category::GroupPush]);
    assert_eq!(filter.expression.unwrap().text(), "severity eq \"ERROR\"");
}

/// An error text for each cause; none where nothing is said.
const REASONS: [(Cause, &str); 21] = [
    (Cause::RateLimited, "Too Many Requests"),
    (Cause::CredentialsInvalid, "Unauthorized"),
    (Cause::PermissionDenied, "Forbidden"),
    (Cause::TargetNotFound, "Not Found"),
    (Cause::AmbiguousMatch, "More than one match was found"),
    (Cause::Duplicate, "Conflict"),
    (Cause::LicenseExhausted, "License limit exceeded"),
    (Cause::LicenseConflict, "Conflicting licenses"),
    (Cause::InvalidData, "Bad Request"),
    (Cause::ImmutableData, "The attribute is read-only"),
    (Cause::SchemaConflict, "Schema mismatch"),
    (Cause::Misconfigured, "The configuration is wrong"),
    (Cause::Unsupported, "The operation is not supported"),
    (Cause::ProtocolError, "The response was empty"),
    (Cause::RemoteUnavailable, "Service Unavailable"),
    (Cause::RemoteError, "Internal Server Error"),
    (Cause::RemoteNotReady, "The activation is still in progress"),
    (Cause::Timeout, "Read timed out"),
    (Cause::Safeguard, "The import safeguard was tripped"),
    (Cause::PartialPush, "3 members were skipped"),
    (Cause::Unknown, ""),
];

/// What is said of a failure or warning of each category, operation and resource that occurs, for
/// each cause that is typical of it, and of a failed group push and of access that may remain.
fn sentences() -> String {
    let mut lines = BTreeMap::new();
    for known in Catalogue::embedded().event_types() {
        let mut causes = known.typical_causes.clone();
        causes.push(Cause::Unknown);
        for (cause, reason) in REASONS.iter().filter(|(cause, _)| causes.contains(cause)) {
            for push in [false, true] {
                let (key, said) = sentence(&known.name, reason, push);
                if key.contains(cause.name()) {
                    lines.entry(key).or_insert(said);
                }
            }
        }
    }
    let mut text = String::new();
    for (key, (summary, remediation)) in lines {
        let _ = write!(text, "{key}\n  {summary}\n  {remediation}\n");
    }
    text
}

fn sentence(event_type: &str, reason: &str, push: bool) -> (String, (String, String)) {
    let target = |kind: &str, name: &str| Entity {
        kind: kind.into(),
        id: kind.into(),
        display_name: name.into(),
        ..Entity::default()
    };
    let mut event = ProvisioningEvent {
        event_type: event_type.into(),
        severity: "ERROR".into(),
        targets: vec![
            target("AppInstance", "Slack"),
            target("AppUser", "Ann Lee"),
            target("UserGroup", "Engineering"),
        ],
        ..ProvisioningEvent::default()
    };
    event.outcome.result = "FAILURE".into();
    event.outcome.reason = reason.into();
    if push {
        event.transaction.id = "gmr1".into();
    }
    let said = classify(&event);
    let name = |name: Option<&str>| name.unwrap_or("-").to_owned();
    let key = format!(
        "{} {} {} {}: {}, {}{}{}{}",
        said.verdict,
        said.category,
        name(said.operation.map(Operation::name)),
        name(said.resource.map(Resource::name)),
        name(said.cause.map(Cause::name)),
        said.disposition,
        if said.security_relevant {
            ", security"
        } else {
            ""
        },
        if said.group_push_failed {
            ", group push"
        } else {
            ""
        },
        if said.unexpected { ", unexpected" } else { "" },
    );
    (key, (said.summary, said.remediation))
}

#[test]
fn every_sentence_is_as_it_was_reviewed() {
    compare("sentences.txt", &sentences(), "the sentences");
}
