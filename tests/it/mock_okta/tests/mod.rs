//! That the org does what Okta documents, seen by a client that knows HTTP and nothing else.
//!
//! Also the only callers of some of the handle, until a test of the program needs it. Each test
//! has an org of its own; the receivers of hooks are servers of a few lines.

mod hooks;
mod tokens;

use std::sync::LazyLock;
use std::time::Duration;

use axum::http::HeaderMap;
use reqwest::header::AUTHORIZATION;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use super::{API_TOKEN, Fault, Faults, LastLinks, MockOkta, Settings};
use crate::fixtures::{Given, Kind, log_event, mixed, uuid};
use crate::harness::{Random, eventually, within};

/// No connection is kept, because each belongs to the runtime of one test.
static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    let client = Client::builder().pool_max_idle_per_host(0);
    client.no_proxy().build().unwrap()
});

/// An answer of `/api/v1/logs`, read to its end.
#[derive(Debug)]
struct Page {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Page {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn uuids(&self) -> Vec<String> {
        let entries = self.json();
        let uuid = |entry: &Value| entry["uuid"].as_str().unwrap().to_owned();
        entries.as_array().unwrap().iter().map(uuid).collect()
    }

    fn error_code(&self) -> String {
        self.json()["errorCode"].as_str().unwrap().to_owned()
    }

    fn number(&self, header: &str) -> i64 {
        self.headers[header].to_str().unwrap().parse().unwrap()
    }

    fn rate(&self) -> (i64, i64) {
        (
            self.number("x-rate-limit-limit"),
            self.number("x-rate-limit-remaining"),
        )
    }

    fn link(&self, relation: &str) -> Option<String> {
        let lines = self.headers.get_all("link").iter();
        lines
            .filter_map(|line| line.to_str().unwrap().split_once(">; "))
            .find(|(_, found)| *found == format!("rel=\"{relation}\""))
            .map(|(url, _)| url.trim_start_matches('<').to_owned())
    }

