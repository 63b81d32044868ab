//! Files that went bad while the server was stopped: every file below its data directory is
//! damaged, one at a time, and the server is started on it.
//!
//! A byte is changed (the first, the last, any), a sector is zeroed, the end is cut off, the file
//! is emptied or removed. Then one of these has to come of it, and nothing else:
//!
//! - *refused*: the server does not start, and says in one sentence that the journal is damaged;
//! - *named*: it serves, what it gives is what was accepted, byte for byte and in its place, and
//!   what it can't give is `DATA_LOSS` / `RECORD_CORRUPT`;
//! - *stopped*: the same, but fjall's own threads meet the damage while it serves, and it ends with an
//!   error that names it;
//! - *harmless*: it serves everything.
//!
//! Never a panic, never a wait without an end, nothing acknowledged that is gone without a word,
//! nothing kept twice. What was stopped by its supervisor can be told exactly, to the last batch.
//! After a kill or a power cut one thing can't: when the newest journal file ends early, whether
//! its last batch was ever whole. The unit tests of the journal look at that.
//!
//! `PROVIDENT_DAMAGES` is how many damages each file gets; without it, a few.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use provident::wire::v1;
use provident::wire::v1::get_event_request::Event;
use provident::wire::v1::subscribe_response::Message;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::fixtures;
use crate::harness::{
    self, Launch, ORG, Process, Random, Server, accepted, as_subscription, earliest, everything,
    json, say, setting, to_head, within,
};

/// A generation is at least this large.
const GENERATION: &str = "1MiB";

/// Of the events' padding: some sixteen of them fill a generation.
const PADDING: usize = 60_000;

/// Subscriptions with large filters: enough for fjall to write tables of state.
const SUBSCRIPTIONS: u64 = 30;

/// One kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    FirstByte,
    LastByte,
    Byte,
    Sector,
    Cut,
    Emptied,
    Removed,
}

const DAMAGES: [Damage; 9] = [
    Damage::Byte,
    Damage::Cut,
    Damage::Removed,
    Damage::LastByte,
    Damage::Sector,
    Damage::FirstByte,
    Damage::Byte,
    Damage::Emptied,
    Damage::Byte,
];

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Refused,
    Named,
    /// It served, and ended when fjall met the damage.
    Stopped,
    Harmless,
}

/// A stopped journal and what is in it.
struct Stopped {
    directory: PathBuf,
    config: PathBuf,
    events: Vec<v1::StreamedEvent>,
    inputs: Vec<String>,
    /// The places of the subscriptions.
    committed: BTreeMap<String, String>,
}

impl Stopped {
    fn launch(&self, data: &Path) -> Launch {
        Launch::on(data).with(&["--config", self.config.to_str().unwrap()])
    }

    /// Several generations, rows of state, duplicates; tables as well as what is in journal files
    /// alone.
    async fn new(directory: &Path) -> Self {
        let config = directory.join("provident.toml");
        let text = format!("[journal]\ngeneration_bytes_max = \"{GENERATION}\"\n");
        std::fs::write(&config, text).unwrap();
        let mut stopped = Self {
            directory: directory.join("data"),
            config,
            events: Vec::new(),
            inputs: Vec::new(),
            committed: BTreeMap::new(),
        };
        for part in 0..3 {
            let mut server = stopped.launch(&stopped.directory).start().await;
            let first = part * 100;
            let inputs: Vec<_> = (first..first + 24).map(large).collect();
            for input in &inputs {
                accepted(&server.ingest([input.clone()]).await);
            }
            let again = server.ingest(inputs[..3].to_vec()).await;
            assert_eq!(harness::statuses(&again), ["DUPLICATE"; 3]);
            stopped.inputs.extend(inputs);
            for number in part * SUBSCRIPTIONS / 3..(part + 1) * SUBSCRIPTIONS / 3 {
                let (id, committed) = subscribe_and_commit(&server, number).await;
                stopped.committed.insert(id, committed);
            }
            if part == 2 {
                let inputs: Vec<_> = (500..520)
                    .map(|number| fixtures::mixed_one(number).json)
                    .collect();
                accepted(&server.ingest(inputs.clone()).await);
                stopped.inputs.extend(inputs);
                // The last batch of all is of state alone.
                let (id, committed) = subscribe_and_commit(&server, SUBSCRIPTIONS).await;
                stopped.committed.insert(id, committed);
                stopped.events = server.read_all(earliest()).await;
            }
            stop(&mut server.process).await;
        }
        assert_eq!(stopped.events.len(), stopped.inputs.len());
        stopped
    }
}

