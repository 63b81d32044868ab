//! Service manners: health, reflection, metrics, limits, and how it stops.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use provident::wire::v1;
use provident::wire::v1::ErrorReason;
use provident::wire::v1::subscribe_response::Message;
use rustix::process::Signal;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::fixtures::{mixed, mixed_one};
use crate::harness::{
    Launch, ORG, PATIENCE, Read, Server, accepted, earliest, eventually, following, is_gone, json,
    refused, scratch, within,
};

#[tokio::test]
async fn health_is_said_of_the_whole_and_of_each_service() {
    let server = Server::start().await;
    assert_eq!(server.health().await.unwrap(), ServingStatus::Serving);
    let mut client = HealthClient::new(server.channel());
    for service in [
        "provident.v1.EventService",
        "provident.v1.ClassifierService",
        "provident.v1.SourceService",
        "provident.sources",
    ] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let status = within(client.check(request))
            .await
            .unwrap()
            .into_inner()
            .status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
    let unknown = HealthCheckRequest {
        service: "provident.v1.Nonsense".to_owned(),
    };
    let status = within(client.check(unknown)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn sigterm_ends_the_streams_as_planned_and_then_the_process() {
    let mut server = Server::start().await;
    let head = server.ingest(mixed(1, 30)).await.pop().unwrap().cursor;
    let mut health = HealthClient::new(server.new_channel().await);
    let mut watch = within(health.watch(HealthCheckRequest::default()))
        .await
        .unwrap()
        .into_inner();
    let first = within(watch.message()).await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut reader = server.subscribe(following(earliest())).await.unwrap();
        let mut read = Read::default();
        reader
            .until(&mut read, |read| !read.caught_up.is_empty())
            .await;
        readers.push((reader, read));
    }
    server.process.signal(Signal::TERM);
    for (mut reader, mut read) in readers {
        // An ending and status OK: anything else would fail here.
        reader.rest_into(&mut read).await;
        let ending = read.ending.unwrap();
        assert_eq!(ending.reason(), v1::EndingReason::Drain);
        assert_eq!(ending.cursor, head);
        assert_eq!(read.events.len(), 30);
    }
    let mut last = None;
    while let Ok(Some(answer)) = within(watch.message()).await {
        last = Some(answer.status());
    }
    assert_eq!(last, Some(ServingStatus::NotServing), "health on drain");
    let status = server.process.ended().await;
    let log = server.process.log_text();
    assert_eq!(status.code(), Some(0), "{log}");
    // Not even the watch, which its client never ends, holds the stop up to its deadline.
    assert!(!log.contains("still running at the deadline"), "{log}");
}

#[tokio::test]
async fn a_drain_loses_nothing_that_was_answered() {
    let directory = scratch();
    let launch = Launch::on(&directory.path().join("data"));
    let mut server = launch.start().await;
    let mut client = server.events();
    let caller = async {
        let mut kept = 0;
        for number in 0.. {
            let request = v1::IngestRequest {
                org: ORG.to_owned(),
                inputs: vec![json(mixed_one(number))],
            };
            match within(client.ingest(request)).await {
                Ok(response) => kept = accepted(&response.into_inner().results)[0],
                Err(status) => return (kept, status),
            }
        }
        unreachable!("the server is told to stop");
    };
    let stop = async {
        eventually("some events", async || {
            let head = server.read_all(earliest()).await.len();
            (head > 20).then_some(())
        })
        .await;
        server.process.signal(Signal::TERM);
    };
    let ((kept, status), ()) = tokio::join!(caller, stop);
    assert!(is_gone(&status), "{status:?}");
    assert_eq!(server.process.ended().await.code(), Some(0));
    let server = launch.start().await;
    let head = server.read_all(earliest()).await.last().unwrap().sequence;
    // The one call that was under way may have been kept without an answer.
    assert!((kept..=kept + 1).contains(&head), "{head} for {kept}");
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let mut server = Server::start().await;
    accepted(&server.ingest(mixed(1, 500)).await);
    // A reader that does not read holds the drain up as long as the deadline lets it.
    let mut client = v1::event_service_client::EventServiceClient::new(server.new_channel().await);
    let request = v1::SubscribeRequest {
        include_raw: true,
        ..following(earliest())
    };
    let _stuck = within(client.subscribe(request)).await.unwrap();
    server.process.signal(Signal::TERM);
    eventually("the drain", async || {
        (!matches!(server.health().await, Ok(ServingStatus::Serving))).then_some(())
    })
    .await;
    let since = Instant::now();
    // The first signal may have ended it by now; then there is nobody to signal.
    if rustix::process::test_kill_process(server.process.pid()).is_ok() {
        server.process.signal(Signal::TERM);
    }
    server.process.ended().await;
    assert!(
        since.elapsed() < Duration::from_secs(5),
        "{:?}",
        since.elapsed()
    );
}

#[tokio::test]
async fn an_interrupt_is_a_plain_stop_too() {
    let mut server = Server::start().await;
    server.process.signal(Signal::INT);
    assert_eq!(server.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused() {
    let directory = scratch();
    let launch = Launch::on(&directory.path().join("data"));
    let server = launch.start().await;
    let mut second = launch.spawn();
    let status = second.ended().await;
    assert_eq!(status.code(), Some(1), "{}", second.log_text());
    assert_eq!(server.health().await.unwrap(), ServingStatus::Serving);
}

const SERVICES: [&str; 4] = [
    "grpc.health.v1.Health",
    "provident.v1.ClassifierService",
    "provident.v1.EventService",
    "provident.v1.SubscriptionService",
];

/// Asks the reflection service of a version for all services, and for one file.
macro_rules! reflected {
    ($version:ident, $server:expr) => {{
        use pb::server_reflection_request::MessageRequest;
        use pb::server_reflection_response::MessageResponse;
        use tonic_reflection::pb::$version as pb;
        let mut client =
            pb::server_reflection_client::ServerReflectionClient::new($server.channel());
        let ask = |message_request| pb::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message_request),
        };
        let requests = tokio_stream::iter([
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol(
                "provident.v1.EventService".to_owned(),
            )),
        ]);
        let mut answers = within(client.server_reflection_info(requests))
            .await
            .unwrap()
            .into_inner();
        let mut answer = async || {
            let answer = within(answers.message()).await.unwrap().unwrap();
            answer.message_response.unwrap()
        };
        let MessageResponse::ListServicesResponse(list) = answer().await else {
            panic!("a list was asked for");
        };
        let MessageResponse::FileDescriptorResponse(files) = answer().await else {
            panic!("a file was asked for");
        };
        assert!(!files.file_descriptor_proto.is_empty());
        let names: BTreeSet<_> = list.service.into_iter().map(|found| found.name).collect();
        names
    }};
}

