//! The event hook endpoint: Okta's verification, and its deliveries.
//!
//! - 204 only when the events are durable, and always an answer well inside the 3 s that Okta waits.
//! - 4xx only where trying again can't help, since Okta never does after one; else 5xx.
//! - The secret is compared in constant time, before a byte of the body is read; two are valid while
//!   it is changed.
//!
//! One bad event of a delivery holds up none of the others: it is kept as a reject. No rule of the
//! domain is in here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::HookSecrets;
use crate::domain::event::Intake;
use crate::engine::sources::{Source, Sources};
use crate::engine::writer::AppendError;
use crate::engine::{EngineSlot, IngestError, Ingested, Outcome};
use crate::okta::group_push_failed::kept_headers;
use crate::okta::input;
use crate::okta::org::Orgs;
use crate::telemetry::{self, trace};

/// The header by which Okta asks, once, whether the endpoint wants its events.
const CHALLENGE: &str = "x-okta-verification-challenge";

/// The longest challenge that is given back; Okta's are some tens of bytes.
const CHALLENGE_BYTES_MAX: usize = 1024;

/// How long who can be served later is to wait; Okta itself tries again at once.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Room for bodies is counted in units of this many bytes, since a semaphore counts to 2^32.
const PERMIT_BYTES: usize = 1024;

/// An org's hooks.
#[derive(Clone, Debug)]
pub struct HookOrg {
    /// Empty: the org is whichever the delivery names.
    pub org: String,
    pub secrets: HookSecrets,
}

/// How deliveries are taken.
#[derive(Clone, Debug)]
pub struct HookOptions {
    pub orgs: Vec<HookOrg>,
    /// The header that holds the secret.
    pub header: HeaderName,
    /// Headers that are kept beside the usual ones.
    pub kept_headers: Vec<String>,
    pub body_bytes_max: usize,
    /// Of all deliveries that are being read together.
    pub bodies_bytes_max: usize,
    pub events_max: usize,
    pub answer_timeout: Duration,
}

#[derive(Debug)]
struct Hooks {
    /// Room for bodies, in units of [`PERMIT_BYTES`].
    bodies: Semaphore,
    options: HookOptions,
    known: Orgs,
    engine: EngineSlot,
    sources: Sources,
}

/// The hook address's routes.
pub fn hooks(options: HookOptions, known: Orgs, engine: EngineSlot, sources: Sources) -> Router {
    let any = get(verify_any).post(deliver_any);
    let one = get(verify_one).post(deliver_one);
    Router::new()
        .route("/hooks/okta", any)
        .route("/hooks/okta/{org}", one)
        .with_state(Arc::new(Hooks {
            bodies: Semaphore::new(options.bodies_bytes_max.div_ceil(PERMIT_BYTES)),
            options,
            known,
            engine,
            sources,
        }))
}

/// Why a delivery is not taken: a status, and a sentence for whoever looks at it.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    problem: String,
    /// What is lost by it for good, and so kept as a reject, as far as it was read.
    lost: Option<Bytes>,
}

fn refused(status: StatusCode, problem: impl Into<String>) -> Refused {
    Refused {
        status,
        problem: problem.into(),
        lost: None,
    }
}

fn too_large(problem: impl Into<String>, lost: Bytes) -> Refused {
    Refused {
        lost: Some(lost),
        ..refused(StatusCode::PAYLOAD_TOO_LARGE, problem)
    }
}

fn later(problem: impl Into<String>) -> Refused {
    refused(StatusCode::SERVICE_UNAVAILABLE, problem)
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.status, format!("{}\n", self.problem)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                header::HeaderValue::from_static("Okta-Event-Hook"),
            );
        }
        response
    }
}

async fn verify_any(State(hooks): State<Arc<Hooks>>, headers: HeaderMap) -> Response {
    hooks.verify(None, &headers).into_response()
}

async fn verify_one(
    State(hooks): State<Arc<Hooks>>,
    Path(org): Path<String>,
    headers: HeaderMap,
) -> Response {
    hooks.verify(Some(&org), &headers).into_response()
}

async fn deliver_any(State(hooks): State<Arc<Hooks>>, request: Request) -> Response {
    hooks.answer(None, request).await
}

async fn deliver_one(
    State(hooks): State<Arc<Hooks>>,
    Path(org): Path<String>,
    request: Request,
) -> Response {
    hooks.answer(Some(&org), request).await
}

