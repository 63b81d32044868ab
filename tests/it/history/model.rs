//! What a history of calls and answers has to be like: the promises, checked against what is in the
//! journal in the end.
//!
//! Times are ticks of one clock of the test, taken before a call leaves and after its answer came;
//! so one call was before another if its answer's tick is lower than the other's call's. A broken
//! promise is told with its name. Nothing here runs a server: the checker has tests of its own, in
//! which a history is right, and then broken in one way each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// An event by its number (see `fixtures`).
pub(super) type Number = u64;
type Sequence = u64;
type Tick = u64;

/// Which events a filter lets through, said without the service.
pub(super) type Wanted = fn(Number) -> bool;

/// When a call left and when its answer came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) called: Tick,
    pub(super) answered: Tick,
}

/// What was said of one event of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Accepted(Sequence),
    Duplicate(Sequence),
}

/// One call of Ingest.
#[derive(Clone, Debug)]
pub(super) struct Ingest {
    pub(super) span: Span,
    pub(super) numbers: Vec<Number>,
    /// `None`: the answer was lost.
    pub(super) said: Option<Vec<Said>>,
}

/// One message of a stream; a place is the sequence that its cursor names.
#[derive(Clone, Debug)]
pub(super) enum Message {
    Batch(Vec<(Sequence, Number)>),
    Heartbeat(Sequence),
    CaughtUp(Sequence),
    Ending(Sequence),
}

/// One stream, as far as it was read.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) span: Span,
    pub(super) wanted: Wanted,
    /// The subscription and the session, if it was read as one.
    pub(super) session: Option<(String, String)>,
    /// The place that was asked for; `None` with a subscription.
    pub(super) asked: Option<Sequence>,
    /// The place that the confirmation said.
    pub(super) start: Sequence,
    pub(super) messages: Vec<Message>,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Committed {
    Done,
    Fenced,
    Behind,
    /// The answer was lost.
    Unknown,
}

/// One call of Commit.
#[derive(Clone, Debug)]
pub(super) struct Commit {
    pub(super) span: Span,
    pub(super) subscription: String,
    pub(super) session: String,
    pub(super) place: Sequence,
    pub(super) outcome: Committed,
}

/// One list, all its pages.
#[derive(Clone, Debug)]
pub(super) struct List {
    pub(super) span: Span,
    pub(super) wanted: Wanted,
    pub(super) events: Vec<(Sequence, Number)>,
}

/// All that was called and answered.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) ingests: Vec<Ingest>,
    pub(super) streams: Vec<Stream>,
    pub(super) commits: Vec<Commit>,
    pub(super) lists: Vec<List>,
    /// Calls of Subscribe to a subscription of which no answer was read: they may have taken over.
    pub(super) attempts: Vec<(String, Span)>,
    /// What is in the journal in the end.
    pub(super) journal: Vec<(Sequence, Number)>,
    /// The committed place of each subscription in the end.
    pub(super) committed: BTreeMap<String, Sequence>,
}

/// Promises that a history breaks, each with what breaks it; none if it keeps them all.
pub(super) fn broken(history: &History) -> Vec<String> {
    let mut checker = Checker {
        places: history
            .journal
            .iter()
            .map(|(sequence, number)| (*number, *sequence))
            .collect(),
        history,
        broken: Vec::new(),
    };
    checker.journal();
    checker.ingests();
    checker.streams();
    checker.subscriptions();
    checker.lists();
    checker.broken
}

struct Checker<'a> {
    history: &'a History,
    places: HashMap<Number, Sequence>,
    broken: Vec<String>,
}

