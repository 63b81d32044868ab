//! The orgs that events come from, each with what its ways in need: `[[orgs]]`, and the short forms
//! for one org in `[hook]` and `[okta]`.
//!
//! What an org lacks for a way in, or has twice, is a problem. Files of secrets have to be
//! readable at the start, so that a slip of the pen is not found out by the first failure.

use std::path::Path;
use std::sync::Arc;

use super::secret::{Secret, UnreadableSecret};
use super::sources::{Origin, is_host};
use super::value::{is_bare, quoted};
use super::{Config, OktaConfig, Reader};

/// An org that events come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrgConfig {
    /// Its Okta host, such as `acme.okta.com`.
    pub name: String,
    /// Hosts that mean it too: custom domains, test addresses.
    pub aliases: Vec<String>,
    /// What its event hooks' deliveries have to hold.
    pub hook: HookSecrets,
    /// Where its System Log is polled; none: it is not.
    pub api: Option<ApiConfig>,
}

/// The secrets of an org's event hooks. Without any, none is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookSecrets {
    pub current: Option<Secret>,
    /// Still valid while the one in Okta is changed.
    pub previous: Option<Secret>,
}

impl HookSecrets {
    /// Those that are valid now. A previous one whose file is gone or empty is none: so it is taken
    /// away while the service runs.
    pub fn valid(&self) -> impl Iterator<Item = Result<Arc<str>, UnreadableSecret>> {
        let read = |secret: &Option<Secret>| secret.as_ref().map(Secret::read);
        let is_there = |read: &Result<_, UnreadableSecret>| {
            read.as_ref().err().is_none_or(|error| !error.is_gone())
        };
        let current = read(&self.current).into_iter();
        current.chain(read(&self.previous).filter(is_there))
    }
}

/// Where and how an org's API is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// `https://HOST`, or plain HTTP to a loopback address.
    pub url: String,
    pub login: LoginConfig,
}

/// How to log in to an org's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginConfig {
    ApiToken(Secret),
    Oauth {
        client_id: String,
        private_key: Secret,
        /// `kid`; none: a JWK's own, or none at all.
        private_key_id: Option<String>,
    },
}

/// An org as `[[orgs]]` has it; absent texts are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OrgEntry {
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    hook_secret_file: String,
    hook_previous_secret_file: String,
    url: String,
    api_token_file: String,
    client_id: String,
    private_key_file: String,
    private_key_id: String,
    origin: Origin,
}

impl OrgEntry {
    /// The keys whose values are texts.
    pub(super) const KEYS: [&str; 8] = [
        "name",
        "hook_secret_file",
        "hook_previous_secret_file",
        "url",
        "api_token_file",
        "client_id",
        "private_key_file",
        "private_key_id",
    ];

    /// An org that is written there, with nothing said of it yet.
    pub(super) fn at(origin: Origin) -> Self {
        Self {
            origin,
            ..Self::default()
        }
    }

    /// The text of a key, if it is one of [`OrgEntry::KEYS`].
    pub(super) fn text(&mut self, key: &str) -> Option<&mut String> {
        let index = Self::KEYS.iter().position(|known| *known == key)?;
        Some(self.texts_mut()[index])
    }

    fn texts_mut(&mut self) -> [&mut String; 8] {
        // In the order of `KEYS`.
        [
            &mut self.name,
            &mut self.hook_secret_file,
            &mut self.hook_previous_secret_file,
            &mut self.url,
            &mut self.api_token_file,
            &mut self.client_id,
            &mut self.private_key_file,
            &mut self.private_key_id,
        ]
    }

    /// The lines of the org in a file.
    pub(super) fn to_toml(&self) -> Vec<String> {
        let aliases: Vec<_> = self.aliases.iter().map(|alias| quoted(alias)).collect();
        let mut entry = self.clone();
        let mut lines: Vec<_> = Self::KEYS
            .iter()
            .zip(entry.texts_mut())
            .filter(|(_, text)| !text.is_empty())
            .map(|(key, text)| format!("{key} = {}", quoted(text)))
            .collect();
        lines.insert(1, format!("aliases = [{}]", aliases.join(", ")));
        lines
    }
}

/// What a way to log in is made of, and the options that say it.
struct Login {
    token: Option<Secret>,
    client_id: String,
    key: Option<Secret>,
    key_id: String,
}

