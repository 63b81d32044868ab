//! The end of fjall's journal files: tells what a power cut tore from what is damaged.
//!
//! fjall cuts a file where it can't read on, whatever follows, and refuses to open where a batch
//! is there but fails its checksum. Neither is right for us. A power cut within a flush may leave
//! the last batch with holes of zeros (pages reach the disk in any order), and nobody was told
//! that it is durable: it goes. But if a whole batch follows what can't be read, or the journal was
//! closed, something that we promised is damaged: that must be said, not cut away.
//!
//! So this reads the files before fjall does. Numbers are little endian; a file is a sequence of
//! batches, then zeros or nothing:
//!
//! | part | bytes |
//! |---|---|
//! | start | 1, item count (u32), sequence (u64) |
//! | each item | 2, type (u8), compression (u8), keyspace (u64), key length (u16), value length (u32), stored length (u32), key, stored value |
//! | or a clearing | 4, keyspace (u64) |
//! | end | 3, XXH3-64 of the items (u64), `FJL` 3 |
//!
//! This is the layout of fjall 3 (its `journal/entry.rs`); with another one this does nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;

const MAGIC: &[u8; 4] = b"FJL\x03";
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEARING: u8 = 4;
const START_BYTES: usize = 13;
const END_BYTES: usize = 13;

/// What a disk writes as a whole, at the least.
const SECTOR_BYTES: u64 = 512;

/// Cuts away a batch that a power cut tore; where the journal was closed, there can't be one. Gives
/// the damage, if there is any; then, nothing was changed.
pub(super) fn mend(journal: &Path, is_closed: bool) -> io::Result<Result<(), String>> {
    let version = journal.join("version");
    match fs::read(&version) {
        Ok(bytes) if bytes == MAGIC => {}
        // fjall says that it doesn't know it.
        Ok(_) => return Ok(Ok(())),
        // fjall would create a new database over this one.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Err(format!("{} is missing", version.display())));
        }
        Err(error) => return Err(error),
    }
    let mut files = journal_files(journal)?;
    // fjall counts them up, and removes the oldest first.
    for pair in files.windows(2) {
        let next = pair[0].0 + 1;
        if pair[1].0 != next {
            let file = journal_file(journal, next);
            return Ok(Err(format!("{} is missing", file.display())));
        }
    }
    let newest = files.pop();
    for (_, path) in files {
        // A file is flushed before the next one is begun, so nothing in it can be torn.
        if let Some(rest) = Rest::of(&path)? {
            return Ok(Err(rest.damage(&path)));
        }
    }
    let Some((_, path)) = newest else {
        return Ok(Err("it has no journal file".to_owned()));
    };
    let Some(rest) = Rest::of(&path)? else {
        return Ok(Ok(()));
    };
    if is_closed || !rest.is_torn()? {
        return Ok(Err(rest.damage(&path)));
    }
    tracing::warn!(
        file = %path.display(),
        at = rest.at,
        "removed a batch that was being written when the machine stopped; it was not acknowledged"
    );
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(rest.at)?;
    file.sync_all()?;
    Ok(Ok(()))
}

pub(super) fn journal_file(journal: &Path, number: u64) -> PathBuf {
    journal.join(format!("{number}.jnl"))
}

/// The journal files and their numbers, oldest first.
pub(super) fn journal_files(journal: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(journal)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(".jnl"));
        if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

/// What follows the last whole batch of a file, up to the last byte that is not zero.
struct Rest {
    at: u64,
    bytes: Vec<u8>,
}