/// Event number `number`, with padding of its own.
fn large(number: u64) -> String {
    let mut value = fixtures::mixed_one(number).value();
    let mut random = Random::seeded(number);
    let mut padding = String::with_capacity(PADDING);
    while padding.len() < PADDING {
        write!(padding, "{:016x}", random.next()).unwrap();
    }
    value["debugContext"]["debugData"]["padding"] = padding.into();
    value.to_string()
}

async fn subscribe_and_commit(server: &Server, number: u64) -> (String, String) {
    let id = format!("team-{number}");
    let names = (0..600).map(|name| format!("{id} {name:060}"));
    let filter = v1::Filter {
        application_names: names.chain(["Cloudboard 1".to_owned()]).collect(),
        ..everything()
    };
    server.create_subscription(&id, filter).await;
    let mut reader = server
        .subscribe(as_subscription(&id, "outer tests"))
        .await
        .unwrap();
    let session = reader.confirmation().await.session;
    let cursor = loop {
        match reader.next().await.unwrap() {
            Some(Message::Batch(batch)) => break batch.events[0].cursor.clone(),
            Some(_) => {}
            None => panic!("the stream ended"),
        }
    };
    server.commit(&id, &session, &cursor).await.unwrap();
    (id, cursor)
}

async fn stop(process: &mut Process) {
    process.signal(Signal::TERM);
    let status = process.ended().await;
    assert!(status.success(), "{status}\n{}", process.log_text());
}

fn files_below(directory: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(directory).unwrap();
    for entry in entries.map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files_below(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .args(["-a", "--sparse=always"])
        .args([from, to])
        .status()
        .unwrap();
    assert!(status.success());
}

impl Damage {
    /// Does it, and says what was done; nothing where it changes nothing.
    fn apply(self, file: &Path, random: &mut Random) -> Option<String> {
        let mut bytes = std::fs::read(file).unwrap();
        // fjall makes room in a journal file before it writes: that part is not damaged.
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        let any = |random: &mut Random| usize::try_from(random.below(used.max(1) as u64)).unwrap();
        match self {
            Self::Removed => {
                std::fs::remove_file(file).unwrap();
                return Some("removed".to_owned());
            }
            _ if used == 0 => return None,
            Self::FirstByte => return Some(flip(file, bytes, 0, random)),
            Self::LastByte => return Some(flip(file, bytes, used - 1, random)),
            Self::Byte => {
                let at = any(random);
                return Some(flip(file, bytes, at, random));
            }
            Self::Emptied => bytes.clear(),
            Self::Cut => bytes.truncate(any(random)),
            Self::Sector => {
                let sector = any(random) / 512 * 512;
                let end = (sector + 512).min(used);
                if bytes[sector..end].iter().all(|byte| *byte == 0) {
                    return None;
                }
                bytes[sector..end].fill(0);
                std::fs::write(file, &bytes).unwrap();
                return Some(format!("zeroed from {sector} to {end} of {used}"));
            }
        }
        std::fs::write(file, &bytes).unwrap();
        Some(format!("cut to {} of {used}", bytes.len()))
    }
}

fn flip(file: &Path, mut bytes: Vec<u8>, at: usize, random: &mut Random) -> String {
    let bit = 1 << random.below(8);
    bytes[at] ^= bit;
    std::fs::write(file, &bytes).unwrap();
    format!("bit {bit:#x} of byte {at} changed")
}

/// Starts on a damaged copy, and judges what comes of it. The error says what is wrong.
async fn judge(stopped: &Stopped, data: &Path) -> Result<(Outcome, String), String> {
    let launch = stopped.launch(data);
    let (judged, mut process) = match launch.spawn().serving_or_ended(launch).await {
        Ok(mut server) => (judge_served(stopped, &mut server).await, server.process),
        Err(process) => (judge_refused(&process), process),
    };
    process.kill();
    let log = process.log_text();
    if log.contains("panicked") {
        return Err(format!("a panic\n{log}"));
    }
    judged.map_err(|problem| format!("{problem}\n{log}"))
}

fn judge_refused(process: &Process) -> Result<(Outcome, String), String> {
    let log = process.log_text();
    let sentence = log.lines().find(|line| line.starts_with("error: "));
    let sentence = sentence.ok_or("it ended without a sentence")?;
    let is_clear = ["is damaged", "holds something other than"];
    if is_clear.iter().any(|part| sentence.contains(part)) {
        Ok((Outcome::Refused, sentence.to_owned()))
    } else {
        Err("it was refused, but damage is not named".to_owned())
    }
}

async fn judge_served(stopped: &Stopped, server: &mut Server) -> Result<(Outcome, String), String> {
    let mut lost = vec![
        judge_stream(stopped, server).await?,
        judge_events(stopped, server).await?,
        judge_list(stopped, server, v1::ListOrder::OldestFirst).await?,
        judge_list(stopped, server, v1::ListOrder::NewestFirst).await?,
        judge_subscriptions(stopped, server).await?,
    ];
    match judge_intake(stopped, server).await? {
        Ok(named) => lost.push(named),
        Err(status) => return judge_stopped(server, &status).await,
    }
    Ok(match lost.into_iter().flatten().next() {
        Some(named) => (Outcome::Named, named),
        None => (Outcome::Harmless, String::new()),
    })
}

async fn judge_stopped(server: &mut Server, status: &Status) -> Result<(Outcome, String), String> {
    let ended = server.process.ended().await;
    server.process.kill();
    let log = server.process.log_text();
    let error = log.lines().rfind(|line| line.starts_with("caused by: "));
    match error {
        Some(error) if !ended.success() && log.contains("is damaged") => {
            Ok((Outcome::Stopped, error.to_owned()))
        }
        _ => Err(format!("{ended} after {status:?}")),
    }
}

/// What a call may answer that can't give what is there.
fn named(status: &Status) -> Result<String, String> {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str());
    if (status.code(), reason) == (Code::DataLoss, Some("RECORD_CORRUPT")) {
        Ok(status.message().to_owned())
    } else {
        Err(format!("{status:?}"))
    }
}

