//! An Okta org in the test process: its System Log, its token endpoint, and its event hooks.
//!
//! Built from what Okta documents, and strict where Okta is: what a client must not do is refused
//! and kept as a violation. Every request to the System Log is recorded, so that a test can say
//! afterwards what the client did; of an `Authorization` header only the scheme is.
//!
//! It has a thread and a port of its own, so it lives on whatever becomes of the client, and goes
//! with the last handle. It knows nothing of the program under test.

mod answer;
mod connection;
mod fault;
mod filter;
mod hooks;
mod keys;
mod logs;
mod oauth;
mod record;
mod tests;

pub(crate) use fault::{Fault, Faults};
pub(crate) use hooks::{DeliveryOutcome, Verification, hook_deliver, hook_verify};
pub(crate) use keys::KeyPair;
pub(crate) use oauth::TokenFault;
pub(crate) use record::{LastLinks, LogsRequest, Scheme};

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use self::connection::{Cut, Door};
use self::fault::FaultSource;
use self::logs::Position;
use self::oauth::Tokens;
use self::record::Window;
use crate::fixtures::Given;

/// The API token that is accepted with the scheme SSWS, unless the settings name another.
pub(crate) const API_TOKEN: &str = "00mockApiTokenOfTheOuterTests";

/// The client id that assertions have to be of.
pub(crate) const CLIENT_ID: &str = "0oa1mockclient000x1d7";

/// How the org is set up.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// How many requests to `/api/v1/logs` one window has for all clients together.
    pub(crate) limit: u32,
    /// Whole seconds, because the header that names a window's end has no smaller unit.
    pub(crate) window: Duration,
    pub(crate) api_token: String,
    /// How long an access token is good for.
    pub(crate) token_life: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // As good as none: a test that is about limits sets its own.
            limit: 1_000_000,
            window: Duration::from_mins(1),
            api_token: API_TOKEN.to_owned(),
            token_life: Duration::from_hours(1),
        }
    }
}

/// An entry of the System Log.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// When the org took it, which is what a polling request goes by.
    pub(crate) persisted: Timestamp,
    pub(crate) json: String,
    pub(crate) event_type: String,
}

/// A running org; clones are handles of the same one.
#[derive(Clone, Debug)]
pub(crate) struct MockOkta {
    running: Arc<Running>,
}

#[derive(Debug)]
struct Running {
    org: Arc<Org>,
    /// Dropped to stop the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // What a handler panicked with was printed when it did.
            let _ = thread.join();
        }
    }
}

/// What the handle and the handlers share.
#[derive(Debug)]
struct Org {
    address: SocketAddr,
    clock: Clock,
    window: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: u32,
    api_token: String,
    /// In the order in which they were persisted.
    entries: Vec<Entry>,
    /// The positions that `after` tokens stand for.
    cursors: HashMap<String, Position>,
    windows: BTreeMap<u64, Window>,
    faults: FaultSource,
    requests: Vec<LogsRequest>,
    violations: Vec<String>,
    tokens: Tokens,
}

/// Wall time that never goes back.
#[derive(Debug)]
struct Clock {
    started: Timestamp,
    running: Instant,
}

impl Clock {
    fn start() -> Self {
        Self {
            started: Timestamp::now(),
            running: Instant::now(),
        }
    }

    fn now(&self) -> Timestamp {
        self.started + self.running.elapsed()
    }
}

impl Org {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn token_url(&self) -> String {
        format!("{}/oauth2/v1/token", self.url())
    }

    /// The window that an instant is in, and the epoch second at which it ends.
    ///
    /// Windows begin with the second in which the org started.
    fn window(&self, now: Timestamp) -> (u64, i64) {
        let length = i64::try_from(self.window.as_secs()).unwrap();
        let first = self.clock.started.as_second();
        let number = (now.as_second() - first) / length;
        let ends = first + (number + 1) * length;
        (u64::try_from(number).unwrap(), ends)
    }
}

impl MockOkta {
    pub(crate) fn start() -> Self {
        Self::start_with(Settings::default())
    }

