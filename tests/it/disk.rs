//! Disks of the tests' own: mounted where root is allowed to, unmounted when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::say;

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
