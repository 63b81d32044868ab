//! `ClassifierService`: what an event means, and what is known of types and applications. It keeps
//! nothing, so nothing of it is in the journal.

use provident::wire::v1;
use provident::wire::v1::classify_request::Input;
use provident::wire::v1::describe_request::Subject;
use provident::wire::v1::describe_response::Description;
use provident::wire::v1::{Category, Cause, ErrorReason, Verdict};
use tonic::{Code, Status};

use crate::fixtures::{self, Kind, log_event, mixed_one, typed_event};
use crate::harness::{Server, bad_fields, earliest, refused, within};

async fn classify(server: &Server, input: Input) -> Result<v1::ClassifyResponse, Status> {
    let request = v1::ClassifyRequest {
        input: Some(input),
        explain: false,
    };
    Ok(within(server.classifier().classify(request))
        .await?
        .into_inner())
}

async fn describe(server: &Server, subject: Subject) -> Result<Description, Status> {
    let request = v1::DescribeRequest {
        subject: Some(subject),
    };
    let response = within(server.classifier().describe(request)).await?;
    Ok(response.into_inner().description.unwrap())
}

#[tokio::test]
async fn what_is_classified_is_not_kept() {
    let server = Server::start().await;
    for number in 0..8 {
        let given = mixed_one(number);
        let response = classify(&server, Input::Json(given.json.clone().into()))
            .await
            .unwrap();
        let event = response.event.unwrap();
        assert_eq!(event.uuid, given.uuid);
        assert_eq!(
            (event.intake(), event.received_time),
            (v1::Intake::Unspecified, None)
        );
    }
    assert!(server.read_all(earliest()).await.is_empty());
    let confirmation = server
        .subscribe(crate::harness::to_head(earliest()))
        .await
        .unwrap()
        .confirmation()
        .await;
    assert_eq!(confirmation.start_cursor, confirmation.head_cursor);
}

#[tokio::test]
async fn each_kind_of_failure_is_told_from_the_others() {
    let server = Server::start().await;
    let expected = [
        (
            Kind::UserPushFailed,
            Verdict::Failure,
            Category::User,
            Cause::LicenseExhausted,
        ),
        (
            Kind::DeactivateFailed,
            Verdict::Failure,
            Category::User,
            Cause::PermissionDenied,
        ),
        (
            Kind::MemberRemoveFailed,
            Verdict::Failure,
            Category::GroupMembership,
            Cause::TargetNotFound,
        ),
        (
            Kind::GroupPushFailed,
            Verdict::Failure,
            Category::GroupPush,
            Cause::CredentialsInvalid,
        ),
        (
            Kind::RateLimited,
            Verdict::Failure,
            Category::RateLimit,
            Cause::RateLimited,
        ),
        (
            Kind::AuthenticationFailed,
            Verdict::Failure,
            Category::Authentication,
            Cause::CredentialsInvalid,
        ),
    ];
    for (kind, verdict, category, cause) in expected {
        let given = log_event(kind, 3);
        let said = classify(&server, Input::Json(given.json.into()))
            .await
            .unwrap()
            .classification
            .unwrap();
        assert_eq!(
            (said.verdict(), said.category(), said.cause()),
            (verdict, category, cause),
            "{kind:?}: {said:?}"
        );
        let application = said.application.clone().unwrap();
        assert_eq!(application.name, fixtures::application_name(3), "{kind:?}");
        let removes = matches!(kind, Kind::DeactivateFailed | Kind::MemberRemoveFailed);
        assert_eq!(said.security_relevant, removes, "{kind:?}");
        assert!(said.priority() > v1::Priority::Unspecified);
        assert!(
            !said.summary.is_empty() && !said.remediation.is_empty(),
            "{kind:?}"
        );
        assert!(said.known_event_type && !said.rule_set_version.is_empty());
        let evidence = said.evidence.clone().unwrap();
        assert!(!evidence.rule.is_empty(), "{kind:?}");
    }
    let other = |kind| classify(&server, Input::Json(log_event(kind, 3).json.into()));
    let said = other(Kind::ProfilePushed)
        .await
        .unwrap()
        .classification
        .unwrap();
    assert_eq!(said.verdict(), Verdict::Success);
    let said = other(Kind::Unrelated)
        .await
        .unwrap()
        .classification
        .unwrap();
    assert_eq!(
        (said.verdict(), said.known_event_type),
        (Verdict::Unrelated, false)
    );
    let said = other(Kind::UnknownOfFamily)
        .await
        .unwrap()
        .classification
        .unwrap();
    assert_eq!(
        (said.verdict(), said.known_event_type),
        (Verdict::Undetermined, false)
    );
}

