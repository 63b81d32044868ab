//! What the classifier says of whole events: causes and their order, traps, priorities, sentences.

use proptest::prelude::*;

use super::*;

const PUSH: &str = "application.provision.user.push";
const PUSH_PROFILE: &str = "application.provision.user.push_profile";
const DEACTIVATE: &str = "application.provision.user.deactivate";
const GROUP_ADD: &str = "application.provision.group.add";
const MEMBER_REMOVE: &str = "application.provision.group_membership.remove";
const AUTHENTICATION: &str = "application.integration.authentication_failure";
const MAPPING_DEAD: &str =
    "application.provision.group_push.mapping.update.or.delete.failed.with.error";
const MAPPING_RETRIED: &str = "application.provision.group_push.mapping.update.or.delete.failed";

fn target(kind: &str, id: &str, name: &str) -> Entity {
    Entity {
        kind: kind.into(),
        id: id.into(),
        display_name: name.into(),
        ..Entity::default()
    }
}

/// A failure of Ann Lee's in Slack, concerning the group Engineering.
fn failure(event_type: &str, reason: &str) -> ProvisioningEvent {
    let mut event = ProvisioningEvent {
        event_type: event_type.into(),
        severity: "ERROR".into(),
        targets: vec![
            target("UserGroup", "00g1", "Engineering"),
            target("AppInstance", "0oa1", "Slack"),
            target("AppUser", "0ua1", "Ann Lee"),
        ],
        ..ProvisioningEvent::default()
    };
    event.outcome.result = "FAILURE".into();
    event.outcome.reason = reason.into();
    event
}

fn check(reason: &str, expected: Cause) {
    check_event(&failure(PUSH_PROFILE, reason), expected);
}

fn check_event(event: &ProvisioningEvent, expected: Cause) {
    let answer = classify(event);
    let reason = &event.outcome.reason;
    assert_eq!(
        answer.cause,
        Some(expected),
        "{reason:?} by {:?}",
        answer.evidence
    );
}

#[test]
fn each_built_in_rule_decides_its_examples_and_all_its_phrases_are_heard() {
    let classifier = Classifier::embedded();
    let problems = check::problems(classifier, classifier.rules());
    let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
}

#[test]
fn error_texts_seen_in_the_wild_have_their_cause() {
    use Cause::*;
    check(
        "Bad Gateway. Errors reported by remote server: Invalid JSON: Unrecognized token 'error' at [Source: x; line: 1, column: 6]",
        RemoteUnavailable,
    );
    check("No user returned for user `1a2b3-404-ff`", TargetNotFound);
    check(
        "Linked group is missing in AWS IAM Identity Center. Change the linked group to resume pushing group memberships.",
        TargetNotFound,
    );
    check("Bad Gateway", RemoteUnavailable);
    check("Error while verifying if user exists: null", Unknown);
    check(
        "Error authenticating: Forbidden. Errors reported by remote server: Invalid JSON: Unexpected character ('<' (code 60)): expected a valid value",
        ProtocolError,
    );
    check(
        "Automatic profile push of Ann Lee to app AWS Single Sign-On failed: Error while trying to push profile update for ann@Corp.Example.com: Bad Request. Errors reported by remote server: Request is unparsable, syntactically incorrect, or violates schema.",
        InvalidData,
    );
    check(
        "Automatic profile push of user `Jane Doe`to app AWS IAM Identity Center failed: Error while trying to push profile update for`jane_doe@example.com`: No user returned for user `x-y`",
        TargetNotFound,
    );
    check(
        "Automatic provisioning of user Jo to app Spotinst failed: Matching user not found.",
        Misconfigured,
    );
    check(
        "Error while trying to push profile update for a@b.c: Bad Request. Errors reported by remote server: Request is malformed: Error: Expecting string at 0.1.userType but instead got: null.",
        InvalidData,
    );
    check(
        "Automatic provisioning of user A to app Okta Org2Org failed: Error while trying to push profile update for someone@example.com: Operation failed because user profile is mastered under another system",
        ImmutableData,
    );
    check(
        "Automatic provisioning of user `u` to app `A` failed: Error while creating user `d`: Create new user returned empty user.",
        ProtocolError,
    );
    check(
        "Failed on 11-24-2013 11:15:25PM UTC: Unable to delete Group Push mapping target App group ogroup-1: Error while deleting user group ogroup-1: The Provisioning Agent call to deleteGroup failed. Error code: 404, error: Not Found. Errors reported by the connector : {\"errors\":[{\"statusCode\":404,\"internalCode\":\"E0000048\",\"description\":\"Cannot delete the group - Cannot find the group with the id [1004]\",\"help_url\":null}]}",
        TargetNotFound,
    );
    check(
        "Unable to update Group Push mapping target App group <name>: Bad Request. Errors reported by remote server: externalId is required",
        InvalidData,
    );
    check(
        "Failed on 06-14-2021 12:16:29PM UTC: Unable to update Group Push mapping target App group Design: Error while creating user group Design: Read timed out",
        Timeout,
    );
    check(
        "Failed: Error while creating user group hermes: Bad Request. Errors reported by remote server: group PATCH requires a members path or a members value object",
        InvalidData,
    );
    check(
        "Unauthorized. Errors reported by remote server: Token is invalid or expired",
        CredentialsInvalid,
    );
    check(
        "Forbidden. Errors reported by remote server: Insufficient rights",
        PermissionDenied,
    );
    check(
        "Conflict. Errors reported by remote server: displayName already exists",
        Duplicate,
    );
    check(
        "Unprocessable Entity. Errors reported by remote server: VALIDATION_ERROR",
        InvalidData,
    );
    check(
        "Not Found. Errors reported by remote server: User not found.",
        TargetNotFound,
    );
    check("API rate limit exceeded. ", RateLimited);
    check(
        "Internal Server Error. Errors reported by remote server: Profile property in Okta managed template has conflicts with custom property",
        SchemaConflict,
    );
    check("Internal Server Error", RemoteError);
    check("HTTP 403 Forbidden", PermissionDenied);
    check(
        "404 Client Error: Not Found for url: https://scim.example.com/Users/429",
        TargetNotFound,
    );
    check(
        "{\"schemas\":[\"urn:ietf:params:scim:api:messages:2.0:Error\"],\"status\":\"409\",\"detail\":\"no\"}",
        Duplicate,
    );
    check("", Unknown);
}

