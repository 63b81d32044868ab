//! Secrets: whose is whose, how they are changed, and that they show nowhere.

use std::path::Path;

use tempfile::TempDir;

use crate::fixtures::{Given, Kind, log_event, mixed};
use crate::harness::{ORG, Server, earliest, eventually, provident, scratch, within};
use crate::hook::{
    OTHER_ORG, OTHER_SECRET, PATH, SECRET, WITH_SECRET, authentic, body, deliver, delivery,
    exchange, good, hooked, kept, rejects, request, send, url, uuids,
};
use crate::mock_okta::hook_deliver;

/// Files of secrets, by name.
fn secret_files(secrets: &[(&str, &str)]) -> TempDir {
    let directory = scratch();
    for (name, secret) in secrets {
        std::fs::write(directory.path().join(name), format!("{secret}\n")).unwrap();
    }
    directory
}

fn place(directory: &TempDir, name: &str) -> String {
    directory.path().join(name).display().to_string()
}

/// Two orgs, each with a file for its secret, and one without a hook.
async fn several(files: &TempDir, one: &str, other: &str) -> Server {
    Server::start_configured(&format!(
        "[[orgs]]\nname = '{ORG}'\naliases = ['login.acme.example']\nhook_secret_file = '{}'\n\
         [[orgs]]\nname = '{OTHER_ORG}'\nhook_secret_file = '{}'\n\
         [[orgs]]\nname = 'without.okta.com'\n",
        place(files, one),
        place(files, other),
    ))
    .await
}

async fn status_of(server: &Server, path: &str, secret: &str, host: &str, events: &[Given]) -> u16 {
    send(server, &delivery(path, secret, host, events))
        .await
        .status
}

/// Uuid and org of every event, in order.
async fn kept_with_orgs(server: &Server) -> Vec<(String, String)> {
    let events = server.read_all(earliest()).await.into_iter().map(body);
    events.map(|event| (event.uuid, event.org)).collect()
}

fn of_org<'a>(events: &'a [Given], org: &'a str) -> impl Iterator<Item = (String, String)> + 'a {
    events
        .iter()
        .map(|given| (given.uuid.clone(), org.to_owned()))
}

#[tokio::test]
async fn each_org_s_secret_opens_its_own_path_alone() {
    let files = secret_files(&[("one", SECRET), ("other", OTHER_SECRET)]);
    let server = several(&files, "one", "other").await;
    let of = |org: &str| format!("/hooks/okta/{org}");
    let mut expected = Vec::new();
    let cases = [
        (of(ORG), SECRET, ORG, Ok(ORG)),
        (
            of("login.acme.example"),
            SECRET,
            "login.acme.example",
            Ok(ORG),
        ),
        (of(OTHER_ORG), OTHER_SECRET, OTHER_ORG, Ok(OTHER_ORG)),
        (of(OTHER_ORG), SECRET, OTHER_ORG, Err(401)),
        (of(OTHER_ORG), SECRET, ORG, Err(401)),
        (of(ORG), OTHER_SECRET, ORG, Err(401)),
        (of("without.okta.com"), SECRET, "without.okta.com", Err(404)),
        // The plain path: the secret says which org it is.
        (PATH.to_owned(), SECRET, ORG, Ok(ORG)),
        (PATH.to_owned(), OTHER_SECRET, OTHER_ORG, Ok(OTHER_ORG)),
        (PATH.to_owned(), SECRET, OTHER_ORG, Err(400)),
        (PATH.to_owned(), "guess", ORG, Err(401)),
    ];
    for ((path, secret, host, result), number) in cases.into_iter().zip(0..) {
        let events = mixed(number * 2, 2);
        let status = status_of(&server, &path, secret, host, &events).await;
        assert_eq!(
            status,
            result.err().unwrap_or(204),
            "{path} {secret} {host}"
        );
        if let Ok(org) = result {
            expected.extend(of_org(&events, org));
        }
    }
    assert_eq!(kept_with_orgs(&server).await, expected);
}

