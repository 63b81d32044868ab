//! The System Log client: one request, one page; links, limits and what went wrong, in words.
//!
//! A page is a polling request: ascending, without an end, so Okta gives every event in the order
//! in which it was stored, and always a link to the next page. That link alone is followed, and
//! only its path and query are used: the login never goes to another host than the configured
//! one. Redirects are not followed either. When to ask is the poller's to decide, not ours.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::{self, HeaderMap};
use reqwest::{RequestBuilder, StatusCode, Url};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::log_event::format_time;
use super::login::{Login, LoginError};
use crate::config::ApiConfig;
use crate::domain::event::Timestamp;
use crate::telemetry::trace::Trace;

const PATH: &str = "/api/v1/logs";

/// A connection takes this long at the most: longer than any on earth.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer to a refused request that is read for its words.
const ERROR_BYTES_MAX: usize = 16 * 1024;

/// What an answer's `X-Rate-Limit-…` headers say of the bucket that requests count in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests in a window.
    pub limit: u32,
    /// Requests left in this window, to all clients of the bucket together.
    pub remaining: u32,
    /// When the window ends, in seconds since 1970 by Okta's clock.
    pub reset: i64,
}

/// A page of the System Log.
#[derive(Debug)]
pub struct LogPage {
    /// A JSON array of `LogEvent`s.
    pub body: Bytes,
    pub events: usize,
    /// Path and query of the next page; it stays the same after a page without events.
    pub next: String,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Login(#[from] LoginError),
    /// Wait for the window's end.
    #[error("429: the org's rate limit for the System Log is used up")]
    Throttled,
    /// Too many requests at once, of all clients; the window's end tells nothing.
    #[error("429: too many requests of the org at once")]
    Crowded,
    /// The login is not taken, or it may not read the System Log.
    #[error("{}", said(*status, text))]
    Denied { status: u16, text: String },
    /// The request is not taken: its filter, or the place that it goes on from. Without a text it is
    /// not Okta who says so.
    #[error("{}", said(*status, text))]
    Refused { status: u16, text: String },
    #[error("{}", said(*status, text))]
    Unavailable { status: u16, text: String },
    #[error("the org can't be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("not a page of the System Log: {0}")]
    NotAPage(String),
}

/// A status and what Okta said with it; without a word of Okta's it may be somebody in between.
fn said(status: u16, text: &str) -> String {
    if !text.is_empty() {
        return format!("{status}: {text}");
    }
    let name = StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason());
    format!("{status} {}, not in Okta's words", name.unwrap_or("?"))
}

/// An answer, or that there was none; and what its headers said.
#[derive(Debug)]
pub struct Fetched {
    pub page: Result<LogPage, FetchError>,
    pub limit: Option<RateLimit>,
    /// Okta's clock, in seconds since 1970.
    pub date: Option<i64>,
    /// How long Okta asks to wait; it documents no such header, proxies before it may send one.
    pub retry_after: Option<Duration>,
}

impl From<FetchError> for Fetched {
    fn from(error: FetchError) -> Self {
        Self {
            page: Err(error),
            limit: None,
            date: None,
            retry_after: None,
        }
    }
}

/// Which events are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogQuery {
    /// In Okta's filter language; empty: all of them.
    pub filter: String,
    pub events_max: u32,
}

impl LogQuery {
    /// Path and query of the first page from a time on.
    pub fn since(&self, since: Timestamp) -> String {
        let mut url = Url::parse("https://okta.invalid").expect("it is a URL");
        url.set_path(PATH);
        let since = format_time(since).unwrap_or_default();
        let limit = self.events_max.to_string();
        url.query_pairs_mut()
            .append_pair("since", &since)
            .append_pair("sortOrder", "ASCENDING")
            .append_pair("limit", &limit);
        if !self.filter.is_empty() {
            url.query_pairs_mut().append_pair("filter", &self.filter);
        }
        // A space is `+` in forms alone; a plus that is meant stands there as %2B.
        path_and_query(&url).replace('+', "%20")
    }

