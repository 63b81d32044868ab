//! Disks of the tests' own, mounted where root is allowed to and unmounted when dropped; and a look
//! at what is on one after it did something wrong.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::fixtures;
use crate::harness::{Server, earliest, say};

/// A mounted file system. Unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Mount {
    at: PathBuf,
}

impl Mount {
    /// An image of a file system.
    pub(crate) fn image(image: &Path, at: &Path) -> Result<Self, String> {
        Self::new(Command::new("mount").args(["-o", "loop"]).arg(image), at)
    }

    /// A disk in memory, of so many MiB.
    pub(crate) fn in_memory(mib: u64, at: &Path) -> Result<Self, String> {
        let size = format!("size={mib}m");
        let mut command = Command::new("mount");
        Self::new(command.args(["-t", "tmpfs", "-o", &size, "tmpfs"]), at)
    }

    fn new(mount: &mut Command, at: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(at).map_err(|error| error.to_string())?;
        run(mount.arg(at))?;
        Ok(Self { at: at.to_owned() })
    }

    pub(crate) fn make_read_only(&self) -> Result<(), String> {
        run(Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(&self.at))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // The kernel may need a moment to let go of the files of a process that was killed.
        let gone = (0..200).any(|_| {
            let gone = run(Command::new("umount").arg(&self.at)).is_ok();
            if !gone {
                std::thread::sleep(Duration::from_millis(10));
            }
            gone
        });
        if !gone {
            say(&format!("{} stays mounted", self.at.display()));
        }
    }
}

/// Runs a command to its end; the error is what it said.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        let message = String::from_utf8_lossy(&output.stderr);
        Err(format!("{command:?}: {}", message.trim()))
    }
}

/// Checks a journal: what is certain is there, what is there was sent, and all has one order.
///
/// Gives what it holds.
pub(crate) async fn check(
    server: &Server,
    certain: &HashMap<u64, u64>,
    answered: &HashMap<u64, u64>,
) -> HashMap<u64, u64> {
    let events = server.read_all(earliest()).await;
    let mut journal = HashMap::new();
    for (event, expected) in events.iter().zip(1..) {
        assert_eq!(event.sequence, expected, "a hole");
        let uuid = &event.event.as_ref().unwrap().uuid;
        let number = fixtures::number(uuid);
        let given = fixtures::mixed_one(number);
        assert_eq!(event.raw_json.as_ref(), Some(&given.json), "damaged");
        assert_eq!(journal.insert(number, event.sequence), None, "kept twice");
        if let Some(sequence) = answered.get(&number) {
            assert_eq!(event.sequence, *sequence, "event {number} has moved");
        }
    }
    for (number, sequence) in certain {
        assert_eq!(
            journal.get(number),
            Some(sequence),
            "event {number} was accepted as {sequence} and is lost; the journal has {}",
            journal.len()
        );
    }
    journal
}
