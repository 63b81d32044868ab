//! Page tokens: opaque text that says where a list goes on, and for which request.
//!
//! | bytes | meaning |
//! |---|---|
//! | 8 | XXH3-64 of the request that the token belongs to |
//! | 8 | first place |
//! | 8 | last place |
//! | 8 | XXH3-64 of what precedes, so that a changed token is found |
//!
//! A list in the order of names goes on after a name: XXH3-64 of the name (8 bytes), the name.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

const BYTES: usize = 32;

/// The token is damaged, or of another request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the page token is damaged or belongs to another request; start at the first page")]
pub struct BadPageToken;

/// Writes the token of a request (its bytes without page size and token) and two places.
pub fn encode(request: &[u8], places: (u64, u64)) -> String {
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&xxh3_64(request).to_be_bytes());
    bytes[8..16].copy_from_slice(&places.0.to_be_bytes());
    bytes[16..24].copy_from_slice(&places.1.to_be_bytes());
    let check = xxh3_64(&bytes[..24]);
    bytes[24..].copy_from_slice(&check.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads the two places of a token of this request.
pub fn parse(request: &[u8], text: &str) -> Result<(u64, u64), BadPageToken> {
    let bytes: [u8; BYTES] = URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(BadPageToken)?;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_be_bytes(word)
    };
    if word(0) != xxh3_64(request) || word(24) != xxh3_64(&bytes[..24]) {
        return Err(BadPageToken);
    }
    Ok((word(8), word(16)))
}

/// Writes the token of a list that goes on after a name.
pub fn encode_name(name: &str) -> String {
    let check = xxh3_64(name.as_bytes()).to_be_bytes();
    URL_SAFE_NO_PAD.encode([&check, name.as_bytes()].concat())
}

/// Reads the name that a list goes on after.
pub fn parse_name(text: &str) -> Result<String, BadPageToken> {
    let bytes = URL_SAFE_NO_PAD.decode(text).or(Err(BadPageToken))?;
    let (check, name) = bytes.split_first_chunk().ok_or(BadPageToken)?;
    if u64::from_be_bytes(*check) != xxh3_64(name) {
        return Err(BadPageToken);
    }
    String::from_utf8(name.to_vec()).or(Err(BadPageToken))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_is_read_back_by_its_own_request_alone(first: u64, last: u64) {
            let token = encode(b"a", (first, last));
            prop_assert_eq!(parse(b"a", &token), Ok((first, last)));
            prop_assert_eq!(parse(b"b", &token), Err(BadPageToken));
        }

        #[test]
        fn any_text_is_refused(text in ".{0,60}") {
            prop_assert_eq!(parse(b"a", &text), Err(BadPageToken));
            prop_assert_eq!(parse_name(&text), Err(BadPageToken));
        }

        #[test]
        fn a_name_is_read_back(name in ".{0,60}") {
            prop_assert_eq!(parse_name(&encode_name(&name)), Ok(name));
        }
    }
}
