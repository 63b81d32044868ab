//! `GET /api/v1/logs`: polling requests, their links, the rate limit, and what is refused.
//!
//! An answer is decided at once and under the lock; how it goes out (late, in drips, cut) comes
//! after that. Bounded requests are refused, though Okta serves them: they can miss late events,
//! so no poller may make one.

use std::sync::Arc;

use axum::extract::{ConnectInfo, RawQuery, State as Shared};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use reqwest::Url;

use super::answer::{Answer, Content, Rate};
use super::connection::Cut;
use super::filter::Filter;
use super::record::{LogsRequest, Scheme};
use super::{Fault, Org, State};

/// Query parameters that exist.
const PARAMETERS: [&str; 7] = [
    "since",
    "until",
    "after",
    "filter",
    "q",
    "limit",
    "sortOrder",
];

/// A page has this many entries unless it is asked for another number.
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1_000;

/// Where a request without `since` starts.
const SINCE_DEFAULT: SignedDuration = SignedDuration::from_hours(7 * 24);
/// A `since` that is older is refused.
const SINCE_MAX: SignedDuration = SignedDuration::from_hours(180 * 24);
/// Older entries are gone.
const RETENTION: SignedDuration = SignedDuration::from_hours(90 * 24);

/// What an `after` token stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    pub(super) entry: usize,
    pub(super) expired: bool,
}

/// The handler.
pub(super) async fn logs(
    Shared(org): Shared<Arc<Org>>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let answer = org.lock().answer(&org, query.unwrap_or_default(), &headers);
    match answer.fault {
        Some(Fault::CutBeforeHeaders) => cut.cut(),
        Some(Fault::Slow(delay)) => tokio::time::sleep(delay).await,
        _ => {}
    }
    answer.into_response(org)
}

/// A query, taken apart.
#[derive(Debug, Default)]
struct Query {
    /// In the order in which they were sent.
    parameters: Vec<(String, String)>,
}

