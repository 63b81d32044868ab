//! The client for Rust programs: a stream of events that resumes by itself.
//!
//! - [`Client::subscribe`] gives an [`EventStream`], which connects again after whatever passes by
//!   itself (with jitter, see [`Backoff`]) and goes on after the last thing that it gave. What trying
//!   again can't mend ends it, as a [`ClientError`] with the server's reason.
//! - Nothing is skipped, and nothing comes twice out of one `EventStream`, but for what another
//!   filter of the subscription lets through again. What retention took is an [`Item::Gap`].
//! - As a named subscription, what was handled is committed in the background.
//!
//! Knows the contract's types and nothing else of the crate, so it can be had without the server:
//!
//! ```toml
//! provident = { version = "0.1", default-features = false }
//! ```
//!
//! # A consumer
//!
//! ```no_run
//! use provident::client::{Client, Item};
//! use provident::wire::v1;
//!
//! # async fn consume() -> Result<(), provident::client::ClientError> {
//! let client = Client::new("http://127.0.0.1:50051")?;
//! client
//!     .ensure_subscription(v1::CreateSubscriptionRequest {
//!         subscription_id: "my-team".to_owned(),
//!         filter: None, // failures, warnings and what can't be told
//!         start: Some(v1::create_subscription_request::Start::Position(
//!             v1::Position::Earliest.into(),
//!         )),
//!     })
//!     .await?;
//! let mut stream = client.subscribe(v1::SubscribeRequest {
//!     start: Some(v1::subscribe_request::Start::SubscriptionId("my-team".to_owned())),
//!     on_gap: v1::OnGap::Skip.into(),
//!     reader: "my-team-0".to_owned(),
//!     ..v1::SubscribeRequest::default()
//! });
//! while let Some(item) = stream.next().await? {
//!     match item {
//!         Item::Events(events) => {
//!             for event in &events {
//!                 println!("{}", event.sequence); // handle it, then
//!                 stream.commit(event);
//!             }
//!         }
//!         Item::Gap(gap) => {
//!             eprintln!("{} to {} are lost", gap.first_lost_sequence, gap.last_lost_sequence);
//!             stream.commit(&gap);
//!         }
//!         Item::CaughtUp => {}
//!         Item::Interrupted(why) => eprintln!("{why}; going on as soon as that passes"),
//!     }
//! }
//! stream.close().await
//! # }
//! ```
//!
//! The start may as well be a cursor, a time or a position: then the caller keeps the place, which
//! [`EventStream::cursor`] tells. For all other calls, [`Client::connect`] gives a connection for the
//! generated clients in [`v1`].

mod backoff;
mod commits;
mod driver;
mod error;
mod stream;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::time::Duration;

use tokio::time::timeout;
use tokio_stream::Stream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

pub use self::backoff::Backoff;
pub use self::error::{ClientError, Refusal};
pub use self::stream::{EventStream, Item, Place};
use crate::wire::v1;
use crate::wire::v1::event_service_client::EventServiceClient;
use crate::wire::v1::subscription_service_client::SubscriptionServiceClient;

/// How long a client waits, and what it takes.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// How long connecting may take. Usual: 5 s, longer than it takes anywhere on earth.
    pub connect_timeout: Duration,
    /// How long a call, or the first message of a stream, may take. Usual: 10 s.
    pub answer_timeout: Duration,
    /// The longest wait before the first new attempt; it doubles with each further one. Usual: 0.2 s.
    pub backoff_first: Duration,
    /// The longest wait between two attempts, unless the server asks for more. Usual: 15 s.
    pub backoff_max: Duration,
    /// How often is committed what was noted. Usual: 1 s. Shorter means fewer repeats after a crash
    /// of the consumer; each commit is a flush on the server.
    pub commit_interval: Duration,
    /// The largest message taken, in bytes. Usual: 64 MiB, larger than any that the server sends.
    pub message_bytes_max: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(10),
            backoff_first: Duration::from_millis(200),
            backoff_max: Duration::from_secs(15),
            commit_interval: Duration::from_secs(1),
            message_bytes_max: 64 << 20,
        }
    }
}

/// Where a server is, and how to deal with it. Cheap to clone; holds no connection.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
    options: ClientOptions,
}