#[tokio::test]
async fn both_versions_of_reflection_name_every_service() {
    let server = Server::start().await;
    for names in [reflected!(v1, server), reflected!(v1alpha, server)] {
        for service in SERVICES {
            assert!(names.contains(service), "{service} is not in {names:?}");
        }
    }
}

#[tokio::test]
async fn metrics_and_probes_answer_on_the_admin_address() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(1, 3)).await);
    let metrics = server.metrics().await;
    assert!(metrics.contains("# HELP provident_"), "{metrics}");
    assert!(
        metrics.contains("\nprocess_start_time_seconds "),
        "{metrics}"
    );
    // Before there is any, so that the first one is an increase.
    for reason in ["FIELD_INVALID", "RECORD_CORRUPT", "INTERNAL"] {
        let refusals = format!("provident_refused_calls_total{{reason=\"{reason}\"}} 0\n");
        assert!(metrics.contains(&refusals), "{metrics}");
    }
    // A name and its labels, without their values, as the list has them.
    let listed = include_str!("../golden/metrics.txt");
    let listed: BTreeSet<_> = listed
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let series = metrics.lines().filter(|line| {
        let of_a_histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .any(|part| line.contains(part));
        line.starts_with("provident_") && !of_a_histogram
    });
    let mut told = 0;
    for line in series {
        let (name, labels) = line.split_once('{').unwrap_or((line, ""));
        let name = name.split(' ').next().unwrap();
        let labels = labels
            .split("\",")
            .filter_map(|label| label.split_once('='));
        let labels: Vec<_> = labels.map(|(label, _)| label).collect();
        let found = format!("{name}{{{}}}", labels.join(","));
        assert!(listed.contains(found.as_str()), "{found} of {line}");
        told += 1;
    }
    assert!(told > 20, "{metrics}");
    for probe in ["/livez", "/readyz"] {
        let answer = get(&server.addresses.admin, probe).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{probe}: {answer}");
    }
}