#[tokio::test]
async fn of_orgs_that_share_a_secret_the_envelope_tells_which_it_is() {
    let files = secret_files(&[("shared", SECRET)]);
    let server = several(&files, "shared", "shared").await;
    let (one, alias, other) = (mixed(0, 2), mixed(2, 2), mixed(4, 2));
    for (events, host) in [
        (&one, ORG),
        (&alias, "login.acme.example"),
        (&other, OTHER_ORG),
    ] {
        assert_eq!(status_of(&server, PATH, SECRET, host, events).await, 204);
    }
    // Nothing says whose these are: no org of ours, one without hooks, none at all.
    for host in ["nobody.okta.com", "without.okta.com"] {
        let status = status_of(&server, PATH, SECRET, host, &mixed(6, 2)).await;
        assert_eq!(status, 400, "{host}");
    }
    assert_eq!(send(&server, &authentic("{}")).await.status, 400);
    assert_eq!(send(&server, &authentic("no JSON")).await.status, 400);
    let expected: Vec<_> = of_org(&one, ORG)
        .chain(of_org(&alias, ORG))
        .chain(of_org(&other, OTHER_ORG))
        .collect();
    assert_eq!(kept_with_orgs(&server).await, expected);
}

/// Writes a secret as a mounted volume does: all at once.
fn rewrite(directory: &TempDir, name: &str, secret: &str) {
    let next = directory.path().join("next");
    std::fs::write(&next, secret).unwrap();
    std::fs::rename(next, directory.path().join(name)).unwrap();
}

/// Waits until a secret is taken, or no more.
async fn until(server: &Server, secret: &str, status: u16) {
    // An empty delivery leaves no trace.
    let probe = request("POST", PATH, &[("Authorization", secret)], "[]");
    eventually("the change of a secret", async || {
        (send(server, &probe).await.status == status).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_secret_is_changed_while_deliveries_go_on() {
    let files = secret_files(&[("now", "first"), ("before", "zeroth")]);
    let server = Server::start_configured(&format!(
        "[hook]\nsecret_file = '{}'\nprevious_secret_file = '{}'\n",
        place(&files, "now"),
        place(&files, "before")
    ))
    .await;
    let deliver = async |secret: &'static str, number: u64| {
        let (url, events) = (url(&server, PATH), mixed(number, 1));
        within(hook_deliver(&url, ("Authorization", secret), &events))
            .await
            .status()
    };
    assert_eq!(deliver("first", 0).await, Some(204));
    assert_eq!(deliver("zeroth", 1).await, Some(204));
    assert_eq!(deliver("second", 2).await, Some(401));

    // First the old one moves aside, so that none is refused in between.
    rewrite(&files, "before", "first");
    until(&server, "zeroth", 401).await;
    assert_eq!(deliver("first", 3).await, Some(204));
    rewrite(&files, "now", "second");
    until(&server, "second", 204).await;
    assert_eq!(deliver("first", 4).await, Some(204));

    // Once Okta has the new one, the old one goes: its file is empty, or gone.
    for (gone, number) in [(false, 5), (true, 6)] {
        if gone {
            std::fs::remove_file(files.path().join("before")).unwrap();
        } else {
            rewrite(&files, "before", "\n");
        }
        until(&server, "first", 401).await;
        assert_eq!(deliver("second", number).await, Some(204), "gone: {gone}");
    }

    // Without the current one nobody can be told apart: Okta is to try again.
    std::fs::remove_file(files.path().join("now")).unwrap();
    until(&server, "second", 503).await;
    rewrite(&files, "now", "third");
    until(&server, "third", 204).await;
    assert_eq!(deliver("second", 7).await, Some(401));
    let expected = [0, 1, 3, 4, 5, 6].map(crate::fixtures::uuid);
    assert_eq!(kept(&server).await, expected);
    // What was taken away for good is no reason not to start.
    let server = server.restart().await;
    until(&server, "third", 204).await;
}

#[tokio::test]
async fn an_org_whose_secret_can_t_be_read_stops_no_other() {
    let files = secret_files(&[("one", SECRET), ("other", OTHER_SECRET)]);
    let server = several(&files, "one", "other").await;
    std::fs::remove_file(files.path().join("other")).unwrap();
    until(&server, OTHER_SECRET, 503).await;
    let events = mixed(0, 2);
    assert_eq!(status_of(&server, PATH, SECRET, ORG, &events).await, 204);
    assert_eq!(kept(&server).await, uuids(&events));
}

/// What a file holds, or a folder's files.
fn contents(path: &Path) -> Vec<u8> {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).unwrap();
        entries
            .flat_map(|entry| contents(&entry.unwrap().path()))
            .collect()
    } else {
        std::fs::read(path).unwrap()
    }
}

