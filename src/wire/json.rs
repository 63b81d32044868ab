//! Messages as protobuf's JSON mapping, for whoever reads our output with a program.
//!
//! Works from the compiled contract, so a new field needs nothing here. Fields at their default
//! are left out, 64-bit integers are text and enum values are names, as the mapping says.

use prost::Message;
use prost_reflect::DynamicMessage;

use super::CONTRACT;

/// One message of package `provident.v1` as one line of JSON.
///
/// # Panics
/// If the contract has no message `name`: names are literals in our code.
pub fn to_line<M: Message>(name: &str, message: &M) -> String {
    let descriptor = CONTRACT
        .get_message_by_name(&format!("provident.v1.{name}"))
        .expect("the contract has the message");
    let bytes = message.encode_to_vec();
    let message = DynamicMessage::decode(descriptor, bytes.as_slice())
        .expect("the same contract encoded the message");
    serde_json::to_string(&message).expect("every message has a JSON form")
}

#[cfg(test)]
mod tests {
    use crate::wire::v1;

    #[test]
    fn names_of_enum_values_and_camel_case_are_the_mapping() {
        let result = v1::IngestResult {
            input_index: 1,
            status: v1::IngestStatus::Accepted.into(),
            sequence: 7,
            ..v1::IngestResult::default()
        };
        assert_eq!(
            super::to_line("IngestResult", &result),
            r#"{"inputIndex":1,"status":"INGEST_STATUS_ACCEPTED","sequence":"7"}"#
        );
    }
}
