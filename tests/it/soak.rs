//! Faults at random, kills at random, hooks before and after the poll: every event is kept once.
//!
//! The mock org lives through all of it and counts what it served. A round starts the service, lets
//! events appear in the log (some of them delivered by hook too, before or after) and kills the
//! service at a random moment. In the end the journal holds each event of the log once; the share of
//! the rate limit was never passed; each start went on from a stored link; and no more pages were
//! served twice than there were kills. `PROVIDENT_SOAK_ROUNDS` says how many rounds,
//! `PROVIDENT_SEED` repeats the choices of a run (not the machine's timing).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::fixtures::{self, Given};
use crate::harness::{Launch, ORG, Random, earliest, eventually, say, scratch, setting, within};
use crate::mock_okta::{API_TOKEN, Fault, Faults, MockOkta, Settings, hook_deliver};

/// Requests of a window of 2 s, and the percentage that may be used of them. Small enough that the
/// poller has to wait in many rounds.
const LIMIT: u32 = 40;
const SHARE_PERCENT: u32 = 50;

const SECRET: &str = "a secret of the soak";

#[derive(Debug, Default)]
struct Counts {
    kills: usize,
    delivered: usize,
    undelivered: usize,
    slowest_start: Duration,
}

struct Soak {
    okta: MockOkta,
    random: Random,
    launch: Launch,
    /// Where the service that runs now takes deliveries.
    hook: String,
    /// Number of the next event.
    next: u64,
    /// Events that are to appear in the log and have not yet.
    pending: Vec<Given>,
    counts: Counts,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_kept_once_whatever_fails_and_whenever_it_is_killed() {
    let rounds: usize = setting("PROVIDENT_SOAK_ROUNDS").unwrap_or(3);
    let since = Instant::now();
    let directory = scratch();
    let mut soak = Soak::new(directory.path());
    for _ in 0..rounds {
        soak.round().await;
    }
    let Soak {
        okta,
        launch,
        counts,
        ..
    } = soak;
    okta.set_faults(None);
    let server = launch.start().await;
    let entries = okta.entries();
    let kept = eventually("all events of the log", async || {
        let events = server.read_all(earliest()).await;
        (events.len() >= entries.len()).then_some(events)
    })
    .await;
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for event in &kept {
        *times
            .entry(&event.event.as_ref().unwrap().uuid)
            .or_default() += 1;
    }
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "kept twice: {twice:?}");
    let of_log: BTreeSet<String> = entries
        .iter()
        .map(|entry| serde_json::from_str::<serde_json::Value>(&entry.json).unwrap())
        .map(|event| event["uuid"].as_str().unwrap().to_owned())
        .collect();
    let kept: BTreeSet<String> = times.keys().map(ToString::to_string).collect();
    assert!(kept == of_log, "lost: {:?}", of_log.difference(&kept));
    let share = LIMIT * SHARE_PERCENT / 100;
    let largest = okta.largest_window();
    assert!(
        largest <= share,
        "{largest} requests in a window, {share} are allowed"
    );
    let again = pages_served_again(&okta);
    assert!(
        again <= counts.kills,
        "{again} pages served again, {} kills",
        counts.kills
    );
    assert_eq!(okta.violations(), Vec::<String>::new());
    say(&format!(
        "soak: {rounds} rounds in {:.1} s: {} kills; {} events, all kept once; {} deliveries by hook \
         and {} without success; {} requests, at most {largest} of {share} allowed in a window; {again} \
         pages served again; slowest start {} ms",
        since.elapsed().as_secs_f64(),
        counts.kills,
        of_log.len(),
        counts.delivered,
        counts.undelivered,
        okta.requests().len(),
        counts.slowest_start.as_millis(),
    ));
}

