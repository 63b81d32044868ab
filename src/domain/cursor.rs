//! Places in a journal: [`Seq`], [`JournalId`] and the opaque [`Cursor`].
//!
//! A cursor names one place in one journal, in one epoch of it. Its text form carries a
//! checksum, so a cut or mistyped cursor is told apart from one of another journal. Nothing
//! here knows how a journal stores its records.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// An event's place in the journal. The first event has 1; 0 is the place before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(u64);

impl Seq {
    /// The place before the first event.
    pub const ZERO: Self = Self(0);
    /// The place of the first event.
    pub const FIRST: Self = Self(1);

    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The place before this one; `ZERO` stays `ZERO`.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which journal, and which life of it: a restored backup starts a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JournalId {
    /// Random, made once when the journal is created.
    pub id: [u8; 8],
    /// Starts at 1, grows by one with each restored backup.
    pub epoch: u32,
}

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.id {
            write!(f, "{byte:02x}")?;
        }
        write!(f, "-{}", self.epoch)
    }
}

/// A place in one journal: "everything up to and including `seq` was seen".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    pub journal: JournalId,
    pub seq: Seq,
}

/// Bytes of a cursor before base64.
///
/// | bytes | meaning |
/// |---|---|
/// | 1 | format, always 1 |
/// | 8 | journal id |
/// | 4 | epoch, big endian |
/// | 8 | sequence, big endian |
/// | 3 | checksum: the low bytes of FNV-1a 64 over what precedes |
const CURSOR_BYTES: usize = 24;
const CURSOR_FORMAT: u8 = 1;

/// Length of every cursor's text: 24 bytes are 32 base64 characters without padding.
pub const CURSOR_TEXT_LEN: usize = 32;

/// Why a cursor can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Not the text of a cursor: mistyped, cut, or of a newer format.
    #[error("not a cursor of this service")]
    Malformed,
    /// A cursor of another journal, or of an epoch before a restored backup.
    #[error("the cursor is of journal {theirs}, this one is {ours}")]
    ForeignJournal { theirs: JournalId, ours: JournalId },
}

impl Cursor {
    pub const fn new(journal: JournalId, seq: Seq) -> Self {
        Self { journal, seq }
    }

    /// The cursor's text, base64url without padding.
    pub fn encode(self) -> [u8; CURSOR_TEXT_LEN] {
        let mut bytes = [0; CURSOR_BYTES];
        bytes[0] = CURSOR_FORMAT;
        bytes[1..9].copy_from_slice(&self.journal.id);
        bytes[9..13].copy_from_slice(&self.journal.epoch.to_be_bytes());
        bytes[13..21].copy_from_slice(&self.seq.get().to_be_bytes());
        let check = checksum(&bytes[..21]);
        bytes[21..].copy_from_slice(&check);
        let mut text = [0; CURSOR_TEXT_LEN];
        URL_SAFE_NO_PAD
            .encode_slice(bytes, &mut text)
            .expect("24 bytes are exactly 32 characters");
        text
    }

    /// Reads a cursor's text; says nothing of whether it is of this journal.
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        let mut bytes = [0; CURSOR_BYTES];
        if text.len() != CURSOR_TEXT_LEN
            || URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) != Ok(CURSOR_BYTES)
            || bytes[0] != CURSOR_FORMAT
            || bytes[21..] != checksum(&bytes[..21])
        {
            return Err(CursorError::Malformed);
        }
        let id = bytes[1..9].try_into().expect("8 bytes");
        let epoch = u32::from_be_bytes(bytes[9..13].try_into().expect("4 bytes"));
        let seq = u64::from_be_bytes(bytes[13..21].try_into().expect("8 bytes"));
        Ok(Self {
            journal: JournalId { id, epoch },
            seq: Seq::new(seq),
        })
    }

    /// Reads a cursor that has to be of journal `ours`.
    pub fn parse_for(text: &str, ours: JournalId) -> Result<Self, CursorError> {
        let cursor = Self::parse(text)?;
        if cursor.journal == ours {
            Ok(cursor)
        } else {
            Err(CursorError::ForeignJournal {
                theirs: cursor.journal,
                ours,
            })
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.encode();
        f.write_str(std::str::from_utf8(&text).expect("base64 is ASCII"))
    }
}

fn checksum(bytes: &[u8]) -> [u8; 3] {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let folded = (hash ^ (hash >> 32)).to_be_bytes();
    [folded[5], folded[6], folded[7]]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const JOURNAL: JournalId = JournalId {
        id: *b"abcdefgh",
        epoch: 3,
    };

    #[test]
    fn a_cursor_of_another_journal_is_refused_by_name() {
        let text = Cursor::new(JOURNAL, Seq::new(7)).to_string();
        let ours = JournalId {
            epoch: 4,
            ..JOURNAL
        };
        assert_eq!(
            Cursor::parse_for(&text, ours),
            Err(CursorError::ForeignJournal {
                theirs: JOURNAL,
                ours
            })
        );
        assert!(Cursor::parse_for(&text, JOURNAL).is_ok());
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(id: [u8; 8], epoch: u32, seq: u64) {
            let cursor = Cursor::new(JournalId { id, epoch }, Seq::new(seq));
            prop_assert_eq!(Cursor::parse(&cursor.to_string()), Ok(cursor));
        }

        #[test]
        fn one_changed_character_is_no_cursor(seq: u64, at in 0..CURSOR_TEXT_LEN, with in "[A-Za-z0-9_-]") {
            let text = Cursor::new(JOURNAL, Seq::new(seq)).to_string();
            let mut changed = text.clone();
            changed.replace_range(at..=at, &with);
            if changed != text {
                prop_assert_eq!(Cursor::parse(&changed), Err(CursorError::Malformed));
            }
        }

        #[test]
        fn any_text_is_a_cursor_or_malformed(text in ".{0,64}") {
            if let Ok(cursor) = Cursor::parse(&text) {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }
}