#[tokio::test]
async fn every_form_is_classified_alike() {
    let server = Server::start().await;
    let typed = classify(&server, Input::Event(Box::new(typed_event(1))))
        .await
        .unwrap();
    let said = typed.classification.unwrap();
    assert_eq!(said.cause(), Cause::RateLimited);
    assert!(typed.group_push_failed.is_none());

    let card = classify(&server, Input::GroupPushFailed(Box::new(fixtures::card(2))))
        .await
        .unwrap();
    assert_eq!(card.classification.unwrap().category(), Category::GroupPush);
    assert_eq!(
        card.group_push_failed.unwrap().source,
        fixtures::card(2).source
    );

    // The uuid is not needed to say what something means.
    let mut event = log_event(Kind::RateLimited, 3).value();
    event["uuid"] = serde_json::Value::Null;
    let response = classify(&server, Input::Json(event.to_string().into()))
        .await
        .unwrap();
    assert_eq!(response.event.unwrap().uuid, "");
}

#[tokio::test]
async fn what_is_no_event_is_refused() {
    let server = Server::start().await;
    let malformed = [
        "",
        "{",
        "null",
        "[]",
        "{}",
        "{\"eventType\": 1}",
        "\"text\"",
    ];
    for json in malformed {
        let status = classify(&server, Input::Json(json.into()))
            .await
            .unwrap_err();
        refused(&status, Code::InvalidArgument, ErrorReason::EventMalformed);
    }
    let page = format!("[{}]", mixed_one(1).json);
    let status = classify(&server, Input::Json(page.into()))
        .await
        .unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::EventMalformed);
    let large = format!(r#"{{"eventType":"a","x":"{}"}}"#, "x".repeat(513 << 10));
    let status = classify(&server, Input::Json(large.into()))
        .await
        .unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::TooLarge);
    let status = within(server.classifier().classify(v1::ClassifyRequest::default()))
        .await
        .unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::FieldInvalid);
    let untyped = v1::ProvisioningEvent {
        event_type: String::new(),
        ..typed_event(1)
    };
    let status = classify(&server, Input::Event(Box::new(untyped)))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(bad_fields(&status), ["event.event_type"]);
}

#[tokio::test]
async fn a_type_and_an_application_are_described() {
    let server = Server::start().await;
    let name = Kind::DeactivateFailed.event_type();
    let subject = Subject::EventType(name.to_owned());
    let Description::EventType(described) = describe(&server, subject).await.unwrap() else {
        panic!("a type was asked for");
    };
    assert_eq!(described.event_type, name);
    assert!(described.removes_access && !described.event_hook_eligible);
    assert_eq!(described.category(), Category::User);
    assert_eq!(described.operation(), v1::Operation::Deactivate);
    assert_eq!(described.resource(), v1::Resource::User);
    assert!(described.applications.contains(&"Box".to_owned()));
    assert!(!described.description.is_empty() && !described.remediation.is_empty());
    assert_eq!(described.oauth_scopes, ["okta.logs.read"]);
    // An older name finds the type too.
    let older = described.legacy_event_types[0].clone();
    let Description::EventType(same) = describe(&server, Subject::EventType(older.clone()))
        .await
        .unwrap()
    else {
        panic!("a type was asked for");
    };
    assert!(same.legacy_event_types.contains(&older));

    let subject = Subject::Application("bOX".to_owned());
    let Description::Application(described) = describe(&server, subject).await.unwrap() else {
        panic!("an application was asked for");
    };
    assert_eq!((described.name.as_str(), described.assumed), ("Box", false));
    assert!(described.event_types.contains(&name.to_owned()));
}