impl Reader {
    /// Makes the orgs of `[[orgs]]` and the short forms, and looks whether they are polled where they
    /// are.
    pub(super) fn join_orgs(&mut self, config: &mut Config, okta: OktaConfig) {
        self.make_orgs(config, okta);
        for org in &config.orgs {
            let host = org.api.as_ref().map(|api| host_of(&api.url));
            let Some(host) = host.filter(|host| !is_loopback(host)) else {
                continue;
            };
            let mut names = std::iter::once(&org.name).chain(&org.aliases);
            if !names.any(|name| name.eq_ignore_ascii_case(&host)) {
                self.warnings.push(format!(
                    "{} is polled at {host}, which is none of its names: is that its URL? If so, add it \
                     to its `aliases`",
                    org.name
                ));
            }
        }
    }

    fn make_orgs(&mut self, config: &mut Config, okta: OktaConfig) {
        let entries = self.sources.orgs.clone();
        let mut orgs: Vec<_> = entries.into_iter().map(|entry| self.org(entry)).collect();
        let hook = &config.hook;
        let short_hook = HookSecrets {
            current: self.one_of(
                "hook.secret",
                hook.secret.clone(),
                hook.secret_file.as_deref(),
            ),
            previous: self.one_of(
                "hook.previous_secret",
                hook.previous_secret.clone(),
                hook.previous_secret_file.as_deref(),
            ),
        };
        if short_hook.current.is_none() && short_hook.previous.is_some() {
            let origin = self.origin("hook.previous_secret");
            self.problem(
                &origin,
                "hook.previous_secret",
                "needs hook.secret beside it",
            );
        }
        let short_api = self.short_api(okta);
        if short_hook == HookSecrets::default() && short_api.is_none() {
            config.orgs = orgs;
            return;
        }
        match orgs.as_mut_slice() {
            [] => match short_api {
                // The org is the one that is polled.
                Some(api) => orgs.push(OrgConfig {
                    name: host_of(&api.url),
                    hook: short_hook,
                    api: Some(api),
                    ..OrgConfig::default()
                }),
                None => config.hook_of_any_org = short_hook,
            },
            [only] => {
                let twice = (only.hook.current.is_some() && short_hook.current.is_some())
                    || (only.api.is_some() && short_api.is_some());
                if short_hook.current.is_some() {
                    only.hook = short_hook;
                }
                only.api = only.api.take().or(short_api);
                if twice {
                    let origin = self.sources.orgs_origin.clone();
                    self.problem(
                        &origin,
                        "orgs",
                        "says what [hook] or [okta] says too: leave one of them out",
                    );
                }
            }
            _ => {
                let origin = self.sources.orgs_origin.clone();
                self.problem(
                    &origin,
                    "orgs",
                    "there are several, so [hook] and [okta] can't tell whose secret or URL is meant: give \
                     each of [[orgs]] its `hook_secret_file`, or its `url` and login",
                );
            }
        }
        config.orgs = orgs;
    }

    fn org(&mut self, entry: OrgEntry) -> OrgConfig {
        let at = entry.origin.clone();
        let file = |text: &str| (!text.is_empty()).then(|| Secret::of_file(text.as_ref()));
        let secrets = [
            ("orgs.hook_secret_file", &entry.hook_secret_file),
            (
                "orgs.hook_previous_secret_file",
                &entry.hook_previous_secret_file,
            ),
            ("orgs.api_token_file", &entry.api_token_file),
            ("orgs.private_key_file", &entry.private_key_file),
        ];
        let [current, previous, token, key] = secrets.map(|(path, text)| {
            let secret = file(text);
            self.readable(&at, path, secret.as_ref());
            secret
        });
        if current.is_none() && previous.is_some() {
            let problem = "needs hook_secret_file beside it";
            self.problem(&at, "orgs.hook_previous_secret_file", problem);
        }
        let login = Login {
            token,
            client_id: entry.client_id,
            key,
            key_id: entry.private_key_id,
        };
        let api = self.api(&at, "orgs.url", &entry.url, login);
        OrgConfig {
            name: entry.name,
            aliases: entry.aliases,
            hook: HookSecrets { current, previous },
            api,
        }
    }

    fn short_api(&mut self, okta: OktaConfig) -> Option<ApiConfig> {
        let token = self.one_of(
            "okta.api_token",
            okta.api_token,
            okta.api_token_file.as_deref(),
        );
        let key = okta.private_key_file.as_deref().map(Secret::of_file);
        let key_at = self.origin("okta.private_key_file");
        self.readable(&key_at, "okta.private_key_file", key.as_ref());
        let login = Login {
            token,
            client_id: okta.client_id,
            key,
            key_id: okta.private_key_id,
        };
        let at = self.origin("okta.org_url");
        self.api(&at, "okta.org_url", &okta.org_url, login)
    }

