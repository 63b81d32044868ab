//! A data directory that can't be the one: the start ends with 1 and one sentence that names the
//! directory and says what to do.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tonic_health::pb::health_check_response::ServingStatus;

use crate::disk::{Mount, run};
use crate::harness::{Launch, accepted, say, scratch, setting};

/// Starts, and gives what it said on standard error beside its log. `advice` has to stand in it.
async fn refused(launch: &Launch, directory: &Path, advice: &str) {
    let mut process = launch.spawn();
    let status = process.ended().await;
    process.kill();
    let log = process.log_text();
    assert_eq!(status.code(), Some(1), "{log}");
    let said: Vec<_> = log.lines().filter(|line| !line.starts_with('{')).collect();
    let sentence = said.first().copied().unwrap_or_default();
    assert!(sentence.starts_with("error: "), "{log}");
    assert!(sentence.contains(directory.to_str().unwrap()), "{sentence}");
    assert!(sentence.contains(advice), "{sentence}");
    // What the system said of it may follow.
    assert!(said.len() <= 2 && !log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn a_directory_in_use_is_left_to_who_uses_it() {
    let scratch = scratch();
    let data = scratch.path().join("data");
    let launch = Launch::on(&data);
    let server = launch.start().await;
    refused(&launch, &data, "stop that one").await;
    assert_eq!(server.health().await.unwrap(), ServingStatus::Serving);
    accepted(&server.ingest(crate::fixtures::mixed(1, 3)).await);
}

#[tokio::test]
async fn a_file_is_no_directory() {
    let scratch = scratch();
    let data = scratch.path().join("data");
    std::fs::write(&data, "").unwrap();
    refused(&Launch::on(&data), &data, "name one with --data-dir").await;
}

#[tokio::test]
async fn somebody_elses_files_are_left_alone() {
    let scratch = scratch();
    let data = scratch.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("thesis.txt"), "the only copy").unwrap();
    refused(&Launch::on(&data), &data, "name an empty directory").await;
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 1);
}

#[tokio::test]
async fn a_later_format_asks_for_a_later_version() {
    let scratch = scratch();
    let data = scratch.path().join("data");
    drop(Launch::on(&data).start().await);
    let format = data.join("FORMAT");
    let text = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, text.replace("format 1", "format 17")).unwrap();
    refused(&Launch::on(&data), &data, "format 17").await;
}

/// Whether a test that needs root can't be run. Says so, or fails where it has to run.
fn can_t(what: &str, tried: Result<(), String>) -> bool {
    let Err(problem) = tried else { return false };
    let required = setting::<u8>("PROVIDENT_REQUIRE_MOUNT") == Some(1);
    say(&format!("{what}: NOT RUN, not allowed here: {problem}"));
    assert!(!required, "{what} can't be tested here: {problem}");
    true
}

#[tokio::test]
async fn a_read_only_volume_asks_to_be_mounted_for_writing() {
    let scratch = scratch();
    let at = scratch.path().join("disk");
    let mount = Mount::in_memory(16, &at);
    if can_t(
        "a read-only volume",
        mount.as_ref().map(|_| ()).map_err(Clone::clone),
    ) {
        return;
    }
    let mount = mount.unwrap();
    let data = at.join("data");
    drop(Launch::on(&data).start().await);
    mount.make_read_only().unwrap();
    refused(&Launch::on(&data), &data, "read-only").await;
    let new = at.join("new");
    refused(&Launch::on(&new), &new, "read-only").await;
}

#[tokio::test]
async fn a_directory_of_another_user_asks_for_the_right_to_it() {
    const NOBODY: [&str; 4] = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let as_nobody = run(std::process::Command::new(NOBODY[0])
        .args(&NOBODY[1..])
        .arg("true"));
    if can_t("a directory of another user", as_nobody) {
        return;
    }
    // Whoever builds may keep others out of the build's directory.
    let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(scratch.path(), 0o755);
    let data = scratch.path().join("data");
    drop(Launch::on(&data).start().await);
    for mode in [0o755, 0o700] {
        open(&data, mode);
        let launch = Launch::on(&data).through(&NOBODY);
        refused(&launch, &data, "give").await;
    }
}
