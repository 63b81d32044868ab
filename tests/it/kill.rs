//! kill -9 at any moment, again and again: what was answered ACCEPTED is there, once, in its place.
//!
//! Many callers ingest while the process is killed; a tenth of the kills hit the start that
//! follows, before it serves. A model of the journal is kept beside it, made from the answers
//! alone, and compared after each kill: sequences without holes, every accepted event at the
//! sequence that was answered, events whose answer was lost there at most once, and the same
//! order for two readers. How many cycles is said by `PROVIDENT_KILL_CYCLES`; `PROVIDENT_SEED`
//! repeats the choices of a run (not the machine's timing).

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use provident::wire::v1;
use provident::wire::v1::event_service_client::EventServiceClient;
use provident::wire::v1::subscribe_response::Message;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::transport::Channel;

use crate::fixtures;
use crate::harness::{
    self, Launch, Random, Server, Start, after, answered, earliest, ingest_request, say, setting,
    to_head, within,
};

/// Callers at once. Half of them send one event at a time.
const CALLERS: usize = 10;

/// Each cycle is killed only after this many events of it were accepted.
const ACCEPTED_MIN: usize = 500;

/// One kill of so many hits the start after the one before.
const IN_RECOVERY: usize = 10;

/// An event by its number (see `fixtures`).
type Number = u64;

/// What is known of the journal from answers.
#[derive(Debug, Default)]
struct Model {
    /// Every event that the journal holds, by sequence from 1. Checked up to here.
    journal: Vec<Number>,
    sequences: HashMap<Number, u64>,
    /// Accepted since the last check.
    unchecked: Vec<(Number, u64)>,
    /// Sent, and the answer was lost.
    unknown: Vec<Number>,
    cursor: Option<String>,
}

#[derive(Debug, Default)]
struct Counts {
    kills: usize,
    kills_in_recovery: usize,
    kills_with_open_journal: usize,
    accepted: usize,
    duplicates: usize,
    unknown: usize,
    unknown_kept: usize,
    resent: usize,
    slowest_start: Duration,
}

/// What one caller saw in one cycle.
#[derive(Debug, Default)]
struct Seen {
    accepted: Vec<(Number, u64)>,
    duplicates: Vec<(Number, u64)>,
    unknown: Vec<Number>,
    next: Number,
}

/// Thousands of kills don't come again the same: what they left is there to be looked at.
struct KeptOnFailure(TempDir);

impl Drop for KeptOnFailure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            say(&format!(
                "kill: what was left is in {}",
                self.0.path().display()
            ));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_survives_any_kill_once_and_in_place() {
    let cycles: usize = setting("PROVIDENT_KILL_CYCLES").unwrap_or(3);
    let mut random = Random::of_run("kill");
    let since = Instant::now();
    let directory = KeptOnFailure(harness::scratch());
    let data_dir = directory.0.path().join("data");
    let launch = Launch::on(&data_dir);
    let mut model = Model::default();
    let mut counts = Counts::default();
    // Each caller has numbers of its own.
    let mut next: Vec<Number> = (0..CALLERS as u64).map(|caller| caller << 32).collect();
    let mut server = launch.start().await;

    for cycle in 0..cycles {
        ingest_and_kill(&mut server, &mut model, &mut counts, &mut next, &mut random).await;
        if cycle % IN_RECOVERY == IN_RECOVERY - 1 || (cycles < IN_RECOVERY && cycle == 0) {
            kill_in_recovery(
                &launch,
                server.started_in,
                &data_dir,
                &mut counts,
                &mut random,
            )
            .await;
        }
        server = launch.start().await;
        counts.slowest_start = counts.slowest_start.max(server.started_in);
        check_new(&server, &mut model, &mut counts).await;
        resend_unknown(&server, &mut model, &mut counts).await;
        if (cycle + 1) % 500 == 0 {
            say(&format!(
                "kill: {} of {cycles} cycles, {:.0} s",
                cycle + 1,
                since.elapsed().as_secs_f64()
            ));
        }
    }
    check_all(&server, &model).await;
    say(&format!(
        "kill: {cycles} cycles of {CALLERS} callers in {:.1} s: {} kills, {} of them in recovery \
         ({} with the journal's files open); {} events accepted and all there once, {} answered \
         DUPLICATE, {} without an answer (of which {} were kept; {} sent again); {} events in the \
         journal; slowest start {} ms",
        since.elapsed().as_secs_f64(),
        counts.kills,
        counts.kills_in_recovery,
        counts.kills_with_open_journal,
        counts.accepted,
        counts.duplicates,
        counts.unknown,
        counts.unknown_kept,
        counts.resent,
        model.sequences.len(),
        counts.slowest_start.as_millis(),
    ));
}