/// The stream gives everything, or what stands before the damage.
async fn judge_stream(stopped: &Stopped, server: &Server) -> Result<Option<String>, String> {
    let request = v1::SubscribeRequest {
        include_raw: true,
        ..to_head(earliest())
    };
    let mut reader = match server.subscribe(request).await {
        Ok(reader) => reader,
        Err(status) => return named(&status).map(Some),
    };
    let mut events = Vec::new();
    let lost = loop {
        match reader.next().await {
            Ok(Some(Message::Batch(batch))) => events.extend(batch.events),
            Ok(Some(Message::Gap(gap))) => return Err(format!("{gap:?}")),
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(status) => break Some(named(&status)?),
        }
    };
    same("the stream", &events, stopped.events.iter(), lost)
}

/// What was given is the beginning of what is there, and all of it unless damage was named.
fn same<'a>(
    what: &str,
    given: &[v1::StreamedEvent],
    mut expected: impl ExactSizeIterator<Item = &'a v1::StreamedEvent>,
    lost: Option<String>,
) -> Result<Option<String>, String> {
    let count = expected.len();
    for event in given {
        if expected.next() != Some(event) {
            return Err(format!("{what} gives another event as {}", event.sequence));
        }
    }
    match lost {
        None if given.len() != count => {
            Err(format!("{what} ends after {} of {count}", given.len()))
        }
        lost => Ok(lost),
    }
}

/// Each event is given by its uuid, or named as damaged.
async fn judge_events(stopped: &Stopped, server: &Server) -> Result<Option<String>, String> {
    let mut lost = None;
    for expected in &stopped.events {
        let request = v1::GetEventRequest {
            event: Some(Event::Key(v1::EventKey {
                org: ORG.to_owned(),
                uuid: expected.event.as_ref().unwrap().uuid.clone(),
            })),
            include_raw: true,
        };
        match within(server.events().get_event(request)).await {
            Ok(answer) => {
                if answer.into_inner().event.as_ref() != Some(expected) {
                    return Err(format!("another event is given for {}", expected.sequence));
                }
            }
            Err(status) => lost = Some(named(&status)?),
        }
    }
    Ok(lost)
}

async fn judge_list(
    stopped: &Stopped,
    server: &Server,
    order: v1::ListOrder,
) -> Result<Option<String>, String> {
    let mut events = Vec::new();
    let mut page_token = String::new();
    let lost = loop {
        let request = v1::ListEventsRequest {
            filter: Some(everything()),
            order: order.into(),
            page_size: 1_000,
            page_token,
            include_raw: true,
            ..v1::ListEventsRequest::default()
        };
        match within(server.events().list_events(request)).await {
            Ok(page) => {
                let page = page.into_inner();
                events.extend(page.events);
                page_token = page.next_page_token;
            }
            Err(status) => break Some(named(&status)?),
        }
        if page_token.is_empty() {
            break None;
        }
    };
    match order {
        v1::ListOrder::NewestFirst => same("the list", &events, stopped.events.iter().rev(), lost),
        _ => same("the list", &events, stopped.events.iter(), lost),
    }
}

