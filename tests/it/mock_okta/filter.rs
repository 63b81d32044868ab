//! The part of Okta's filter language that a poller of event types needs, really applied.
//!
//! `eventType eq "x"` and `eventType sw "x"`, joined by `or`. Everything else is an error, because
//! a filter that is taken and not applied would hide a mistake.

/// What entries have to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// One of these holds.
    any: Vec<Comparison>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Comparison {
    Equals(String),
    StartsWith(String),
}

impl Filter {
    /// The error says what is not understood.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut rest = text;
        let mut any = Vec::new();
        loop {
            let attribute = word(&mut rest)?;
            if !attribute.eq_ignore_ascii_case("eventType") {
                return Err(format!("field `{attribute}`"));
            }
            let operator = word(&mut rest)?.to_ascii_lowercase();
            let value = quoted(&mut rest)?;
            any.push(match operator.as_str() {
                "eq" => Comparison::Equals(value),
                "sw" => Comparison::StartsWith(value),
                _ => return Err(format!("operator `{operator}`")),
            });
            if rest.trim().is_empty() {
                return Ok(Self { any });
            }
            let joint = word(&mut rest)?;
            if !joint.eq_ignore_ascii_case("or") {
                return Err(format!("`{joint}` where `or` belongs"));
            }
        }
    }

    pub(super) fn lets_through(&self, event_type: &str) -> bool {
        self.any.iter().any(|comparison| match comparison {
            Comparison::Equals(whole) => event_type == whole,
            Comparison::StartsWith(start) => event_type.starts_with(start),
        })
    }
}

/// Takes a word with the space behind it.
fn word<'a>(rest: &mut &'a str) -> Result<&'a str, String> {
    let text = rest.trim_start();
    let (word, after) = text
        .split_once(char::is_whitespace)
        .ok_or_else(|| format!("`{text}` ends too early"))?;
    *rest = after;
    Ok(word)
}

/// Takes a text in quotation marks, and what separates it from the next word.
fn quoted(rest: &mut &str) -> Result<String, String> {
    let text = rest.trim_start();
    let mut characters = text
        .strip_prefix('"')
        .ok_or_else(|| format!("`{text}` where a quotation mark belongs"))?
        .chars();
    let mut value = String::new();
    loop {
        match characters.next() {
            Some('"') => break,
            Some('\\') => value.extend(characters.next()),
            Some(character) => value.push(character),
            None => return Err(format!("`{text}` is not closed")),
        }
    }
    *rest = characters.as_str();
    if rest.is_empty() || rest.starts_with(char::is_whitespace) {
        Ok(value)
    } else {
        Err(format!("`{rest}` directly behind a value"))
    }
}

#[test]
fn a_filter_is_applied_or_refused() {
    let filter = Filter::parse(r#"eventType sw "a.b" or EVENTTYPE EQ "c\"d" "#).unwrap();
    for (event_type, passes) in [
        ("a.b.c", true),
        ("c\"d", true),
        ("c\"de", false),
        ("b", false),
    ] {
        assert_eq!(filter.lets_through(event_type), passes, "{event_type}");
    }
    for refused in [
        "",
        "eventType",
        "eventType sw",
        "eventType sw a",
        r#"eventType sw "a"#,
        r#"eventType co "a""#,
        r#"published eq "a""#,
        r#"eventType eq "a" and eventType eq "b""#,
        r#"eventType eq "a" or"#,
        r#"eventType eq "a"or eventType eq "b""#,
        r#"(eventType eq "a")"#,
    ] {
        Filter::parse(refused).expect_err(refused);
    }
}
