//! Where options are given: a TOML file, variables, flags; the strongest of them for each option.
//!
//! Values are still texts here. Names are checked: what is no option is a problem, so that a
//! slip of the pen is never passed over in silence.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::orgs::OrgEntry;
use super::{Config, Problem, SHORT, variable};

/// Variables that are no options of `serve`.
const OTHER_VARIABLES: [&str; 4] = [
    "PROVIDENT_CONFIG",
    "PROVIDENT_SERVER",
    "PROVIDENT_OUTPUT",
    // Tests name the program by it.
    "PROVIDENT_BIN",
];

/// What the command line gave.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub given: Vec<Flag>,
}

/// One option given on the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// With its dashes.
    pub name: &'static str,
    /// The option that it sets.
    pub path: &'static str,
    pub value: String,
}

/// What client commands take from the environment.
#[derive(Clone, Debug, Default)]
pub struct ClientDefaults {
    /// `PROVIDENT_SERVER`.
    pub server: Option<String>,
    /// `PROVIDENT_OUTPUT`.
    pub output: Option<String>,
}

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Origin {
    #[default]
    Default,
    File {
        path: PathBuf,
        line: usize,
    },
    Variable(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A value as it was written.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// What was given for each option, and what is wrong with it.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) given: BTreeMap<&'static str, Given>,
    pub(super) orgs: Vec<OrgEntry>,
    pub(super) orgs_origin: Origin,
    pub(super) problems: Vec<Problem>,
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            given: BTreeMap::new(),
            orgs: Vec::new(),
            orgs_origin: Origin::Default,
            problems: Vec::new(),
        }
    }
}

/// The variables of ours.
pub(super) fn environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os()
        .filter(|(name, _)| name.to_string_lossy().starts_with("PROVIDENT_"))
        .collect()
}

/// Reads what client commands take from the environment; an empty variable counts as none.
pub fn client_defaults() -> ClientDefaults {
    let mut defaults = ClientDefaults::default();
    for (name, value) in environment() {
        let value = value.to_string_lossy().into_owned();
        match name.to_str() {
            _ if value.is_empty() => {}
            Some("PROVIDENT_SERVER") => defaults.server = Some(value),
            Some("PROVIDENT_OUTPUT") => defaults.output = Some(value),
            _ => {}
        }
    }
    defaults
}

impl Sources {
    /// Lays flags over variables over the file.
    pub(super) fn read(flags: Flags, mut variables: Vec<(OsString, OsString)>) -> Self {
        let mut sources = Self::default();
        variables.sort();
        let named = variables
            .iter()
            .find(|(name, value)| name == "PROVIDENT_CONFIG" && !value.is_empty());
        let file = flags
            .config
            .map(|path| (path, "--config"))
            .or_else(|| named.map(|(_, value)| (PathBuf::from(value), "PROVIDENT_CONFIG")));
        if let Some((path, origin)) = file {
            match std::fs::read_to_string(&path) {
                Ok(text) => sources.file(&path, &text),
                Err(error) => sources.problem(
                    origin,
                    "",
                    format!("can't read {}: {error}", path.display()),
                ),
            }
        }
        sources.variables(variables);
        sources.check_orgs();
        for Flag { name, path, value } in flags.given {
            sources.given.insert(
                path,
                Given {
                    text: value,
                    origin: Origin::Flag(name),
                },
            );
        }
        sources
    }

    fn problem(&mut self, place: impl fmt::Display, key: &str, problem: impl Into<String>) {
        self.problems.push(Problem {
            place: place.to_string(),
            key: key.to_owned(),
            problem: problem.into(),
        });
    }