#[test]
fn the_most_specific_evidence_wins() {
    // A status that means one thing only beats wording.
    check(
        "Too Many Requests. Errors reported by remote server: user already exists",
        Cause::RateLimited,
    );
    check(
        "Unauthorized. Errors reported by remote server: user not found",
        Cause::CredentialsInvalid,
    );
    // Wording beats a status that may mean many things.
    check(
        "Forbidden. Errors reported by remote server: License Limit Exceeded",
        Cause::LicenseExhausted,
    );
    check(
        "Bad Request. Errors reported by remote server: userName already exists",
        Cause::Duplicate,
    );
    // Of two statuses Okta's own comes first, unless only the app's is decisive.
    check(
        "Bad Gateway. Errors reported by remote server: upstream said 401 Unauthorized",
        Cause::RemoteUnavailable,
    );
    check(
        "Bad Request. Errors reported by remote server: HTTP 429",
        Cause::RateLimited,
    );
    check(
        "Forbidden. Errors reported by remote server: 500 Internal Server Error",
        Cause::RemoteError,
    );

    // The type, or its old name, beats everything.
    let mut event = failure(PUSH, "Bad Gateway");
    event.legacy_event_type = "app.evernote_business.api.error.create.user.limit.reached".into();
    check_event(&event, Cause::LicenseExhausted);
    check_event(
        &failure(
            "application.integration.rate_limit_exceeded",
            "Unauthorized",
        ),
        Cause::RateLimited,
    );
    // What is usual for the type stands last.
    check_event(&failure(AUTHENTICATION, ""), Cause::CredentialsInvalid);
    check_event(
        &failure(AUTHENTICATION, "Error authenticating: Service Unavailable"),
        Cause::RemoteUnavailable,
    );
    check_event(
        &failure(
            AUTHENTICATION,
            "Bad Request. Errors reported by remote server: no",
        ),
        Cause::CredentialsInvalid,
    );

    // Debug data: texts count as wording, codes come behind a vague status.
    let mut event = failure(PUSH, "Bad Request");
    event
        .debug_data
        .insert("app_error_code".into(), "no-licenses-available".into());
    check_event(&event, Cause::LicenseExhausted);
    let mut event = failure(PUSH, "Forbidden");
    event
        .debug_data
        .insert("errorCode".into(), "login.minLength".into());
    check_event(&event, Cause::PermissionDenied);
    event.outcome.reason.clear();
    check_event(&event, Cause::InvalidData);

    // The outcome itself.
    let mut event = failure(PUSH, "");
    event.outcome.result = "RATE_LIMIT".into();
    check_event(&event, Cause::RateLimited);
}

