//! What is known of each event type and application: data, and its reader.
//!
//! The data stands in the files beside this one and is built in; adding an event type or an
//! application needs no Rust. Reading checks it: every name is unique and every reference leads
//! somewhere, so look-ups need not. A type that is not listed may still belong to a family.

pub mod nearest;

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use serde::Deserialize;

use crate::domain::catalogue::nearest::distance;
use crate::domain::classification::{
    Category, Cause, Disposition, DocumentedIn, FailureSemantics, Operation, Resource, Responder,
};

static EMBEDDED: LazyLock<Catalogue> = LazyLock::new(|| {
    Catalogue::parse(&Sources {
        event_types: include_str!("event_types.toml"),
        applications: include_str!("applications.toml"),
        legacy_event_types: include_str!("legacy_event_types.tsv"),
        families: include_str!("families.toml"),
    })
    .expect("a test reads the built-in catalogue")
});

/// One event type of Okta's, as far as provisioning is concerned.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of its own in the data"
)]
pub struct EventType {
    pub name: String,
    /// What the event means, in one sentence.
    pub description: String,
    pub category: Category,
    pub operation: Operation,
    pub resource: Resource,
    pub failure_semantics: FailureSemantics,
    /// Okta can send it by event hook; any other type has to be polled for.
    #[serde(default)]
    pub event_hook_eligible: bool,
    /// When it fails, somebody keeps access that was to be taken away.
    #[serde(default)]
    pub removes_access: bool,
    /// Okta Workflows' card "Group Push Failed" is about this type.
    #[serde(default)]
    pub group_push_failure: bool,
    /// Whether Okta tries again by itself; `None` where that is left to the cause.
    pub retried: Option<bool>,
    /// The cause that the type itself names.
    pub cause: Option<Cause>,
    /// Nothing in the event's text changes `cause`; otherwise it is what is usual.
    #[serde(default = "yes")]
    pub cause_is_final: bool,
    #[serde(default)]
    pub typical_causes: Vec<Cause>,
    /// What to do where the cause does not say it better.
    #[serde(default)]
    pub remediation: String,
    /// Who acts where the cause is not known.
    pub responder: Option<Responder>,
    /// Overrides what `usual_disposition()` derives.
    #[serde(rename = "usual_disposition")]
    disposition: Option<Disposition>,
    #[serde(default)]
    pub documented: Vec<DocumentedIn>,
}

const fn yes() -> bool {
    true
}

impl EventType {
    /// The disposition that the data states, if it states one.
    pub fn stated_disposition(&self) -> Option<Disposition> {
        self.disposition
    }

    /// Whether a failure of this type usually passes by itself.
    pub fn usual_disposition(&self) -> Disposition {
        self.disposition
            .unwrap_or_else(|| match (self.failure_semantics, self.retried) {
                (FailureSemantics::Never, _) => Disposition::Informational,
                (_, Some(true)) => Disposition::SelfHealing,
                (_, Some(false)) => Disposition::ActionRequired,
                (_, None) => self.usual_cause().usual().0,
            })
    }

    /// Who usually acts on a failure of this type.
    pub fn usual_responder(&self) -> Responder {
        self.responder
            .unwrap_or_else(|| match self.usual_disposition() {
                Disposition::Informational | Disposition::SelfHealing => Responder::Nobody,
                _ => match self.usual_cause().usual().1 {
                    Responder::Nobody => Responder::OktaAdmin,
                    responder => responder,
                },
            })
    }

    /// What the Okta side needs to grant so that the type can come in.
    pub fn oauth_scopes(&self) -> &'static [&'static str] {
        if self.event_hook_eligible {
            &["okta.logs.read", "okta.eventHooks.manage"]
        } else {
            &["okta.logs.read"]
        }
    }

    fn usual_cause(&self) -> Cause {
        self.cause
            .or_else(|| self.typical_causes.first().copied())
            .unwrap_or(Cause::Unknown)
    }
}