impl Query {
    fn parse(query: &str) -> Self {
        let url = Url::parse(&format!("http://query.example/?{query}")).unwrap();
        Self {
            parameters: url.query_pairs().into_owned().collect(),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// What a poller must never ask.
    fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        for (at, (name, _)) in self.parameters.iter().enumerate() {
            if !PARAMETERS.contains(&name.as_str()) {
                violations.push(format!("the parameter `{name}` does not exist"));
            }
            if self.parameters[..at].iter().any(|(known, _)| known == name) {
                violations.push(format!("`{name}` is given twice"));
            }
        }
        if self.get("until").is_some() {
            violations.push("the poller must not use until".to_owned());
        }
        if self
            .get("sortOrder")
            .is_some_and(|order| order != "ASCENDING")
        {
            violations.push("sortOrder is not ASCENDING".to_owned());
        }
        if self.get("after").is_some() && self.get("since").is_some() {
            violations.push("after together with since".to_owned());
        }
        violations
    }

    fn limit(&self) -> Result<usize, Content> {
        let Some(text) = self.get("limit") else {
            return Ok(LIMIT_DEFAULT);
        };
        let number = text.parse().ok().filter(|number| *number <= LIMIT_MAX);
        number.ok_or_else(|| {
            let summary = format!("Api validation failed: limit {text} is not in 0..={LIMIT_MAX}");
            Content::bad_request("E0000001", &summary)
        })
    }

    fn filter(&self) -> Result<Option<Filter>, Content> {
        let filter = self.get("filter").map(Filter::parse).transpose();
        filter.map_err(|problem| {
            let summary = format!("Invalid filter: {problem}");
            Content::bad_request("E0000053", &summary)
        })
    }

    /// Keywords, of which each has to be one of an entry's words.
    fn keywords(&self) -> Result<Vec<String>, Content> {
        let keywords: Vec<_> = self
            .get("q")
            .unwrap_or("")
            .split_whitespace()
            .map(str::to_lowercase)
            .collect();
        let long = keywords.iter().any(|word| word.chars().count() > 40);
        if long || keywords.len() > 10 {
            let summary = "Api validation failed: at most 10 keywords of 40 characters";
            return Err(Content::bad_request("E0000001", summary));
        }
        Ok(keywords)
    }

    /// The same request from another position, at this host.
    fn url(&self, host: &str, after: &str) -> String {
        let kept = self
            .parameters
            .iter()
            .filter(|(name, _)| !["since", "after"].contains(&name.as_str()));
        let mut url = Url::parse(&format!("{host}/api/v1/logs")).unwrap();
        url.query_pairs_mut()
            .append_pair("after", after)
            .extend_pairs(kept);
        url.into()
    }
}

/// Part of the log, as it goes out.
#[derive(Debug)]
struct Page {
    given: Vec<usize>,
    /// The `after` token of what comes behind it.
    next: String,
}

impl State {
    /// Decides and records what a request is answered with.
    fn answer(&mut self, org: &Org, raw_query: String, headers: &HeaderMap) -> Answer {
        let now = org.clock.now();
        let query = Query::parse(&raw_query);
        // Whatever becomes of the request.
        self.violations.extend(query.violations());
        let (scheme, known) = self.who(now, headers);
        let (window, reset) = org.window(now);
        self.requests.push(LogsRequest {
            at: now,
            window,
            scheme,
            query: raw_query,
            after: query.get("after").map(str::to_owned),
            position: None,
            given: Vec::new(),
            status: None,
            complete: false,
            next: None,
            fault: None,
        });
        let request = self.requests.len() - 1;

        let counted = self.windows.entry(window).or_default();
        let admitted = counted.own + counted.others < self.limit;
        counted.own += 1;
        let fault = if admitted {
            self.faults.next(query.get("after").is_some())
        } else {
            None
        };
        if fault == Some(Fault::RateLimited) {
            counted.others += self.limit.saturating_sub(counted.own + counted.others);
        }
        let spent = counted.own + counted.others;
        let rate = match fault {
            Some(Fault::ConcurrencyLimited) => Rate {
                limit: 0,
                remaining: 0,
                reset,
            },
            _ => Rate {
                limit: self.limit,
                remaining: self.limit.saturating_sub(spent),
                reset,
            },
        };
        let content = if !admitted {
            Content::rate_limited()
        } else if let Some(content) = fault.and_then(Content::instead_of_a_page) {
            content
        } else if !known {
            Content::unauthorized()
        } else {
            let page = self.page(org, request, now, &query, fault);
            page.unwrap_or_else(|refusal| refusal)
        };
        let record = &mut self.requests[request];
        record.fault = fault;
        record.status = (fault != Some(Fault::CutBeforeHeaders)).then_some(content.status.as_u16());
        Answer {
            request,
            rate,
            content,
            fault,
        }
    }

    /// By which scheme a request says who it comes from, and whether that is somebody.
    fn who(&self, now: Timestamp, headers: &HeaderMap) -> (Scheme, bool) {
        let Some(value) = headers.get(AUTHORIZATION) else {
            return (Scheme::Nothing, false);
        };
        match value.to_str().ok().and_then(|text| text.split_once(' ')) {
            Some(("SSWS", token)) => (Scheme::Ssws, token == self.api_token),
            Some(("Bearer", token)) => (Scheme::Bearer, self.tokens.is_good(token, now)),
            _ => (Scheme::Other, false),
        }
    }

    fn page(
        &mut self,
        org: &Org,
        request: usize,
        now: Timestamp,
        query: &Query,
        fault: Option<Fault>,
    ) -> Result<Content, Content> {
        if let Some(first) = query.violations().first() {
            return Err(Content::bad_request("E0000001", first));
        }
        let limit = query.limit();
        if limit.is_err() {
            self.violations.push("limit is out of range".to_owned());
        }
        let (limit, filter, keywords) = (limit?, query.filter()?, query.keywords()?);
        let start = match query.get("after") {
            Some(after) => self.position_of(after, fault)?,
            None => self.since(now, query.get("since"))?,
        };
        let wanted = |entry: &usize| {
            let entry = &self.entries[*entry];
            let passes = filter.as_ref();
            passes.is_none_or(|filter| filter.lets_through(&entry.event_type))
                && has_words(&entry.json, &keywords)
        };
        let mut given: Vec<_> = (start..self.entries.len())
            .filter(wanted)
            .take(limit)
            .collect();
        if fault == Some(Fault::EmptyWithNext) {
            given.clear();
        }
        let next = match (given.last(), query.get("after")) {
            // More of what is wanted may be behind the last.
            (Some(last), _) if given.len() == limit => self.cursor(now, last + 1),
            (Some(_), _) => self.cursor(now, self.entries.len()),
            // Nothing new: the link that was asked for stays the link to ask for.
            (None, Some(asked)) if fault != Some(Fault::EmptyWithNext) => asked.to_owned(),
            (None, _) => self.cursor(now, start),
        };
        Ok(self.write_page(org, request, start, query, Page { given, next }, fault))
    }

