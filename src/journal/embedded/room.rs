//! How much room the volume has left for appends.
//!
//! Knows the reserve and what was written since the file system was last asked; asks no more
//! often than it can matter.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::StatVfs;

use super::fault;
use crate::journal::{AppendError, Volume};

/// How much room is left, asked of the file system no more often than it can matter.
#[derive(Debug)]
pub(super) struct Room {
    path: PathBuf,
    pub(super) reserve_bytes: u64,
    asked: Option<(Instant, u64)>,
    written_since: u64,
}

impl Room {
    /// Others may fill the volume too: at 1 GB/s this is 100 MB, well within the reserve.
    const ASK_INTERVAL: Duration = Duration::from_millis(100);
    /// Our own part is known; asking again accounts for what fjall writes besides.
    const ASK_AFTER_BYTES: u64 = 8 * 1024 * 1024;

    pub(super) fn new(path: PathBuf, reserve_bytes: u64) -> Self {
        Self {
            path,
            reserve_bytes,
            asked: None,
            written_since: 0,
        }
    }

    /// Takes `bytes` of the room, if they and the reserve are free.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<(), AppendError> {
        let needed = self.reserve_bytes.saturating_add(bytes);
        if let Some((when, free_bytes)) = self.asked
            && when.elapsed() < Self::ASK_INTERVAL
            && self.written_since < Self::ASK_AFTER_BYTES
            && free_bytes.saturating_sub(self.written_since) >= needed
        {
            self.written_since += bytes;
            return Ok(());
        }
        let asked = self.ask().map_err(|error| fault(error.into()))?;
        let free_bytes = free_bytes(&asked);
        self.asked = Some((Instant::now(), free_bytes));
        self.written_since = 0;
        if free_bytes < needed {
            return Err(AppendError::StorageFull {
                free_bytes,
                reserve_bytes: self.reserve_bytes,
            });
        }
        self.written_since = bytes;
        Ok(())
    }

    /// What the file system says of its size. Some say nothing, which is no size.
    pub(super) fn volume(&self) -> io::Result<Option<Volume>> {
        let asked = self.ask()?;
        let set_aside = asked.f_bfree.saturating_sub(asked.f_bavail);
        let blocks = asked.f_blocks.saturating_sub(set_aside);
        let volume = Volume {
            bytes: blocks.saturating_mul(asked.f_frsize),
            free_bytes: free_bytes(&asked),
        };
        Ok(Some(volume).filter(|volume| volume.bytes > 0))
    }

    fn ask(&self) -> io::Result<StatVfs> {
        Ok(rustix::fs::statvfs(&self.path)?)
    }
}

/// Without what is set aside for root.
fn free_bytes(volume: &StatVfs) -> u64 {
    volume.f_bavail.saturating_mul(volume.f_frsize)
}
