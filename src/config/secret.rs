//! A text that is never printed: given as it is, or in a file that is read again when it changes.
//!
//! Files are looked at once a second at the most, so a secret may be asked for on every request.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// For how long what was read from a file counts.
const FRESH: Duration = Duration::from_secs(1);

/// The largest file that is taken for a secret; an RSA key of 8192 bits as JWK has 7 KiB.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A secret, or the file that it stands in. Cheap to clone.
#[derive(Clone)]
pub struct Secret(Arc<Place>);

/// What a file held when it was read, or why it could not be.
type SecretText = Result<Arc<str>, UnreadableSecret>;

enum Place {
    Text(Arc<str>),
    File {
        path: PathBuf,
        last: Mutex<Option<(Instant, SecretText)>>,
    },
}

/// The secret's file can't be used now. Mend it: it is looked at again by itself.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UnreadableSecret {
    #[error("can't read {}: {problem}", .path.display())]
    Unreadable {
        path: PathBuf,
        kind: ErrorKind,
        problem: String,
    },
    /// A pipe would hold up whoever reads it.
    #[error("{} is no file", .path.display())]
    NotAFile { path: PathBuf },
    #[error("{} is empty", .path.display())]
    Empty { path: PathBuf },
    #[error("{} is larger than any secret: {bytes} bytes", .path.display())]
    TooLarge { path: PathBuf, bytes: u64 },
}

impl UnreadableSecret {
    /// Whether there is none at its place.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Unreadable { kind, .. } => *kind == ErrorKind::NotFound,
            Self::Empty { .. } => true,
            Self::NotAFile { .. } | Self::TooLarge { .. } => false,
        }
    }
}

impl Secret {
    pub fn of_text(text: &str) -> Self {
        Self(Arc::new(Place::Text(text.into())))
    }

    /// A secret that is the content of a file, without white space around it.
    pub fn of_file(path: &Path) -> Self {
        Self(Arc::new(Place::File {
            path: path.to_owned(),
            last: Mutex::new(None),
        }))
    }

    /// The secret as it is now.
    ///
    /// Reads a small file once a second at the most, which is far below what may not block.
    ///
    /// # Panics
    /// Never: nothing panics while the lock is held.
    pub fn read(&self) -> Result<Arc<str>, UnreadableSecret> {
        match &*self.0 {
            Place::Text(text) => Ok(Arc::clone(text)),
            Place::File { path, last } => {
                let mut last = last.lock().expect("nothing panics while it is held");
                if let Some((at, read)) = &*last
                    && at.elapsed() < FRESH
                {
                    return read.clone();
                }
                let read = read_file(path).map(Arc::from);
                if let Err(error) = &read {
                    tracing::error!(%error, "a secret can't be read");
                }
                *last = Some((Instant::now(), read.clone()));
                read
            }
        }
    }
}

fn read_file(path: &Path) -> Result<String, UnreadableSecret> {
    let unreadable = |error: std::io::Error| UnreadableSecret::Unreadable {
        path: path.to_owned(),
        kind: error.kind(),
        problem: error.to_string(),
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(UnreadableSecret::NotAFile {
            path: path.to_owned(),
        });
    }
    let bytes = metadata.len();
    if bytes > FILE_BYTES_MAX {
        return Err(UnreadableSecret::TooLarge {
            path: path.to_owned(),
            bytes,
        });
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let text = text.trim();
    if text.is_empty() {
        return Err(UnreadableSecret::Empty {
            path: path.to_owned(),
        });
    }
    Ok(text.to_owned())
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Place::Text(_) => f.write_str("Secret"),
            Place::File { path, .. } => write!(f, "Secret({})", path.display()),
        }
    }
}

/// The same text, or the same file.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        match (&*self.0, &*other.0) {
            (Place::Text(one), Place::Text(other)) => one == other,
            (Place::File { path: one, .. }, Place::File { path: other, .. }) => one == other,
            _ => false,
        }
    }
}

impl Eq for Secret {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::of_text("hunter2")), "Secret");
    }

    #[test]
    fn a_file_s_secret_is_its_text_and_what_is_wrong_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        // One that looks anew: what was read counts for a second.
        let read = || Secret::of_file(&path).read();
        assert!(matches!(read(), Err(UnreadableSecret::Unreadable { .. })));
        assert!(matches!(
            Secret::of_file(dir.path()).read(),
            Err(UnreadableSecret::NotAFile { .. })
        ));
        std::fs::write(&path, " \n").unwrap();
        assert!(matches!(read(), Err(UnreadableSecret::Empty { .. })));
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(matches!(read(), Err(UnreadableSecret::TooLarge { .. })));
        std::fs::write(&path, "hunter2\n").unwrap();
        assert_eq!(&*read().unwrap(), "hunter2");
    }
}