#[tokio::test]
async fn the_log_level_can_be_changed_while_it_runs() {
    let server = Server::start().await;
    let url = format!("http://{}/log-level", server.addresses.admin);
    let client = reqwest::Client::new();
    let set = async |level: &str| {
        let answer = within(client.put(&url).body(level.to_owned()).send());
        let answer = answer.await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let level = async || reqwest::get(&url).await.unwrap().text().await.unwrap();
    assert_eq!(level().await, "info\n");
    let (status, problem) = set("provident=loud").await;
    assert_eq!(status, 400);
    assert!(problem.contains("is no log level"), "{problem}");
    assert_eq!(level().await, "info\n");
    assert!(!server.process.log_text().contains("\"DEBUG\""));
    assert_eq!(set("debug\n").await, (200, "debug\n".to_owned()));
    assert_eq!(level().await, "debug\n");
    eventually("a line of the new level", async || {
        // Whatever comes makes the transport say something.
        server.health().await.unwrap();
        let log = server.process.log_text();
        log.contains("\"DEBUG\"").then_some(())
    })
    .await;
}

/// A plain HTTP GET: head and body as they came.
async fn get(address: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = within(tokio::net::TcpStream::connect(address))
        .await
        .unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    within(stream.write_all(request.as_bytes())).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn a_call_over_a_limit_is_refused_and_writes_nothing() {
    let server = Server::start().await;
    let call = async |inputs: Vec<v1::IngestInput>| {
        let request = v1::IngestRequest {
            org: ORG.to_owned(),
            inputs,
        };
        within(server.events().ingest(request)).await
    };
    // One event more than allowed, counted over all inputs.
    let mut inputs: Vec<_> = mixed(1, 999).iter().map(json).collect();
    inputs.push(json(crate::fixtures::envelope(ORG, &mixed(1_000, 2))));
    let status = call(inputs).await.unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::TooLarge);
    // tonic's own limit answers before us, without a reason.
    let huge = vec![json(Bytes::from(vec![b' '; 17 << 20]))];
    let status = call(huge).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert!(server.read_all(earliest()).await.is_empty());
    // As much as is allowed is taken.
    let most = call(mixed(1, 1_000).iter().map(json).collect())
        .await
        .unwrap();
    assert_eq!(accepted(&most.into_inner().results).len(), 1_000);
    let none = call(Vec::new()).await.unwrap();
    assert!(none.into_inner().results.is_empty());
}

#[tokio::test]
async fn gzip_is_spoken() {
    use tonic::codec::CompressionEncoding::Gzip;
    let server = Server::start().await;
    let mut client = server
        .events()
        .send_compressed(Gzip)
        .accept_compressed(Gzip);
    let request = v1::IngestRequest {
        org: ORG.to_owned(),
        inputs: mixed(1, 100).iter().map(json).collect(),
    };
    accepted(
        &within(client.ingest(request))
            .await
            .unwrap()
            .into_inner()
            .results,
    );
    let mut stream = within(client.subscribe(crate::harness::to_head(earliest())))
        .await
        .unwrap()
        .into_inner();
    let mut count = 0;
    while let Some(response) = within(stream.message()).await.unwrap() {
        if let Some(Message::Batch(batch)) = response.message {
            count += batch.events.len();
        }
    }
    assert_eq!(count, 100);
}

#[tokio::test]
async fn a_thousand_calls_at_once_are_served_or_told_to_wait() {
    let server = Server::start().await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..1_000 {
        let mut client = server.events();
        let request = v1::IngestRequest {
            org: ORG.to_owned(),
            inputs: vec![json(mixed_one(number))],
        };
        calls.spawn(async move { tokio::time::timeout(PATIENCE, client.ingest(request)).await });
    }
    let mut kept = 0;
    while let Some(answer) = calls.join_next().await {
        match answer.unwrap().expect("an answer") {
            Ok(response) => kept += accepted(&response.into_inner().results).len(),
            Err(status) => {
                refused(&status, Code::Unavailable, ErrorReason::Overloaded);
                let details = tonic_types::StatusExt::get_error_details(&status);
                assert!(details.retry_info().is_some());
                assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
            }
        }
    }
    assert_eq!(server.read_all(earliest()).await.len(), kept);
}
