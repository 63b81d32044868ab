//! The gRPC services over one engine, with health, reflection and limits, as one router.
//!
//! Services translate and decide nothing: no rule of the domain lives here. Every refusal goes
//! through [`status`], every answer that holds stored events through [`codec`].

pub mod classifier;
pub mod codec;
pub mod connection;
pub mod events;
pub mod requests;
pub mod sources;
pub mod status;
pub mod subscriptions;
pub mod traced;

/// Server traits, generated from `proto/`; see `build.rs`.
mod generated {
    #![expect(
        clippy::pedantic,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        unreachable_pub,
        reason = "generated"
    )]
    tonic::include_proto!("provident.v1.ClassifierService");
    tonic::include_proto!("provident.v1.EventService");
    tonic::include_proto!("provident.v1.SourceService");
    tonic::include_proto!("provident.v1.SubscriptionService");
}

use std::sync::Arc;
use std::time::Duration;

use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::server::HealthReporter;

use self::classifier::Classifiers;
use self::events::Events;
use self::generated::classifier_service_server::ClassifierServiceServer;
use self::generated::event_service_server::EventServiceServer;
use self::generated::source_service_server::SourceServiceServer;
use self::generated::subscription_service_server::SubscriptionServiceServer;
use self::sources::SourceList;
use self::status::Refusal;
use self::subscriptions::SubscriptionList;
use crate::engine::intake::Preparation;
use crate::engine::sources::Sources;
use crate::engine::{Engine, EngineSlot};
use crate::wire;
use crate::wire::v1::ErrorReason;

/// What a peer may send before we have taken it in, on one stream and on one connection: a batch of
/// some hundred events without waiting for leave. HTTP/2's own 64 KiB would stop it 16 times in a
/// mebibyte.
const WINDOW_BYTES: (u32, u32) = (1 << 20, 2 << 20);

/// Names that `grpc.health.v1` answers for, beside the empty one that means the whole server.
const HEALTH_NAMES: [&str; 4] = [
    "provident.v1.ClassifierService",
    "provident.v1.EventService",
    "provident.v1.SourceService",
    "provident.v1.SubscriptionService",
];

/// The name under which health tells whether the ways in bring events. It is apart from the others:
/// a service whose Okta is away is as ready as any for those who call it.
const SOURCES_NAME: &str = "provident.sources";

/// The engine, or what to tell until there is one.
fn engine(slot: &EngineSlot) -> Result<&Engine, Refusal> {
    slot.get().ok_or_else(|| {
        Refusal::new(
            ErrorReason::JournalUnavailable,
            "the journal is being opened",
        )
    })
}

/// Bounds of the gRPC server.
#[derive(Clone, Copy, Debug)]
pub struct GrpcLimits {
    /// Bytes of one request message.
    pub message_bytes_max: usize,
    /// Bytes of requests that are arriving, over all calls.
    pub requests_bytes_max: usize,
    /// How long a request may take to arrive.
    pub request_timeout: Duration,
    /// Calls at a time on one connection.
    pub streams_per_connection_max: u32,
    /// How long a connection may be silent before it is asked for a sign of life.
    pub keepalive_interval: Duration,
    /// How long it has to answer: half-open connections are found within both together.
    pub keepalive_timeout: Duration,
}

/// Builds the router, health included; it says `NOT_SERVING` until the reporter says otherwise.
pub async fn router(
    preparation: Arc<Preparation>,
    engine: EngineSlot,
    sources: Sources,
    limits: GrpcLimits,
    reflection: bool,
) -> anyhow::Result<(Router, HealthReporter)> {
    status::tell_reasons();
    let (reporter, health) = tonic_health::server::health_reporter();
    set_serving(&reporter, false).await;
    set_sources_well(&reporter, true).await;
    let classifier = ClassifierServiceServer::new(Classifiers::new(preparation))
        .max_decoding_message_size(limits.message_bytes_max)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let of_sources = SourceServiceServer::new(SourceList::new(sources.clone()))
        .max_decoding_message_size(limits.message_bytes_max)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let subscriptions = SubscriptionServiceServer::new(SubscriptionList::new(engine.clone()))
        .max_decoding_message_size(limits.message_bytes_max)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let events = EventServiceServer::new(Events::new(engine, &sources))
        .max_decoding_message_size(limits.message_bytes_max)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let mut routes = Routes::new(health)
        .add_service(classifier)
        .add_service(events)
        .add_service(of_sources)
        .add_service(subscriptions);
    if reflection {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(wire::DESCRIPTOR)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // grpcurl 1.8 and other older clients know v1alpha only.
        routes = routes
            .add_service(builder().build_v1()?)
            .add_service(builder().build_v1alpha()?);
    }
    let served = Server::builder()
        .max_concurrent_streams(limits.streams_per_connection_max)
        .initial_stream_window_size(WINDOW_BYTES.0)
        .initial_connection_window_size(WINDOW_BYTES.1)
        .http2_keepalive_interval(Some(limits.keepalive_interval))
        .http2_keepalive_timeout(Some(limits.keepalive_timeout))
        .add_routes(traced::traced(requests::bounded(routes, limits)));
    Ok((served, reporter))
}

/// Tells the health service's watchers that no calls are taken, and ends their watches, which would
/// keep their connections open through a stop.
pub async fn stop_serving(reporter: &mut HealthReporter) {
    set_serving(reporter, false).await;
    reporter.clear_service_status("").await;
    for name in HEALTH_NAMES.into_iter().chain([SOURCES_NAME]) {
        reporter.clear_service_status(name).await;
    }
}

/// Tells the health service's watchers whether all ways in are well.
pub async fn set_sources_well(reporter: &HealthReporter, well: bool) {
    let status = if well {
        tonic_health::ServingStatus::Serving
    } else {
        tonic_health::ServingStatus::NotServing
    };
    reporter.set_service_status(SOURCES_NAME, status).await;
}

/// Tells the health service's watchers whether calls are taken.
pub async fn set_serving(reporter: &HealthReporter, serving: bool) {
    let status = if serving {
        tonic_health::ServingStatus::Serving
    } else {
        tonic_health::ServingStatus::NotServing
    };
    reporter.set_service_status("", status).await;
    for name in HEALTH_NAMES {
        reporter.set_service_status(name, status).await;
    }
}