/// An application that Okta provisions to.
#[derive(Debug, Clone)]
pub struct Application {
    pub name: String,
    pub aliases: Vec<String>,
    /// The event types it can emit, sorted.
    pub event_types: Vec<String>,
    /// Okta's list does not name the application: its types are those of most others.
    pub assumed: bool,
}

/// What an unknown event type is taken for, by the way its name begins.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    pub prefix: String,
    pub category: Category,
    pub operation: Option<Operation>,
    pub resource: Option<Resource>,
}

/// Why catalogue data cannot be used; the text says where to mend it.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error("{file} is no valid TOML of its form")]
    Syntax {
        file: &'static str,
        #[source]
        source: toml::de::Error,
    },
    #[error("{file}: {problem}")]
    Inconsistent { file: &'static str, problem: String },
}

/// The texts a catalogue is read from.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    pub event_types: &'a str,
    pub applications: &'a str,
    pub legacy_event_types: &'a str,
    pub families: &'a str,
}

/// All that is known, by name.
#[derive(Debug)]
pub struct Catalogue {
    /// Sorted by name.
    event_types: Vec<EventType>,
    by_name: HashMap<String, usize>,
    applications: Vec<Application>,
    /// Names and aliases in lower case.
    by_application: HashMap<String, usize>,
    /// Old names by the type they became, sorted.
    legacy: HashMap<String, Vec<String>>,
    /// Longest prefix first, so that the first that fits is the most specific.
    families: Vec<Family>,
    /// How the names of the families' types begin.
    prefixes: Vec<String>,
}

impl Catalogue {
    /// The catalogue that is built in.
    pub fn embedded() -> &'static Self {
        &EMBEDDED
    }

    /// Reads a catalogue and checks that it is consistent.
    pub fn parse(sources: &Sources<'_>) -> Result<Self, CatalogueError> {
        let (event_types, by_name) = parse_event_types(sources.event_types)?;
        let (applications, by_application) = parse_applications(sources.applications, &by_name)?;
        let (families, prefixes) = parse_families(sources.families)?;
        Ok(Self {
            event_types,
            by_name,
            applications,
            by_application,
            legacy: parse_legacy(sources.legacy_event_types)?,
            families,
            prefixes,
        })
    }

    pub fn event_type(&self, name: &str) -> Option<&EventType> {
        self.by_name
            .get(name)
            .map(|&index| &self.event_types[index])
    }

    /// The type that a name of Okta's old Events API became; looks through all of them.
    pub fn event_type_once_called(&self, legacy_event_type: &str) -> Option<&EventType> {
        let once = |names: &Vec<String>| names.iter().any(|name| name == legacy_event_type);
        let (name, _) = self.legacy.iter().find(|(_, names)| once(names))?;
        self.event_type(name)
    }

    /// All of them, sorted by name.
    pub fn event_types(&self) -> &[EventType] {
        &self.event_types
    }

    /// All of them, sorted by name.
    pub fn applications(&self) -> &[Application] {
        &self.applications
    }

    /// Finds an application by name or alias, without regard to case.
    pub fn application(&self, name: &str) -> Option<&Application> {
        self.by_application
            .get(&name.trim().to_lowercase())
            .map(|&index| &self.applications[index])
    }

    /// The provisioning family that a type's name puts it in, also where the type is unknown.
    pub fn family(&self, event_type: &str) -> Option<&Family> {
        self.families
            .iter()
            .find(|family| event_type.starts_with(&family.prefix))
    }

    /// What concerns provisioning, by name: how types of the families begin, and the known types
    /// that are of none.
    pub fn coverage(&self) -> (&[String], Vec<&str>) {
        let of_none = |name: &&str| self.family(name).is_none();
        let names = self.event_types.iter().map(|known| known.name.as_str());
        (&self.prefixes, names.filter(of_none).collect())
    }

    /// The applications that can emit a type, by name.
    pub fn applications_emitting(&self, event_type: &str) -> Vec<&str> {
        let emits = |app: &&Application| app.event_types.iter().any(|name| name == event_type);
        self.applications
            .iter()
            .filter(emits)
            .map(|app| app.name.as_str())
            .collect()
    }

    /// The names in Okta's old Events API that became this type, sorted.
    pub fn legacy_event_types(&self, event_type: &str) -> &[String] {
        self.legacy.get(event_type).map_or(&[], Vec::as_slice)
    }

    /// All names of Okta's old Events API that are known, in no order.
    pub fn all_legacy_event_types(&self) -> impl Iterator<Item = &str> {
        self.legacy.values().flatten().map(String::as_str)
    }

    /// Up to `n` known types that a mistaken name may mean, the likeliest first.
    pub fn nearest_event_types(&self, name: &str, n: usize) -> Vec<&str> {
        let names = self
            .event_types
            .iter()
            .map(|known| (known.name.as_str(), known.name.as_str()));
        nearest_of(names, name, n)
    }

    /// Up to `n` known applications that a mistaken name may mean, the likeliest first.
    pub fn nearest_applications(&self, name: &str, n: usize) -> Vec<&str> {
        let names = self.applications.iter().flat_map(|app| {
            let spellings = std::iter::once(&app.name).chain(&app.aliases);
            spellings.map(|spelling| (spelling.as_str(), app.name.as_str()))
        });
        nearest_of(names, name, n)
    }
}

