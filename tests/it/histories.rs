//! Subscribe's promises over random histories: at least once, in order, no hole.
//!
//! Callers ingest while readers with filters of their own come, go, and come again with whatever
//! cursor they saw last, and the server is stopped and killed in between. In the end each reader
//! has seen exactly what a fresh read with its filter shows, in that order, and what came twice is
//! only what came after a cursor that was resumed from. `PROVIDENT_SEED` repeats the choices.

use provident::wire::v1;
use provident::wire::v1::subscribe_response::Message;

use crate::fixtures::{self, Kind, mixed_one};
use crate::harness::{
    Launch, Random, Server, accepted, after, earliest, everything, following, say, scratch, to_head,
};

/// Rounds of ingest, reading and perhaps a restart.
const ROUNDS: usize = 12;

/// A reader and what it has.
struct Follower {
    filter: v1::Filter,
    /// Where it goes on: the cursor of whichever message came last.
    cursor: Option<String>,
    /// The newest sequence it had when it got that cursor.
    cursor_covers: u64,
    /// Each sequence once, in the order in which it first came.
    seen: Vec<u64>,
    repeated: usize,
}

impl Follower {
    fn new(filter: v1::Filter) -> Self {
        Self {
            filter,
            cursor: None,
            cursor_covers: 0,
            seen: Vec::new(),
            repeated: 0,
        }
    }

    fn request(&self) -> v1::SubscribeRequest {
        v1::SubscribeRequest {
            filter: Some(self.filter.clone()),
            ..following(self.cursor.as_deref().map_or_else(earliest, after))
        }
    }

    /// Reads some messages and goes away, perhaps without having noted the last cursor.
    async fn read_some(&mut self, server: &Server, random: &mut Random) {
        let mut reader = server.subscribe(self.request()).await.unwrap();
        let mut last = self.cursor_covers;
        for _ in 0..=random.below(6) {
            let cursor = match reader.next().await.unwrap().unwrap() {
                Message::Confirmation(confirmation) => confirmation.start_cursor,
                Message::Batch(batch) => {
                    for event in &batch.events {
                        assert!(event.sequence > last, "{} after {last}", event.sequence);
                        last = event.sequence;
                        if self.seen.last().is_none_or(|newest| *newest < last) {
                            self.seen.push(last);
                        } else {
                            // Only what came after the cursor that was resumed from.
                            assert!(last > self.cursor_covers && self.seen.contains(&last));
                            self.repeated += 1;
                        }
                    }
                    let noted = random.pick(&batch.events);
                    if random.once_in(2) {
                        // It crashes after having noted one in the middle.
                        self.cursor = Some(noted.cursor.clone());
                        self.cursor_covers = noted.sequence;
                        return;
                    }
                    batch.events.last().unwrap().cursor.clone()
                }
                Message::Heartbeat(heartbeat) => heartbeat.cursor,
                Message::CaughtUp(caught_up) => {
                    self.note(caught_up.cursor, last);
                    return;
                }
                other => panic!("{other:?}"),
            };
            if random.once_in(3) {
                // This one it had no time to note.
                continue;
            }
            self.note(cursor, last);
        }
    }

    fn note(&mut self, cursor: String, last: u64) {
        self.cursor = Some(cursor);
        self.cursor_covers = last;
    }

    /// Reads all the rest.
    async fn read_rest(&mut self, server: &Server) {
        let request = v1::SubscribeRequest {
            stop_at_head: true,
            ..self.request()
        };
        let read = server.subscribe(request).await.unwrap().read_to_end().await;
        for event in read.events {
            if self
                .seen
                .last()
                .is_none_or(|newest| *newest < event.sequence)
            {
                self.seen.push(event.sequence);
            } else {
                assert!(self.seen.contains(&event.sequence));
                self.repeated += 1;
            }
        }
    }
}

#[tokio::test]
async fn every_reader_gets_every_matching_event_in_order_through_any_history() {
    let mut random = Random::of_run("histories");
    let directory = scratch();
    let launch = Launch::on(&directory.path().join("data"));
    let mut server = launch.start().await;
    let mut followers: Vec<_> = [
        everything(),
        v1::Filter::default(),
        v1::Filter {
            categories: vec![v1::Category::GroupPush.into()],
            ..everything()
        },
        v1::Filter {
            application_ids: vec![fixtures::application_id(2)],
            ..everything()
        },
        v1::Filter {
            event_types: vec![Kind::Unrelated.event_type().to_owned()],
            ..everything()
        },
    ]
    .into_iter()
    .map(Follower::new)
    .collect();
    let mut next = 0;
    let mut restarts = 0;
    for _ in 0..ROUNDS {
        let calls = 1 + random.below(6);
        let ingest = async {
            for _ in 0..calls {
                let count = 1 + next % 61;
                accepted(&server.ingest((next..next + count).map(mixed_one)).await);
                next += count;
            }
        };
        let mut choices = random.fork();
        let read = async {
            for follower in &mut followers {
                if !choices.once_in(4) {
                    follower.read_some(&server, &mut choices).await;
                }
            }
        };
        tokio::join!(ingest, read);
        if random.once_in(4) {
            restarts += 1;
            if random.once_in(2) {
                server.process.signal(rustix::process::Signal::TERM);
                server.process.ended().await;
            }
            server.process.kill();
            server = launch.start().await;
        }
    }
    for follower in &mut followers {
        follower.read_rest(&server).await;
        let fresh = v1::SubscribeRequest {
            filter: Some(follower.filter.clone()),
            ..to_head(earliest())
        };
        let fresh: Vec<_> = server
            .subscribe(fresh)
            .await
            .unwrap()
            .read_to_end()
            .await
            .events
            .iter()
            .map(|event| event.sequence)
            .collect();
        assert_eq!(follower.seen, fresh, "{:?}", follower.filter);
    }
    assert_eq!(followers[0].seen, (1..=next).collect::<Vec<_>>());
    let repeated: usize = followers.iter().map(|follower| follower.repeated).sum();
    say(&format!(
        "histories: {next} events, {restarts} restarts, {repeated} repeated after a resume"
    ));
}