async fn ingest_and_kill(
    server: &mut Server,
    model: &mut Model,
    counts: &mut Counts,
    next: &mut [Number],
    random: &mut Random,
) {
    let accepted = Arc::new(AtomicUsize::new(0));
    let kept = Arc::new(model.journal.clone());
    let mut callers = JoinSet::new();
    for (index, next) in next.iter().enumerate() {
        // Some share a connection, some have their own.
        let channel = if index % 2 == 0 {
            server.channel()
        } else {
            server.new_channel().await
        };
        let caller = Caller {
            channel,
            one_by_one: index < CALLERS / 2,
            kept: Arc::clone(&kept),
            accepted: Arc::clone(&accepted),
            random: random.fork(),
            next: *next,
        };
        callers.spawn(async move { (index, caller.run().await) });
    }
    harness::eventually("500 accepted events", async || {
        (accepted.load(Ordering::Relaxed) >= ACCEPTED_MIN).then_some(())
    })
    .await;
    sleep(Duration::from_micros(random.below(8_000))).await;
    server.process.kill();
    counts.kills += 1;

    let mut duplicates = Vec::new();
    while let Some(seen) = within(callers.join_next()).await {
        let (index, seen) = seen.unwrap();
        next[index] = seen.next;
        counts.accepted += seen.accepted.len();
        counts.duplicates += seen.duplicates.len();
        counts.unknown += seen.unknown.len();
        for (number, sequence) in seen.accepted {
            let before = model.sequences.insert(number, sequence);
            assert_eq!(before, None, "event {number} was accepted twice");
            model.unchecked.push((number, sequence));
        }
        duplicates.extend(seen.duplicates);
        model.unknown.extend(seen.unknown);
    }
    for (number, sequence) in duplicates {
        assert_eq!(
            model.sequences.get(&number),
            Some(&sequence),
            "a duplicate of event {number} was answered with another place"
        );
    }
    // A resent event's answer may be lost too; it is known all the same.
    model
        .unknown
        .retain(|number| !model.sequences.contains_key(number));
}

struct Caller {
    channel: Channel,
    one_by_one: bool,
    kept: Arc<Vec<Number>>,
    accepted: Arc<AtomicUsize>,
    random: Random,
    next: Number,
}

impl Caller {
    /// Ingests until the server is gone.
    async fn run(mut self) -> Seen {
        let mut seen = Seen::default();
        loop {
            let count = if self.one_by_one {
                1
            } else {
                2 + self.random.below(24)
            };
            let mut numbers: Vec<Number> = (self.next..self.next + count).collect();
            self.next += count;
            if !self.kept.is_empty() && self.random.once_in(6) {
                numbers.push(*self.random.pick(&self.kept));
            }
            if let Some((number, _)) = seen.accepted.last()
                && self.random.once_in(6)
            {
                numbers.insert(0, *number);
            }
            let Ok(results) = ingest(&self.channel, &numbers).await else {
                // The process is gone: whether these were kept is not known.
                seen.unknown.extend(numbers);
                seen.next = self.next;
                return seen;
            };
            for (number, result) in numbers.into_iter().zip(results) {
                let answer = (number, result.sequence);
                match result.status() {
                    v1::IngestStatus::Accepted => seen.accepted.push(answer),
                    v1::IngestStatus::Duplicate => seen.duplicates.push(answer),
                    _ => panic!("{result:?}"),
                }
            }
            self.accepted
                .fetch_add(usize::try_from(count).unwrap(), Ordering::Relaxed);
        }
    }
}

async fn ingest(
    channel: &Channel,
    numbers: &[Number],
) -> Result<Vec<v1::IngestResult>, tonic::Status> {
    let request = ingest_request(numbers.iter().copied());
    let mut client = EventServiceClient::new(channel.clone());
    let answer = answered(channel, client.ingest(request)).await?;
    let response = answer.into_inner();
    assert_eq!(response.results.len(), numbers.len());
    Ok(response.results)
}