    fn variables(&mut self, variables: Vec<(OsString, OsString)>) {
        let mut names: BTreeMap<String, &'static str> = Config::keys()
            .map(|key| (key.variable(), key.path))
            .collect();
        names.extend(SHORT.map(|(name, path)| (name.to_owned(), path)));
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            if OTHER_VARIABLES.contains(&name.as_str()) || is_service_link(&name) {
                continue;
            }
            let Ok(text) = value.into_string() else {
                self.problem(&name, "", "is no UTF-8 text");
                continue;
            };
            if name == variable("orgs") {
                self.orgs = text
                    .split(',')
                    .map(str::trim)
                    .filter(|org| !org.is_empty())
                    .map(|org| {
                        let (name, aliases) = org.split_once('=').unwrap_or((org, ""));
                        let mut entry = OrgEntry::at(Origin::Variable(variable("orgs")));
                        name.clone_into(&mut entry.name);
                        entry.aliases = aliases
                            .split('+')
                            .filter(|alias| !alias.is_empty())
                            .map(str::to_owned)
                            .collect();
                        entry
                    })
                    .collect();
                self.orgs_origin = Origin::Variable(name);
                continue;
            }
            let Some(&path) = names.get(&name) else {
                self.problem(&name, "", unknown_variable(&name));
                continue;
            };
            let origin = Origin::Variable(name);
            // Sorting puts a short form and its long form apart, so either may come first.
            if let Some(Given {
                text: other,
                origin: at @ Origin::Variable(_),
            }) = self.given.get(path)
                && *other != text
            {
                let problem = format!("is also set by {at}, to something else");
                self.problem(&origin, path, problem);
            }
            self.given.insert(path, Given { text, origin });
        }
    }

    fn file(&mut self, path: &Path, text: &str) {
        let line = |offset: usize| 1 + text[..offset.min(text.len())].matches('\n').count();
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let at = Origin::File {
                path: path.to_owned(),
                line: error.span().map_or(1, |span| line(span.start)),
            };
            self.problem(at, "", error.message().replace('\n', ", "));
        }
        if !errors.is_empty() {
            // What could be read may be in the wrong table: judging it would mislead.
            return;
        }
        for (section, content) in table.get_ref() {
            let name = section.get_ref().as_ref();
            let at = |offset| Origin::File {
                path: path.to_owned(),
                line: line(offset),
            };
            let section_at = at(section.span().start);
            if name == "orgs" {
                self.file_orgs(content.get_ref(), section_at, &at);
                continue;
            }
            let keys: Vec<_> = Config::keys()
                .filter(|key| key.path.split('.').next() == Some(name))
                .collect();
            if keys.is_empty() {
                self.problem(section_at, name, unknown_section());
                continue;
            }
            let Some(content) = content.get_ref().as_table() else {
                self.problem(section_at, name, format!("is a section: write [{name}]"));
                continue;
            };
            for (key, value) in content {
                let at = at(key.span().start);
                let path = format!("{name}.{}", key.get_ref());
                let Some(known) = keys.iter().find(|known| known.path == path) else {
                    self.problem(at, &path, unknown_key(name));
                    continue;
                };
                match scalar(value.get_ref()) {
                    Some(text) => {
                        self.given.insert(known.path, Given { text, origin: at });
                    }
                    None => self.problem(at, &path, "takes one value, not a list or a table"),
                }
            }
        }
    }

    fn file_orgs(&mut self, content: &DeValue<'_>, at: Origin, line: &dyn Fn(usize) -> Origin) {
        let Some(orgs) = content.as_array() else {
            self.problem(at, "orgs", "is a list: write [[orgs]] before each org");
            return;
        };
        for org in orgs {
            let here = line(org.span().start);
            let Some(table) = org.get_ref().as_table() else {
                self.problem(here, "orgs", "an org is a table with `name` and `aliases`");
                continue;
            };
            let mut read = OrgEntry::at(here.clone());
            for (key, value) in table {
                let at = line(key.span().start);
                let value = value.get_ref();
                let key = key.get_ref().as_ref();
                if let Some(text) = read.text(key) {
                    match value.as_str() {
                        Some(value) => value.clone_into(text),
                        None => self.problem(at, &format!("orgs.{key}"), "must be text"),
                    }
                    continue;
                }
                match key {
                    "aliases" => {
                        let texts = value.as_array().and_then(|items| {
                            items
                                .iter()
                                .map(|item| item.get_ref().as_str().map(str::to_owned))
                                .collect::<Option<Vec<_>>>()
                        });
                        match texts {
                            Some(texts) => read.aliases = texts,
                            None => self.problem(at, "orgs.aliases", "must be a list of texts"),
                        }
                    }
                    other => self.problem(
                        at,
                        &format!("orgs.{other}"),
                        format!(
                            "is not known; an org has {}, aliases",
                            OrgEntry::KEYS.join(", ")
                        ),
                    ),
                }
            }
            if read.name.is_empty() {
                self.problem(
                    &here,
                    "orgs",
                    "an org needs its `name`, such as \"acme.okta.com\"",
                );
            } else {
                self.orgs.push(read);
            }
        }
        self.orgs_origin = at;
    }

    /// Hosts are hosts, and mean one org each.
    fn check_orgs(&mut self) {
        let mut problems = Vec::new();
        let mut seen = BTreeMap::new();
        for org in &self.orgs {
            for host in std::iter::once(&org.name).chain(&org.aliases) {
                if !is_host(host) {
                    problems.push(format!("{host:?} is not a host name such as acme.okta.com"));
                }
                match seen.insert(host.to_ascii_lowercase(), &org.name) {
                    Some(other) if other != &org.name => {
                        problems.push(format!("{host} means both {other} and {}", org.name));
                    }
                    Some(_) => problems.push(format!("{host} stands there twice")),
                    None => {}
                }
            }
        }
        let origin = self.orgs_origin.clone();
        for problem in problems {
            self.problem(&origin, "orgs", problem);
        }
    }
}