#[test]
fn names_and_numbers_in_them_are_no_evidence() {
    check(
        "Error while creating user group Rate Limit Admins: Bad Request. Errors reported by remote server: nope",
        Cause::InvalidData,
    );
    check(
        "Error while creating user group Rate Limit Exceeded: Internal Server Error",
        Cause::RemoteError,
    );
    check(
        "Error while creating user group Rate Limit Exceeded",
        Cause::Unknown,
    );
    check(
        "Error while creating user Ann 404: Forbidden",
        Cause::PermissionDenied,
    );
    check(
        "Error while creating user group Team: 429 Too Many Requests: Forbidden. Errors reported by remote server: no",
        Cause::PermissionDenied,
    );
    check(
        "Error while trying to push profile update for 404@example.com: Bad Request",
        Cause::InvalidData,
    );
    check(
        "Error while trying to push profile update for user.401@example.com: null",
        Cause::Unknown,
    );
    check(
        "Automatic provisioning of user Conflict, Carla to app Not Found Inc failed: Error while creating user Conflict, Carla: null",
        Cause::Unknown,
    );
    check(
        "Bad Request. Errors reported by remote server: employee number 404 is odd",
        Cause::InvalidData,
    );
    check(
        "Bad Request. Errors reported by remote server: cost code 401 is odd",
        Cause::InvalidData,
    );
    check(
        "Bad Request. Errors reported by remote server: row 1.404, id 5-429-3, /users/503",
        Cause::InvalidData,
    );
    check(
        "Bad Request. Errors reported by remote server: 404 of 500 rows were taken",
        Cause::InvalidData,
    );
    check("line: 404, column: 429", Cause::Unknown);
    check(
        "User Forbidden Planet Fan said Conflict is everywhere",
        Cause::Unknown,
    );

    // The target's name, wherever it stands.
    let mut event = failure(
        GROUP_ADD,
        "Bad Request. Errors reported by remote server: Group HTTP 401 License Limit Exceeded has odd members",
    );
    event.targets[0].display_name = "HTTP 401 License Limit Exceeded".into();
    check_event(&event, Cause::InvalidData);
    event.outcome.reason = "Error while creating user group Duplicate: Forbidden. Errors reported by remote server: group 'Unauthorized' is odd".into();
    event.targets[0].display_name = "Unauthorized".into();
    check_event(&event, Cause::PermissionDenied);
    // A group that is called like a status does not hide the status.
    event.outcome.reason = "Error while creating user group Not Found: Not Found. Errors reported by remote server: no".into();
    event.targets[0].display_name = "Not Found".into();
    check_event(&event, Cause::TargetNotFound);
}

#[test]
fn evidence_quotes_the_words_that_decided() {
    let evidence = |event: &ProvisioningEvent| {
        let Evidence { rule, field, text } = classify(event).evidence.unwrap();
        (rule, field, text)
    };
    let own =
        |rule: &str, field: &str, text: &str| (rule.to_owned(), field.to_owned(), text.to_owned());
    assert_eq!(
        evidence(&failure(
            PUSH,
            "Bad Request. Errors reported by remote server: userName Is Not Unique"
        )),
        own("text.duplicate", "outcome.reason", "Not Unique")
    );
    assert_eq!(
        evidence(&failure(PUSH, "x: HTTP 404 Not Found")),
        own("status.404", "outcome.reason", "404 Not Found")
    );
    let mut event = failure(MAPPING_DEAD, "");
    event.display_message = "Changes to the Group push mapping for the group 401 could not take effect due to error: Unauthorized".into();
    assert_eq!(
        evidence(&event),
        own("status.401", "displayMessage", "Unauthorized")
    );
    event
        .debug_data
        .insert("error_message".into(), "Read timed out".into());
    event.display_message.clear();
    assert_eq!(
        evidence(&event),
        own(
            "text.timeout",
            "debugContext.debugData.error_message",
            "timed out"
        )
    );
    assert_eq!(
        evidence(&failure("application.integration.rate_limit_exceeded", "")),
        own(
            "event_type",
            "eventType",
            "application.integration.rate_limit_exceeded"
        )
    );
    assert_eq!(classify(&failure(PUSH, "gibberish")).evidence, None);

    let mut event = failure("application.provision.new", "");
    event.legacy_event_type = format!("app.{}.rate_limit", "ä".repeat(90));
    let quoted = classify(&event)
        .evidence
        .map_or(0, |evidence| evidence.text.len());
    assert!(quoted <= EVIDENCE_BYTES_MAX);
}