    fn next(&self) -> String {
        self.link("next").unwrap()
    }
}

async fn read(response: reqwest::Result<Response>) -> reqwest::Result<Page> {
    let response = response?;
    Ok(Page {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.bytes().await?.into(),
    })
}

async fn try_get(url: &str) -> reqwest::Result<Page> {
    let request = CLIENT.get(url);
    let request = request.header(AUTHORIZATION, format!("SSWS {API_TOKEN}"));
    read(within(request.send()).await).await
}

async fn get(url: &str) -> Page {
    try_get(url).await.unwrap()
}

/// A first request, with a query of its own.
async fn logs(okta: &MockOkta, query: &str) -> Page {
    get(&format!("{}?{query}", okta.logs_url())).await
}

fn uuids(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(uuid).collect()
}

/// An org with as many entries.
fn with_entries(count: u64) -> MockOkta {
    let okta = MockOkta::start();
    publish(&okta, mixed(0, count));
    okta
}

fn publish(okta: &MockOkta, events: Vec<Given>) {
    for event in events {
        okta.publish(&event);
    }
}

#[tokio::test]
async fn pages_follow_the_order_of_persistence_and_always_link_on() {
    let okta = with_entries(3);
    // A late event: published before all others, persisted after them.
    let mut late = log_event(Kind::UserPushFailed, 3).value();
    late["published"] = "2020-01-01T00:00:00.000Z".into();
    assert_eq!(okta.publish_json(&late), 3);

    let first = logs(&okta, "limit=2&sortOrder=ASCENDING").await;
    assert_eq!((first.status, first.uuids()), (200, uuids(0..2)));
    assert!(first.link("self").unwrap().contains("?limit=2&sortOrder"));
    let link = first.next();
    assert!(link.starts_with(&okta.logs_url()), "{link}");
    assert!(link.contains("&limit=2&sortOrder=ASCENDING"), "{link}");
    let second = get(&link).await;
    assert_eq!(second.uuids(), uuids(2..4));
    assert_ne!(second.next(), link);
    let empty = get(&second.next()).await;
    assert_eq!(empty.uuids(), uuids([]));
    assert_eq!(empty.next(), second.next());

    okta.publish(&log_event(Kind::ProfilePushed, 4));
    assert_eq!(get(&empty.next()).await.uuids(), uuids([4]));
    // A link can be asked for again.
    assert_eq!(get(&link).await.uuids(), uuids(2..4));

    let requests = okta.requests();
    let after = requests[1].after.as_deref().unwrap();
    assert_eq!(requests[0].next.as_deref(), Some(after));
    let positions: Vec<_> = requests.iter().map(|one| one.position.unwrap()).collect();
    assert_eq!(positions, [0, 2, 4, 4, 2]);
    assert_eq!(requests[1].given, [2, 3]);
    assert_eq!(okta.times_served(after), 2);
    assert_eq!(okta.times_served_from(4), 1);
    assert_eq!(okta.times_given(), [1, 1, 2, 2, 1]);
    assert_eq!(okta.violations(), [""; 0]);
}

#[tokio::test]
async fn since_goes_by_the_time_of_persistence() {
    let okta = with_entries(2);
    okta.age_entries(Duration::from_hours(1));
    publish(&okta, mixed(2, 2));
    let entries = okta.entries();
    assert_eq!(entries[3].event_type, mixed(3, 1)[0].value()["eventType"]);
    assert!(entries[1].json.contains(&uuid(1)));

    let since = format!("since={}", entries[2].persisted);
    assert_eq!(logs(&okta, &since).await.uuids(), uuids(2..4));
    assert_eq!(logs(&okta, "").await.uuids(), uuids(0..4));
    okta.age_entries(Duration::from_hours(8 * 24));
    assert_eq!(logs(&okta, "").await.uuids(), uuids([]));
    let long_ago = |days: u32| format!("since={}", okta.now() - Duration::from_hours(24) * days);
    assert_eq!(logs(&okta, &long_ago(170)).await.uuids(), uuids(0..4));
    // Retention: it takes no error to find less.
    okta.age_entries(Duration::from_hours(82 * 24));
    assert_eq!(logs(&okta, &long_ago(170)).await.uuids(), uuids([]));
    assert_eq!(logs(&okta, &long_ago(181)).await.error_code(), "E0000053");
}

#[tokio::test]
async fn a_filter_stays_in_the_link_and_keywords_are_whole_words() {
    let okta = with_entries(16);
    let filter = r#"eventType sw "application.integration" or eventType eq "x+y""#;
    let filtered =
        reqwest::Url::parse_with_params(&okta.logs_url(), [("filter", filter), ("limit", "3")])
            .unwrap();
    let first = get(filtered.as_str()).await;
    assert_eq!(first.uuids(), uuids([5, 6, 13]));
    let second = get(&first.next()).await;
    assert_eq!(second.uuids(), uuids([14]));
    okta.publish_json(&json!({"uuid": "of another type", "eventType": "x+y.z"}));
    assert_eq!(get(&second.next()).await.uuids(), uuids([]));
    okta.publish_json(&json!({"uuid": "of that type", "eventType": "x+y"}));
    assert_eq!(get(&second.next()).await.uuids(), ["of that type"]);

    assert_eq!(logs(&okta, "q=That+TYPE").await.uuids(), ["of that type"]);
    assert_eq!(logs(&okta, "q=hat").await.uuids(), uuids([]));
    let refused = logs(&okta, "filter=published+pr").await;
    assert_eq!(
        (refused.status, refused.error_code().as_str()),
        (400, "E0000053")
    );
    assert_eq!(logs(&okta, "q=1+2+3+4+5+6+7+8+9+10+11").await.status, 400);
    assert_eq!(okta.violations(), [""; 0]);
}

#[tokio::test]
async fn what_a_poller_must_not_ask_is_refused_and_kept() {
    let okta = with_entries(1);
    let link = logs(&okta, "limit=0").await.next();
    let now = okta.now();
    for (query, kept) in [
        (format!("until={now}"), "the poller must not use until"),
        (
            "sortOrder=DESCENDING".to_owned(),
            "sortOrder is not ASCENDING",
        ),
        ("limit=1001".to_owned(), "limit is out of range"),
        ("limit=1&limit=1".to_owned(), "`limit` is given twice"),
        ("since=yesterday".to_owned(), "since is no time"),
        ("size=1".to_owned(), "the parameter `size` does not exist"),
        (
            "after=made-up".to_owned(),
            "an after that was never handed out",
        ),
    ] {
        let refused = logs(&okta, &query).await;
        assert_eq!(refused.status, 400, "{query}");
        assert_eq!(okta.violations().last().unwrap(), kept);
    }
    assert_eq!(get(&format!("{link}&since={now}")).await.status, 400);
    assert_eq!(
        okta.violations().last().unwrap(),
        "after together with since"
    );
    assert_eq!(
        get(&format!("{}/api/v1/users", okta.url())).await.status,
        404
    );
    assert_eq!(
        okta.violations().last().unwrap(),
        "asked for GET /api/v1/users"
    );
}

#[tokio::test]
async fn requests_over_the_limit_are_refused_until_the_reset() {
    // The first window has at least three seconds, which these few requests never take.
    let okta = MockOkta::start_with(Settings {
        limit: 3,
        window: Duration::from_secs(4),
        ..Settings::default()
    });
    let first = logs(&okta, "").await;
    assert_eq!(first.rate(), (3, 2));
    okta.others_use(1);
    assert_eq!(logs(&okta, "").await.rate(), (3, 0));
    let refused = logs(&okta, "").await;
    assert_eq!(
        (refused.status, refused.error_code().as_str()),
        (429, "E0000047")
    );
    assert_eq!(refused.rate(), (3, 0));
    assert!(refused.headers.contains_key("date"));
    let reset = refused.number("x-rate-limit-reset");
    assert_eq!(reset, first.number("x-rate-limit-reset"));
    assert!((1..=4).contains(&(reset - okta.requests()[0].at.as_second())));

    let served = eventually("the window's end", async || {
        let page = logs(&okta, "").await;
        (page.status == 200).then_some(page)
    })
    .await;
    let next_reset = served.number("x-rate-limit-reset");
    assert!(next_reset > reset && (next_reset - reset) % 4 == 0);
    let requests = okta.requests();
    let (last, before) = requests.split_last().unwrap();
    assert!(last.at.as_second() >= reset && last.window > 0);
    assert!(before.iter().all(|one| one.at.as_second() < reset));
    // All are counted, whatever their answer.
    let counted = u32::try_from(before.len()).unwrap();
    let windows = [(0, counted), (last.window, 1)];
    assert_eq!(okta.requests_in_window(), windows);
    assert_eq!(okta.largest_window(), counted);

    okta.set_limit(1_000);
    okta.queue_fault(Fault::ConcurrencyLimited);
    let refused = logs(&okta, "").await;
    assert_eq!((refused.status, refused.rate()), (429, (0, 0)));
    assert_eq!(logs(&okta, "").await.status, 200);
}

#[tokio::test]
async fn a_bucket_that_others_emptied_stays_empty() {
    let okta = MockOkta::start_with(Settings {
        limit: 10,
        ..Settings::default()
    });
    okta.queue_fault(Fault::RateLimited);
    for _ in 0..2 {
        let refused = logs(&okta, "").await;
        assert_eq!((refused.status, refused.rate()), (429, (10, 0)));
        let left = refused.number("x-rate-limit-reset") - okta.now().as_second();
        assert!((0..=60).contains(&left), "{left}");
    }
    let requests = okta.requests();
    assert_eq!(requests[0].fault, Some(Fault::RateLimited));
    assert_eq!(requests[1].fault, None);
}

#[tokio::test]
async fn an_expired_cursor_is_refused_and_a_new_one_is_not() {
    let okta = with_entries(4);
    let old = logs(&okta, "limit=1").await.next();
    okta.expire_cursors();
    let refused = get(&old).await;
    assert_eq!(
        (refused.status, refused.error_code().as_str()),
        (400, "E0000031")
    );

    // This fault waits for a request that has a cursor.
    okta.queue_fault(Fault::ExpiredCursor);
    let new = logs(&okta, "limit=2").await.next();
    assert_eq!(okta.faults_left(), [Fault::ExpiredCursor]);
    assert_eq!(get(&new).await.status, 400);
    assert_eq!(get(&new).await.status, 400);
    let other = logs(&okta, "limit=3").await.next();
    assert_eq!(get(&other).await.uuids(), uuids([3]));
    assert_eq!(okta.violations(), [""; 0]);
}

#[tokio::test]
async fn what_is_cut_off_is_an_error_to_the_client_and_not_complete() {
    let okta = with_entries(3);
    for fault in [Fault::Cut, Fault::CutBeforeHeaders] {
        okta.queue_fault(fault);
        try_get(&okta.logs_url()).await.unwrap_err();
        let record = okta.requests().pop().unwrap();
        assert!(!record.complete, "{record:?}");
        assert_eq!(record.status.is_some(), fault == Fault::Cut);
    }
    assert_eq!(okta.times_given(), [0; 3]);
    // Nothing but the headers and a part of the body came.
    okta.queue_fault(Fault::Cut);
    let request = CLIENT.get(okta.logs_url());
    let request = request.header(AUTHORIZATION, format!("SSWS {API_TOKEN}"));
    let mut response = within(request.send()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.chunk().await.unwrap().unwrap().is_empty());
    response.chunk().await.unwrap_err();
    assert_eq!(logs(&okta, "").await.uuids(), uuids(0..3));
    assert_eq!(okta.times_given(), [1; 3]);
}

#[tokio::test]
async fn each_fault_answers_as_it_says() {
    let okta = with_entries(2);
    let code = |page: &Page| (page.status, page.error_code());
    for (fault, status, error) in [
        (Fault::ServerError, 500, "E0000009"),
        (Fault::Unauthorized, 401, "E0000011"),
        (Fault::Forbidden, 403, "E0000006"),
    ] {
        okta.queue_fault(fault);
        assert_eq!(code(&logs(&okta, "").await), (status, error.to_owned()));
    }
    for (fault, status) in [(Fault::BadGateway, 502), (Fault::NotJson, 200)] {
        okta.queue_fault(fault);
        let page = logs(&okta, "").await;
        assert_eq!((page.status, page.link("next")), (status, None));
        assert!(page.body.starts_with(b"<!DOCTYPE"));
    }
    okta.queue_fault(Fault::NoNextLink);
    let page = logs(&okta, "").await;
    assert_eq!((page.uuids(), page.link("next")), (uuids(0..2), None));
    okta.queue_fault(Fault::ForeignNextLink);
    let link = logs(&okta, "").await.next();
    assert!(link.starts_with("https://acme.elsewhere.example/api/v1/logs?after="));
    assert_eq!(okta.requests().pop().unwrap().next, None);

    let link = logs(&okta, "limit=1").await.next();
    okta.queue_fault(Fault::EmptyWithNext);
    let empty = get(&link).await;
    assert_eq!(empty.uuids(), uuids([]));
    assert_ne!(empty.next(), link);
    assert_eq!(get(&empty.next()).await.uuids(), uuids([1]));

    let pause = Duration::from_millis(50);
    for fault in [Fault::Slow(pause), Fault::SlowBody(pause)] {
        okta.queue_fault(fault);
        let since = std::time::Instant::now();
        assert_eq!(logs(&okta, "").await.uuids(), uuids(0..2));
        assert!(since.elapsed() >= pause, "{fault:?}");
    }
}

#[tokio::test]
async fn random_faults_lose_nothing_for_a_client_that_asks_again() {
    let okta = with_entries(60);
    okta.set_faults(Some(Faults {
        random: Random::of_run("a mock's random faults").fork(),
        once_in: 2,
        kinds: Fault::TRANSIENT.to_vec(),
    }));
    let mut link = format!("{}?limit=1", okta.logs_url());
    let mut found = Vec::new();
    while found.len() < 60 {
        if let Ok(page) = try_get(&link).await
            && page.status == 200
            && let Some(next) = page.link("next")
        {
            found.extend(page.uuids());
            link = next;
        }
    }
    assert_eq!(found, uuids(0..60));
    assert_eq!(okta.times_given(), [1; 60]);
    let requests = okta.requests();
    assert!(requests.iter().any(|one| one.fault.is_some()));
    assert!((0..requests.len()).all(|index| okta.goes_on(index)));

    okta.set_faults(None);
    let last = okta.last_links();
    let next = get(&link).await.next();
    assert_eq!(next, link);
    assert!(last.lead_to(okta.requests().last().unwrap()));
    // Not from the beginning once more, and not from an old link.
    logs(&okta, "limit=1").await;
    assert!(!okta.goes_on(okta.requests().len() - 1));
    assert!(!last.lead_to(&requests[1]) || requests[1].after.is_none());
    assert_eq!(LastLinks::of(&requests[..0]), LastLinks::default());
}
