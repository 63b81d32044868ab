//! A bad network: a TCP proxy that delays, trickles, stalls, cuts, and loses clients unsaid.
//!
//! It knows bytes and nothing of what they mean, so it cuts frames wherever they happen to be. What it
//! does is said by [`Weather`], on command for all connections at once, or drawn for each piece of
//! data from random numbers of its own. Every connection through it goes with the proxy.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::harness::Random;

/// What happens to data under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// It arrives.
    Fair,
    /// Each piece of data may meet with any of the faults below.
    Random,
    /// It arrives so many bytes at a time, with a pause after each.
    Trickle { bytes: usize, pause: Duration },
    /// Nothing arrives this way; the connections stay.
    Stall(Way),
    /// The client is gone and the server isn't told: its data is no longer taken either.
    HalfOpen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToClient,
    Both,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// One side closed, so the other one is.
    Closed,
    Reset,
    HalfOpen,
}

/// How often each fault happened.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    connections: AtomicUsize,
    delays: AtomicUsize,
    trickles: AtomicUsize,
    stalls: AtomicUsize,
    cuts: AtomicUsize,
    half_open: AtomicUsize,
}

impl Faults {
    pub(crate) fn text(&self) -> String {
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        format!(
            "{} connections, {} delays, {} trickles, {} stalls, {} cuts, {} left half open",
            read(&self.connections),
            read(&self.delays),
            read(&self.trickles),
            read(&self.stalls),
            read(&self.cuts),
            read(&self.half_open),
        )
    }
}

/// One in so many pieces of data meets with a fault while the weather is random.
const FAULT_ONCE_IN: u64 = 12;

/// The longest that a stall at random lasts: longer than the patience of those who read.
const STALL_MAX_MS: u64 = 1_500;

/// A proxy before one server.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: String,
    pub(crate) faults: Arc<Faults>,
    weather: watch::Sender<Weather>,
    _running: JoinSet<()>,
}

impl Proxy {
    /// Begins in fair weather.
    pub(crate) async fn start(server: &str, random: Random) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (weather, watched) = watch::channel(Weather::Fair);
        let faults = Arc::new(Faults::default());
        let mut running = JoinSet::new();
        running.spawn(accept(
            listener,
            server.to_owned(),
            watched,
            random,
            Arc::clone(&faults),
        ));
        Self {
            address,
            faults,
            weather,
            _running: running,
        }
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn accept(
    listener: TcpListener,
    server: String,
    weather: watch::Receiver<Weather>,
    mut random: Random,
    faults: Arc<Faults>,
) {
    // Gone with this task, and so with the proxy.
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        faults.connections.fetch_add(1, Ordering::Relaxed);
        let (server, random) = (server.clone(), random.fork());
        let (weather, faults) = (weather.clone(), Arc::clone(&faults));
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(server).await else {
                return;
            };
            Connection {
                weather,
                random: Mutex::new(random),
                faults,
            }
            .carry(client, server)
            .await;
        });
    }
}

struct Connection {
    weather: watch::Receiver<Weather>,
    random: Mutex<Random>,
    faults: Arc<Faults>,
}

impl Connection {
    async fn carry(self, mut client: TcpStream, mut server: TcpStream) {
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        // Dropping a branch loses what it carried, which is what an end does.
        let end = tokio::select! {
            end = self.pump(from_client, to_server, Way::ToServer) => end,
            end = self.pump(from_server, to_client, Way::ToClient) => end,
        };
        match end {
            End::Closed => {
                // What was not read would turn the close into a reset.
                for stream in [&mut client, &mut server] {
                    let _ = stream.shutdown().await;
                }
            }
            End::Reset => {
                for stream in [&client, &server] {
                    let _ = stream.set_zero_linger();
                }
            }
            End::HalfOpen => {
                self.faults.half_open.fetch_add(1, Ordering::Relaxed);
                drop(client);
                std::future::pending::<()>().await;
            }
        }
    }

    /// Carries data one way until the connection ends.
    async fn pump(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, way: Way) -> End {
        let mut weather = self.weather.clone();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let now = *weather.borrow_and_update();
            match now {
                Weather::Stall(which) if which == way || which == Way::Both => {
                    if weather.changed().await.is_err() {
                        return End::Closed;
                    }
                    continue;
                }
                Weather::HalfOpen => return End::HalfOpen,
                _ => {}
            }
            // Nothing is read yet in either branch that is dropped.
            let read = tokio::select! {
                _ = weather.changed() => continue,
                read = from.read(&mut buffer) => read,
            };
            let data = match read {
                Ok(0) | Err(_) => return End::Closed,
                Ok(read) => &buffer[..read],
            };
            let carried = match now {
                Weather::Trickle { bytes, pause } => trickle(&mut to, data, bytes, pause).await,
                Weather::Random => match self.meet(&mut to, data).await {
                    Ok(None) => Ok(()),
                    Ok(Some(end)) => return end,
                    Err(error) => Err(error),
                },
                _ => to.write_all(data).await,
            };
            if carried.is_err() {
                return End::Closed;
            }
        }
    }

    /// Which fault a piece of data meets with, if any; how much of one; and after how many bytes.
    fn fault(&self, bytes: usize) -> Option<(u64, u64, usize)> {
        let mut random = self.random.lock().unwrap();
        random.once_in(FAULT_ONCE_IN).then(|| {
            let part = random.below(bytes as u64 + 1);
            (
                random.below(10),
                random.below(1_000),
                usize::try_from(part).unwrap(),
            )
        })
    }

    /// Carries a piece of data through random weather.
    async fn meet(&self, to: &mut WriteHalf<'_>, data: &[u8]) -> std::io::Result<Option<End>> {
        let Some((fault, length, part)) = self.fault(data.len()) else {
            to.write_all(data).await?;
            return Ok(None);
        };
        let count = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::Relaxed);
        match fault {
            0..=2 => {
                count(&self.faults.delays);
                sleep(Duration::from_millis(length % 60)).await;
                to.write_all(data).await?;
            }
            3..=5 => {
                count(&self.faults.trickles);
                let (few, rest) = data.split_at(part.min(200));
                let bytes = 1 + usize::try_from(length % 7).unwrap();
                trickle(to, few, bytes, Duration::from_millis(1)).await?;
                to.write_all(rest).await?;
            }
            6 => {
                count(&self.faults.stalls);
                to.write_all(&data[..part]).await?;
                sleep(Duration::from_millis(length * STALL_MAX_MS / 1_000)).await;
                to.write_all(&data[part..]).await?;
            }
            7 => {
                to.write_all(&data[..part]).await?;
                return Ok(Some(End::HalfOpen));
            }
            _ => {
                count(&self.faults.cuts);
                to.write_all(&data[..part]).await?;
                return Ok(Some(if fault == 8 { End::Closed } else { End::Reset }));
            }
        }
        Ok(None)
    }
}

async fn trickle(
    to: &mut WriteHalf<'_>,
    data: &[u8],
    bytes: usize,
    pause: Duration,
) -> std::io::Result<()> {
    for few in data.chunks(bytes) {
        to.write_all(few).await?;
        sleep(pause).await;
    }
    Ok(())
}