#[test]
fn disposition_and_responder_follow_the_cause_unless_the_type_knows_whether_okta_retries() {
    use Disposition::{ActionRequired, Informational, SelfHealing, Undetermined};
    use Responder::{AppOwner, AppVendor, Network, Nobody, OktaAdmin};
    let check = |event_type: &str, reason: &str, expected: (Disposition, Responder)| {
        let answer = classify(&failure(event_type, reason));
        assert_eq!(
            (answer.disposition, answer.responder),
            expected,
            "{event_type} {reason}"
        );
    };
    check(PUSH, "Too Many Requests", (SelfHealing, Nobody));
    check(PUSH, "Unauthorized", (ActionRequired, OktaAdmin));
    check(PUSH, "Forbidden", (ActionRequired, AppOwner));
    check(PUSH, "Not Implemented", (ActionRequired, AppVendor));
    check(
        PUSH,
        "Invalid JSON: Unexpected character ('<' (code 60))",
        (ActionRequired, AppOwner),
    );
    check(
        PUSH,
        "java.net.UnknownHostException: scim.example.com",
        (ActionRequired, Network),
    );
    check(PUSH, "gibberish", (Undetermined, OktaAdmin));
    check(MAPPING_DEAD, "Bad Gateway", (ActionRequired, OktaAdmin));
    check(MAPPING_DEAD, "", (ActionRequired, OktaAdmin));
    check(
        MAPPING_RETRIED,
        "externalId is required",
        (SelfHealing, Nobody),
    );
    check(MAPPING_RETRIED, "Unauthorized", (ActionRequired, OktaAdmin));
    check(MAPPING_RETRIED, "Forbidden", (ActionRequired, AppOwner));
    check(
        MAPPING_RETRIED,
        "License limit exceeded",
        (ActionRequired, AppOwner),
    );

    let mut event = failure(DEACTIVATE, "");
    event.outcome.result = "DEFERRED".into();
    let answer = classify(&event);
    assert_eq!(
        (answer.verdict, answer.disposition, answer.priority),
        (Verdict::Warning, SelfHealing, Priority::Low)
    );
    event.outcome.result = "SUCCESS".into();
    let answer = classify(&event);
    assert_eq!(
        (answer.verdict, answer.disposition, answer.responder),
        (Verdict::Success, Informational, Nobody)
    );
    assert_eq!(
        (answer.cause, answer.priority, answer.remediation.as_str()),
        (None, Priority::Low, "")
    );
    event.outcome.result.clear();
    event.severity = "INFO".into();
    let answer = classify(&event);
    assert_eq!(
        (answer.verdict, answer.cause),
        (Verdict::Undetermined, None)
    );
    assert_eq!(
        (answer.disposition, answer.responder),
        (Undetermined, OktaAdmin)
    );
}

#[test]
fn priority_is_the_first_that_fits() {
    let check = |event_type: &str, reason: &str, expected: Priority| {
        let answer = classify(&failure(event_type, reason));
        assert_eq!(
            answer.priority, expected,
            "{event_type} {reason}: {answer:?}"
        );
    };
    check(DEACTIVATE, "Forbidden", Priority::Critical);
    check(DEACTIVATE, "", Priority::Critical);
    check(DEACTIVATE, "Bad Gateway", Priority::High);
    check(DEACTIVATE, "Not Found", Priority::High);
    check(MEMBER_REMOVE, "Unauthorized", Priority::Critical);
    check(
        "application.provision.group.remove",
        "Conflict",
        Priority::Critical,
    );
    check(PUSH, "Unauthorized", Priority::High);
    check(AUTHENTICATION, "Forbidden", Priority::High);
    check(PUSH, "Forbidden", Priority::Medium);
    check(MAPPING_DEAD, "Bad Gateway", Priority::High);
    check(MAPPING_RETRIED, "Bad Gateway", Priority::Low);
    check(PUSH, "Bad Gateway", Priority::Low);
    check(PUSH, "Conflict", Priority::Medium);
    check(PUSH, "gibberish", Priority::Medium);
    // Of an unknown type the verb tells.
    check(
        "application.provision.user.offboard.now",
        "Forbidden",
        Priority::Critical,
    );
    check(
        "application.provision.user.teleport",
        "Forbidden",
        Priority::Medium,
    );
}

#[test]
fn what_is_unknown_or_none_of_ours_is_told_apart() {
    let check = |event_type: &str, expected: (Verdict, bool, bool)| {
        let answer = classify(&failure(event_type, ""));
        assert_eq!(
            (answer.verdict, answer.known_event_type, answer.unexpected),
            expected,
            "{event_type}"
        );
    };
    check(PUSH, (Verdict::Failure, true, false));
    check(
        "application.lifecycle.update",
        (Verdict::Failure, true, true),
    );
    check(
        "application.provision.user.teleport",
        (Verdict::Failure, false, false),
    );
    check("user.session.start", (Verdict::Unrelated, false, false));
    check("", (Verdict::Unrelated, false, false));
    assert_eq!(
        classify(&failure("user.session.start", "")).disposition,
        Disposition::Informational
    );
    assert!(!classify(&failure(PUSH, "")).rule_set_version.is_empty());
}