    /// Records a page and writes it out.
    fn write_page(
        &mut self,
        org: &Org,
        request: usize,
        start: usize,
        query: &Query,
        page: Page,
        fault: Option<Fault>,
    ) -> Content {
        let host = org.url();
        let own = &self.requests[request].query;
        let mut links = vec![format!("<{host}/api/v1/logs?{own}>; rel=\"self\"")];
        let next_host = match fault {
            Some(Fault::NoNextLink) => None,
            Some(Fault::ForeignNextLink) => Some("https://acme.elsewhere.example"),
            _ => Some(host.as_str()),
        };
        if let Some(host) = next_host {
            links.push(format!("<{}>; rel=\"next\"", query.url(host, &page.next)));
        }
        let entries: Vec<_> = page
            .given
            .iter()
            .map(|entry| self.entries[*entry].json.as_str())
            .collect();
        let body = format!("[{}]", entries.join(","));
        let record = &mut self.requests[request];
        record.position = Some(start);
        record.given = page.given;
        record.next = (next_host == Some(host.as_str())).then_some(page.next);
        Content {
            status: StatusCode::OK,
            media_type: "application/json",
            body,
            links,
        }
    }

    fn position_of(&mut self, after: &str, fault: Option<Fault>) -> Result<usize, Content> {
        let Some(position) = self.cursors.get_mut(after) else {
            self.violations
                .push("an after that was never handed out".to_owned());
            return Err(invalid_after());
        };
        position.expired |= fault == Some(Fault::ExpiredCursor);
        if position.expired {
            Err(invalid_after())
        } else {
            Ok(position.entry)
        }
    }

    /// The first entry persisted since then.
    fn since(&mut self, now: Timestamp, since: Option<&str>) -> Result<usize, Content> {
        let since = match since.map(str::parse::<Timestamp>) {
            None => now - SINCE_DEFAULT,
            Some(Ok(since)) => since,
            Some(Err(_)) => {
                self.violations.push("since is no time".to_owned());
                return Err(Content::bad_request("E0000053", "Invalid since parameter"));
            }
        };
        if since < now - SINCE_MAX {
            let summary = "Invalid since parameter: more than 180 days ago";
            return Err(Content::bad_request("E0000053", summary));
        }
        let oldest = since.max(now - RETENTION);
        Ok(self
            .entries
            .partition_point(|entry| entry.persisted < oldest))
    }

    /// A new token for a position; nothing can be read from it.
    fn cursor(&mut self, now: Timestamp, entry: usize) -> String {
        let text = format!("{}_{}", now.as_millisecond(), uuid::Uuid::new_v4().simple());
        let token = BASE64_URL_SAFE_NO_PAD.encode(text);
        let position = Position {
            entry,
            expired: false,
        };
        self.cursors.insert(token.clone(), position);
        token
    }
}

fn invalid_after() -> Content {
    Content::bad_request(
        "E0000031",
        "Invalid search criteria: the after value is invalid or has expired",
    )
}

/// Whether each keyword is one of the words, in small letters.
fn has_words(json: &str, keywords: &[String]) -> bool {
    if keywords.is_empty() {
        return true;
    }
    let text = json.to_lowercase();
    let words: Vec<_> = text
        .split(|one: char| one.is_whitespace() || "\":,[]{}".contains(one))
        .collect();
    keywords.iter().all(|word| words.contains(&word.as_str()))
}
