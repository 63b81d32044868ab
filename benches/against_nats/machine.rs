//! What the kernel says: the machine, the processor time of a process, whether it is quiet.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Ticks of `/proc/PID/stat` in a second; the kernel's interface fixes it.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long to wait for quiet at the most; then the turn begins all the same.
const QUIET_WAIT: Duration = Duration::from_secs(10);

/// Processor time that a process has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu(f64);

impl Cpu {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15.
        let (_, rest) = stat
            .rsplit_once(')')
            .context("a stat line names the process")?;
        let mut fields = rest.split_whitespace().skip(11);
        let mut ticks = || -> anyhow::Result<f64> {
            Ok(fields
                .next()
                .context("a stat line has 15 fields")?
                .parse()?)
        };
        Ok(Self((ticks()? + ticks()?) / TICKS_PER_SECOND))
    }

    pub(crate) fn since(self, before: Self) -> Duration {
        Duration::from_secs_f64(self.0 - before.0)
    }
}

/// Waits until none of the processes works any more.
pub(crate) async fn quiet(pids: &[u32]) -> anyhow::Result<()> {
    let used = || -> anyhow::Result<Vec<Cpu>> { pids.iter().map(|pid| Cpu::of(*pid)).collect() };
    let deadline = Instant::now() + QUIET_WAIT;
    let mut before = used()?;
    while Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = used()?;
        let worked = now.iter().zip(&before).any(|(now, before)| {
            // One tick is as little as can be told.
            now.since(*before) > Duration::from_millis(15)
        });
        if !worked {
            break;
        }
        before = now;
    }
    Ok(())
}

/// The machine in one line.
pub(crate) fn describe(dir: &Path) -> anyhow::Result<String> {
    let line = |file: &str, name: &str| -> String {
        let text = fs::read_to_string(file).unwrap_or_default();
        let found = text.lines().find_map(|line| line.strip_prefix(name));
        found
            .unwrap_or_default()
            .trim_matches([' ', '\t', ':'])
            .to_owned()
    };
    Ok(format!(
        "machine: {} cores ({}), {} memory, Linux {}, data on {}, load {} at start",
        std::thread::available_parallelism()?,
        line("/proc/cpuinfo", "model name"),
        line("/proc/meminfo", "MemTotal"),
        line("/proc/sys/kernel/osrelease", ""),
        file_system(dir)?,
        line("/proc/loadavg", "")
            .split(' ')
            .next()
            .unwrap_or_default(),
    ))
}

/// The kind of the file system that a directory lies on.
fn file_system(dir: &Path) -> anyhow::Result<String> {
    let dir = dir.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let found = mounts
        .lines()
        .filter_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let point = place.split(' ').nth(4)?;
            dir.starts_with(point)
                .then(|| (point.len(), kind.split(' ').next()))
        })
        .max();
    Ok(found.and_then(|(_, kind)| kind).unwrap_or("?").to_owned())
}

/// Bytes that the files below a directory take on disk.
pub(crate) fn disk_bytes(dir: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() {
            disk_bytes(&entry.path())?
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(bytes)
}
