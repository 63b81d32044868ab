//! The name of a subscription, valid once built.

use std::fmt;

/// The name of a subscription: 1 to 63 of the characters a to z, 0 to 9, `-` and `.`, with a letter
/// or digit at both ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(String);

/// The text is no name of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be 1 to 63 of the characters a to z, 0 to 9, - and ., with a letter or digit at both ends"
)]
pub struct InvalidSubscriptionId;

/// The longest name, as the contract says.
const BYTES_MAX: usize = 63;

impl SubscriptionId {
    pub fn parse(text: &str) -> Result<Self, InvalidSubscriptionId> {
        let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let is_valid = bytes.len() <= BYTES_MAX
            && bytes.first().is_some_and(is_alphanumeric)
            && bytes.last().is_some_and(is_alphanumeric)
            && bytes
                .iter()
                .all(|byte| is_alphanumeric(byte) || matches!(byte, b'-' | b'.'));
        is_valid
            .then(|| Self(text.to_owned()))
            .ok_or(InvalidSubscriptionId)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain() {
        let longest = "a".repeat(63);
        for valid in ["a", "7", "a-b.c", "slack-alerts", &longest] {
            assert!(SubscriptionId::parse(valid).is_ok(), "{valid}");
        }
        let too_long = "a".repeat(64);
        for invalid in [
            "", "-a", "a-", ".a", "a.", "A", "a b", "ä", "a/b", "a\0", &too_long,
        ] {
            assert!(SubscriptionId::parse(invalid).is_err(), "{invalid}");
        }
    }
}