impl Hooks {
    /// Gives the challenge back, under a path that deliveries are taken at. It asks for no secret:
    /// what comes back is what was sent.
    fn verify(&self, org: Option<&str>, headers: &HeaderMap) -> Result<Response, Refused> {
        self.of_path(org)?;
        let challenge = headers
            .get(CHALLENGE)
            .filter(|value| value.len() <= CHALLENGE_BYTES_MAX)
            .and_then(|value| value.to_str().ok())
            .ok_or_else(|| {
                refused(
                    StatusCode::BAD_REQUEST,
                    format!(
                        "the header {CHALLENGE} is missing or no text: this is where Okta's event \
                         hooks go"
                    ),
                )
            })?;
        tracing::debug!("an event hook was verified");
        let answer = serde_json::json!({ "verification": challenge });
        let content = [(header::CONTENT_TYPE, "application/json")];
        Ok((content, answer.to_string()).into_response())
    }

    async fn answer(&self, org: Option<&str>, request: Request) -> Response {
        let started = Instant::now();
        let mut source = None;
        let taking = self.take(org, request, &mut source);
        // Dropping it is safe: what has queued is written, and kept once when it comes again.
        let result = tokio::time::timeout(self.options.answer_timeout, taking)
            .await
            .unwrap_or_else(|_elapsed| Err(later("the delivery could not be kept in time")));
        let response = match result {
            Ok(()) => StatusCode::NO_CONTENT.into_response(),
            Err(mut refused) => {
                self.note(source.as_deref(), &refused);
                if let (Some(lost), Some(engine)) = (refused.lost.take(), self.engine.get()) {
                    let org = source.as_ref().map_or("", |source| &source.org);
                    let reason = refused.problem.clone();
                    // The answer does not wait for a disk that hangs; what was begun goes on.
                    let left = self
                        .options
                        .answer_timeout
                        .saturating_sub(started.elapsed());
                    let kept = engine.reject(Intake::EventHook, org, reason, lost);
                    let _ = tokio::time::timeout(left, kept).await;
                }
                refused.into_response()
            }
        };
        telemetry::delivery(response.status().as_u16(), started.elapsed());
        response
    }

    /// Tells the sources and the log. Who does not know the secret could be anybody, so that is no
    /// failure, and must not fill the log.
    fn note(&self, source: Option<&Source>, refused: &Refused) {
        let (status, problem) = (refused.status.as_u16(), &refused.problem);
        let text = format!("{status}: {problem}");
        if let Some(source) = source {
            tracing::warn!(
                org = source.org,
                status,
                problem,
                "an event hook's delivery was refused"
            );
            source.failed(text);
            return;
        }
        if refused.lost.is_some() {
            tracing::warn!(status, problem, "an event hook's delivery was refused");
        } else {
            tracing::debug!(status, problem, "a stranger's delivery was refused");
        }
        for source in self.sources.all() {
            if source.intake == Intake::EventHook {
                source.noted(text.clone());
            }
        }
    }

    async fn take(
        &self,
        org: Option<&str>,
        request: Request,
        source: &mut Option<Arc<Source>>,
    ) -> Result<(), Refused> {
        let (parts, body) = request.into_parts();
        let candidates = self.of_path(org)?;
        let allowed = self.authenticated(&candidates, &parts.headers)?;
        // Strangers make no traces.
        let mut span = trace::serve("POST /hooks/okta", &parts.headers);
        span.set("http.request.method", "POST");
        // It took too long.
        let late = trace::Status::error("it took too long");
        span.set_otherwise("http.response.status_code", 503, late);
        let taking = self.take_of(allowed, org, &parts.headers, body, source);
        let taken = span.trace().within(taking).await;
        let status = match &taken {
            Ok(()) => StatusCode::NO_CONTENT,
            Err(refused) => refused.status,
        };
        span.set("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            span.failed(status.to_string());
        }
        taken
    }