#[tokio::test]
async fn a_secret_shows_nowhere() {
    let files = secret_files(&[("before", OTHER_SECRET)]);
    let before = place(&files, "before");
    let toml = format!(
        "[hook]\nprevious_secret_file = '{before}'\nkept_headers = 'authorization'\n\
         [log]\nlevel = 'debug'\n"
    );
    let mut server = hooked(&toml).await;
    let pushed = [log_event(Kind::GroupPushFailed, 4)];
    for secret in [SECRET, OTHER_SECRET] {
        let bodies = [
            crate::fixtures::envelope(ORG, &pushed),
            "no JSON".to_owned(),
            "[5]".to_owned(),
            String::new(),
        ];
        for body in bodies {
            send(
                &server,
                &request("POST", PATH, &[("Authorization", secret)], body),
            )
            .await;
        }
        let nearly = format!("{secret}x");
        send(&server, &delivery(PATH, &nearly, ORG, &pushed)).await;
        let twice = [("Authorization", secret), ("Authorization", secret)];
        send(&server, &request("POST", PATH, &twice, "{}")).await;
        send(
            &server,
            &request("GET", PATH, &[("Authorization", secret)], ""),
        )
        .await;
        send(
            &server,
            &request("PUT", PATH, &[("Authorization", secret)], ""),
        )
        .await;
        send(
            &server,
            &delivery("/hooks/okta/a%20b", secret, ORG, &pushed),
        )
        .await;
    }
    let metrics = exchange(
        &server.addresses.admin,
        &request("GET", "/metrics", &[], ""),
    )
    .await;
    assert!(metrics.body.contains("provident_"), "{metrics:?}");
    let mut shown = vec![("metrics", metrics.body.into_bytes())];
    for (name, command) in [
        ("check-config", &["check-config"][..]),
        ("check-config --explain", &["check-config", "--explain"]),
    ] {
        let config = files.path().join("provident.toml");
        std::fs::write(&config, &toml).unwrap();
        let output = provident()
            .args(command)
            .arg("--config")
            .arg(&config)
            .envs(WITH_SECRET)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("PROVIDENT_HOOK_SECRET"), "{text}");
        shown.push((name, [output.stdout, output.stderr].concat()));
    }
    let events = server.read_all(earliest()).await;
    assert_eq!(events.len(), 1);
    shown.push(("events", format!("{events:?}").into_bytes()));
    let sources = server.sources().await;
    assert!(sources.iter().any(|source| !source.last_error.is_empty()));
    shown.push(("sources", format!("{sources:?}").into_bytes()));
    assert!(!rejects(&server).is_empty());
    server.process.kill();
    let log = server.process.log_text();
    assert!(log.contains("refused"), "{log}");
    shown.push(("log", log.into_bytes()));
    shown.push(("data directory", contents(server.data_dir())));
    for (what, bytes) in shown {
        for secret in [SECRET, OTHER_SECRET] {
            let found = bytes
                .windows(secret.len())
                .any(|part| part == secret.as_bytes());
            assert!(!found, "{secret} in {what}");
        }
    }
}

#[tokio::test]
async fn a_secret_in_the_configuration_file_is_refused_at_the_start() {
    let directory = scratch();
    let file = directory.path().join("provident.toml");
    for key in ["secret", "previous_secret"] {
        std::fs::write(&file, format!("[hook]\n{key} = '{SECRET}'\n")).unwrap();
        for command in ["serve", "check-config"] {
            let output = provident()
                .args([command, "--config"])
                .arg(&file)
                .current_dir(directory.path())
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(2), "{output:?}");
            let text = String::from_utf8_lossy(&output.stderr);
            let variable = format!("PROVIDENT_HOOK_{}", key.to_uppercase());
            assert!(text.contains(&variable) && text.contains("_file"), "{text}");
            assert!(!text.contains(SECRET), "{text}");
        }
    }
    assert!(!directory.path().join("data").exists());
}

#[tokio::test]
async fn two_secrets_of_the_environment_are_both_taken() {
    let both = [
        WITH_SECRET[0],
        ("PROVIDENT_HOOK_PREVIOUS_SECRET", OTHER_SECRET),
    ];
    let server = Server::start_in("", &both).await;
    deliver(&server, &mixed(0, 1)).await;
    assert_eq!(
        status_of(&server, PATH, OTHER_SECRET, ORG, &mixed(1, 1)).await,
        204
    );
    let answer = send(&server, &good(&mixed(2, 1))).await;
    assert_eq!(answer.status, 204);
    assert_eq!(kept(&server).await, uuids(&mixed(0, 3)));
}
