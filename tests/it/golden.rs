//! Formats that outlive a process: what was written once is read for ever, and a change of the
//! contract shows in review.
//!
//! `PROVIDENT_WRITE_GOLDEN=1 cargo test golden` writes the contract's listing anew. The record is
//! never written anew: it stands for those that lie in journals.

use std::fmt::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};
use provident::domain::classification::{Cause, Verdict};
use provident::domain::cursor::{JournalId, Seq};
use provident::wire::record::{RawPart, StoredEvent};
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
    let path = golden("contract.txt");
    let now = contract();
    #[expect(clippy::disallowed_methods, reason = "how this file is written anew")]
    let write = std::env::var("PROVIDENT_WRITE_GOLDEN").is_ok();
    if write {
        std::fs::write(&path, &now).unwrap();
    }
    let reviewed = std::fs::read_to_string(&path).unwrap();
    assert!(
        now == reviewed,
        "the contract changed; look at the difference that\n\
        `PROVIDENT_WRITE_GOLDEN=1 cargo test golden` makes in tests/golden/contract.txt"
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