#[test]
fn objects_are_picked_by_type_and_named_by_whatever_names_them() {
    let mut event = failure(PUSH, "");
    event.targets[2].display_name = "unknown".into();
    event.targets[2].alternate_id = "ann@example.com".into();
    let answer = classify(&event);
    assert_eq!(
        answer.application,
        Some(ObjectRef {
            id: "0oa1".into(),
            name: "Slack".into()
        })
    );
    assert_eq!(
        answer.user,
        Some(ObjectRef {
            id: "0ua1".into(),
            name: "ann@example.com".into()
        })
    );
    assert_eq!(
        answer.group,
        Some(ObjectRef {
            id: "00g1".into(),
            name: "Engineering".into()
        })
    );

    event.targets.clear();
    event
        .debug_data
        .insert("AppName".into(), "scim2headerauth".into());
    let answer = classify(&event);
    assert_eq!(
        answer.application,
        Some(ObjectRef {
            id: String::new(),
            name: "scim2headerauth".into()
        })
    );
    assert_eq!((answer.user, answer.group), (None, None));

    event.targets = vec![
        target("AppUser", "0ua1", ""),
        target("User", "00u1", "Ann Lee"),
    ];
    assert_eq!(
        classify(&event).user,
        Some(ObjectRef {
            id: "0ua1".into(),
            name: "Ann Lee".into()
        })
    );
}

#[test]
fn a_failed_group_push_is_known_by_type_mapping_or_transaction() {
    let check = |event: &ProvisioningEvent, expected: bool| {
        assert_eq!(
            classify(event).group_push_failed,
            expected,
            "{}",
            event.event_type
        );
    };
    check(&failure(MAPPING_DEAD, ""), true);
    let mut event = failure(GROUP_ADD, "Bad Gateway");
    check(&event, false);
    event.transaction.id = "gmr123".into();
    check(&event, true);
    assert_eq!(
        classify(&event).summary,
        "Okta could not create the group Engineering in Slack for a group push: the app was not reachable."
    );
    let mut event = failure(MEMBER_REMOVE, "");
    event
        .targets
        .push(target("GroupPushMapping", "gPm1", "Engineering"));
    check(&event, true);
    let mut event = failure(PUSH, "");
    event.transaction.id = "gmr123".into();
    check(&event, false);
}

#[test]
fn summaries_name_who_and_what() {
    let check =
        |event: &ProvisioningEvent, expected: &str| assert_eq!(classify(event).summary, expected);
    check(
        &failure(DEACTIVATE, "Bad Gateway"),
        "Okta could not deactivate Ann Lee in Slack: the app was not reachable.",
    );
    check(
        &failure(PUSH, "Conflict"),
        "Okta could not create Ann Lee in Slack: another account already has the user's name or address.",
    );
    check(
        &failure(PUSH, "gibberish"),
        "Okta could not create Ann Lee in Slack: the error text names no cause that is known here.",
    );
    check(
        &failure(PUSH, ""),
        "Okta could not create Ann Lee in Slack: the event does not say why.",
    );
    check(
        &failure(MEMBER_REMOVE, "Forbidden"),
        "Okta could not remove Ann Lee from the group Engineering in Slack: Okta's account lacks the rights for it in the app.",
    );
    check(
        &failure(AUTHENTICATION, "Unauthorized"),
        "Okta could not sign in to the API of Slack: the app did not accept Okta's credentials.",
    );
    check(
        &failure("application.integration.rate_limit_exceeded", ""),
        "Okta had to stop calling Slack for a while: the app limits how often it may be called.",
    );
    check(
        &failure(MAPPING_DEAD, "Linked group is missing in Slack"),
        "Okta could not push the group Engineering to Slack: the app does not know the group.",
    );
    check(
        &failure("system.import.roadblock", ""),
        "Okta stopped the import from Slack: the import safeguard was tripped.",
    );
    check(
        &failure("application.provision.user.teleport", "Conflict"),
        "Okta reported a failure of application.provision.user.teleport (Ann Lee, the group Engineering in Slack): another account already has the user's name or address.",
    );
    check(
        &failure("user.session.start", ""),
        "user.session.start is not about provisioning.",
    );

    let mut event = failure(DEACTIVATE, "Bad Gateway");
    event.targets.clear();
    check(
        &event,
        "Okta could not deactivate a user in the app: the app was not reachable.",
    );
    event.event_type = MEMBER_REMOVE.into();
    check(
        &event,
        "Okta could not remove a user from a group in the app: the app was not reachable.",
    );

    let mut event = failure(DEACTIVATE, "");
    for (result, expected) in [
        ("SUCCESS", "Okta deactivated Ann Lee in Slack."),
        (
            "SKIPPED",
            "Okta skipped a step and did not deactivate Ann Lee in Slack.",
        ),
        (
            "DEFERRED",
            "Okta put a step off and did not yet deactivate Ann Lee in Slack.",
        ),
        (
            "SCHEDULED",
            "Okta is going to deactivate Ann Lee in Slack at a time that was set.",
        ),
        (
            "CHALLENGE",
            "Okta tried to deactivate Ann Lee in Slack and did not say whether it worked.",
        ),
    ] {
        event.outcome.result = result.into();
        event.severity = "INFO".into();
        check(&event, expected);
    }
    let mut event = failure("application.provision.group_push.deactivate_mapping", "");
    event.outcome.result = "SUCCESS".into();
    check(
        &event,
        "The push mapping of the group Engineering to Slack was switched off, so changes of its members are no longer sent.",
    );
}