impl Rest {
    /// `None` where nothing but zeros follows.
    fn of(path: &Path) -> io::Result<Option<Self>> {
        let mut file = BufReader::with_capacity(64 * 1024, File::open(path)?);
        let mut at = 0;
        while let Some(length) = read_batch(&mut file)? {
            at += length;
        }
        let mut file = file.into_inner();
        if !has_data(&mut file, at)? {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let used = bytes.iter().rposition(|byte| *byte != 0);
        bytes.truncate(used.map_or(0, |last| last + 1));
        Ok((!bytes.is_empty()).then_some(Self { at, bytes }))
    }

    /// Whether this is what is left of one batch, and some of it never reached the disk.
    fn is_torn(&self) -> io::Result<bool> {
        let mut ends = Vec::new();
        for at in 0..self.bytes.len().saturating_sub(END_BYTES - 1) {
            let (end, rest) = self.bytes[at..].split_at(END_BYTES);
            if end[0] == END && end.ends_with(MAGIC) {
                if read_batch(&mut &*rest)?.is_some() {
                    // An append begins only when the one before it is flushed.
                    return Ok(false);
                }
                ends.push(at + END_BYTES);
            }
        }
        // Without an end, the file stops within the batch.
        Ok(ends.last().is_none_or(|end| self.has_hole(*end)))
    }

    /// Whether some sector before `end` is all zeros, which no batch of ours has.
    fn has_hole(&self, end: usize) -> bool {
        let mut bytes = &self.bytes[..end];
        let mut at = self.at;
        while !bytes.is_empty() {
            let sector = usize::try_from(SECTOR_BYTES - at % SECTOR_BYTES).expect("at most 512");
            let (part, rest) = bytes.split_at(sector.min(bytes.len()));
            if is_zero(part) {
                return true;
            }
            bytes = rest;
            at += SECTOR_BYTES - at % SECTOR_BYTES;
        }
        false
    }

    fn damage(&self, path: &Path) -> String {
        format!("{} can't be read from byte {} on", path.display(), self.at)
    }
}

/// Reads one batch and gives its length; `None` if what is there is not a whole one.
fn read_batch(reader: &mut impl Read) -> io::Result<Option<u64>> {
    let mut start = [0; START_BYTES];
    if !fill(reader, &mut start)? || start[0] != START {
        return Ok(None);
    }
    let [_, count @ .., _, _, _, _, _, _, _, _] = start;
    let mut length = START_BYTES + END_BYTES;
    let mut hash = Xxh3::new();
    let mut value = Vec::new();
    for _ in 0..u32::from_le_bytes(count) {
        let mut tag = [0];
        let mut header = [0; 20];
        if !fill(reader, &mut tag)? {
            return Ok(None);
        }
        let header: &mut [u8] = match tag[0] {
            ITEM => &mut header,
            CLEARING => &mut header[..8],
            _ => return Ok(None),
        };
        if !fill(reader, header)? {
            return Ok(None);
        }
        hash.update(&tag);
        hash.update(header);
        length += tag.len() + header.len();
        if let [.., k0, k1, _, _, _, _, v0, v1, v2, v3] = *header
            && tag[0] == ITEM
        {
            let key_bytes = u64::from(u16::from_le_bytes([k0, k1]));
            let bytes = key_bytes + u64::from(u32::from_le_bytes([v0, v1, v2, v3]));
            value.clear();
            // Grows as bytes come, so a length that is damaged costs nothing.
            let read = reader.by_ref().take(bytes).read_to_end(&mut value)?;
            if u64::try_from(read) != Ok(bytes) {
                return Ok(None);
            }
            hash.update(&value);
            length += read;
        }
    }
    let mut end = [0; END_BYTES];
    let is_whole = fill(reader, &mut end)?
        && end[0] == END
        && end[1..9] == hash.digest().to_le_bytes()
        && end.ends_with(MAGIC);
    Ok(is_whole.then_some(u64::try_from(length).expect("a length fits 64 bits")))
}

/// Fills a buffer; false if the end comes before.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether any byte from `at` on is not zero. Skips holes: fjall begins a file with 64 MiB of
/// them.
fn has_data(file: &mut File, mut at: u64) -> io::Result<bool> {
    let mut buffer = [0; 16 * 1024];
    loop {
        at = match rustix::fs::seek(&*file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        match file.read(&mut buffer)? {
            0 => return Ok(false),
            read if !is_zero(&buffer[..read]) => return Ok(true),
            read => at += u64::try_from(read).expect("a length fits 64 bits"),
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