    /// Takes a delivery of one of the orgs whose secret it holds.
    async fn take_of(
        &self,
        mut allowed: Vec<&HookOrg>,
        org: Option<&str>,
        headers: &HeaderMap,
        body: Body,
        source: &mut Option<Arc<Source>>,
    ) -> Result<(), Refused> {
        if let [only] = allowed[..] {
            *source = self.sources.find(Intake::EventHook, &only.org);
        }
        let (body, _room) = self.body(headers, body).await?;
        if allowed.len() > 1 {
            let hook = self.by_source(&allowed, &body);
            allowed = vec![hook.map_err(|refused| Refused {
                lost: Some(body.clone()),
                ..refused
            })?];
        }
        let hook = allowed
            .first()
            .expect("without one, the delivery was refused");
        *source = self.sources.find(Intake::EventHook, &hook.org);
        let org = match (hook.org.as_str(), org) {
            ("", Some(of_path)) => of_path,
            (of_hook, _) => of_hook,
        };
        let engine = self
            .engine
            .get()
            .ok_or_else(|| later("the journal is being opened"))?;
        let headers = kept_headers(self.texts(headers), &self.options.kept_headers);
        let delivered = engine
            .deliver(
                org,
                &hook.org,
                body.clone(),
                headers,
                self.options.events_max,
            )
            .await
            .map_err(|error| not_taken(&error, body))?;
        judge(&delivered)?;
        if let Some(source) = source {
            source.took(&delivered);
        }
        Ok(())
    }

    /// The orgs that a path may mean.
    fn of_path(&self, org: Option<&str>) -> Result<Vec<&HookOrg>, Refused> {
        let all = &self.options.orgs;
        let Some(org) = org else {
            return Ok(all.iter().collect());
        };
        // Who asks may be anybody: no list of the orgs is given, and what was asked for is not kept.
        let unknown = || {
            refused(
                StatusCode::NOT_FOUND,
                "no event hook is set up under this path",
            )
        };
        let resolved = self.known.resolve(org).map_err(|_other| unknown())?;
        let found = all
            .iter()
            .find(|hook| hook.org == resolved || hook.org.is_empty());
        found.map(|hook| vec![hook]).ok_or_else(unknown)
    }