/// The answers whose spelling is nearest; each answer once.
fn nearest_of<'a>(
    spellings: impl Iterator<Item = (&'a str, &'a str)>,
    wanted: &str,
    n: usize,
) -> Vec<&'a str> {
    let mut scored: Vec<_> = spellings
        .filter_map(|(spelling, answer)| Some((distance(wanted, spelling)?, answer)))
        .collect();
    scored.sort_unstable();
    let mut answers = Vec::new();
    for (_, answer) in scored {
        if answers.len() == n {
            break;
        }
        if !answers.contains(&answer) {
            answers.push(answer);
        }
    }
    answers
}

fn inconsistent(file: &'static str, problem: String) -> CatalogueError {
    CatalogueError::Inconsistent { file, problem }
}

fn parse_toml<T: serde::de::DeserializeOwned>(
    file: &'static str,
    text: &str,
) -> Result<T, CatalogueError> {
    toml::from_str(text).map_err(|source| CatalogueError::Syntax { file, source })
}

fn parse_event_types(
    text: &str,
) -> Result<(Vec<EventType>, HashMap<String, usize>), CatalogueError> {
    const FILE: &str = "event_types.toml";

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        event_type: Vec<EventType>,
    }

    let mut event_types = parse_toml::<File>(FILE, text)?.event_type;
    event_types.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = event_types
        .windows(2)
        .find(|pair| pair[0].name == pair[1].name)
    {
        return Err(inconsistent(
            FILE,
            format!("{} stands there twice", pair[0].name),
        ));
    }
    let by_name = event_types
        .iter()
        .enumerate()
        .map(|(index, known)| (known.name.clone(), index))
        .collect();
    Ok((event_types, by_name))
}