#[test]
fn every_type_has_sentences_for_every_outcome() {
    let reasons = [
        "",
        "gibberish",
        "Unauthorized",
        "Forbidden",
        "Not Found",
        "Conflict",
        "Bad Request",
        "Bad Gateway",
        "Read timed out",
    ];
    for known in Catalogue::embedded().event_types() {
        for result in ["FAILURE", "SUCCESS", "SKIPPED", "DEFERRED", "SCHEDULED", ""] {
            for reason in reasons {
                let mut event = failure(&known.name, reason);
                event.outcome.result = result.into();
                event.severity = "INFO".into();
                let answer = classify(&event);
                let text = format!(
                    "{} {result} {reason}: {} | {}",
                    known.name, answer.summary, answer.remediation
                );
                assert!(
                    answer.summary.ends_with('.') && !answer.summary.contains(".."),
                    "{text}"
                );
                assert!(
                    !answer.summary.contains(['{', '}'])
                        && !answer.remediation.contains(['{', '}']),
                    "{text}"
                );
                let acts = matches!(
                    answer.verdict,
                    Verdict::Failure | Verdict::Warning | Verdict::Undetermined
                );
                assert_eq!(acts, !answer.remediation.is_empty(), "{text}");
                let warns = known.failure_semantics == FailureSemantics::Warns;
                if answer.verdict == Verdict::Failure && !answer.unexpected && !warns {
                    // Only what no action describes may be left to its bare name.
                    assert!(
                        !answer.summary.starts_with("Okta reported a failure of"),
                        "{text}"
                    );
                }
            }
        }
    }
}

#[test]
fn remediation_fits_cause_resource_and_danger() {
    let check = |event_type: &str, reason: &str, expected: &str| {
        let answer = classify(&failure(event_type, reason));
        assert!(
            answer.remediation.contains(expected),
            "{event_type} {reason}: {}",
            answer.remediation
        );
    };
    check(
        DEACTIVATE,
        "Not Found",
        "Check in Slack that the account of Ann Lee is really gone",
    );
    check(
        MEMBER_REMOVE,
        "Not Found",
        "really no longer a member of the group Engineering",
    );
    check(
        "application.provision.group.remove",
        "Not Found",
        "the group Engineering is really gone",
    );
    check(DEACTIVATE, "Bad Gateway", "Until then the access stands");
    check(PUSH, "Conflict", "the username or address of Ann Lee");
    check(GROUP_ADD, "Conflict", "Link the group Engineering");
    check(
        MAPPING_DEAD,
        "Bad Gateway",
        "activate the mapping of the group Engineering again",
    );
    check(PUSH, "Unauthorized", "Test API Credentials");
    check("application.provision.user.import", "Not Found", "base URL");
}

/// A deployment's file with one rule, and more keys of it.
fn deployment(more: &str) -> String {
    format!(
        "version = 'acme-7'\n[[rule]]\nid = 'acme.vault'\nphrases = ['vault .. sealed']\nsource = 'run book'\nmatches = ['Vault is sealed']\n{more}"
    )
}

#[test]
fn a_deployments_rule_wins_over_everything() {
    let classifier = Classifier::with_rules(&deployment(
        "cause = 'REMOTE_NOT_READY'\nremediation = 'Call the vault team about {app}.'",
    ))
    .unwrap();
    let answer = classifier.classify(&failure(
        PUSH,
        "Unauthorized. Errors reported by remote server: Vault is sealed",
    ));
    assert_eq!(answer.cause, Some(Cause::RemoteNotReady));
    assert_eq!(answer.evidence.unwrap().rule, "acme.vault");
    assert_eq!(answer.remediation, "Call the vault team about Slack.");
    assert!(answer.rule_set_version.ends_with("+acme-7"));
}

