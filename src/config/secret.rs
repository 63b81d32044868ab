//! A text that is never printed: given as it is, or in a file that is read again when it changes.
//!
//! Files are looked at once a second at the most, so a secret may be asked for on every request.

use std::fmt;
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

enum Place {
    Text(Arc<str>),
    File {
        path: PathBuf,
        last: Mutex<Option<(Instant, Arc<str>)>>,
    },
}

/// The secret's file can't be used now. Mend it: it is looked at again by itself.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableSecret {
    #[error("can't read {}", .path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
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
            Self::Unreadable { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
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
                if let Some((at, text)) = &*last
                    && at.elapsed() < FRESH
                {
                    return Ok(Arc::clone(text));
                }
                let text: Arc<str> = read_file(path)?.into();
                *last = Some((Instant::now(), Arc::clone(&text)));
                Ok(text)
            }
        }
    }
}

fn read_file(path: &Path) -> Result<String, UnreadableSecret> {
    let unreadable = |source| UnreadableSecret::Unreadable {
        path: path.to_owned(),
        source,
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
        let secret = Secret::of_file(&path);
        assert!(matches!(
            secret.read(),
            Err(UnreadableSecret::Unreadable { .. })
        ));
        assert!(matches!(
            Secret::of_file(dir.path()).read(),
            Err(UnreadableSecret::NotAFile { .. })
        ));
        std::fs::write(&path, " \n").unwrap();
        assert!(matches!(secret.read(), Err(UnreadableSecret::Empty { .. })));
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(matches!(
            secret.read(),
            Err(UnreadableSecret::TooLarge { .. })
        ));
        std::fs::write(&path, "hunter2\n").unwrap();
        assert_eq!(&*secret.read().unwrap(), "hunter2");
    }
}