    /// Those of some orgs whose secret the delivery holds.
    fn authenticated<'a>(
        &self,
        orgs: &[&'a HookOrg],
        headers: &HeaderMap,
    ) -> Result<Vec<&'a HookOrg>, Refused> {
        let mut given = headers.get_all(&self.options.header).iter();
        let (Some(given), None) = (given.next(), given.next()) else {
            return Err(refused(
                StatusCode::UNAUTHORIZED,
                format!(
                    "the header {} is missing, or there twice",
                    self.options.header
                ),
            ));
        };
        let given = digest(given.as_bytes());
        let mut allowed = Vec::new();
        let mut all_were_read = true;
        for org in orgs {
            let mut is_valid = false;
            for secret in org.secrets.valid() {
                match secret {
                    // All of them are compared, and digests tell nothing of how far two secrets
                    // agree.
                    Ok(secret) => is_valid |= digest(secret.as_bytes()) == given,
                    // Said in the log where it was read.
                    Err(_unreadable) => all_were_read = false,
                }
            }
            if is_valid {
                allowed.push(*org);
            }
        }
        // It may hold the one that could not be read.
        if allowed.is_empty() && !all_were_read {
            return Err(later("the secret can't be read"));
        }
        if allowed.is_empty() {
            return Err(refused(
                StatusCode::UNAUTHORIZED,
                format!(
                    "the header {} does not hold the secret",
                    self.options.header
                ),
            ));
        }
        Ok(allowed)
    }

    /// The one of some orgs that the envelope names.
    fn by_source<'a>(&self, allowed: &[&'a HookOrg], body: &Bytes) -> Result<&'a HookOrg, Refused> {
        let named =
            input::envelope_source(body).and_then(|source| self.known.resolve(&source).ok());
        let org = named.and_then(|named| {
            let is_it = |org: &&&HookOrg| org.org == named;
            allowed.iter().find(is_it).copied()
        });
        org.ok_or_else(|| {
            refused(
                StatusCode::BAD_REQUEST,
                "several orgs have this secret, and the envelope's `source` names none of them: \
                 deliver to /hooks/okta/{org}",
            )
        })
    }

    /// Reads the body, if it is not too large and there is room for it; the room is held with it.
    async fn body(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(Bytes, SemaphorePermit<'_>), Refused> {
        let bytes_max = self.options.body_bytes_max;
        let over = || {
            let problem = format!("the delivery is larger than {bytes_max} bytes");
            too_large(problem, Bytes::new())
        };
        let declared = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if declared.is_some_and(|bytes| bytes > bytes_max) {
            return Err(over());
        }
        // What says no length may have any.
        let permits = declared.unwrap_or(bytes_max).div_ceil(PERMIT_BYTES);
        let all = self.options.bodies_bytes_max.div_ceil(PERMIT_BYTES);
        let permits = u32::try_from(permits.min(all)).unwrap_or(u32::MAX);
        // Waits within the time that an answer may take.
        let mut room = self
            .bodies
            .acquire_many(permits)
            .await
            .expect("it is never closed");
        let body = axum::body::to_bytes(body, bytes_max)
            .await
            .map_err(|error| {
                let mut cause: Option<&dyn std::error::Error> = Some(&error);
                while let Some(error) = cause {
                    if error.is::<http_body_util::LengthLimitError>() {
                        return over();
                    }
                    cause = error.source();
                }
                later("the delivery broke off")
            })?;
        // What was not needed is given back.
        let needed = body.len().div_ceil(PERMIT_BYTES);
        drop(room.split(room.num_permits().saturating_sub(needed)));
        Ok((body, room))
    }

    /// The headers as texts, without the one that holds the secret.
    fn texts(&self, headers: &HeaderMap) -> Vec<String> {
        headers
            .iter()
            .filter(|(name, _)| **name != self.options.header)
            .filter_map(|(name, value)| Some(format!("{name}: {}", value.to_str().ok()?)))
            .collect()
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Whether anything of a delivery was taken, or nothing was to be. A delivery of which nothing can
/// be is refused, so that it shows in Okta too.
fn judge(delivered: &[Ingested]) -> Result<(), Refused> {
    let mut problems = delivered.iter().map(|event| match &event.outcome {
        Outcome::Rejected(rejection) => Some(rejection.to_string()),
        _ => None,
    });
    match problems.next() {
        Some(Some(first)) if problems.all(|problem| problem.is_some()) => {
            Err(refused(StatusCode::BAD_REQUEST, first))
        }
        _ => Ok(()),
    }
}

fn not_taken(error: &IngestError, body: Bytes) -> Refused {
    let status = match error {
        IngestError::TooMany { .. } => return too_large(error.to_string(), body),
        IngestError::Org(_) => StatusCode::BAD_REQUEST,
        IngestError::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        IngestError::Append(
            AppendError::Overloaded
            | AppendError::StorageFull { .. }
            | AppendError::Damaged { .. }
            | AppendError::ShuttingDown
            | AppendError::OutcomeUnknown,
        ) => StatusCode::SERVICE_UNAVAILABLE,
    };
    refused(status, error.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::config::Secret;
    use crate::domain::classify::Classifier;
    use crate::domain::cursor::JournalId;
    use crate::engine::clock::Clock;
    use crate::engine::intake::{Keep, Preparation};
    use crate::engine::rejects::RejectFile;
    use crate::engine::sources::SourceLimits;
    use crate::engine::subscriptions::SubscriptionLimits;
    use crate::engine::writer::WriterLimits;
    use crate::engine::{Engine, EngineLimits};
    use crate::journal::Journal as _;
    use crate::journal::fault::{AppendFailure, FaultControl, FaultJournal, Hold};
    use crate::journal::memory::MemoryJournal;

    const SECRET: &str = "hunter2";

    struct Running {
        hooks: Arc<Hooks>,
        journal: Arc<MemoryJournal>,
        fault: FaultControl,
        writer: JoinHandle<anyhow::Result<()>>,
    }

    /// An endpoint before an engine whose queue has room for a few events.
    async fn start() -> Running {
        let id = JournalId {
            id: [7; 8],
            epoch: 1,
        };
        let journal = Arc::new(MemoryJournal::new(id));
        let (faulty, fault) = FaultJournal::new(Arc::clone(&journal));
        let preparation = Preparation {
            classifier: Classifier::embedded(),
            orgs: Orgs::default(),
            keep: Keep::Provisioning,
            event_bytes_max: 4096,
        };
        let limits = EngineLimits {
            writer: WriterLimits {
                queue_bytes_max: 8192,
                batch_bytes_max: 4096,
                write_timeout: Duration::from_mins(1),
            },
            tail_bytes_max: 1 << 20,
            read_ahead_bytes_max: 1 << 20,
            subscriptions: SubscriptionLimits {
                subscriptions_max: 1,
                filter_bytes_max: 1,
                expire_after: None,
            },
            streams_max: 1,
            stream_age_max: None,
            scan_records_max: 10,
            events_per_call_max: 10,
        };
        let (engine, writer) = Engine::new(
            Arc::new(faulty),
            Arc::new(preparation),
            RejectFile::none(),
            Clock::system(),
            limits,
        )
        .await
        .unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test waits for what it starts")]
        let writer = tokio::spawn(writer.run(CancellationToken::new()));
        let slot = EngineSlot::default();
        slot.fill(engine);
        let limits = SourceLimits {
            failing_after: Duration::from_mins(5),
            silent_after: None,
        };
        let secrets = HookSecrets {
            current: Some(Secret::of_text(SECRET)),
            previous: None,
        };
        let org = HookOrg {
            org: String::new(),
            secrets,
        };
        let options = HookOptions {
            orgs: vec![org],
            header: header::AUTHORIZATION,
            kept_headers: Vec::new(),
            body_bytes_max: 1 << 20,
            bodies_bytes_max: 1 << 24,
            events_max: 10,
            answer_timeout: Duration::from_secs(2),
        };
        let sources = [(Intake::EventHook, String::new())];
        let hooks = Hooks {
            bodies: Semaphore::new(1 << 14),
            options,
            known: Orgs::default(),
            engine: slot,
            sources: Sources::new(sources, limits, Clock::system()),
        };
        Running {
            hooks: Arc::new(hooks),
            journal,
            fault,
            writer,
        }
    }

    fn delivery(uuid: &str) -> Request {
        let body = format!(
            r#"{{"eventType":"com.okta.event_hook","source":"https://a.okta.com/api/v1/eventHooks/w",
            "data":{{"events":[{{"uuid":"{uuid}","eventType":"application.provision.user.push",
            "outcome":{{"result":"FAILURE"}},"padding":"{}"}}]}}}}"#,
            "x".repeat(2000)
        );
        Request::builder()
            .method("POST")
            .header("Authorization", SECRET)
            .body(Body::from(body))
            .unwrap()
    }

    async fn status(hooks: &Hooks, uuid: &str) -> u16 {
        let response = hooks.answer(None, delivery(uuid)).await;
        let status = response.status().as_u16();
        let is_asked_again = response.headers().contains_key(header::RETRY_AFTER);
        assert_eq!(is_asked_again, status == 503);
        status
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_and_a_full_queue_are_answered_with_503_in_time() {
        let running = start().await;
        running.fault.hold(Hold::BeforeWrite);
        let since = tokio::time::Instant::now();
        // The first waits for the disk, those behind it until the queue is full.
        let slow = futures_util::future::join_all((0..6).map(|number| {
            let hooks = Arc::clone(&running.hooks);
            async move { status(&hooks, &format!("u{number}")).await }
        }));
        assert_eq!(slow.await, [503; 6]);
        assert_eq!(since.elapsed(), Duration::from_secs(2));
        let since = tokio::time::Instant::now();
        assert_eq!(status(&running.hooks, "late").await, 503);
        assert_eq!(
            since.elapsed(),
            Duration::ZERO,
            "a full queue is told at once"
        );
        // Tried again when the disk is well, each is there once.
        running.fault.release();
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        for number in 0..6 {
            assert_eq!(status(&running.hooks, &format!("u{number}")).await, 204);
        }
        assert_eq!(running.journal.bounds().head.get(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_find_no_room_in_time_are_to_come_again() {
        let running = start().await;
        let all = running.hooks.bodies.try_acquire_many(1 << 14).unwrap();
        assert_eq!(status(&running.hooks, "u1").await, 503);
        drop(all);
        assert_eq!(status(&running.hooks, "u1").await, 204);
    }

    #[tokio::test(start_paused = true)]
    async fn no_204_before_the_events_are_durable() {
        let running = start().await;
        running.fault.hold(Hold::BeforeAnswer);
        let answer = status(&running.hooks, "u1");
        tokio::pin!(answer);
        tokio::select! {
            biased;
            status = &mut answer => panic!("{status} before the flush"),
            () = running.fault.held(Hold::BeforeAnswer) => {}
        }
        running.fault.release();
        assert_eq!(answer.await, 204);
    }

    #[tokio::test(start_paused = true)]
    async fn a_journal_that_can_t_write_asks_okta_to_try_again() {
        let running = start().await;
        running.fault.set_full(true);
        assert_eq!(status(&running.hooks, "u1").await, 503);
        running.fault.set_full(false);
        assert_eq!(status(&running.hooks, "u1").await, 204);
        running.fault.fail_append(1, AppendFailure::OutcomeUnknown);
        assert_eq!(status(&running.hooks, "u2").await, 503);
        running.writer.await.unwrap().unwrap_err();
        assert_eq!(status(&running.hooks, "u3").await, 503);
        let source = running.hooks.sources.all()[0].snapshot();
        assert!(source.last_error.unwrap().1.starts_with("503: "));
    }
}