#[test]
fn a_deployments_rule_can_speak_of_some_applications_types_and_statuses_alone() {
    let check = |more: &str, reason: &str, expected: bool| {
        let file = deployment(&format!("cause = 'SAFEGUARD'\n{more}"));
        let classifier = Classifier::with_rules(&file).unwrap();
        let answer = classifier.classify(&failure(PUSH, reason));
        let by = answer.evidence.map(|evidence| evidence.rule);
        assert_eq!(
            by.as_deref() == Some("acme.vault"),
            expected,
            "{more} {reason}"
        );
    };
    check("", "vault is sealed", true);
    check("applications = ['slack']", "vault is sealed", true);
    check("applications = ['0oa1']", "vault is sealed", true);
    check("applications = ['Zoom']", "vault is sealed", false);
    check(
        "event_types = ['application.provision.user.*']",
        "vault is sealed",
        true,
    );
    check(
        "event_types = ['application.provision.group.*']",
        "vault is sealed",
        false,
    );
    let of_503 = "with_status = [503]\nmatches = ['HTTP 503: vault is sealed']".to_owned();
    let file = deployment(&format!("cause = 'SAFEGUARD'\n{of_503}")).replacen(
        "matches = ['Vault is sealed']\n",
        "",
        1,
    );
    let classifier = Classifier::with_rules(&file).unwrap();
    let cause = |reason: &str| classifier.classify(&failure(PUSH, reason)).cause;
    assert_eq!(cause("HTTP 503: vault is sealed"), Some(Cause::Safeguard));
    assert_ne!(cause("HTTP 500: vault is sealed"), Some(Cause::Safeguard));
}

#[test]
fn a_deployments_rule_can_stand_in_for_a_built_in_one() {
    let classifier = Classifier::with_rules(&deployment(
        "cause = 'SAFEGUARD'\noverrides = ['text.duplicate', 'text.already']",
    ))
    .unwrap();
    let said = |classifier: &Classifier| {
        let event = failure(PUSH, "the name is already taken");
        classifier
            .classify(&event)
            .evidence
            .map(|evidence| evidence.rule)
    };
    assert_eq!(
        said(Classifier::embedded()).as_deref(),
        Some("text.duplicate")
    );
    assert_eq!(said(&classifier), None);
}

