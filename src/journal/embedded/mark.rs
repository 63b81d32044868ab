//! How far the journal was known to be: what tells an end that was lost from an end.
//!
//! The end of a journal can't vouch for itself: cut between two batches, it looks like an earlier
//! one, and cut within one, as if the power had failed before that was acknowledged. So `MARK`
//! says from outside what must be there at least. It is written at each open, when all that was
//! found is on disk, and once more when the journal was closed, with nothing left to write; then
//! it also names fjall's journal files, which may not change any more.
//!
//! ```text
//! Provident journal, mark 1
//! events 92
//! writes 1000123
//! files 0 1
//! check 0f1e2d3c4b5a6978
//! ```
//!
//! `events` is the head, `writes` a number below fjall's sequence of the last batch and not below
//! that of the one before (it tells a lost batch that only changed state), `files` are missing
//! while the journal is open, `check` is the XXH3-64 of the lines above. A mark that is missing or
//! unreadable vouches for nothing, and holds nothing up.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_64;

use super::{directory, tail};
use crate::domain::cursor::Seq;

const MARK: &str = "MARK";
const MARK_NEW: &str = "MARK.new";
const HEAD: &str = "Provident journal, mark 1";

/// What is on disk at the least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) head: Seq,
    pub(super) writes: u64,
}

/// The mark of an open journal. Dropped when the journal is closed, it says so on disk.
#[derive(Debug)]
pub(super) struct Mark {
    directory: PathBuf,
    /// `None` once a write failed: then nobody knows, and the mark of the open stays.
    known: Mutex<Option<Known>>,
}

/// What an earlier process left.
#[derive(Debug)]
pub(super) struct Found {
    known: Known,
    /// Numbers of fjall's journal files; none unless the journal was closed.
    files: Vec<u64>,
}

impl Found {
    /// Reads the mark, and looks for the files that it names.
    pub(super) fn read(directory: &Path) -> io::Result<Result<Self, String>> {
        let text = match fs::read(directory.join(MARK)) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Ok(Self::nothing())),
            Err(error) => return Err(error),
        };
        let Some((known, files)) = parse(&text) else {
            tracing::warn!(
                "the file {MARK} is unreadable, so it can't tell whether the journal's end is there"
            );
            return Ok(Ok(Self::nothing()));
        };
        let journal = directory.join(directory::JOURNAL);
        for number in &files {
            let file = tail::journal_file(&journal, *number);
            if !file.try_exists()? {
                return Ok(Err(format!("{} is missing", file.display())));
            }
        }
        Ok(Ok(Self { known, files }))
    }

    /// Whether the journal was closed, so that nothing in it can be half written.
    pub(super) fn is_closed(&self) -> bool {
        !self.files.is_empty()
    }

    /// Takes back that the journal is closed. Before fjall opens its files, which then change.
    pub(super) fn reopen(&self, directory: &Path) -> io::Result<()> {
        if self.is_closed() {
            write(directory, self.known, &[])?;
        }
        Ok(())
    }

    fn nothing() -> Self {
        Self {
            known: Known::default(),
            files: Vec::new(),
        }
    }

    /// Checks what was opened: its head, and the number that fjall would give the next batch.
    pub(super) fn check(&self, head: Seq, next_write: u64) -> Result<(), String> {
        let Known {
            head: least,
            writes,
        } = self.known;
        if head < least {
            return Err(format!(
                "it ends at event {head}, but event {least} was there"
            ));
        }
        if writes > 0 && next_write <= writes {
            return Err(format!("writes after event {head} are missing"));
        }
        Ok(())
    }
}

impl Mark {
    /// Marks an open journal. All that `known` names has to be on disk.
    pub(super) fn open(directory: &Path, known: Known) -> io::Result<Self> {
        write(directory, known, &[])?;
        Ok(Self {
            directory: directory.into(),
            known: Mutex::new(Some(known)),
        })
    }

    /// Notes what is on disk now.
    pub(super) fn reached(&self, known: Known) {
        let mut current = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *current = current.map(|_| known);
    }

    /// Notes that nobody knows any more.
    pub(super) fn lost(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = known else {
            return;
        };
        let journal = self.directory.join(directory::JOURNAL);
        let written = tail::journal_files(&journal).and_then(|files| {
            let numbers: Vec<_> = files.iter().map(|(number, _)| *number).collect();
            write(&self.directory, known, &numbers)
        });
        if let Err(error) = written {
            tracing::warn!(%error, "the file {MARK} could not be written");
        }
    }
}

fn write(directory: &Path, known: Known, files: &[u64]) -> io::Result<()> {
    let new = directory.join(MARK_NEW);
    let mut file = File::create(&new)?;
    file.write_all(text(known, files).as_bytes())?;
    file.sync_all()?;
    fs::rename(new, directory.join(MARK))?;
    File::open(directory)?.sync_all()
}

fn text(known: Known, files: &[u64]) -> String {
    let mut text = format!("{HEAD}\nevents {}\nwrites {}\n", known.head, known.writes);
    if !files.is_empty() {
        text.push_str("files");
        for number in files {
            write!(text, " {number}").expect("a string takes all");
        }
        text.push('\n');
    }
    let check = xxh3_64(text.as_bytes());
    writeln!(text, "check {check:016x}").expect("a string takes all");
    text
}

/// Reads what [`text`] wrote, and nothing else.
fn parse(bytes: &[u8]) -> Option<(Known, Vec<u64>)> {
    let written = str::from_utf8(bytes).ok()?;
    let mut lines = written.lines().skip(1);
    let known = Known {
        head: Seq::new(lines.next()?.strip_prefix("events ")?.parse().ok()?),
        writes: lines.next()?.strip_prefix("writes ")?.parse().ok()?,
    };
    let files = match lines.next()?.strip_prefix("files ") {
        Some(numbers) => numbers
            .split(' ')
            .map(|one| one.parse().ok())
            .collect::<Option<_>>()?,
        None => Vec::new(),
    };
    (text(known, &files) == written).then_some((known, files))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mark_1_is_this_text() {
        let known = Known {
            head: Seq::new(92),
            writes: 1_000_123,
        };
        assert_eq!(
            text(known, &[0, 1]),
            "Provident journal, mark 1\nevents 92\nwrites 1000123\nfiles 0 1\n\
             check eaf7e6aa82aa3b6f\n"
        );
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back_and_nothing_else(
            head: u64,
            writes: u64,
            files: Vec<u64>,
            at: prop::sample::Index,
            bit in 0..8_u8,
        ) {
            let known = Known { head: Seq::new(head), writes };
            let mut bytes = text(known, &files).into_bytes();
            prop_assert_eq!(parse(&bytes), Some((known, files)));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(parse(&bytes), None);
            prop_assert_eq!(parse(&bytes[..at]), None);
        }
    }
}
