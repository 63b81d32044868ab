//! What a hook or a poll brought and was no event: logged, and kept in a bounded file.
//!
//! Whoever sends by gRPC is told; a hook's deliveries and a poll's pages come from where nobody
//! listens. Each reject is a line of JSON with the bytes as they came, as far as they fit. The file
//! is for people: nothing reads it, and losing it loses no event.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde::Serialize;

use crate::domain::event::{Intake, Timestamp};
use crate::okta::log_event::format_time;

const NAME: &str = "rejects.ndjson";
const OLD_NAME: &str = "rejects.old.ndjson";

/// Bytes of what was received that one line has at the most.
const RAW_BYTES_MAX: usize = 64 * 1024;

/// Rejects of one delivery or page that have a line each in the log.
const LOGGED_MAX: usize = 10;

/// Something that was no event.
#[derive(Debug)]
pub struct Reject {
    pub time: Timestamp,
    pub intake: Intake,
    pub org: String,
    /// Empty where it could not be read.
    pub uuid: String,
    /// Empty where the whole of it is meant.
    pub field: String,
    pub reason: String,
    /// As received.
    pub raw: Bytes,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    intake: &'static str,
    org: &'a str,
    uuid: &'a str,
    field: &'a str,
    reason: &'a str,
    /// Of all that was received.
    bytes: usize,
    raw: &'a str,
}

/// The file of rejects, or none.
#[derive(Clone, Debug)]
pub struct RejectFile(Option<Arc<Place>>);

#[derive(Debug)]
struct Place {
    dir: PathBuf,
    bytes_max: u64,
    /// Held while the file is written.
    writing: Mutex<()>,
}

impl RejectFile {
    /// Keeps them below a directory, in two files that have `bytes_max` together.
    pub fn below(dir: &Path, bytes_max: u64) -> Self {
        Self(Some(Arc::new(Place {
            dir: dir.to_owned(),
            bytes_max,
            writing: Mutex::new(()),
        })))
    }

    /// Logs them alone.
    pub fn none() -> Self {
        Self(None)
    }

    /// Logs and keeps some. What can't be written is logged, and holds nothing up.
    pub async fn keep(&self, rejects: Vec<Reject>) {
        let more = rejects.len().saturating_sub(LOGGED_MAX);
        for reject in rejects.iter().take(LOGGED_MAX) {
            tracing::error!(
                intake = reject.intake.name(),
                org = reject.org,
                uuid = reject.uuid,
                field = reject.field,
                reason = reject.reason,
                bytes = reject.raw.len(),
                "an event was not taken"
            );
        }
        if more > 0 {
            tracing::error!(more, "further events were not taken");
        }
        let Some(place) = self.0.clone().filter(|_| !rejects.is_empty()) else {
            return;
        };
        let written = tokio::task::spawn_blocking(move || place.write(&rejects)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "what was not taken can't be kept"),
            Err(error) => tracing::error!(%error, "what was not taken can't be kept"),
        }
    }
}

impl Place {
    fn write(&self, rejects: &[Reject]) -> std::io::Result<()> {
        let _writing = self
            .writing
            .lock()
            .expect("nothing panics while it is held");
        let path = self.dir.join(NAME);
        let half = usize::try_from(self.bytes_max / 2).unwrap_or(usize::MAX);
        let mut lines = Vec::new();
        for reject in rejects {
            let before = lines.len();
            let raw = &reject.raw[..reject.raw.len().min(RAW_BYTES_MAX)];
            let line = Line {
                time: format_time(reject.time).unwrap_or_default(),
                intake: reject.intake.name(),
                org: &reject.org,
                uuid: &reject.uuid,
                field: &reject.field,
                reason: &reject.reason,
                bytes: reject.raw.len(),
                raw: &String::from_utf8_lossy(raw),
            };
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
            if lines.len() > half {
                // Whole lines alone, so that each can be read.
                lines.truncate(before);
                break;
            }
        }
        let size = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if size > 0 && size + lines.len() as u64 > self.bytes_max / 2 {
            fs::rename(&path, self.dir.join(OLD_NAME))?;
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)?
            .write_all(&lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reject(number: usize) -> Reject {
        Reject {
            time: Timestamp::default(),
            intake: Intake::EventHook,
            org: "acme.okta.com".into(),
            uuid: String::new(),
            field: "uuid".into(),
            reason: format!("number {number}"),
            raw: Bytes::from_static(b"{\"a\":\xff}"),
        }
    }

    #[tokio::test]
    async fn what_is_no_event_is_kept_as_far_as_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let file = RejectFile::below(dir.path(), 2000);
        for number in 0..100 {
            file.keep(vec![reject(number)]).await;
        }
        let read = |name| fs::read_to_string(dir.path().join(name)).unwrap();
        let (old, new) = (read(OLD_NAME), read(NAME));
        assert!(old.len() <= 1000 && new.len() <= 1000);
        assert!(new.lines().last().unwrap().contains("number 99"), "{new}");
        for line in old.lines().chain(new.lines()) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["raw"], "{\"a\":\u{fffd}}");
            assert_eq!(line["intake"], "event_hook");
        }
    }
}
