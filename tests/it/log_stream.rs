//! Records of an Okta log stream (`EventBridge`): the event is in `detail`, the org is the call's.

use std::io::Write as _;
use std::process::Stdio;

use provident::wire::v1;
use provident::wire::v1::RawJsonOrigin;
use serde_json::json as value;

use crate::fixtures::{Given, mixed, mixed_one};
use crate::harness::{ORG, Server, accepted, earliest, json, provident, statuses, within};

/// A record as it comes by Amazon's event bus, of an org that is not the call's.
fn record(given: &Given) -> String {
    let before = value!({
        "version": "0",
        "id": format!("r-{}", given.uuid),
        "detail-type": "SystemLog",
        "source": "aws.partner/okta.com/other-org/outer-tests",
        "account": "123456789012",
        "time": "2026-03-01T10:00:00Z",
        "region": "us-east-2",
        "resources": [],
    });
    let before = before.to_string();
    format!(
        "{},\"detail\":{}}}",
        before.trim_end_matches('}'),
        given.json
    )
}

async fn check(server: &Server, given: &[Given], org: &str) {
    let events = server.read_all(earliest()).await;
    assert_eq!(events.len(), given.len());
    for (event, given) in events.into_iter().zip(given) {
        assert_eq!(event.raw_json.as_deref(), Some(given.json.as_str()));
        assert_eq!(event.raw_json_origin(), RawJsonOrigin::Received);
        let body = event.event.unwrap();
        assert_eq!(
            (body.uuid.as_str(), body.org.as_str()),
            (given.uuid.as_str(), org)
        );
    }
}

#[tokio::test]
async fn ingest_takes_records_alone_in_arrays_and_by_lines() {
    let server = Server::start().await;
    let given = mixed(0, 7);
    let records: Vec<_> = given.iter().map(record).collect();
    let results = server
        .ingest_inputs([
            json(records[0].clone()),
            json(format!("[{},\n{}]", records[1], records[2])),
            json(format!(
                "{}\n{}\r\n\n[{}]\n",
                records[3], records[4], records[5]
            )),
            json(&given[6]),
        ])
        .await;
    accepted(&results);
    check(&server, &given, ORG).await;
    // The same events without the records around them are known.
    let again = server.ingest(&given).await;
    assert_eq!(statuses(&again), ["DUPLICATE"; 7]);
}

#[tokio::test]
async fn a_record_without_an_event_harms_no_neighbour() {
    let server = Server::start().await;
    let given = mixed(0, 2);
    let bad = record(&given[0]).replace(&given[0].json, "{\"uuid\":\"0a0a\"}");
    let array = format!("[{},{bad},{}]", record(&given[0]), record(&given[1]));
    let results = server.ingest_inputs([json(array)]).await;
    assert_eq!(statuses(&results), ["ACCEPTED", "REJECTED", "ACCEPTED"]);
    check(&server, &given, ORG).await;
}

#[tokio::test]
async fn the_org_of_records_is_the_call_s() {
    let toml = "[[orgs]]\nname = 'acme.okta.com'\n[[orgs]]\nname = 'beta.okta.com'\n";
    let server = Server::start_configured(toml).await;
    let given = mixed_one(1);
    let call = |org: &str| v1::IngestRequest {
        org: org.to_owned(),
        inputs: vec![json(record(&given))],
    };
    assert!(within(server.events().ingest(call(""))).await.is_err());
    let taken = within(server.events().ingest(call("beta.okta.com")))
        .await
        .unwrap();
    accepted(&taken.into_inner().results);
    check(&server, std::slice::from_ref(&given), "beta.okta.com").await;
}

#[tokio::test]
async fn provident_ingest_takes_records_from_a_pipe() {
    let server = Server::start().await;
    let given = mixed(0, 30);
    let mut child = provident()
        .args(["ingest", "--org", "acme.okta.com", "--server"])
        .arg(format!("http://{}", server.addresses.grpc))
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let records: Vec<_> = given.iter().map(record).collect();
    let (lines, array) = records.split_at(20);
    let input = format!("{}\n[{}]\n", lines.join("\n"), array.join(","));
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    check(&server, &given, ORG).await;
}