#[tokio::test]
async fn what_is_not_known_is_refused_with_the_nearest_names() {
    let server = Server::start().await;
    let subject = Subject::EventType("application.provision.user.deactivat".to_owned());
    let status = describe(&server, subject).await.unwrap_err();
    let metadata = refused(&status, Code::NotFound, ErrorReason::EventTypeUnknown);
    let name = Kind::DeactivateFailed.event_type();
    assert!(
        metadata["nearest"]
            .split(',')
            .any(|near| near.trim() == name),
        "{metadata:?}"
    );
    assert!(status.message().contains(name), "{}", status.message());

    let status = describe(&server, Subject::Application("Salesfroce".to_owned()))
        .await
        .unwrap_err();
    let metadata = refused(&status, Code::NotFound, ErrorReason::ApplicationUnknown);
    assert!(metadata["nearest"].contains("Salesforce"), "{metadata:?}");
    for subject in [
        Subject::EventType(String::new()),
        Subject::Application(String::new()),
    ] {
        let status = describe(&server, subject).await.unwrap_err();
        assert_ne!(status.code(), Code::Internal);
    }
    let status = within(server.classifier().describe(v1::DescribeRequest::default()))
        .await
        .unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::FieldInvalid);
}

#[tokio::test]
async fn lists_come_by_page_and_by_name() {
    let server = Server::start().await;
    let types = async |request: v1::ListEventTypesRequest| {
        let mut names = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListEventTypesRequest {
                page_token,
                ..request.clone()
            };
            let page = within(server.classifier().list_event_types(request))
                .await
                .unwrap()
                .into_inner();
            names.extend(page.event_types.into_iter().map(|found| found.event_type));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return names;
            }
        }
    };
    let all = types(v1::ListEventTypesRequest::default()).await;
    assert!(all.is_sorted(), "by name");
    assert!(all.len() > 200, "{} types", all.len());
    let by_small_pages = types(v1::ListEventTypesRequest {
        page_size: 13,
        ..v1::ListEventTypesRequest::default()
    })
    .await;
    assert_eq!(by_small_pages, all);
    let group_push = types(v1::ListEventTypesRequest {
        category: Category::GroupPush.into(),
        ..v1::ListEventTypesRequest::default()
    })
    .await;
    assert!(group_push.contains(&Kind::GroupPushFailed.event_type().to_owned()));
    assert!(group_push.len() < all.len());
    let of_gsuite = types(v1::ListEventTypesRequest {
        application: "google gsuite".to_owned(),
        ..v1::ListEventTypesRequest::default()
    })
    .await;
    assert!(of_gsuite.contains(&"application.provision.user.push".to_owned()));

    let applications = async |page_size, page_token: &str| {
        let request = v1::ListApplicationsRequest {
            page_size,
            page_token: page_token.to_owned(),
        };
        within(server.classifier().list_applications(request)).await
    };
    let all = applications(1_000, "").await.unwrap().into_inner();
    assert!(all.applications.len() >= 62 && all.next_page_token.is_empty());
    let first = applications(40, "").await.unwrap().into_inner();
    let second = applications(40, &first.next_page_token)
        .await
        .unwrap()
        .into_inner();
    let joined = [first.applications, second.applications].concat();
    assert!(all.applications.starts_with(&joined));

    let status = applications(0, "no token").await.unwrap_err();
    refused(
        &status,
        Code::InvalidArgument,
        ErrorReason::PageTokenInvalid,
    );
    let status = applications(-1, "").await.unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::FieldInvalid);
    let request = v1::ListEventTypesRequest {
        application: "Salesfroce".to_owned(),
        ..v1::ListEventTypesRequest::default()
    };
    let status = within(server.classifier().list_event_types(request))
        .await
        .unwrap_err();
    refused(&status, Code::NotFound, ErrorReason::ApplicationUnknown);
}
