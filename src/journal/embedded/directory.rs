//! The data directory: whose it is, in which format, and who has it open.
//!
//! | name | what |
//! |---|---|
//! | `FORMAT` | text: what this directory is, and its format version |
//! | `journal/` | fjall's files |
//! | `MARK` | how far the journal was known to be (`mark.rs`) |
//! | `FORMAT.new`, `journal.new/` | what an interrupted creation left; removed at the next open |
//!
//! All are made under the `.new` name, flushed and renamed, so whatever bears its own name is
//! complete. The directory itself is locked (`flock`), so that looking at a foreign one leaves no
//! trace in it.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::keys::FORMAT_VERSION;
use super::open::OpenError;

const FORMAT: &str = "FORMAT";
const FORMAT_NEW: &str = "FORMAT.new";
pub(super) const JOURNAL: &str = "journal";
pub(super) const JOURNAL_NEW: &str = "journal.new";
/// What may lie in a directory that is taken for empty: `mkfs` puts it on every ext4 volume.
const LOST_AND_FOUND: &str = "lost+found";

const FORMAT_HEAD: &str = "Provident journal, format ";
const FORMAT_TAIL: &str =
    "\nWritten by the service `provident`. Change, move or remove nothing in here while it runs.\n";

/// The open data directory. It stays locked until this is dropped.
#[derive(Debug)]
pub(super) struct DataDirectory {
    path: PathBuf,
    handle: File,
}

impl DataDirectory {
    /// Opens and locks the directory and makes sure that it is ours; creates it if it's missing.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let at = |source| from_io(path, source);
        fs::create_dir_all(path).map_err(|source| match source.kind() {
            ErrorKind::AlreadyExists => OpenError::NotADirectory { path: path.into() },
            _ => from_io(path, source),
        })?;
        let handle = File::open(path).map_err(at)?;
        if !handle.metadata().map_err(at)?.is_dir() {
            return Err(from_io(path, ErrorKind::NotADirectory.into()));
        }
        handle.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::Locked { path: path.into() },
            TryLockError::Error(source) => from_io(path, source),
        })?;
        let directory = Self {
            path: path.into(),
            handle,
        };
        match fs::read(path.join(FORMAT)) {
            Ok(text) => directory.check_format(&text)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                directory.check_empty()?;
                directory.write_format().map_err(at)?;
            }
            Err(error) => return Err(from_io(path, error)),
        }
        Ok(directory)
    }

    /// Whether `journal/` is there, complete. Clears away what an interrupted creation left.
    pub(super) fn has_journal(&self) -> io::Result<bool> {
        let unfinished = self.path.join(JOURNAL_NEW);
        if unfinished.try_exists()? {
            fs::remove_dir_all(unfinished)?;
        }
        self.path.join(JOURNAL).try_exists()
    }

    /// Makes a finished `journal.new/` the journal.
    pub(super) fn adopt_journal(&self) -> io::Result<()> {
        fs::rename(self.path.join(JOURNAL_NEW), self.path.join(JOURNAL))?;
        self.handle.sync_all()
    }

    fn check_format(&self, text: &[u8]) -> Result<(), OpenError> {
        let path = self.path.clone();
        let version = str::from_utf8(text)
            .ok()
            .and_then(|text| text.strip_prefix(FORMAT_HEAD))
            .and_then(|rest| rest.lines().next())
            .and_then(|version| version.parse::<u32>().ok());
        let ours = u32::from(FORMAT_VERSION);
        match version {
            Some(found) if found == ours => Ok(()),
            Some(found) if found > ours => Err(OpenError::NewerFormat { path, found, ours }),
            Some(_) | None => Err(OpenError::Foreign { path }),
        }
    }

    fn check_empty(&self) -> Result<(), OpenError> {
        let at = |source| from_io(&self.path, source);
        let expected = [FORMAT_NEW, LOST_AND_FOUND].map(OsString::from);
        for entry in fs::read_dir(&self.path).map_err(at)? {
            if !expected.contains(&entry.map_err(at)?.file_name()) {
                return Err(OpenError::Foreign {
                    path: self.path.clone(),
                });
            }
        }
        Ok(())
    }

    fn write_format(&self) -> io::Result<()> {
        let new = self.path.join(FORMAT_NEW);
        let mut file = File::create(&new)?;
        write!(file, "{FORMAT_HEAD}{FORMAT_VERSION}{FORMAT_TAIL}")?;
        file.sync_all()?;
        fs::rename(new, self.path.join(FORMAT))?;
        self.handle.sync_all()?;
        // The directory may be new too. If it isn't, we may not be allowed to read its parent.
        match self.path.canonicalize()?.parent().map(File::open) {
            Some(Ok(parent)) => parent.sync_all(),
            Some(Err(_)) | None => Ok(()),
        }
    }
}

/// Says of a failed call what the operator can do about it.
pub(super) fn from_io(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_path_buf();
    match source.kind() {
        ErrorKind::NotADirectory => OpenError::NotADirectory { path },
        ErrorKind::PermissionDenied => OpenError::NotPermitted { path, source },
        ErrorKind::ReadOnlyFilesystem => OpenError::ReadOnly { path },
        _ => OpenError::Io { path, source },
    }
}
