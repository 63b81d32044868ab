//! The values that options take: each is written as one text, the same in a file, in a variable
//! and on the command line, and written back in the same form.
//!
//! Reading checks the form alone; what several options have to agree on is checked where they
//! meet.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::secret::Secret;

/// A value of an option.
pub(super) trait Value: Sized {
    /// Reads the value, or says in a sentence's end what it has to be ("must be …").
    fn read(text: &str) -> Result<Self, String>;
    /// The value as TOML.
    fn toml(&self) -> String;
    /// Whether it is a secret, which is not shown.
    fn is_hidden(&self) -> bool {
        false
    }
}

/// Whether a URL says where something is and no more: no login, no query, no fragment.
pub(super) fn is_bare(url: &reqwest::Url) -> bool {
    url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
}

/// A number of bytes. Written as plain bytes or with a unit: `512KiB`, `16MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// The longest first, so that the first that divides a size is the one to write it in.
const UNITS: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

/// Decimal units, and the binary ones as Kubernetes writes them.
const OTHER_UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
];

impl ByteSize {
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    pub const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    /// The size as a length in memory; what no memory holds counts as all of it.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS
            .iter()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        match unit {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A text that is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a number of bytes, with or without a unit, such as 65536, 512KiB or 16MiB")]
pub struct InvalidByteSize;

impl FromStr for ByteSize {
    type Err = InvalidByteSize;

    fn from_str(text: &str) -> Result<Self, InvalidByteSize> {
        let digits = text
            .find(|c: char| !c.is_ascii_digit() && c != '_')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number
            .replace('_', "")
            .parse()
            .map_err(|_no_number| InvalidByteSize)?;
        let unit = unit.trim_start();
        UNITS
            .iter()
            .chain(&OTHER_UNITS)
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .and_then(|(_, factor)| number.checked_mul(*factor))
            .map(Self)
            .ok_or(InvalidByteSize)
    }
}

impl Value for ByteSize {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|error: InvalidByteSize| error.to_string())
    }

    fn toml(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Value for SocketAddr {
    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_no_address| {
            "must be an IP address and a port, such as 127.0.0.1:50051 or [::1]:50051".to_owned()
        })
    }

    fn toml(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Value for bool {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_no_boolean| "must be true or false".to_owned())
    }

    fn toml(&self) -> String {
        self.to_string()
    }
}

impl Value for u32 {
    fn read(text: &str) -> Result<Self, String> {
        match text.replace('_', "").parse() {
            Ok(0) | Err(_) => Err(format!("must be a whole number from 1 to {}", u32::MAX)),
            Ok(number) => Ok(number),
        }
    }

    fn toml(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    fn read(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn toml(&self) -> String {
        quoted(self)
    }
}

impl Value for Duration {
    fn read(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map_err(|_no_duration| {
            "must be a length of time with its unit, such as 500ms, 20s or 1h 30m".to_owned()
        })
    }

    fn toml(&self) -> String {
        quoted(&in_one_unit(*self))
    }
}

/// In the largest unit that goes into it, as people write settings; humantime would count in months
/// of 30.44 days.
fn in_one_unit(duration: Duration) -> String {
    const UNITS: [(u128, &str); 5] = [
        (24 * 3_600_000, "days"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1000, "s"),
        (1, "ms"),
    ];
    let millis = duration.as_millis();
    let mut units = UNITS
        .iter()
        .filter(|(unit, _)| millis.is_multiple_of(*unit));
    match units.next() {
        _ if duration.is_zero() => "0s".to_owned(),
        Some((unit, name)) if duration.subsec_nanos().is_multiple_of(1_000_000) => {
            format!("{}{name}", millis / unit)
        }
        _ => humantime::format_duration(duration).to_string(),
    }
}

impl Value for PathBuf {
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("must be a path, here it is empty".to_owned());
        }
        Ok(Self::from(text))
    }

    fn toml(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

/// Nothing, where the text is empty.
impl Value for Option<PathBuf> {
    fn read(text: &str) -> Result<Self, String> {
        Ok(Some(text)
            .filter(|text| !text.is_empty())
            .map(PathBuf::from))
    }

    fn toml(&self) -> String {
        quoted(&self.as_deref().unwrap_or(Path::new("")).to_string_lossy())
    }
}

/// Nothing, where the text is empty.
impl Value for Option<Secret> {
    fn read(text: &str) -> Result<Self, String> {
        Ok(Some(text)
            .filter(|text| !text.is_empty())
            .map(Secret::of_text))
    }

    fn toml(&self) -> String {
        quoted("")
    }

    fn is_hidden(&self) -> bool {
        self.is_some()
    }
}

/// An option with a few values that have names.
macro_rules! choice {
    ($(#[$meta:meta])* $choice:ident { $($(#[$doc:meta])* $value:ident = $name:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $choice { $($(#[$doc])* $value,)* }

        impl $choice {
            pub const fn name(self) -> &'static str {
                match self { $(Self::$value => $name,)* }
            }
        }

        impl $crate::config::value::Value for $choice {
            fn read(text: &str) -> Result<Self, String> {
                match text {
                    $($name => Ok(Self::$value),)*
                    _ => Err(format!("must be one of {}", [$($name),*].join(", "))),
                }
            }

            fn toml(&self) -> String {
                $crate::config::value::quoted(self.name())
            }
        }
    };
}
pub(super) use choice;

/// A text as a TOML string.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                write!(quoted, "\\u{:04X}", u32::from(c)).expect("a string takes any text");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_size_may_have_a_unit() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(text.parse().ok(), expected.map(ByteSize), "{text}");
        };
        check("0", Some(0));
        check("65_536", Some(65_536));
        check("512KiB", Some(512 << 10));
        check("16 MiB", Some(16 << 20));
        check("16mib", Some(16 << 20));
        check("2Gi", Some(2 << 30));
        check("1MB", Some(1_000_000));
        check("", None);
        check("MiB", None);
        check("-1", None);
        check("1.5MiB", None);
        check("16 megabytes", None);
        check("99999999TiB", None);
    }

    proptest! {
        #[test]
        fn a_size_is_written_as_it_is_read(bytes: u64) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }

        #[test]
        fn any_text_is_quoted_as_toml_reads_it(text: String) {
            let file = format!("key = {}", quoted(&text));
            let table: toml::Table = file.parse().unwrap();
            prop_assert_eq!(table["key"].as_str(), Some(text.as_str()));
        }
    }
}