/// Starts the server and kills it before it serves, at a random moment of a start's usual time.
async fn kill_in_recovery(
    launch: &Launch,
    usual: Duration,
    data_dir: &Path,
    counts: &mut Counts,
    random: &mut Random,
) {
    loop {
        let micros = u64::try_from(usual.as_micros()).unwrap().max(1);
        let moment = Duration::from_micros(random.below(micros));
        let mut process = launch.spawn();
        let serves = tokio::select! {
            // It was faster than usual, so this kill says nothing of recovery.
            _ = process.until_serving() => true,
            () = sleep(moment) => false,
        };
        counts.kills_with_open_journal += usize::from(!serves && process.open_files(data_dir) > 0);
        process.kill();
        counts.kills += 1;
        if !serves {
            counts.kills_in_recovery += 1;
            return;
        }
    }
}

/// Reads what came since the last check with two readers, and compares it with the answers.
async fn check_new(server: &Server, model: &mut Model, counts: &mut Counts) {
    let start = model.cursor.as_deref().map_or_else(earliest, after);
    let (one, other) = tokio::join!(places(server, start.clone()), places(server, start));
    assert_eq!(one, other, "two readers see two orders");
    let unknown: HashSet<Number> = model.unknown.iter().copied().collect();
    for place in one {
        let expected = model.journal.len() as u64 + 1;
        assert_eq!(place.sequence, expected, "a hole or a repetition");
        let number = fixtures::number(&place.uuid);
        assert!(
            model.sequences.contains_key(&number) || unknown.contains(&number),
            "{} was never sent",
            place.uuid
        );
        match model.sequences.insert(number, place.sequence) {
            Some(answered) => assert_eq!(place.sequence, answered, "event {number} has moved"),
            None => counts.unknown_kept += 1,
        }
        model.journal.push(number);
        model.cursor = Some(place.cursor);
    }
    let head = model.journal.len();
    for (number, sequence) in model.unchecked.drain(..) {
        let index = usize::try_from(sequence - 1).unwrap();
        assert_eq!(
            model.journal.get(index),
            Some(&number),
            "event {number} was accepted as {sequence}; the journal ends at {head}"
        );
    }
}

/// Sends again what had no answer: ACCEPTED if it was not kept, else DUPLICATE with its place.
async fn resend_unknown(server: &Server, model: &mut Model, counts: &mut Counts) {
    let unknown = std::mem::take(&mut model.unknown);
    for numbers in unknown.chunks(500) {
        let results = ingest(&server.channel(), numbers).await.unwrap();
        for (number, result) in numbers.iter().zip(results) {
            counts.resent += 1;
            let known = model.sequences.get(number).copied();
            let status = result.status();
            match known {
                None => {
                    assert_eq!(status, v1::IngestStatus::Accepted, "{result:?}");
                    assert!(result.sequence > model.journal.len() as u64);
                    model.sequences.insert(*number, result.sequence);
                    model.unchecked.push((*number, result.sequence));
                    counts.accepted += 1;
                }
                Some(sequence) => {
                    let answer = (status, result.sequence);
                    assert_eq!(answer, (v1::IngestStatus::Duplicate, sequence));
                    counts.duplicates += 1;
                }
            }
        }
    }
}

/// Reads the whole journal with two readers.
async fn check_all(server: &Server, model: &Model) {
    let (one, other) = tokio::join!(count_all(server, model), count_all(server, model));
    assert_eq!(one, other, "two readers see two journals");
    assert_eq!(one, model.sequences.len(), "each event is there once");
}

/// Reads the whole journal, which may be larger than memory, and checks each event's place.
async fn count_all(server: &Server, model: &Model) -> usize {
    let mut reader = server.subscribe(to_head(earliest())).await.unwrap();
    let mut expected = 0;
    while let Some(message) = reader.next().await.unwrap() {
        let Message::Batch(batch) = message else {
            continue;
        };
        for event in batch.events {
            expected += 1;
            assert_eq!(event.sequence, expected);
            let number = fixtures::number(&event.event.unwrap_or_default().uuid);
            assert_eq!(model.sequences.get(&number), Some(&expected), "{number}");
        }
    }
    usize::try_from(expected).unwrap()
}

/// An event's place, as a reader sees it.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    sequence: u64,
    uuid: String,
    cursor: String,
    append_time: Option<prost_types::Timestamp>,
}

async fn places(server: &Server, start: Start) -> Vec<Place> {
    let mut reader = server.subscribe(to_head(start)).await.unwrap();
    reader
        .read_to_end()
        .await
        .events
        .into_iter()
        .map(|event| Place {
            sequence: event.sequence,
            cursor: event.cursor,
            append_time: event.append_time,
            uuid: event.event.unwrap_or_default().uuid,
        })
        .collect()
}