impl Checker<'_> {
    fn check(&mut self, holds: bool, promise: &str, what: impl FnOnce() -> String) {
        // The first few tell what is wrong; a hole may make thousands.
        if !holds && self.broken.len() < 20 {
            self.broken.push(format!("{promise}: {}", what()));
        }
    }

    /// Sequences without holes, each event once, and nothing that nobody sent.
    fn journal(&mut self) {
        let sent: BTreeSet<Number> = self
            .history
            .ingests
            .iter()
            .flat_map(|ingest| ingest.numbers.iter().copied())
            .collect();
        let mut seen = BTreeSet::new();
        for (index, (sequence, number)) in self.history.journal.iter().enumerate() {
            self.check(*sequence == index as u64 + 1, "no hole", || {
                format!("sequence {sequence} is at place {}", index + 1)
            });
            self.check(seen.insert(*number), "once in, once kept", || {
                format!("event {number} is there twice")
            });
            self.check(sent.contains(number), "nothing made up", || {
                format!("event {number} at {sequence} was never sent")
            });
        }
    }

    /// What was answered is so in the end, and the order of answers is the order of places.
    fn ingests(&mut self) {
        // What was accepted, by when it was answered: the highest sequence of all up to then.
        let mut answered: Vec<(Tick, Sequence)> = Vec::new();
        for ingest in &self.history.ingests {
            let mut last = 0;
            for (number, said) in ingest
                .numbers
                .iter()
                .zip(ingest.said.iter().flatten().copied())
            {
                let (Said::Accepted(sequence) | Said::Duplicate(sequence)) = said;
                let place = self.places.get(number).copied();
                self.check(place == Some(sequence), "acknowledged is kept", || {
                    format!("event {number} was answered {said:?} and is at {place:?}")
                });
                if let Said::Accepted(sequence) = said {
                    self.check(sequence > last, "a call keeps its order", || {
                        format!("event {number} at {sequence}, after {last}")
                    });
                    last = sequence;
                }
            }
            if last > 0 {
                answered.push((ingest.span.answered, last));
            }
        }
        let highest = Highest::new(answered);
        for ingest in &self.history.ingests {
            let before = highest.before(ingest.span.called);
            for said in ingest.said.iter().flatten() {
                if let Said::Accepted(sequence) = *said {
                    self.check(sequence > before, "one order", || {
                        format!("{sequence} was given after {before} had been answered")
                    });
                }
            }
        }
        let mut accepted = BTreeMap::new();
        for ingest in &self.history.ingests {
            for (number, said) in ingest.numbers.iter().zip(ingest.said.iter().flatten()) {
                if let Said::Accepted(_) = said {
                    let again = accepted.insert(*number, ingest.span.called).is_some();
                    self.check(!again, "duplicates are named", || {
                        format!("event {number} was accepted twice")
                    });
                }
            }
        }
    }

    /// In order, unique, no hole, filter exact, and no cursor ahead of a match that was not sent.
    fn streams(&mut self) {
        let acknowledged = Highest::new(
            self.history
                .ingests
                .iter()
                .filter_map(|ingest| {
                    let said = ingest.said.iter().flatten();
                    let highest = said.map(|said| match *said {
                        Said::Accepted(sequence) | Said::Duplicate(sequence) => sequence,
                    });
                    Some((ingest.span.answered, highest.max()?))
                })
                .collect(),
        );
        for stream in &self.history.streams {
            if let Some(asked) = stream.asked {
                self.check(stream.start == asked, "resumable", || {
                    format!("asked for {asked}, started at {}", stream.start)
                });
            }
            let matches: Vec<(Sequence, Number)> = self
                .history
                .journal
                .iter()
                .copied()
                .filter(|(sequence, number)| *sequence > stream.start && (stream.wanted)(*number))
                .collect();
            let mut next = matches.iter();
            let mut at = stream.start;
            for message in &stream.messages {
                match message {
                    Message::Batch(events) => {
                        for event in events {
                            // Order, uniqueness, holes and the filter at once: it has to be the
                            // very next match.
                            let expected = next.next();
                            self.check(expected == Some(event), "the next match, no other", || {
                                format!("{event:?} came where {expected:?} belongs")
                            });
                            at = event.0;
                        }
                    }
                    Message::Heartbeat(place)
                    | Message::CaughtUp(place)
                    | Message::Ending(place) => {
                        self.check(*place >= at, "bookmarkable", || {
                            format!("{message:?} goes back behind {at}")
                        });
                        let unsent = next.clone().next().map(|(sequence, _)| *sequence);
                        self.check(
                            unsent.is_none_or(|unsent| unsent > *place),
                            "bookmarkable",
                            || format!("{message:?} is ahead of {unsent:?}, which was not sent"),
                        );
                        at = *place;
                        if let Message::CaughtUp(place) = message {
                            let known = acknowledged.before(stream.span.called);
                            self.check(*place >= known, "caught up is caught up", || {
                                format!("{place}, and {known} was acknowledged before the call")
                            });
                        }
                    }
                }
            }
        }
    }

    /// A subscription's reader goes on where the last commit was, and only the newest one commits.
    fn subscriptions(&mut self) {
        let history = self.history;
        for stream in &history.streams {
            let Some((subscription, _)) = &stream.session else {
                continue;
            };
            let commits = || {
                let of_it = |commit: &&Commit| commit.subscription == *subscription;
                history.commits.iter().filter(of_it)
            };
            let durable = commits()
                .filter(|commit| {
                    commit.outcome == Committed::Done && commit.span.answered < stream.span.called
                })
                .map(|commit| commit.place)
                .max();
            self.check(
                stream.start >= durable.unwrap_or(0),
                "a commit is durable",
                || {
                    format!(
                        "{subscription} goes on at {}, not {durable:?}",
                        stream.start
                    )
                },
            );
            let possible = commits()
                .filter(|commit| commit.span.called < stream.span.answered)
                .map(|commit| commit.place)
                .max();
            self.check(
                stream.start <= possible.unwrap_or(0),
                "nothing is skipped",
                || {
                    format!(
                        "{subscription} goes on at {}, not {possible:?}",
                        stream.start
                    )
                },
            );
        }
        for (subscription, place) in &history.committed {
            let done = history
                .commits
                .iter()
                .filter(|commit| {
                    commit.subscription == *subscription && commit.outcome == Committed::Done
                })
                .map(|commit| commit.place)
                .max();
            self.check(*place >= done.unwrap_or(0), "a commit is durable", || {
                format!("{subscription} is at {place} in the end, not {done:?}")
            });
        }
        for commit in &history.commits {
            let streams = history.streams.iter().filter_map(|stream| {
                let (subscription, session) = stream.session.as_ref()?;
                (*subscription == commit.subscription).then_some((session, stream.span))
            });
            let own = streams
                .clone()
                .find(|(session, _)| **session == commit.session)
                .map(|(_, span)| span);
            let Some(own) = own else { continue };
            // Others that surely came after this session, and surely before the commit.
            let fenced = streams.clone().any(|(session, span)| {
                *session != commit.session
                    && span.called > own.answered
                    && span.answered < commit.span.called
            });
            // Nobody else can have come since.
            let apart =
                |span: Span| span.answered < own.called || span.called > commit.span.answered;
            let alone = streams
                .clone()
                .all(|(session, span)| *session == commit.session || apart(span))
                && history.attempts.iter().all(|(subscription, span)| {
                    *subscription != commit.subscription || apart(*span)
                });
            match commit.outcome {
                Committed::Done => self.check(!fenced, "one reader", || {
                    format!("{commit:?} of a session that was over")
                }),
                Committed::Fenced => self.check(!alone, "one reader", || {
                    format!("{commit:?} of the only session")
                }),
                Committed::Behind | Committed::Unknown => {}
            }
        }
    }

    /// A list has every match up to some place, and all that was acknowledged before it.
    fn lists(&mut self) {
        for list in &self.history.lists {
            let mut matches = self
                .history
                .journal
                .iter()
                .filter(|(_, number)| (list.wanted)(*number));
            for event in &list.events {
                let expected = matches.next();
                self.check(expected == Some(event), "a list is whole", || {
                    format!("{event:?} stands where {expected:?} belongs")
                });
            }
            let missing = matches.next().map(|(sequence, _)| *sequence);
            let known = self
                .history
                .ingests
                .iter()
                .filter(|ingest| ingest.span.answered < list.span.called)
                .flat_map(|ingest| ingest.numbers.iter().zip(ingest.said.iter().flatten()))
                .filter(|(number, _)| (list.wanted)(**number))
                .map(|(_, said)| match *said {
                    Said::Accepted(sequence) | Said::Duplicate(sequence) => sequence,
                })
                .max();
            self.check(
                missing.is_none_or(|missing| known.is_none_or(|known| missing > known)),
                "a list is whole",
                || format!("{missing:?} is missing, and {known:?} was acknowledged before"),
            );
        }
    }
}

