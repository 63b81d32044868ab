//! Which org an event is of: the org's Okta host in lower case, whatever way the event came.
//!
//! The configuration names the orgs and maps their custom domains and test addresses to them.
//! Without configured orgs any host is taken as it is.

use std::collections::{BTreeMap, BTreeSet};

/// The org of events that name none, where no org is configured.
pub const DEFAULT_ORG: &str = "default";

/// The configured orgs and their other names.
#[derive(Clone, Debug, Default)]
pub struct Orgs {
    names: BTreeSet<String>,
    aliases: BTreeMap<String, String>,
}

/// Why an org can't be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrgError {
    #[error("{0:?} is not a host name")]
    Malformed(String),
    #[error("{given:?} is none of the configured orgs ({known})")]
    Unknown { given: String, known: String },
    #[error("several orgs are configured ({known}), say which one it is")]
    Ambiguous { known: String },
    #[error("the event is of org {named:?}, the call is for {expected:?}")]
    Mismatch { named: String, expected: String },
}

/// The org that a call is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOrg {
    Known(String),
    /// None was given and none is configured: what an event names counts.
    Open,
}

impl Orgs {
    /// Takes the configured orgs: each name with its aliases.
    pub fn new<'a>(
        orgs: impl IntoIterator<Item = (&'a str, &'a [String])>,
    ) -> Result<Self, OrgError> {
        let mut all = Self::default();
        for (name, aliases) in orgs {
            let name = host(name).ok_or_else(|| OrgError::Malformed(name.to_owned()))?;
            for alias in aliases {
                let alias = host(alias).ok_or_else(|| OrgError::Malformed(alias.clone()))?;
                all.aliases.insert(alias, name.clone());
            }
            all.names.insert(name);
        }
        Ok(all)
    }

    /// The org that a host, a URL or an alias names.
    pub fn resolve(&self, text: &str) -> Result<String, OrgError> {
        let host = host(text).ok_or_else(|| OrgError::Malformed(text.to_owned()))?;
        let name = self.aliases.get(&host).unwrap_or(&host);
        if self.names.is_empty() || self.names.contains(name) {
            Ok(name.clone())
        } else {
            Err(OrgError::Unknown {
                given: host,
                known: self.known(),
            })
        }
    }

    /// The org of a call that gives `text`, which may be empty.
    pub fn of_call(&self, text: &str) -> Result<CallOrg, OrgError> {
        if !text.is_empty() {
            return self.resolve(text).map(CallOrg::Known);
        }
        let mut names = self.names.iter();
        match (names.next(), names.next()) {
            (None, _) => Ok(CallOrg::Open),
            (Some(only), None) => Ok(CallOrg::Known(only.clone())),
            _ => Err(OrgError::Ambiguous {
                known: self.known(),
            }),
        }
    }

    /// The org of an event that names `named` (empty: none) in a call for `call`.
    pub fn of_event(&self, call: &CallOrg, named: &str) -> Result<String, OrgError> {
        match (call, named) {
            (CallOrg::Known(org), "") => Ok(org.clone()),
            (CallOrg::Open, "") => Ok(DEFAULT_ORG.to_owned()),
            (CallOrg::Open, named) => self.resolve(named),
            (CallOrg::Known(org), named) => {
                let mismatch = |named: String| OrgError::Mismatch {
                    named,
                    expected: org.clone(),
                };
                match self.resolve(named) {
                    Ok(resolved) if resolved == *org => Ok(resolved),
                    Ok(resolved) => Err(mismatch(resolved)),
                    Err(OrgError::Unknown { given, .. }) => Err(mismatch(given)),
                    Err(error) => Err(error),
                }
            }
        }
    }

    fn known(&self) -> String {
        self.names
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// The host of a URL or of `host[:port]`, in lower case.
fn host(text: &str) -> Option<String> {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority
        .split(':')
        .next()
        .unwrap_or_default()
        .trim_end_matches('.');
    let valid = !host.is_empty()
        && host.len() <= 253
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    valid.then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Orgs {
        let aliases = ["Login.Acme.com".to_owned()];
        Orgs::new([("acme.okta.com", aliases.as_slice()), ("b.okta.com", &[])]).unwrap()
    }

    #[test]
    fn an_org_is_its_host_in_lower_case_whatever_names_it() {
        let any = Orgs::default();
        for text in [
            "Acme.Okta.com",
            "https://acme.okta.com/api/v1/eventHooks/x",
            "acme.okta.com:443",
        ] {
            assert_eq!(any.resolve(text).as_deref(), Ok("acme.okta.com"));
        }
        assert_eq!(
            two().resolve("https://login.acme.com/x").as_deref(),
            Ok("acme.okta.com")
        );
        assert!(matches!(
            two().resolve("c.okta.com"),
            Err(OrgError::Unknown { .. })
        ));
        assert!(matches!(any.resolve("a b"), Err(OrgError::Malformed(_))));
    }

    #[test]
    fn an_empty_org_is_the_only_one_there_is() {
        assert_eq!(Orgs::default().of_call(""), Ok(CallOrg::Open));
        let one = Orgs::new([("acme.okta.com", [].as_slice())]).unwrap();
        assert_eq!(one.of_call(""), Ok(CallOrg::Known("acme.okta.com".into())));
        assert!(matches!(two().of_call(""), Err(OrgError::Ambiguous { .. })));
    }

    #[test]
    fn an_event_of_another_org_is_a_mismatch() {
        let call = two().of_call("acme.okta.com").unwrap();
        assert_eq!(
            two().of_event(&call, "login.acme.com").as_deref(),
            Ok("acme.okta.com")
        );
        for other in ["b.okta.com", "elsewhere.okta.com"] {
            assert!(matches!(
                two().of_event(&call, other),
                Err(OrgError::Mismatch { .. })
            ));
        }
        let any = Orgs::default();
        assert_eq!(any.of_event(&CallOrg::Open, "").as_deref(), Ok(DEFAULT_ORG));
        assert_eq!(
            any.of_event(&CallOrg::Open, "https://A.okta.com/")
                .as_deref(),
            Ok("a.okta.com")
        );
    }
}