/// Each subscription stands where it was committed.
async fn judge_subscriptions(stopped: &Stopped, server: &Server) -> Result<Option<String>, String> {
    let mut lost = None;
    for (id, committed) in &stopped.committed {
        match server.subscription(id).await {
            Ok(found) => {
                let found = found.committed_cursor;
                if &found != committed {
                    return Err(format!("{id} stands at {found}, it was at {committed}"));
                }
            }
            Err(status) => lost = Some(named(&status)?),
        }
    }
    Ok(lost)
}

/// Nothing that was accepted is accepted again. A call whose keys are damaged is refused. The status
/// is of a server that has gone.
async fn judge_intake(
    stopped: &Stopped,
    server: &Server,
) -> Result<Result<Option<String>, Status>, String> {
    let mut lost = None;
    for (input, expected) in stopped.inputs.iter().zip(&stopped.events) {
        let request = v1::IngestRequest {
            org: ORG.to_owned(),
            inputs: vec![json(input.clone())],
        };
        match within(server.events().ingest(request)).await {
            Ok(answer) => {
                let results = answer.into_inner().results;
                let is_known = harness::statuses(&results) == ["DUPLICATE"]
                    && results[0].sequence == expected.sequence;
                if !is_known {
                    return Err(format!("{} is taken again: {results:?}", expected.sequence));
                }
            }
            Err(status) => match named(&status) {
                Ok(named) => lost = Some(named),
                Err(_) => return Ok(Err(status)),
            },
        }
    }
    Ok(Ok(lost))
}

/// What a file is, whichever of its kind.
fn kind_of(file: &Path) -> String {
    let name = file.file_name().unwrap().to_str().unwrap();
    let is_version = name
        .strip_prefix('v')
        .is_some_and(|rest| rest.parse::<u64>().is_ok());
    if file
        .parent()
        .is_some_and(|parent| parent.ends_with("tables"))
    {
        "table".to_owned()
    } else if is_version {
        "version file of a tree".to_owned()
    } else if file.extension().is_some() {
        "journal file".to_owned()
    } else {
        name.to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_to_any_file_is_refused_or_named_or_harmless() {
    let scratch = harness::scratch();
    let mut random = Random::of_run("damaged files");
    let stopped = Arc::new(Stopped::new(scratch.path()).await);
    let mut files = Vec::new();
    files_below(&stopped.directory, &mut files);
    let each: usize = setting("PROVIDENT_DAMAGES").unwrap_or(2);
    let mut tries = Vec::new();
    for file in &files {
        let file = file.strip_prefix(&stopped.directory).unwrap();
        let first = usize::try_from(random.below(DAMAGES.len() as u64)).unwrap();
        for damage in DAMAGES.iter().cycle().skip(first).take(each) {
            tries.push((file.to_owned(), *damage, random.fork()));
        }
    }
    let tries = Arc::new(Mutex::new(tries));
    let mut workers = JoinSet::new();
    for worker in 0..2 {
        let (stopped, tries) = (Arc::clone(&stopped), Arc::clone(&tries));
        let data = scratch.path().join(format!("copy-{worker}"));
        workers.spawn(async move {
            let mut outcomes = Vec::new();
            loop {
                let Some((file, damage, mut random)) = tries.lock().unwrap().pop() else {
                    return outcomes;
                };
                copy(&stopped.directory, &data);
                if let Some(what) = damage.apply(&data.join(&file), &mut random) {
                    let outcome = judge(&stopped, &data).await;
                    outcomes.push((file, what, outcome));
                }
                std::fs::remove_dir_all(&data).unwrap();
            }
        });
    }
    let mut counts = BTreeMap::<_, BTreeMap<Outcome, usize>>::new();
    let mut wrong = Vec::new();
    while let Some(outcomes) = workers.join_next().await {
        for (file, what, outcome) in outcomes.unwrap() {
            match outcome {
                Ok((outcome, _)) => {
                    let counts = counts.entry(kind_of(&file)).or_default();
                    *counts.entry(outcome).or_default() += 1;
                }
                Err(problem) => wrong.push(format!("{} {what}: {problem}", file.display())),
            }
        }
    }
    say(&format!("damaged files: {} files, {counts:?}", files.len()));
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
}