/// How many pages with events went out whole and as they should be, and then once more.
fn pages_served_again(okta: &MockOkta) -> usize {
    let mut served: BTreeMap<usize, usize> = BTreeMap::new();
    for request in okta.requests() {
        let is_page = request.complete && request.status == Some(200) && !request.given.is_empty();
        let is_whole = !matches!(request.fault, Some(Fault::NotJson | Fault::Cut));
        if let Some(position) = request.position
            && is_page
            && is_whole
        {
            *served.entry(position).or_default() += 1;
        }
    }
    served.values().map(|times| times - 1).sum()
}

impl Soak {
    fn new(directory: &Path) -> Self {
        let mut random = Random::of_run("soak");
        let okta = MockOkta::start_with(Settings {
            limit: LIMIT,
            window: Duration::from_secs(2),
            ..Settings::default()
        });
        okta.set_faults(Some(Faults {
            random: random.fork(),
            once_in: 6,
            kinds: [Fault::RateLimited]
                .into_iter()
                .chain(Fault::TRANSIENT.into_iter().cycle().take(36))
                .collect(),
        }));
        let [secret, token] = [("secret", SECRET), ("token", API_TOKEN)].map(|(name, text)| {
            let path = directory.join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        });
        let config = format!(
            "[hook]\nsecret_file = '{secret}'\n\
             [okta]\norg_url = '{}'\napi_token_file = '{token}'\n\
             [poll]\ninterval = '10ms'\nretry_delay = '5ms'\nretry_delay_max = '100ms'\n\
             page_events_max = 40\nrate_share_percent = {SHARE_PERCENT}\n\
             [[orgs]]\nname = '{ORG}'",
            okta.url()
        );
        let file = directory.join("provident.toml");
        std::fs::write(&file, config).unwrap();
        Self {
            okta,
            random,
            launch: Launch::on(&directory.join("data")).with(&["--config", file.to_str().unwrap()]),
            hook: String::new(),
            next: 0,
            pending: Vec::new(),
            counts: Counts::default(),
        }
    }

    async fn round(&mut self) {
        let asked = self.okta.requests().len();
        let mut server = self.launch.start().await;
        self.counts.slowest_start = self.counts.slowest_start.max(server.started_in);
        self.hook = format!("http://{}/hooks/okta/{ORG}", server.addresses.http);
        let moment = Duration::from_millis(20 + self.random.below(500));
        // A kill in the midst of a delivery drops it, as Okta would see its connection end.
        tokio::select! {
            () = sleep(moment) => {}
            () = self.go_on() => {}
        }
        server.process.kill();
        self.counts.kills += 1;
        self.publish_pending();
        if self.okta.requests().len() > asked {
            let request = self.okta.requests().swap_remove(asked);
            assert!(
                self.okta.goes_on(asked),
                "a start did not go on: {request:?}"
            );
        }
    }

    async fn go_on(&mut self) {
        loop {
            self.happen().await;
            sleep(Duration::from_millis(self.random.below(20))).await;
        }
    }

    fn publish_pending(&mut self) {
        for event in self.pending.drain(..) {
            self.okta.publish(&event);
        }
    }

    /// Some events, by hook and in the log, in an order of their own.
    async fn happen(&mut self) {
        let count = self.random.below(15);
        let mut events = fixtures::mixed(self.next, count);
        self.next += count;
        // Stored late: not in the order of their times.
        if self.random.once_in(3) {
            events.reverse();
        }
        let hooked: Vec<Given> = events
            .iter()
            .filter(|_| self.random.once_in(3))
            .cloned()
            .collect();
        self.pending = events;
        if self.random.once_in(2) {
            self.deliver(&hooked).await;
            self.publish_pending();
        } else {
            self.publish_pending();
            self.deliver(&hooked).await;
        }
    }

    async fn deliver(&mut self, events: &[Given]) {
        if events.is_empty() {
            return;
        }
        let header = ("Authorization", SECRET);
        // Okta delivers at least once: some come again.
        for _ in 0..=self.random.below(2) {
            let outcome = within(hook_deliver(&self.hook, header, events)).await;
            if outcome.delivered() {
                self.counts.delivered += 1;
            } else {
                self.counts.undelivered += 1;
            }
        }
    }
}