impl Client {
    /// A client of the server at `url`, such as `http://127.0.0.1:50051`. Connects to nothing yet.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let endpoint = Endpoint::from_shared(url.to_owned()).ok();
        let endpoint = endpoint
            .filter(|endpoint| {
                endpoint.uri().host().is_some() && endpoint.uri().scheme_str() == Some("http")
            })
            .ok_or_else(|| ClientError::Address {
                url: url.to_owned(),
            })?;
        Ok(Self::of_endpoint(
            endpoint
                .tcp_nodelay(true)
                // Finds out that a connection is dead also where no stream is open.
                .http2_keep_alive_interval(Duration::from_secs(20))
                .keep_alive_timeout(Duration::from_secs(10))
                .keep_alive_while_idle(true),
        ))
    }

    /// A client by an endpoint of the caller's, for TLS, keep-alive and the like.
    pub fn of_endpoint(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            options: ClientOptions::default(),
        }
    }

    #[must_use]
    pub fn with_options(self, options: ClientOptions) -> Self {
        Self { options, ..self }
    }

    /// A new connection, for the generated clients.
    pub async fn connect(&self) -> Result<Channel, ClientError> {
        let bound = self.options.connect_timeout;
        match timeout(bound, self.endpoint.connect()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(ClientError::unreachable(&error)),
            Err(_elapsed) => Err(ClientError::Silent { after: bound }),
        }
    }

    /// Opens a stream of events, by the request of the contract. Has to be called within a tokio
    /// runtime.
    ///
    /// Where it starts, which filter, whether gaps are skipped or final: all that stands in the
    /// request. A bad one is refused by the server, so it is [`EventStream::next`] that tells.
    pub fn subscribe(&self, request: v1::SubscribeRequest) -> EventStream {
        EventStream::open(self.clone(), &self.options, request)
    }

    /// Makes a subscription if there is none of its name. One that is there stays as it is, also
    /// if its filter is another one.
    ///
    /// Tries again for as long as the server is away: bound it with a timeout, if need be.
    ///
    /// # Cancel safety
    /// If it is dropped, the subscription may have been made or not.
    pub async fn ensure_subscription(
        &self,
        request: v1::CreateSubscriptionRequest,
    ) -> Result<(), ClientError> {
        let mut backoff = Backoff::new(self.options.backoff_first, self.options.backoff_max);
        loop {
            let error = match self.create(request.clone()).await {
                Err(ClientError::Refused(refusal))
                    if refusal.reason() == Some(v1::ErrorReason::SubscriptionExists) =>
                {
                    return Ok(());
                }
                Err(error) if error.is_passing() => error,
                done => return done,
            };
            tokio::time::sleep(backoff.next(error.retry_delay())).await;
        }
    }

    async fn create(&self, request: v1::CreateSubscriptionRequest) -> Result<(), ClientError> {
        let mut client = SubscriptionServiceClient::new(self.connect().await?);
        let call = client.create_subscription(request);
        answered(self.options.answer_timeout, call).await?;
        Ok(())
    }
}

/// Waits for an answer, but not for ever.
async fn answered<T>(
    bound: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, ClientError> {
    match timeout(bound, call).await {
        Ok(answer) => answer.map_err(ClientError::from),
        Err(_elapsed) => Err(ClientError::Silent { after: bound }),
    }
}

/// What a stream's messages come out of.
type Messages = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

/// The way to a server, as the stream's driver needs it: a seam for tests.
trait Dial: Send + 'static {
    type Calls: Calls;

    /// A new connection. Comes to an end by itself.
    fn dial(&self) -> impl Future<Output = Result<Self::Calls, ClientError>> + Send;
}

/// The calls on one connection. They may take for ever.
trait Calls: Send + Sync + 'static {
    fn subscribe(
        &self,
        request: v1::SubscribeRequest,
    ) -> impl Future<Output = Result<Messages, Status>> + Send;

    fn commit(
        &self,
        request: v1::CommitRequest,
    ) -> impl Future<Output = Result<(), Status>> + Send + use<Self>;
}

/// A connection to a real server.
#[derive(Clone, Debug)]
struct Connection {
    channel: Channel,
    message_bytes_max: usize,
}

impl Dial for Client {
    type Calls = Connection;

    async fn dial(&self) -> Result<Connection, ClientError> {
        Ok(Connection {
            channel: self.connect().await?,
            message_bytes_max: self.options.message_bytes_max,
        })
    }
}

impl Calls for Connection {
    async fn subscribe(&self, request: v1::SubscribeRequest) -> Result<Messages, Status> {
        let mut client = EventServiceClient::new(self.channel.clone())
            .max_decoding_message_size(self.message_bytes_max);
        let stream = client.subscribe(request).await?.into_inner();
        Ok(Box::pin(stream))
    }

    fn commit(
        &self,
        request: v1::CommitRequest,
    ) -> impl Future<Output = Result<(), Status>> + Send + use<> {
        let mut client = SubscriptionServiceClient::new(self.channel.clone());
        async move { client.commit(request).await.map(|_done| ()) }
    }
}
