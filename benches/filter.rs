//! What an event costs that a filter turns away: a million of them, read to the head.
//!
//! `cargo bench --locked --bench filter`. The real binary on a journal below `target/`; each turn starts
//! it anew and opens one stream with `stop_at_head`. Turns alternate, another one first in each
//! repeat. `BENCH_EVENTS` and `BENCH_REPEATS` set how much; `BENCH_BEFORE` names a binary to compare
//! with, which takes its turns on the same journal in the same run.

#![expect(clippy::print_stdout, reason = "a benchmark shows its figures")]
#![expect(clippy::unwrap_used, reason = "what fails here ends the benchmark")]
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark is set by its environment"
)]
#![expect(
    clippy::cast_precision_loss,
    reason = "figures are shown with three digits"
)]

#[expect(dead_code, reason = "the bench of subscribers uses the rest of it")]
mod service;

use std::path::{Path, PathBuf};
use std::time::Instant;

use provident::wire::v1;
use provident::wire::v1::subscribe_response::Message;

use self::service::{Service, everything, spread};

struct Case {
    name: &'static str,
    filter: v1::Filter,
    /// Whether it turns everything away.
    nothing: bool,
}

fn cases() -> Vec<Case> {
    let nothing = |name: &'static str, filter: v1::Filter| Case {
        name,
        filter,
        nothing: true,
    };
    let expression = |text: &str| v1::Filter {
        expression: text.to_owned(),
        ..everything()
    };
    vec![
        Case {
            name: "everything matches",
            filter: everything(),
            nothing: false,
        },
        nothing(
            "none by a mark: a cause",
            v1::Filter {
                causes: vec![v1::Cause::Safeguard.into()],
                ..everything()
            },
        ),
        nothing(
            "none by a detail: an application's id",
            v1::Filter {
                application_ids: vec!["0oa0nobody0has0this0".to_owned()],
                ..everything()
            },
        ),
        nothing(
            "none by an expression: `outcome.reason eq`",
            expression("outcome.reason eq \"nobody says this\""),
        ),
        nothing(
            "none by an expression: `target.displayName co … or severity eq …`",
            expression("target.displayName co \"nobody\" or severity eq \"LOUD\""),
        ),
    ]
}

/// Microseconds an event: of the clock, and of the server's processor time.
struct Turn {
    clock: f64,
    cpu: f64,
}

async fn turn(binary: &Path, data: &Path, case: &Case, events: u64) -> Turn {
    let service = Service::start(binary, data);
    let mut client = service.client().await;
    let request = v1::SubscribeRequest {
        start: Some(v1::subscribe_request::Start::Position(
            v1::Position::Earliest.into(),
        )),
        filter: Some(case.filter.clone()),
        stop_at_head: true,
        ..v1::SubscribeRequest::default()
    };
    let (since, cpu) = (Instant::now(), service.cpu());
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    let (mut read, mut ended) = (0, false);
    while let Some(response) = stream.message().await.unwrap() {
        match response.message.unwrap() {
            Message::Batch(batch) => read += batch.events.len() as u64,
            Message::Ending(_) => ended = true,
            _ => {}
        }
    }
    let (clock, cpu) = (since.elapsed().as_secs_f64(), service.cpu() - cpu);
    assert!(ended);
    assert_eq!(read, if case.nothing { 0 } else { events }, "{}", case.name);
    service.stop();
    Turn {
        clock: clock * 1e6 / events as f64,
        cpu: cpu * 1e6 / events as f64,
    }
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

#[tokio::main]
async fn main() {
    // `cargo test --all-targets` runs benches too, without this argument.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("run it with `cargo bench --bench filter`");
        return;
    }
    let (events, repeats) = (
        number("BENCH_EVENTS", 1_000_000),
        number("BENCH_REPEATS", 5),
    );
    let mut binaries = vec![("", PathBuf::from(env!("CARGO_BIN_EXE_provident")))];
    if let Some(before) = std::env::var_os("BENCH_BEFORE") {
        binaries.push(("before: ", before.into()));
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = directory.path().join("data");
    let service = Service::start(&binaries[0].1, &data);
    service.ingest(events).await;
    service.stop();
    let cases = cases();
    let contestants: Vec<_> = cases
        .iter()
        .flat_map(|case| binaries.iter().map(move |binary| (case, binary)))
        .collect();
    let mut turns: Vec<Vec<Turn>> = contestants.iter().map(|_| Vec::new()).collect();
    for repeat in 0..usize::try_from(repeats).unwrap() {
        for place in 0..contestants.len() {
            let place = (place + repeat) % contestants.len();
            let (case, (_, binary)) = contestants[place];
            turns[place].push(turn(binary, &data, case, events).await);
        }
    }
    println!("{events} events, {repeats} repeats: median (least–most)\n");
    println!("| | events/s | µs an event | server's CPU, µs an event |\n|---|---|---|---|");
    for ((case, (whose, _)), turns) in contestants.iter().zip(turns) {
        let figures = |figure: fn(&Turn) -> f64| spread(turns.iter().map(figure).collect());
        let mut rates: Vec<_> = turns.iter().map(|turn| 1e6 / turn.clock).collect();
        rates.sort_by(f64::total_cmp);
        println!(
            "| {whose}{} | **{:.0}** ({:.0}–{:.0}) | {} | {} |",
            case.name,
            rates[rates.len() / 2],
            rates[0],
            rates[rates.len() - 1],
            figures(|turn| turn.clock),
            figures(|turn| turn.cpu),
        );
    }
}