    /// Where an org is polled, if anything says so.
    fn api(&mut self, at: &Origin, path: &str, url: &str, login: Login) -> Option<ApiConfig> {
        let Login {
            token,
            client_id,
            key,
            key_id,
        } = login;
        let section = path.split('.').next().unwrap_or_default();
        if url.is_empty() {
            if token.is_some() || key.is_some() || !client_id.is_empty() {
                self.problem(
                    at,
                    path,
                    "is missing: a login is set, but not the org's URL such as https://acme.okta.com",
                );
            }
            return None;
        }
        if let Err(problem) = check_url(url) {
            self.problem(at, path, format!("{problem}, here it is {}", quoted(url)));
        }
        let login = match (token, client_id.is_empty(), key) {
            (Some(token), true, None) => Some(LoginConfig::ApiToken(token)),
            (None, false, Some(private_key)) => Some(LoginConfig::Oauth {
                client_id,
                private_key,
                private_key_id: Some(key_id).filter(|id| !id.is_empty()),
            }),
            (None, true, None) => {
                self.problem(
                    at,
                    path,
                    format!(
                        "needs a login: {section}.client_id with {section}.private_key_file, or \
                         {section}.api_token_file"
                    ),
                );
                None
            }
            (None, ..) => {
                self.problem(
                    at,
                    path,
                    format!(
                        "needs both of {section}.client_id and {section}.private_key_file, one is missing"
                    ),
                );
                None
            }
            (Some(_), ..) => {
                self.problem(
                    at,
                    path,
                    "has two logins, an API token and a service app: leave one of them out",
                );
                None
            }
        };
        Some(ApiConfig {
            url: url.trim_end_matches('/').to_owned(),
            login: login?,
        })
    }

    /// A secret that may stand in a variable or in a file.
    fn one_of(
        &mut self,
        path: &'static str,
        text: Option<Secret>,
        file: Option<&Path>,
    ) -> Option<Secret> {
        let file_path = format!("{path}_file");
        let at = self.origin(&file_path);
        let file = file.map(Secret::of_file);
        self.readable(&at, &file_path, file.as_ref());
        if text.is_some() && file.is_some() {
            self.problem(
                &at,
                &file_path,
                format!("is set, and {path} too: leave one out"),
            );
        }
        text.or(file)
    }

    fn readable(&mut self, at: &Origin, path: &str, secret: Option<&Secret>) {
        if let Some(Err(error)) = secret.map(Secret::read) {
            // It is taken away when the change is over, and that is no reason not to start.
            if error.is_gone() && path.contains("previous") {
                return;
            }
            self.problem(at, path, error.to_string());
        }
    }
}

/// The host of a checked URL, in lower case.
fn host_of(url: &str) -> String {
    let host = reqwest::Url::parse(url)
        .ok()
        .and_then(|url| url.host_str().map(str::to_ascii_lowercase));
    host.unwrap_or_default()
}

/// Whether a URL is one that secrets may be sent to.
fn check_url(text: &str) -> Result<(), String> {
    let must = || "must be the org's URL, such as https://acme.okta.com".to_owned();
    let url = reqwest::Url::parse(text).map_err(|_no_url| must())?;
    let host = url.host_str().unwrap_or_default();
    if !is_bare(&url) || url.path() != "/" || !is_host(host) {
        return Err(must());
    }
    let console = host
        .split('.')
        .next()
        .is_some_and(|name| name.ends_with("-admin"));
    if console && host.contains(".okta") {
        return Err(
            "must be the org's URL, which is without the \"-admin\" of the admin console"
                .to_owned(),
        );
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(host) => Ok(()),
        "http" => Err(
            "must begin with https://, since a secret goes there; plain HTTP goes to a loopback \
             address alone"
                .to_owned(),
        ),
        _ => Err(must()),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<std::net::Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_one_that_secrets_may_be_sent_to() {
        for good in [
            "https://acme.okta.com",
            "https://acme.okta.com/",
            "https://login.acme.example:8443",
            "http://127.0.0.1:4010",
            "http://localhost",
        ] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("acme.okta.com", "such as https://"),
            ("http://acme.okta.com", "https://"),
            ("http://10.0.0.1", "loopback"),
            ("http://127.0.0.1.acme.example", "loopback"),
            ("https://acme-admin.okta.com", "-admin"),
            ("https://acme.okta.com/api/v1/logs", "such as https://"),
            ("https://u:p@acme.okta.com", "such as https://"),
            ("ftp://acme.okta.com", "such as https://"),
        ] {
            let problem = check_url(bad).unwrap_err();
            assert!(problem.contains(why), "{bad}: {problem}");
        }
    }
}
