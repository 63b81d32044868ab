//! Accepting connections: at most so many at a time, each sending at once what it has.
//!
//! A connection that does not say in time that it speaks HTTP/2 is closed: it would hold its place for
//! ever, because a sign of life is asked for only of those that did.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How long to wait after a failed accept: out of file descriptors, usually, so some connection
/// has to be closed first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bytes that a client begins with, by HTTP/2's rules: `PRI * HTTP/2.0` and so on.
const GREETING_BYTES: usize = 24;

/// A TCP connection that holds one of the places for as long as it lives.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Until it has greeted.
    greeting: Option<Greeting>,
    _place: OwnedSemaphorePermit,
}

/// A greeting that is awaited.
#[derive(Debug)]
struct Greeting {
    bytes_missing: usize,
    deadline: Pin<Box<Sleep>>,
}

/// Accepts connections; one more than `connections_max` waits until another has gone.
pub fn accept(
    listener: TcpListener,
    connections_max: usize,
    greeting_timeout: Duration,
) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(connections_max));
    futures_util::stream::unfold((listener, places), move |(listener, places)| async move {
        let place = Arc::clone(&places)
            .acquire_owned()
            .await
            .expect("it is never closed");
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _peer)) => break stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        // Answers are awaited: none may wait for a fuller packet. This fails only on a socket
        // that is gone already, which the first read will say.
        let _ = stream.set_nodelay(true);
        Some((
            Ok(Connection {
                stream,
                greeting: Some(Greeting {
                    bytes_missing: GREETING_BYTES,
                    deadline: Box::pin(tokio::time::sleep(greeting_timeout)),
                }),
                _place: place,
            }),
            (listener, places),
        ))
    })
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(greeting) = &mut self.greeting {
            greeting.bytes_missing = greeting
                .bytes_missing
                .saturating_sub(buf.filled().len() - before);
            if greeting.bytes_missing == 0 {
                self.greeting = None;
            } else if read.is_pending() && greeting.deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
