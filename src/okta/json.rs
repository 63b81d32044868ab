//! Tolerant reading of JSON: any shape is a value, and nesting costs no stack.
//!
//! Values are kept as the text they came as ([`RawValue`]) until somebody needs them, so a deep
//! or odd value that nobody reads is never taken apart. Lone surrogates, which a text cut at 255
//! UTF-16 units ends with, are replaced and not refused.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{self, Deserialize, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Calls `field` for each member of a JSON object, in order; other values have no members.
///
/// # Errors
/// If `text` is an object but not valid JSON.
pub fn each_field<'a>(
    text: &'a str,
    mut field: impl FnMut(&str, &'a RawValue),
) -> Result<(), serde_json::Error> {
    each_member(text, |name, value| field(&name, value))
}

fn each_member<'a>(
    text: &'a str,
    field: impl FnMut(Cow<'a, str>, &'a RawValue),
) -> Result<(), serde_json::Error> {
    if !text.trim_ascii_start().starts_with('{') {
        return Ok(());
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.deserialize_map(Fields(field))?;
    deserializer.end()
}

/// The members of a JSON object, in order; other values have none.
///
/// # Errors
/// If `text` is an object but not valid JSON.
pub fn members(text: &str) -> Result<Vec<(Cow<'_, str>, &RawValue)>, serde_json::Error> {
    // A LogEvent has some twenty.
    let mut members = Vec::with_capacity(24);
    each_member(text, |name, value| members.push((name, value)))?;
    Ok(members)
}

struct Fields<F>(F);

impl<'de, F: FnMut(Cow<'de, str>, &'de RawValue)> Visitor<'de> for Fields<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            (self.0)(key, value);
        }
        Ok(())
    }
}

/// A member's name; borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }
            fn visit_borrowed_bytes<E>(self, text: &'de [u8]) -> Result<Key<'de>, E> {
                Ok(Key(String::from_utf8_lossy(text)))
            }
            fn visit_bytes<E>(self, text: &[u8]) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(String::from_utf8_lossy(text).into_owned())))
            }
        }
        // As bytes, because a name too may hold half a character.
        deserializer.deserialize_bytes(KeyVisitor)
    }
}

/// The first elements of a JSON array, at most `most`, and how many it has in all.
///
/// # Errors
/// If `text` is not a valid JSON array.
pub fn elements(text: &str, most: usize) -> Result<(Vec<&RawValue>, usize), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let elements = deserializer.deserialize_seq(Elements { most })?;
    deserializer.end()?;
    Ok(elements)
}

struct Elements {
    most: usize,
}

impl<'de> Visitor<'de> for Elements {
    type Value = (Vec<&'de RawValue>, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut first = Vec::new();
        while first.len() < self.most {
            let Some(element) = array.next_element()? else {
                let all = first.len();
                return Ok((first, all));
            };
            first.push(element);
        }
        let mut all = first.len();
        while array.next_element::<IgnoredAny>()?.is_some() {
            all += 1;
        }
        Ok((first, all))
    }
}

/// What kind of JSON value a text begins, in words for messages.
pub fn kind_of(value: &str) -> &'static str {
    match value.trim_ascii_start().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "text",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(_) => "a number",
        None => "nothing",
    }
}

/// Whether the value is text.
pub fn is_text(value: &RawValue) -> bool {
    value.get().starts_with('"')
}

/// A value as text: a string's content, nothing for null, the JSON of anything else.
pub fn text(value: &RawValue) -> Option<String> {
    let json = value.get();
    match json.as_bytes().first() {
        Some(b'"') => Some(unquote(json)),
        Some(b'n') => None,
        _ => Some(json.to_owned()),
    }
}

/// The members of an object as text; anything but an object has none, null members are left out.
pub fn text_map(value: &RawValue) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    let read = each_field(value.get(), |key, value| {
        if let Some(value) = text(value) {
            map.insert(key.to_owned(), value);
        }
    });
    debug_assert!(read.is_ok(), "a raw value is valid JSON");
    map
}

fn unquote(json: &str) -> String {
    let inner = &json[1..json.len() - 1];
    if !inner.contains('\\') {
        return inner.to_owned();
    }
    serde_json::from_str(json).unwrap_or_else(|_has_lone_surrogate| {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        deserializer
            .deserialize_bytes(LossyText)
            .unwrap_or_default()
    })
}

/// Takes a string whose escapes name half a character; `serde_json` gives those as bytes only.
struct LossyText;

impl Visitor<'_> for LossyText {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(json: &str) -> Option<String> {
        text(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn any_value_is_text() {
        assert_eq!(text_of("\"a\\nb\"").as_deref(), Some("a\nb"));
        assert_eq!(text_of("0").as_deref(), Some("0"));
        assert_eq!(text_of("null"), None);
        assert_eq!(text_of("{\"a\": [1]}").as_deref(), Some("{\"a\": [1]}"));
    }

    #[test]
    fn half_a_character_in_a_name_is_replaced_too() {
        let json = r#"{"a":1,"\ud800":2,"b\n":3}"#;
        let mut names = Vec::new();
        each_field(json, |name, _| names.push(name.to_owned())).unwrap();
        assert_eq!(names.len(), 3);
        assert!(names[1].contains('\u{fffd}'), "{names:?}");
        assert_eq!(names[2], "b\n");
        assert_eq!(text_map(serde_json::from_str(json).unwrap()).len(), 3);
    }

    #[test]
    fn half_a_character_is_replaced() {
        let text = text_of(r#""cut \ud83d""#).unwrap();
        assert!(
            text.starts_with("cut ") && text.contains('\u{fffd}'),
            "{text:?}"
        );
    }

    #[test]
    fn of_a_long_array_only_the_first_elements_are_kept() {
        let (first, all) = elements("[1, [2, 2], {}, 4]", 2).unwrap();
        assert_eq!(
            first.iter().map(|value| value.get()).collect::<Vec<_>>(),
            ["1", "[2, 2]"]
        );
        assert_eq!(all, 4);
        assert_eq!(elements("[]", 2).unwrap().1, 0);
        assert!(elements("[1, 2, 3", 2).is_err());
        assert!(elements("{}", 2).is_err());
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!(
            "{{\"a\":{}1{},\"b\":2}}",
            "[".repeat(200_000),
            "]".repeat(200_000)
        );
        let mut names = Vec::new();
        each_field(&deep, |key, _| names.push(key.to_owned())).unwrap();
        assert_eq!(names, ["a", "b"]);
    }
}
