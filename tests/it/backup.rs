//! A backup: a copy of the data directory is a journal, and after it was restored no cursor of the time
//! since counts.

use std::process::Command;

use provident::wire::v1::{self, ErrorReason};
use rustix::process::Signal;
use tonic::Code;

use crate::disk::run;
use crate::fixtures::mixed;
use crate::harness::{
    Launch, accepted, after, as_subscription, commit_request, earliest, provident, refused,
    scratch, to_head, within,
};

#[tokio::test]
async fn a_restored_backup_goes_on_in_a_new_epoch() {
    let scratch = scratch();
    let (data, backup) = (scratch.path().join("data"), scratch.path().join("backup"));
    let launch = Launch::on(&data);
    let mut server = launch.start().await;
    accepted(&server.ingest(mixed(0, 10)).await);
    server
        .create_subscription("team", v1::Filter::default())
        .await;
    server.process.signal(Signal::TERM);
    assert!(server.process.ended().await.success());
    run(Command::new("cp").arg("-a").args([&data, &backup])).unwrap();

    // What comes after the backup is seen, and committed, and then the volume is lost.
    let mut server = launch.start().await;
    let late = server.ingest(mixed(10, 5)).await.pop().unwrap();
    let mut reader = server
        .subscribe(as_subscription("team", "before"))
        .await
        .unwrap();
    let session = reader.confirmation().await.session;
    server.process.kill();
    std::fs::remove_dir_all(&data).unwrap();
    run(Command::new("cp").arg("-a").args([&backup, &data])).unwrap();

    let new_epoch = || {
        let mut command = provident();
        command.args(["journal", "new-epoch", "--data-dir"]);
        command.arg(&data).output().unwrap()
    };
    let said = new_epoch();
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(said.status.success());
    assert!(text.contains("-2 now"), "{text}");

    let server = launch.start().await;
    // Nothing is lost that the backup has, and other events take the places behind it.
    let mut all = server.subscribe(to_head(earliest())).await.unwrap();
    assert_eq!(all.read_to_end().await.events.len(), 10);
    let other = server.ingest(mixed(100, 5)).await.pop().unwrap();
    assert_eq!(other.sequence, late.sequence);
    assert_ne!(other.cursor, late.cursor);
    let error = server.subscribe(to_head(after(&late.cursor))).await;
    refused(
        &error.err().unwrap(),
        Code::FailedPrecondition,
        ErrorReason::CursorForeignJournal,
    );
    // The backup knows nothing of the session since.
    let commit = commit_request("team", &session, &late.cursor);
    let error = within(server.subscriptions().commit(commit)).await;
    refused(&error.unwrap_err(), Code::Aborted, ErrorReason::Fenced);
    let mut again = server
        .subscribe(as_subscription("team", "after"))
        .await
        .unwrap();
    again.confirmation().await;

    // Not while a service has it.
    let said = new_epoch();
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(!said.status.success());
    assert!(text.contains("is in use by another process"), "{text}");
}

#[test]
fn no_epoch_begins_where_there_is_no_journal() {
    let scratch = scratch();
    let (missing, empty) = (scratch.path().join("missing"), scratch.path().join("empty"));
    std::fs::create_dir(&empty).unwrap();
    for data in [&missing, &empty] {
        let mut command = provident();
        command.args(["journal", "new-epoch", "--data-dir"]);
        let said = command.arg(data).output().unwrap();
        let text = String::from_utf8(said.stderr).unwrap();
        assert!(!said.status.success());
        assert!(text.contains("there is no journal in"), "{text}");
    }
    assert!(!missing.exists());
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
}