    /// A link with the pages' size that is set now; its place stays what it is.
    pub fn resized(&self, link: &str) -> String {
        let size = |part: &str| match part.strip_prefix("limit=") {
            Some(_) => format!("limit={}", self.events_max),
            None => part.to_owned(),
        };
        link.split('&').map(size).collect::<Vec<_>>().join("&")
    }
}

/// A filter that lets through types that begin with one of some prefixes, and some types by name.
///
/// Names that differ in their last part alone are asked for by what they share: the filter goes into
/// every request and link, and what comes along with them is not kept.
pub fn filter_of_types<'a>(
    prefixes: impl IntoIterator<Item = &'a str>,
    names: impl IntoIterator<Item = &'a str>,
) -> String {
    let mut families: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in names {
        let parent = name.rfind('.').map_or(name, |dot| &name[..=dot]);
        families.entry(parent).or_default().push(name);
    }
    let begins = |prefix: &str| format!("eventType sw \"{prefix}\"");
    let prefixes = prefixes.into_iter().map(begins);
    let names = families.into_iter().map(|(parent, names)| match names[..] {
        [only] => format!("eventType eq \"{only}\""),
        _ => begins(parent),
    });
    prefixes.chain(names).collect::<Vec<_>>().join(" or ")
}

/// One org's System Log.
#[derive(Debug)]
pub struct SystemLog {
    http: reqwest::Client,
    base: Url,
    login: Login,
    page_bytes_max: usize,
}

/// The org's System Log can't be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{0:?} is no URL")]
    Url(String),
    #[error("no TLS client")]
    Tls(#[source] reqwest::Error),
}