fn parse_applications(
    text: &str,
    known: &HashMap<String, usize>,
) -> Result<(Vec<Application>, HashMap<String, usize>), CatalogueError> {
    const FILE: &str = "applications.toml";

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        standard: Standard,
        application: Vec<Row>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Standard {
        event_types: BTreeSet<String>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Row {
        name: String,
        #[serde(default)]
        aliases: Vec<String>,
        inherits: Option<String>,
        #[serde(default)]
        event_types: BTreeSet<String>,
        #[serde(default)]
        with: BTreeSet<String>,
        #[serde(default)]
        without: BTreeSet<String>,
        #[serde(default)]
        assumed: bool,
    }

    let File {
        standard,
        application: rows,
    } = parse_toml::<File>(FILE, text)?;
    let mut applications = Vec::with_capacity(rows.len());
    for row in rows {
        let mut event_types = row.event_types;
        match row.inherits.as_deref() {
            Some("standard") => event_types.extend(standard.event_types.iter().cloned()),
            Some(other) => {
                return Err(inconsistent(
                    FILE,
                    format!("{} inherits an unknown {other}", row.name),
                ));
            }
            None => {}
        }
        event_types.extend(row.with);
        for name in &row.without {
            if !event_types.remove(name) {
                return Err(inconsistent(
                    FILE,
                    format!("{} is without {name}, which it never had", row.name),
                ));
            }
        }
        if let Some(name) = event_types.iter().find(|name| !known.contains_key(*name)) {
            return Err(inconsistent(
                FILE,
                format!("{} emits an unknown {name}", row.name),
            ));
        }
        applications.push(Application {
            name: row.name,
            aliases: row.aliases,
            event_types: event_types.into_iter().collect(),
            assumed: row.assumed,
        });
    }
    applications.sort_by_key(|app| app.name.to_lowercase());

    let mut by_application = HashMap::new();
    for (index, app) in applications.iter().enumerate() {
        for spelling in std::iter::once(&app.name).chain(&app.aliases) {
            if by_application
                .insert(spelling.to_lowercase(), index)
                .is_some_and(|other| other != index)
            {
                return Err(inconsistent(
                    FILE,
                    format!("{spelling} means two applications"),
                ));
            }
        }
    }
    Ok((applications, by_application))
}

fn parse_legacy(text: &str) -> Result<HashMap<String, Vec<String>>, CatalogueError> {
    let mut legacy: HashMap<String, Vec<String>> = HashMap::new();
    for line in text.lines().skip(1).filter(|line| !line.is_empty()) {
        let Some((old, new)) = line.split_once('\t') else {
            return Err(inconsistent(
                "legacy_event_types.tsv",
                format!("{line:?} has no tab"),
            ));
        };
        legacy
            .entry(new.trim().to_owned())
            .or_default()
            .push(old.trim().to_owned());
    }
    for names in legacy.values_mut() {
        names.sort_unstable();
    }
    Ok(legacy)
}

fn parse_families(text: &str) -> Result<(Vec<Family>, Vec<String>), CatalogueError> {
    const FILE: &str = "families.toml";

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        prefixes: Vec<String>,
        #[serde(default)]
        family: Vec<Family>,
    }

    let File {
        prefixes,
        family: mut families,
    } = parse_toml::<File>(FILE, text)?;
    if let Some(stray) = families.iter().find(|family| {
        !prefixes
            .iter()
            .any(|p| family.prefix.starts_with(p.as_str()))
    }) {
        return Err(inconsistent(
            FILE,
            format!("{} begins with none of the prefixes", stray.prefix),
        ));
    }
    for prefix in &prefixes {
        if !families.iter().any(|family| &family.prefix == prefix) {
            families.push(Family {
                prefix: prefix.clone(),
                category: Category::Other,
                operation: None,
                resource: None,
            });
        }
    }
    families.sort_by_key(|family| std::cmp::Reverse(family.prefix.len()));
    Ok((families, prefixes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> &'static Catalogue {
        Catalogue::embedded()
    }

    #[test]
    fn the_built_in_catalogue_has_what_the_seeds_name() {
        for name in [
            "application.integration.rate_limit_exceeded",
            "application.provision.group.remove",
            "application.provision.group_push.mapping.update.or.delete.failed.with.error",
            "application.provision.user.import_profile",
        ] {
            assert!(known().event_type(name).is_some(), "{name}");
        }
        assert!(known().event_types().is_sorted_by(|a, b| a.name < b.name));
        assert!(known().event_type("user.session.start").is_none());
    }

    #[test]
    fn an_event_type_says_what_okta_has_to_grant() {
        let polled = known()
            .event_type("application.provision.group.add")
            .unwrap();
        let hooked = known()
            .event_type("application.provision.user.push")
            .unwrap();
        assert_eq!(polled.oauth_scopes(), ["okta.logs.read"]);
        assert_eq!(
            hooked.oauth_scopes(),
            ["okta.logs.read", "okta.eventHooks.manage"]
        );
    }

    #[test]
    fn an_unknown_type_belongs_to_the_family_its_name_begins_with() {
        let check = |name: &str, expected: Option<Category>| {
            assert_eq!(
                known().family(name).map(|family| family.category),
                expected,
                "{name}"
            );
        };
        check(
            "application.provision.group_membership.replace",
            Some(Category::GroupMembership),
        );
        check("application.provision.user.teleport", Some(Category::User));
        check("system.import.something.new", Some(Category::Import));
        check("user.session.start", None);
        check("", None);
    }

    #[test]
    fn applications_are_found_by_any_spelling() {
        let by_name = known().application("servicenow").unwrap();
        assert_eq!(by_name.name, "ServiceNow");
        assert!(
            by_name
                .event_types
                .iter()
                .any(|name| name == "application.provision.user.push")
        );
        assert!(known().application("no such app").is_none());
        assert!(
            known()
                .applications_emitting("application.integration.transfer_files")
                .contains(&"Box")
        );
    }

    #[test]
    fn a_type_lists_its_old_names() {
        let names = known().legacy_event_types("application.integration.rate_limit_exceeded");
        assert!(
            names
                .iter()
                .any(|name| name == "app.api.error.rate.limit.exceeded")
        );
        assert!(known().legacy_event_types("no.such.type").is_empty());
        for name in names {
            let found = known().event_type_once_called(name).unwrap();
            assert_eq!(found.name, "application.integration.rate_limit_exceeded");
        }
        assert!(known().event_type_once_called("no.such.type").is_none());
    }

    #[test]
    fn a_mistaken_type_finds_the_one_meant() {
        let check = |wrong: &str, expected: &str| {
            let nearest = known().nearest_event_types(wrong, 3);
            assert_eq!(nearest.first(), Some(&expected), "{wrong}: {nearest:?}");
        };
        check("user.push", "application.provision.user.push");
        check(
            "aplication.provision.user.push",
            "application.provision.user.push",
        );
        check(
            "application.provision.users.push",
            "application.provision.user.push",
        );
        check(
            "application.provision.groups.add",
            "application.provision.group.add",
        );
        check(
            "Application.Provision.User.Deactivate",
            "application.provision.user.deactivate",
        );
        check(
            "group_memberships.remove",
            "application.provision.group_membership.remove",
        );
        check(
            "application.integrations.rate_limit",
            "application.integration.rate_limit_exceeded",
        );
        assert!(
            known()
                .nearest_event_types("zzzzzzzzzzzzzzzzzzzzzzzz", 3)
                .is_empty()
        );
        assert!(
            known()
                .nearest_event_types(&"x".repeat(1_000_000), 3)
                .is_empty()
        );
        assert!(known().nearest_event_types("", 3).is_empty());
    }

    #[test]
    fn a_mistaken_application_finds_the_one_meant() {
        let check = |wrong: &str, expected: &str| {
            let nearest = known().nearest_applications(wrong, 3);
            assert_eq!(nearest.first(), Some(&expected), "{wrong}: {nearest:?}");
        };
        check("Sales force", "Salesforce");
        check("Servicenows", "ServiceNow");
        check("drop box", "Dropbox");
    }

    #[test]
    fn data_that_leads_nowhere_is_refused() {
        let good = Sources {
            event_types: "event_type = []",
            applications: "application = []\n[standard]\nevent_types = []",
            legacy_event_types: "",
            families: "prefixes = []",
        };
        assert!(Catalogue::parse(&good).is_ok());
        let check = |sources: &Sources<'_>, expected: &str| {
            let error = Catalogue::parse(sources).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(
            &Sources {
                event_types: "event_type = 1",
                ..good
            },
            "event_types.toml",
        );
        check(
            &Sources {
                applications: "[standard]\nevent_types=[]\n[[application]]\nname='A'\nevent_types=['x']",
                ..good
            },
            "unknown x",
        );
        check(
            &Sources {
                applications: "[standard]\nevent_types=[]\n[[application]]\nname='A'\n[[application]]\nname='B'\naliases=['a']",
                ..good
            },
            "two applications",
        );
        check(
            &Sources {
                legacy_event_types: "a\tb\nc",
                ..good
            },
            "no tab",
        );
        check(
            &Sources {
                families: "prefixes=['a.']\n[[family]]\nprefix='b.'\ncategory='USER'",
                ..good
            },
            "b.",
        );
    }
}