    pub(crate) fn start_with(settings: Settings) -> Self {
        let whole = settings.window.as_secs() > 0 && settings.window.subsec_nanos() == 0;
        assert!(whole, "a window of whole seconds");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let org = Arc::new(Org {
            address: listener.local_addr().unwrap(),
            clock: Clock::start(),
            window: settings.window,
            state: Mutex::new(State {
                limit: settings.limit,
                api_token: settings.api_token,
                entries: Vec::new(),
                cursors: HashMap::new(),
                windows: BTreeMap::new(),
                faults: FaultSource::default(),
                requests: Vec::new(),
                violations: Vec::new(),
                tokens: Tokens::new(settings.token_life),
            }),
        });
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&org);
        let thread = std::thread::spawn(move || serve(listener, served, stopped));
        Self {
            running: Arc::new(Running {
                org,
                stop: Some(stop),
                thread: Some(thread),
            }),
        }
    }

    fn org(&self) -> &Org {
        &self.running.org
    }

    /// `http://127.0.0.1:port`, without a slash at the end.
    pub(crate) fn url(&self) -> String {
        self.org().url()
    }

    pub(crate) fn logs_url(&self) -> String {
        format!("{}/api/v1/logs", self.url())
    }

    /// Where tokens are asked for; also what an assertion has to name as its audience.
    pub(crate) fn token_url(&self) -> String {
        self.org().token_url()
    }

    /// Persists an event now, behind all others; gives its position.
    ///
    /// A late event is one that says it was published long ago.
    pub(crate) fn publish(&self, event: &Given) -> usize {
        self.persist(event.json.clone(), &event.value())
    }

    /// Persists any JSON as an entry; gives its position.
    pub(crate) fn publish_json(&self, event: &Value) -> usize {
        self.persist(event.to_string(), event)
    }

    fn persist(&self, json: String, value: &Value) -> usize {
        let mut state = self.org().lock();
        // Under the lock, so that the order of instants is the order of entries.
        let persisted = self.org().clock.now();
        state.entries.push(Entry {
            persisted,
            json,
            event_type: value["eventType"].as_str().unwrap_or("").to_owned(),
        });
        state.entries.len() - 1
    }

    /// Makes all entries so far older by that much.
    pub(crate) fn age_entries(&self, by: Duration) {
        for entry in &mut self.org().lock().entries {
            entry.persisted -= by;
        }
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.org().lock().entries.clone()
    }

    /// The org's own time.
    pub(crate) fn now(&self) -> Timestamp {
        self.org().clock.now()
    }

    /// From now on all `after` tokens handed out so far are refused.
    pub(crate) fn expire_cursors(&self) {
        for position in self.org().lock().cursors.values_mut() {
            position.expired = true;
        }
    }

    /// Changes the rate limit, from the current window on.
    pub(crate) fn set_limit(&self, limit: u32) {
        self.org().lock().limit = limit;
    }

    /// Other clients spend that many requests of the current window.
    pub(crate) fn others_use(&self, requests: u32) {
        let (window, _) = self.org().window(self.now());
        let mut state = self.org().lock();
        state.windows.entry(window).or_default().others += requests;
    }

    /// Does this to the next request to `/api/v1/logs` that the rate limit lets through, after
    /// those queued before; [`Fault::ExpiredCursor`] waits for a request that has an `after`.
    pub(crate) fn queue_fault(&self, fault: Fault) {
        self.org().lock().faults.queue(fault);
    }

    /// Faults that were queued and have met no request yet.
    pub(crate) fn faults_left(&self) -> VecDeque<Fault> {
        self.org().lock().faults.left().clone()
    }

    /// Makes faults at random from now on, or none any more.
    pub(crate) fn set_faults(&self, faults: Option<Faults>) {
        self.org().lock().faults.set_random(faults);
    }
}

/// The thread of an org: serves until the handle is gone.
fn serve(listener: std::net::TcpListener, org: Arc<Org>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let router = Router::new()
        .route("/api/v1/logs", get(logs::logs))
        .route("/oauth2/v1/token", post(oauth::token))
        .fallback(elsewhere)
        .with_state(org)
        .into_make_service_with_connect_info::<Cut>();
    runtime.block_on(async {
        let door = Door::new(tokio::net::TcpListener::from_std(listener).unwrap());
        // Either ends the thread, and what is still open ends with the runtime.
        tokio::select! {
            served = axum::serve(door, router).into_future() => served.unwrap(),
            _ = stopped => {}
        }
    });
}

/// Nothing else of an org's API is here, and nobody is expected to ask.
async fn elsewhere(
    axum::extract::State(org): axum::extract::State<Arc<Org>>,
    request: axum::extract::Request,
) -> (StatusCode, String) {
    let asked = format!("asked for {} {}", request.method(), request.uri().path());
    org.lock().violations.push(asked);
    let body = error_body(
        "E0000022",
        "The endpoint does not support the provided HTTP method",
    );
    (StatusCode::NOT_FOUND, body)
}

/// The body that Okta's errors have.
fn error_body(code: &str, summary: &str) -> String {
    json!({
        "errorCode": code,
        "errorSummary": summary,
        "errorLink": code,
        "errorId": format!("oae{}", uuid::Uuid::new_v4().simple()),
        "errorCauses": [],
    })
    .to_string()
}