#[test]
fn what_a_deployments_rules_would_never_say_is_told() {
    let problems = |file: &str| {
        let InvalidRules(problems) = Classifier::with_rules(file)
            .err()
            .unwrap_or(InvalidRules(Vec::new()));
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let second = "cause = 'SAFEGUARD'\n[[rule]]\nid = 'acme.late'\nphrases = ['vault is sealed',\n'hatch is open']\ncause = 'TIMEOUT'\nsource = 'x'\nmatches = ['the vault is sealed']\nmisses = ['the hatch is open']\n";
    assert_eq!(
        problems(&deployment(second)),
        [
            "line 10: rule acme.late: the phrase \"vault is sealed\" contradicts acme.vault, which always speaks first and says SAFEGUARD, not TIMEOUT",
            "line 14: rule acme.late: its example \"the vault is sealed\" is decided by acme.vault (the deployment's own rule) before it",
            "line 15: rule acme.late: it matches \"the hatch is open\", which it must miss",
        ]
    );
    assert_eq!(
        problems(&deployment("cause = 'SAFEGUARD'").replace(
            "matches = ['Vault is sealed']",
            "matches = ['Vault is open']"
        )),
        ["line 6: rule acme.vault: it does not match its example \"Vault is open\""]
    );
}

#[test]
fn a_rule_for_more_applications_or_types_is_heard_where_another_is_silent() {
    let wider = "cause = 'SAFEGUARD'\napplications = ['X']\n[[rule]]\nid = 'acme.wider'\nphrases = ['vault .. sealed']\ncause = 'TIMEOUT'\napplications = ['X', 'Y']\nsource = 'x'\nmatches = ['the vault is sealed']\n";
    let classifier = Classifier::with_rules(&deployment(wider)).unwrap();
    let mut event = failure(PUSH, "vault is sealed");
    event.targets[1].display_name = "Y".into();
    assert_eq!(classifier.classify(&event).cause, Some(Cause::Timeout));
    event.targets[1].display_name = "x".into();
    assert_eq!(classifier.classify(&event).cause, Some(Cause::Safeguard));
}

#[test]
fn what_a_deployments_rule_may_say_is_bounded() {
    let check = |old: &str, new: &str, expected: &str| {
        let file = deployment("cause = 'SAFEGUARD'").replace(old, new);
        let problems = Classifier::with_rules(&file).unwrap_err().to_string();
        assert!(problems.contains(expected), "{problems}");
    };
    let long = "x".repeat(5_000);
    check(
        "'acme-7'",
        &format!("'{long}'"),
        "`version` must be one line",
    );
    check(
        "'acme.vault'",
        &format!("'{long}'"),
        "`id` must be one line",
    );
    check(
        "'vault .. sealed'",
        &format!("'{long}'"),
        "more than 4096 bytes",
    );
    check(
        "'vault .. sealed'",
        &format!("'a{}'", " .. a".repeat(8)),
        "more than 8 parts",
    );
    check(
        "version",
        &format!("words.w = ['{long}']\nversion"),
        "word of over 200 bytes",
    );
    let remedy = |text: &str| format!("source = 'x'\nremediation = '{text}'");
    check(
        "source = 'run book'",
        &remedy(&long),
        "`remediation` has more",
    );
    check(
        "source = 'run book'",
        &remedy("ask {nobody}"),
        "no other braces",
    );
    check(
        "source = 'run book'",
        &remedy("ask {app"),
        "no other braces",
    );
    check(
        "source = 'run book'",
        "source = 'x'\nwhere = ['result']",
        "compared as a whole",
    );
}

#[test]
fn explaining_a_hostile_event_is_bounded() {
    let mut event = failure(PUSH, "user not found");
    for index in 0..500 {
        let key = format!("error{}", "_".repeat(index));
        event.debug_data.insert(key, "rate limit exceeded".into());
    }
    event.legacy_event_type = format!("app.{}.rate_limit", "x".repeat(5_000));
    let said = Classifier::embedded().explain(&event);
    assert!(said.len() <= CANDIDATES_MAX);
    assert!(
        said.iter()
            .all(|said| said.text.len() <= EVIDENCE_BYTES_MAX)
    );
}

#[test]
fn a_name_is_known_among_many_targets() {
    let mut event = failure(GROUP_ADD, "Could not push Read timed out fans 7: boom");
    event.targets = (0..30)
        .map(|index| target("User", "u", &format!("A{index}")))
        .collect();
    event
        .targets
        .push(target("UserGroup", "g", "Read timed out fans 7"));
    check_event(&event, Cause::Unknown);
}

#[test]
fn a_deployments_advice_stands_also_where_something_must_be_checked() {
    let file = deployment("cause = 'TARGET_NOT_FOUND'\nremediation = 'Ask the vault team.'");
    let classifier = Classifier::with_rules(&file).unwrap();
    let answer = classifier.classify(&failure(DEACTIVATE, "vault is sealed"));
    assert_eq!(
        answer.remediation,
        "Ask the vault team. Check in Slack that the access is really gone."
    );
}

#[test]
fn hostile_texts_are_read_to_their_bounds() {
    let long = [
        "Error while creating user ",
        "404 ",
        "Errors reported by remote server: ",
        "abc ",
        "already exists ",
        "user 'x' ",
        "a@b.c ",
        "://",
        "user no already not found limit ",
        "\\u00fc",
        "ユーザー",
        "\"",
    ];
    for piece in long {
        let mut event = failure(PUSH, &piece.repeat(40_000));
        event.targets = (0..2_000)
            .map(|index| target("User", "abc", &format!("abc {index}")))
            .collect();
        classify(&event);
    }
}

proptest! {
    #[test]
    fn any_texts_are_classified(
        event_type in "(application\\.provision\\.|app\\.)?[a-z._]{0,30}|.{0,30}",
        texts in proptest::collection::vec("(Error while creating user |Errors reported by remote server: |Not Found|HTTP |404|: |[ -~äß<`'\"]{0,9}|.{0,9}){0,8}", 6),
    ) {
        let mut event = failure(&event_type, &texts[0]);
        event.outcome.result.clone_from(&texts[1]);
        event.legacy_event_type.clone_from(&texts[2]);
        event.display_message.clone_from(&texts[3]);
        event.targets[0].display_name.clone_from(&texts[4]);
        event.debug_data.insert("app_error_code".into(), texts[5].clone());
        for result in ["", "FAILURE"] {
            event.outcome.result = result.into();
            let answer = classify(&event);
            prop_assert!(!answer.summary.is_empty());
            if let Some(evidence) = answer.evidence {
                prop_assert!(evidence.text.len() <= EVIDENCE_BYTES_MAX);
            }
        }
    }
}