impl SystemLog {
    /// Makes the client; asks nothing yet.
    pub fn new(
        api: ApiConfig,
        request_timeout: Duration,
        page_bytes_max: usize,
    ) -> Result<Self, ClientError> {
        let base = Url::parse(&api.url).map_err(|_no_url| ClientError::Url(api.url.clone()))?;
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("provident/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(request_timeout);
        // A proxy is for what lies beyond this machine.
        if base.scheme() == "http" {
            http = http.no_proxy();
        } else {
            http = http.https_only(true);
        }
        Ok(Self {
            http: http.build().map_err(ClientError::Tls)?,
            base,
            login: Login::new(api.login),
            page_bytes_max,
        })
    }

    /// Asks for the page of a path and query.
    ///
    /// # Cancel safety
    /// A dropped call may have counted against the rate limit.
    pub async fn fetch(&mut self, path_and_query: &str, now: Timestamp) -> Fetched {
        let login = self.login.authorization(&self.http, &self.base, now).await;
        let authorization = match login {
            Ok(value) => value,
            Err(error) => return FetchError::from(error).into(),
        };
        let url = match self.base.join(path_and_query) {
            Ok(url) => url,
            Err(error) => return FetchError::NotAPage(error.to_string()).into(),
        };
        let request = self
            .http
            .get(url)
            .header(header::ACCEPT, "application/json")
            .header(header::AUTHORIZATION, authorization);
        let answer = match send(request, "GET /api/v1/logs").await {
            Ok(answer) => answer,
            Err(error) => return FetchError::Unreachable(error.without_url()).into(),
        };
        let headers = answer.headers().clone();
        let page = self.read(answer, &headers).await;
        if matches!(&page, Err(FetchError::Denied { .. })) {
            // Another token may do, and a key that was changed gives another.
            self.login.forget();
        }
        Fetched {
            page,
            limit: rate_limit(&headers),
            date: date(&headers),
            retry_after: number(&headers, "retry-after").map(Duration::from_secs),
        }
    }

    async fn read(
        &self,
        answer: reqwest::Response,
        headers: &HeaderMap,
    ) -> Result<LogPage, FetchError> {
        let status = answer.status();
        if status != StatusCode::OK {
            // The status counts, also where its words can't be read.
            let text = body(answer, ERROR_BYTES_MAX)
                .await
                .map(|body| error_text(&body))
                .unwrap_or_default();
            return Err(refusal(status, headers, text));
        }
        let body = body(answer, self.page_bytes_max)
            .await
            .map_err(|error| match error {
                BodyError::Broken(error) => FetchError::Unreachable(error.without_url()),
                BodyError::TooLarge => {
                    FetchError::NotAPage(format!("it is larger than {} bytes", self.page_bytes_max))
                }
            })?;
        let (body, events) = count(body).await?;
        let next = self.next_link(headers)?;
        Ok(LogPage { body, events, next })
    }

    /// Path and query of the link to the next page.
    fn next_link(&self, headers: &HeaderMap) -> Result<String, FetchError> {
        let values = headers.get_all(header::LINK);
        let next = values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .find_map(|value| link(value, "next"))
            .ok_or_else(|| FetchError::NotAPage("it has no link to the next one".to_owned()))?;
        let url = self.base.join(next).ok().filter(|url| url.path() == PATH);
        let url = url.ok_or_else(|| {
            FetchError::NotAPage(format!("its link to the next one leads to {next:?}"))
        })?;
        Ok(path_and_query(&url))
    }
}

/// Sends a request as a part of the trace that it is made in, and gives the head of the answer.
pub(super) async fn send(
    request: RequestBuilder,
    name: &'static str,
) -> Result<reqwest::Response, reqwest::Error> {
    let mut span = Trace::current().request(name);
    let answer = request.headers(span.trace().headers()).send().await;
    match &answer {
        Ok(answer) => {
            let status = answer.status();
            span.set("http.response.status_code", i64::from(status.as_u16()));
            span.set(
                "server.address",
                answer.url().host_str().unwrap_or_default().to_owned(),
            );
            if status.is_client_error() || status.is_server_error() {
                span.failed(status.to_string());
            }
        }
        Err(_) => span.failed("no answer"),
    }
    answer
}

fn path_and_query(url: &Url) -> String {
    match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    }
}

/// The target of the link of a relation in one `Link` header, which may hold several.
fn link<'a>(value: &'a str, relation: &str) -> Option<&'a str> {
    let mut rest = value;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        let end = after.find('<').unwrap_or(after.len());
        let parameters = after[..end].split([';', ',']);
        let is_wanted = |parameter: &str| {
            parameter
                .trim()
                .split_once('=')
                .is_some_and(|(name, value)| {
                    name.trim().eq_ignore_ascii_case("rel")
                        && value
                            .trim()
                            .trim_matches('"')
                            .eq_ignore_ascii_case(relation)
                })
        };
        if parameters.into_iter().any(is_wanted) {
            return Some(target);
        }
        rest = &after[end..];
    }
}

