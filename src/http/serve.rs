//! An HTTP/1 server with bounds: connections, and how long a client may take over a request's head.
//!
//! At a stop it takes no new connection, and lets those that are answering finish in time.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long to wait after a failed accept: out of file descriptors, usually.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bounds of an HTTP server.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// A further connection waits until another has gone.
    pub connections_max: usize,
    /// For a request's head, and between two requests.
    pub head_timeout: Duration,
    /// For those that are under way at a stop.
    pub stop_timeout: Duration,
}

/// Serves until told to stop, then what is under way.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        // Dropping any branch is safe: a connection that was not accepted waits, a place that was
        // taken is given back, and an ended connection was answered.
        let (stream, place) = tokio::select! {
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        let service = TowerToHyperService::new(router.clone().into_service::<Incoming>());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            // A client that goes away or sends no HTTP is its own affair.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    // What is still open then has sent no request, or reads no answer.
    let _ = tokio::time::timeout(limits.stop_timeout, graceful.shutdown()).await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit) {
    let place = Arc::clone(places)
        .acquire_owned()
        .await
        .expect("it is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                // Answers are awaited: none may wait for a fuller packet.
                let _ = stream.set_nodelay(true);
                return (stream, place);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
