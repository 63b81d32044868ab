//! What fjall's trees say of themselves, checked before fjall reads it.
//!
//! Each keyspace is a tree in `keyspaces/<id>`: `current` names a version file, and that names the
//! tables. fjall checks the blocks of tables, but not these two files: with a wrong count in one it
//! would take tables for left-overs and delete them, or panic. It keeps a checksum, though:
//!
//! | `current` | bytes |
//! |---|---|
//! | number of the version, its file is `v<number>` | u64, little endian |
//! | XXH3-128 of that file | u128, little endian |
//! | kind of the checksum, 0 | u8 |
//!
//! This is the layout of lsm-tree 3 (its `version/persist.rs`).

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

/// The keyspace in which fjall keeps the names of the others.
const NAMES: &str = "0";

/// Checks each tree's `current` and version file. Gives the damage, if there is any.
pub(super) fn check(journal: &Path) -> io::Result<Result<(), String>> {
    let keyspaces = journal.join("keyspaces");
    let entries = match fs::read_dir(&keyspaces) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Err(format!("{} is missing", keyspaces.display())));
        }
        Err(error) => return Err(error),
    };
    // Without it, fjall would take every other one for a left-over.
    let names = keyspaces.join(NAMES).join("current");
    if !names.try_exists()? {
        return Ok(Err(format!("{} is missing", names.display())));
    }
    for entry in entries {
        let current = entry?.path().join("current");
        let bytes = match fs::read(&current) {
            Ok(bytes) => bytes,
            // A keyspace that was being created or removed. If it is needed, its name will be missed.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some((version, checksum)) = parse(&bytes) else {
            return Ok(Err(format!("{} can't be read", current.display())));
        };
        let file = current.with_file_name(format!("v{version}"));
        match fs::read(&file) {
            Ok(bytes) if xxh3_128(&bytes) == checksum => {}
            Ok(_) => {
                return Ok(Err(format!(
                    "{} is not what {} says",
                    file.display(),
                    current.display()
                )));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Err(format!("{} is missing", file.display())));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Ok(()))
}

fn parse(bytes: &[u8]) -> Option<(u64, u128)> {
    let (version, rest) = bytes.split_first_chunk()?;
    let (checksum, kind) = rest.split_first_chunk()?;
    let checksum = u128::from_le_bytes(*checksum);
    (kind == [0]).then_some((u64::from_le_bytes(*version), checksum))
}