fn refusal(status: StatusCode, headers: &HeaderMap, text: String) -> FetchError {
    let code = status.as_u16();
    match code {
        // Limit and remaining are 0 where it is about requests at the same time.
        429 if number(headers, "x-rate-limit-limit") == Some(0) => FetchError::Crowded,
        429 => FetchError::Throttled,
        401 => FetchError::Denied { status: code, text },
        403 => FetchError::Denied {
            status: code,
            text: format!(
                "{text}{}the login may not read the System Log; a service app needs the scope \
                 okta.logs.read and an admin role",
                if text.is_empty() { "" } else { ": " }
            ),
        },
        400..=499 if code != 408 => FetchError::Refused { status: code, text },
        _ => FetchError::Unavailable { status: code, text },
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

fn rate_limit(headers: &HeaderMap) -> Option<RateLimit> {
    let number = |name| number(headers, name);
    let limit = u32::try_from(number("x-rate-limit-limit")?).ok()?;
    // A limit of 0 stands for something else: too many requests at once.
    (limit > 0).then_some(RateLimit {
        limit,
        remaining: u32::try_from(number("x-rate-limit-remaining")?).ok()?,
        reset: i64::try_from(number("x-rate-limit-reset")?)
            .ok()
            .filter(|reset| Timestamp::SECONDS.contains(reset))?,
    })
}

fn date(headers: &HeaderMap) -> Option<i64> {
    let text = headers.get(header::DATE)?.to_str().ok()?;
    let time = DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(time.as_second())
}

/// Why an answer's body is not there.
#[derive(Debug)]
pub(super) enum BodyError {
    Broken(reqwest::Error),
    TooLarge,
}

/// Reads an answer's body, if it is not larger than may be.
pub(super) async fn body(
    mut answer: reqwest::Response,
    bytes_max: usize,
) -> Result<Bytes, BodyError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(BodyError::Broken)? {
        if body.len() + chunk.len() > bytes_max {
            return Err(BodyError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The page as text, and how many elements it has. It is a millisecond's work for each mebibyte.
async fn count(body: Bytes) -> Result<(Bytes, usize), FetchError> {
    let counted = tokio::task::spawn_blocking(move || {
        let body = match String::from_utf8_lossy(&body) {
            Cow::Borrowed(_) => body,
            // One event that holds no text must not take its neighbours along.
            Cow::Owned(mended) => {
                tracing::warn!("a page of the System Log was no UTF-8, what is none is replaced");
                Bytes::from(mended)
            }
        };
        let events = serde_json::from_slice::<Vec<IgnoredAny>>(&body)?.len();
        Ok::<_, serde_json::Error>((body, events))
    });
    match counted.await {
        Ok(Ok(counted)) => Ok(counted),
        Ok(Err(error)) => Err(FetchError::NotAPage(format!("no JSON array: {error}"))),
        Err(error) => Err(FetchError::NotAPage(error.to_string())),
    }
}

/// What Okta says of an error, in one line; empty where it says nothing that can be read.
pub(super) fn error_text(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct OktaError {
        #[serde(rename = "errorCode", alias = "error", default)]
        code: String,
        #[serde(rename = "errorSummary", alias = "error_description", default)]
        summary: String,
    }
    match serde_json::from_slice(body) {
        Ok(OktaError { code, summary }) => {
            let mut text = format!("{code} {summary}").trim().to_owned();
            text.truncate(text.floor_char_boundary(400));
            text
        }
        Err(_no_words_of_okta) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_link_is_found_wherever_it_stands() {
        let next = "<https://a.okta.com/api/v1/logs?after=x,y&limit=2>; rel=\"next\"";
        let of_self = "<https://a.okta.com/api/v1/logs?since=1>; rel=\"self\"";
        let expected = Some("https://a.okta.com/api/v1/logs?after=x,y&limit=2");
        assert_eq!(link(next, "next"), expected);
        assert_eq!(link(&format!("{of_self}, {next}"), "next"), expected);
        assert_eq!(link(&format!("{next},{of_self}"), "next"), expected);
        assert_eq!(
            link(&next.replace("rel=\"next\"", "REL=next; title=x"), "next"),
            expected
        );
        assert_eq!(link(of_self, "next"), None);
        assert_eq!(link("nothing", "next"), None);
    }

    #[test]
    fn a_request_is_a_polling_request() {
        let query = LogQuery {
            filter: filter_of_types(["app."], ["a.b"]),
            events_max: 1000,
        };
        let since = Timestamp {
            seconds: 1_770_000_000,
            nanos: 0,
        };
        assert_eq!(
            query.since(since),
            "/api/v1/logs?since=2026-02-02T02%3A40%3A00.000Z&sortOrder=ASCENDING&limit=1000&\
             filter=eventType%20sw%20%22app.%22%20or%20eventType%20eq%20%22a.b%22"
        );
    }

    #[test]
    fn a_link_takes_another_size_and_keeps_its_place() {
        let query = LogQuery {
            filter: String::new(),
            events_max: 500,
        };
        assert_eq!(
            query.resized("/api/v1/logs?after=a&limit=1000&filter=x"),
            "/api/v1/logs?after=a&limit=500&filter=x"
        );
        assert_eq!(query.resized(""), "");
    }

    #[test]
    fn a_filter_names_what_types_share() {
        assert_eq!(
            filter_of_types(["app."], ["g.x.b", "g.x.a", "s.y", "t"]),
            "eventType sw \"app.\" or eventType sw \"g.x.\" or eventType eq \"s.y\" or eventType eq \"t\""
        );
    }

    #[test]
    fn the_request_for_all_that_concerns_provisioning_is_short_enough_for_any_proxy() {
        let (prefixes, names) = crate::domain::catalogue::Catalogue::embedded().coverage();
        let query = LogQuery {
            filter: filter_of_types(prefixes.iter().map(String::as_str), names),
            events_max: 1000,
        };
        let request = query.since(Timestamp::default());
        // Some stop at 4 KiB, and a link has its place beside the filter.
        assert!(request.len() < 3072, "{} bytes: {request}", request.len());
    }

    #[test]
    fn headers_say_the_limit_and_the_time() {
        let mut headers = HeaderMap::new();
        assert_eq!(rate_limit(&headers), None);
        for (name, value) in [
            ("x-rate-limit-limit", "120"),
            ("x-rate-limit-remaining", "119"),
            ("x-rate-limit-reset", "1770000060"),
            ("date", "Mon, 02 Feb 2026 02:40:00 GMT"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let limit = RateLimit {
            limit: 120,
            remaining: 119,
            reset: 1_770_000_060,
        };
        assert_eq!(rate_limit(&headers), Some(limit));
        assert_eq!(date(&headers), Some(1_770_000_000));
        assert!(matches!(
            refusal(StatusCode::TOO_MANY_REQUESTS, &headers, String::new()),
            FetchError::Throttled
        ));
        headers.insert("x-rate-limit-reset", "9223372036854775807".parse().unwrap());
        assert_eq!(rate_limit(&headers), None);
        headers.insert("x-rate-limit-limit", "0".parse().unwrap());
        assert_eq!(rate_limit(&headers), None);
        assert!(matches!(
            refusal(StatusCode::TOO_MANY_REQUESTS, &headers, String::new()),
            FetchError::Crowded
        ));
    }

    #[tokio::test]
    async fn bytes_that_are_no_text_harm_no_other_event() {
        let (body, events) = count(Bytes::from_static(b"[{\"a\":\"\xff\"},{}]"))
            .await
            .unwrap();
        assert_eq!(
            (&body[..], events),
            ("[{\"a\":\"\u{fffd}\"},{}]".as_bytes(), 2)
        );
        assert!(matches!(
            count(Bytes::from_static(b"{}")).await,
            Err(FetchError::NotAPage(_))
        ));
    }

    #[test]
    fn who_does_not_speak_as_okta_does_is_told_apart() {
        let error = |text: &str| FetchError::Unavailable {
            status: 302,
            text: text.to_owned(),
        };
        assert_eq!(error("").to_string(), "302 Found, not in Okta's words");
        assert_eq!(error("E1 why").to_string(), "302: E1 why");
    }

    #[test]
    fn okta_s_words_are_told_and_nothing_else() {
        let okta =
            br#"{"errorCode":"E0000011","errorSummary":"Invalid token provided","errorId":"x"}"#;
        assert_eq!(error_text(okta), "E0000011 Invalid token provided");
        let oauth = br#"{"error":"invalid_client","error_description":"No such key"}"#;
        assert_eq!(error_text(oauth), "invalid_client No such key");
        assert_eq!(error_text(b"<html>"), "");
    }
}
