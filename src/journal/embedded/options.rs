//! What the embedded journal can be set to, and how fjall is set.
//!
//! Every number says where it comes from. fjall keeps a keyspace's options on disk when it is
//! created; changed ones take effect with the next generation.

use std::path::PathBuf;

use fjall::config::{BlockSizePolicy, FilterPolicy};
use fjall::{Database, DatabaseBuilder, KeyspaceCreateOptions};

const MIB: u64 = 1024 * 1024;

/// What an [`EmbeddedJournal`](super::EmbeddedJournal) is opened with.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The data directory; created if it is missing. Nothing else may lie in it.
    pub path: PathBuf,
    /// Random; becomes the journal's id if it is created now.
    pub new_id: [u8; 8],
    /// Bytes that appends leave free on the volume.
    ///
    /// Default 512 MiB: what was accepted still has to be moved from fjall's journal to its
    /// tables, and what tables are merged is there twice for a while; fjall stops for good when
    /// it finds no room for that. Its journals take 128 MiB and the next one 64 MiB at once, a
    /// merge 128 MiB, and as much again is for commits of positions, which go on.
    pub reserve_bytes: u64,
    /// Record bytes after which a new generation begins. A trim gives disk back in such pieces.
    ///
    /// Default 256 MiB: 1/32 of the 8 GiB that a small volume has, so that retention by size
    /// is met within about 3 %. Give larger volumes a larger one (1/64 of it): every generation
    /// costs a handful of files and some time at start.
    pub generation_bytes_max: u64,
    /// Bytes of blocks kept in memory for reads.
    ///
    /// Default 64 MiB: the filters and indexes of 16 key generations of a million events each
    /// (2 MB apiece), and as much again for records that several subscribers catch up on.
    pub cache_bytes: u64,
    /// Threads that flush and merge.
    ///
    /// Default 2: one flushes while another merges; one alone would let flushes wait.
    pub worker_threads: usize,
}

impl EmbeddedOptions {
    /// Options with their defaults.
    pub fn new(path: PathBuf, new_id: [u8; 8]) -> Self {
        Self {
            path,
            new_id,
            reserve_bytes: 512 * MIB,
            generation_bytes_max: 256 * MIB,
            cache_bytes: 64 * MIB,
            worker_threads: 2,
        }
    }
}

/// fjall's database at `name` within the data directory.
pub(super) fn database(options: &EmbeddedOptions, name: &str) -> DatabaseBuilder<Database> {
    Database::builder(options.path.join(name))
        .cache_size(options.cache_bytes)
        .worker_threads(options.worker_threads.max(1))
        // Replayed at start: 128 MiB are about 85 000 events. fjall's least is 64 MiB, which is
        // one journal file and would have every rotation flush everything.
        .max_journaling_size(128 * MIB)
}

/// Records: written once in the order of their keys, read in runs.
pub(super) fn records() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        // Half a journal file, so that records never are what keeps a journal file alive.
        .max_memtable_size(32 * MIB)
        // Nobody asks for a record that isn't there.
        .filter_policy(FilterPolicy::disabled())
        // About ten records of 1.5 KiB: a run reads few blocks, and a slice that a slow reader
        // holds pins no more than this.
        .data_block_size_policy(BlockSizePolicy::all(16 * 1024))
}

/// Keys: in no order, most look-ups are for one that isn't there.
pub(super) fn keys() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        // The keys (about 130 bytes each in memory) of the 64 MiB that a journal file holds.
        .max_memtable_size(6 * MIB)
}

/// State: few rows, the head rewritten in each batch.
pub(super) fn state() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        // 10 000 batches (about 100 bytes each in memory), so that this one, which every batch
        // writes, seldom is what keeps a journal file alive.
        .max_memtable_size(MIB)
}