pub(super) fn is_host(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(plain)
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => text.as_ref().to_owned(),
        DeValue::Integer(number) => {
            let (digits, radix) = (number.as_str(), number.radix());
            match i64::from_str_radix(digits, radix) {
                Ok(number) => number.to_string(),
                Err(_too_large) => digits.to_owned(),
            }
        }
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}

fn unknown_section() -> String {
    let mut sections: Vec<_> = Config::keys()
        .filter_map(|key| key.path.split('.').next())
        .collect();
    sections.dedup();
    format!(
        "is not known; the sections are {}, orgs",
        sections.join(", ")
    )
}

fn unknown_key(section: &str) -> String {
    let keys: Vec<_> = Config::keys()
        .filter_map(|key| key.path.strip_prefix(section)?.strip_prefix('.'))
        .collect();
    format!("is not known; [{section}] has {}", keys.join(", "))
}

fn unknown_variable(name: &str) -> String {
    let section = name
        .strip_prefix("PROVIDENT_")
        .and_then(|rest| rest.split('_').next())
        .unwrap_or_default()
        .to_ascii_lowercase();
    let close: Vec<_> = Config::keys()
        .filter(|key| key.path.split('.').next() == Some(section.as_str()))
        .map(super::Key::variable)
        .collect();
    if close.is_empty() {
        "is no option's variable; `provident check-config --explain` lists the options, an option \
         `key` of [section] is PROVIDENT_SECTION_KEY"
            .to_owned()
    } else {
        format!("is no option's variable; there are {}", close.join(", "))
    }
}

/// Whether Kubernetes puts the variable into every pod beside a Service called `provident…`.
fn is_service_link(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("PROVIDENT") else {
        return false;
    };
    let is_port = |rest: &str| {
        let mut parts = rest.split('_');
        parts
            .next()
            .is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
            && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
            && matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"))
            && parts.next().is_none()
    };
    rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || rest.contains("_SERVICE_PORT_")
        || rest.ends_with("_PORT")
        || rest
            .match_indices("_PORT_")
            .any(|(at, port)| is_port(&rest[at + port.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_links_are_told_from_options() {
        for link in [
            "PROVIDENT_SERVICE_HOST",
            "PROVIDENT_SERVICE_PORT",
            "PROVIDENT_SERVICE_PORT_GRPC",
            "PROVIDENT_PORT",
            "PROVIDENT_PORT_50051_TCP",
            "PROVIDENT_PORT_50051_TCP_PROTO",
            "PROVIDENT_ADMIN_PORT_9090_TCP_ADDR",
            "PROVIDENT_ADMIN_SERVICE_HOST",
        ] {
            assert!(is_service_link(link), "{link}");
        }
        for key in Config::keys() {
            assert!(!is_service_link(&key.variable()), "{}", key.path);
        }
        for (name, _) in SHORT {
            assert!(!is_service_link(name), "{name}");
        }
        assert!(!is_service_link("PROVIDENT_PORT_GRPC"));
    }
}