/// The highest sequence that was answered before a tick.
struct Highest(Vec<(Tick, Sequence)>);

impl Highest {
    fn new(mut answered: Vec<(Tick, Sequence)>) -> Self {
        answered.sort_unstable();
        let mut highest = 0;
        for (_, sequence) in &mut answered {
            highest = highest.max(*sequence);
            *sequence = highest;
        }
        Self(answered)
    }

    fn before(&self, tick: Tick) -> Sequence {
        let end = self.0.partition_point(|(answered, _)| *answered < tick);
        end.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(called: Tick, answered: Tick) -> Span {
        Span { called, answered }
    }

    fn even(number: Number) -> bool {
        number.is_multiple_of(2)
    }

    fn any(_: Number) -> bool {
        true
    }

    /// Four events in two calls, a stream of the even ones, a subscription's two readers, a list.
    fn right() -> History {
        use Message::{Batch, CaughtUp, Ending, Heartbeat};
        let session = |name: &str| Some(("s".to_owned(), name.to_owned()));
        History {
            ingests: vec![
                Ingest {
                    span: span(1, 2),
                    numbers: vec![10, 11],
                    said: Some(vec![Said::Accepted(1), Said::Accepted(2)]),
                },
                Ingest {
                    span: span(3, 4),
                    numbers: vec![12, 10, 13],
                    said: Some(vec![
                        Said::Accepted(3),
                        Said::Duplicate(1),
                        Said::Accepted(4),
                    ]),
                },
                Ingest {
                    span: span(5, 30),
                    numbers: vec![14, 15],
                    said: None,
                },
            ],
            streams: vec![
                Stream {
                    span: span(6, 7),
                    wanted: even,
                    session: None,
                    asked: Some(0),
                    start: 0,
                    messages: vec![
                        Batch(vec![(1, 10)]),
                        Heartbeat(2),
                        Batch(vec![(3, 12)]),
                        CaughtUp(4),
                        Batch(vec![(5, 14)]),
                        Ending(5),
                    ],
                },
                Stream {
                    span: span(8, 9),
                    wanted: any,
                    session: session("one"),
                    asked: None,
                    start: 0,
                    messages: vec![Batch(vec![(1, 10), (2, 11), (3, 12)])],
                },
                Stream {
                    span: span(12, 13),
                    wanted: any,
                    session: session("two"),
                    asked: None,
                    start: 2,
                    messages: vec![Batch(vec![(3, 12), (4, 13)]), CaughtUp(4)],
                },
            ],
            commits: vec![
                Commit {
                    span: span(10, 11),
                    subscription: "s".to_owned(),
                    session: "one".to_owned(),
                    place: 2,
                    outcome: Committed::Done,
                },
                Commit {
                    span: span(14, 15),
                    subscription: "s".to_owned(),
                    session: "one".to_owned(),
                    place: 3,
                    outcome: Committed::Fenced,
                },
                Commit {
                    span: span(16, 17),
                    subscription: "s".to_owned(),
                    session: "two".to_owned(),
                    place: 4,
                    outcome: Committed::Done,
                },
            ],
            // It came between the two, and went before it was told anything.
            attempts: vec![("s".to_owned(), span(18, Tick::MAX))],
            lists: vec![List {
                span: span(5, 6),
                wanted: even,
                events: vec![(1, 10), (3, 12)],
            }],
            journal: vec![(1, 10), (2, 11), (3, 12), (4, 13), (5, 14)],
            committed: BTreeMap::from([("s".to_owned(), 4)]),
        }
    }

    #[test]
    fn a_history_that_keeps_every_promise_is_let_pass() {
        assert_eq!(broken(&right()), Vec::<String>::new());
    }

    #[test]
    fn each_way_to_break_a_promise_is_told_by_its_name() {
        type Break = fn(&mut History);
        let breaks: &[(&str, Break)] = &[
            ("acknowledged is kept", |history| {
                history.journal[3] = (4, 15);
            }),
            ("acknowledged is kept", |history| {
                history.ingests[1].said.as_mut().unwrap()[1] = Said::Duplicate(2);
            }),
            ("no hole", |history| {
                history.journal[4].0 = 6;
            }),
            ("once in, once kept", |history| {
                history.journal.push((6, 10));
            }),
            ("nothing made up", |history| {
                history.journal.push((6, 99));
            }),
            ("a call keeps its order", |history| {
                let said = history.ingests[1].said.as_mut().unwrap();
                said.swap(0, 2);
            }),
            ("one order", |history| {
                history.ingests[1].span = span(0, 0);
            }),
            ("duplicates are named", |history| {
                history.ingests[1].said.as_mut().unwrap()[1] = Said::Accepted(1);
            }),
            ("resumable", |history| {
                history.streams[0].asked = Some(1);
            }),
            // A hole, a repetition, another order, one that the filter does not let through.
            ("the next match", |history| {
                history.streams[0].messages.remove(2);
            }),
            ("the next match", |history| {
                let first = history.streams[0].messages[0].clone();
                history.streams[0].messages.insert(1, first);
            }),
            ("the next match", |history| {
                history.streams[0].messages.swap(0, 2);
            }),
            ("the next match", |history| {
                history.streams[0].messages[0] = Message::Batch(vec![(1, 10), (2, 11)]);
            }),
            ("the next match", |history| {
                history.streams[0].messages[4] = Message::Batch(vec![(6, 16)]);
            }),
            ("bookmarkable", |history| {
                history.streams[0].messages[1] = Message::Heartbeat(3);
            }),
            ("bookmarkable", |history| {
                history.streams[0].messages[1] = Message::Heartbeat(0);
            }),
            ("bookmarkable", |history| {
                history.streams[2].messages[1] = Message::CaughtUp(5);
            }),
            ("caught up", |history| {
                history.streams[0].messages[3] = Message::CaughtUp(3);
            }),
            ("a commit is durable", |history| {
                history.streams[2].start = 1;
            }),
            ("a commit is durable", |history| {
                history.committed.insert("s".to_owned(), 3);
            }),
            ("nothing is skipped", |history| {
                history.streams[1].start = 1;
            }),
            ("one reader", |history| {
                history.commits[1].outcome = Committed::Done;
            }),
            ("one reader", |history| {
                history.commits[0].outcome = Committed::Fenced;
            }),
            ("a list is whole", |history| {
                history.lists[0].events.remove(0);
            }),
            ("a list is whole", |history| {
                history.lists[0].events.pop();
            }),
            ("a list is whole", |history| {
                history.lists[0].events.push((4, 13));
            }),
        ];
        for (index, (promise, breaks)) in breaks.iter().enumerate() {
            let mut history = right();
            breaks(&mut history);
            let told = broken(&history);
            assert!(
                told.iter().any(|told| told.starts_with(promise)),
                "number {index}, {promise}: {told:?}"
            );
        }
    }
}
