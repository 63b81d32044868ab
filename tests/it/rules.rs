//! A deployment's own rules: checked by a command, refused at start, and told in the answers.

use std::path::{Path, PathBuf};
use std::process::Output;

use provident::wire::v1;
use provident::wire::v1::classify_request::Input;
use serde_json::Value;

use crate::harness::{Server, provident, scratch, within};

const GOOD: &str = r#"
version = "acme-7"
[words]
vault = ["vault", "safe"]
[[rule]]
id = "acme.vault_sealed"
phrases = ["{vault} .. sealed"]
cause = "REMOTE_NOT_READY"
remediation = "Ask the vault team to unseal {app}."
source = "run book"
matches = ["The vault is sealed"]
misses = ["The vault is open"]
"#;

const BAD: &str = r#"version = "acme-7"
[[rule]]
id = "acme.first"
phrases = ["{nobody} .. sealed"]
cause = "SUNSPOTS"
[[rule]]
id = "acme.second"
phrase = ["x"]
cause = "TIMEOUT"
source = "run book"
matches = ["x"]
"#;

const EVENT: &str = r#"{"eventType":"application.provision.user.push","uuid":"u-1","severity":"ERROR","outcome":{"result":"FAILURE","reason":"Unauthorized. Errors reported by remote server: the vault is sealed, user not found"},"target":[{"type":"AppInstance","id":"0oa1","displayName":"Acme Vault"}]}"#;

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn run(directory: &Path, arguments: &[&str]) -> Output {
    provident()
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_example_of_the_documentation_is_a_file_that_can_be_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = std::fs::read_to_string(root.join("examples/rules.toml")).unwrap();
    let docs = std::fs::read_to_string(root.join("docs/rules.md")).unwrap();
    assert!(docs.contains(&format!("```toml\n{example}```")));
    let checked = run(root, &["rules", "check", "examples/rules.toml"]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
}

#[test]
fn rules_check_tells_every_mistake_with_its_line() {
    let directory = scratch();
    write(directory.path(), "good.toml", GOOD);
    write(directory.path(), "bad.toml", BAD);
    let good = run(directory.path(), &["rules", "check", "good.toml"]);
    assert!(good.status.success(), "{good:?}");
    assert!(text(&good.stdout).contains("1 rule, each decides its examples"));

    let bad = run(directory.path(), &["rules", "check", "bad.toml"]);
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    let told = text(&bad.stderr);
    for mistake in [
        "bad.toml:4: rule acme.first: the phrase",
        "bad.toml:5: rule acme.first: `cause`",
        "bad.toml:8: rule acme.second: `phrase` is not known",
    ] {
        assert!(told.contains(mistake), "{mistake:?} in {told}");
    }
    for (bytes, told) in [
        (
            &b"version = 'a'\n# \xff\n"[..],
            "odd.toml:2: this is no UTF-8 text",
        ),
        (
            "#".repeat((1 << 20) + 1).as_bytes(),
            "odd.toml:1: the file has more than 1048576 bytes",
        ),
    ] {
        std::fs::write(directory.path().join("odd.toml"), bytes).unwrap();
        let odd = run(directory.path(), &["rules", "check", "odd.toml"]);
        assert_eq!(odd.status.code(), Some(1));
        assert!(text(&odd.stderr).contains(told), "{odd:?}");
    }
    let missing = run(directory.path(), &["rules", "check", "none.toml"]);
    assert_eq!(missing.status.code(), Some(2), "{missing:?}");
}

#[test]
fn a_server_with_bad_rules_does_not_start() {
    let directory = scratch();
    write(directory.path(), "bad.toml", BAD);
    for command in [
        &["serve", "--rules", "bad.toml"][..],
        &["check-config", "--rules", "bad.toml"],
    ] {
        let refused = run(directory.path(), command);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(
            text(&refused.stderr).contains("bad.toml:8: rule acme.second"),
            "{refused:?}"
        );
        assert!(!directory.path().join("data").exists());
    }
}

#[test]
fn classify_explains_every_rule_that_matched_and_why_one_won() {
    let directory = scratch();
    write(directory.path(), "good.toml", GOOD);
    write(directory.path(), "event.json", EVENT);
    let arguments = [
        "classify",
        "--rules",
        "good.toml",
        "--explain",
        "event.json",
    ];
    let shown = text(&run(directory.path(), &arguments).stdout);
    for part in [
        "acme.vault_sealed: remote not ready, by \"vault is sealed\" in outcome.reason: counts most",
        "status.401: credentials invalid, by \"Unauthorized\" in outcome.reason",
        "a decisive status counts less than the deployment's own rule",
        "text.not_found: target not found",
        "Ask the vault team to unseal Acme Vault.",
    ] {
        assert!(
            shown.replace("\n               ", " ").contains(part),
            "{part:?} in {shown}"
        );
    }

    let answer = run(
        directory.path(),
        &["classify", "--explain", "-o", "json", "event.json"],
    );
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
    let rules: Vec<_> = answer["considered"]
        .as_array()
        .unwrap()
        .iter()
        .map(|considered| considered["evidence"]["rule"].as_str().unwrap())
        .collect();
    assert_eq!(rules[..2], ["status.401", "text.not_found"]);
    assert_eq!(
        answer["considered"][0]["cause"],
        "CAUSE_CREDENTIALS_INVALID"
    );

    let without = run(directory.path(), &["classify", "-o", "json", "event.json"]);
    assert!(!text(&without.stdout).contains("considered"));
}

#[tokio::test]
async fn a_servers_own_rules_count_and_are_named() {
    let directory = scratch();
    let rules = write(directory.path(), "good.toml", GOOD);
    let server = Server::start_with(&["--rules", rules.to_str().unwrap()]).await;
    let request = v1::ClassifyRequest {
        input: Some(Input::Json(EVENT.into())),
        explain: true,
    };
    let answer = within(server.classifier().classify(request))
        .await
        .unwrap()
        .into_inner();
    let classification = answer.classification.unwrap();
    assert_eq!(classification.cause(), v1::Cause::RemoteNotReady);
    assert_eq!(classification.evidence.unwrap().rule, "acme.vault_sealed");
    assert!(classification.rule_set_version.ends_with("+acme-7"));
    let why: Vec<_> = answer
        .considered
        .iter()
        .map(|considered| {
            (
                considered.evidence.clone().unwrap().rule,
                considered.why.clone(),
            )
        })
        .collect();
    assert_eq!(why[0].1, "counts most, as the deployment's own rule");
    assert!(why.iter().any(|(rule, _)| rule == "status.401"), "{why:?}");
}
