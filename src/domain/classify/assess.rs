//! From the cause to its consequences: does it pass by itself, who acts, how urgent is it.
//!
//! The order of the questions is the contract's; each function is the whole of one answer.

use crate::domain::catalogue::EventType;
use crate::domain::classification::{
    Category, Cause, Classification, Disposition, FailureSemantics, Priority, Resource, Responder,
    Verdict,
};
use crate::domain::classify::Candidate;
use crate::domain::classify::verdict::Progress;
use crate::domain::event::ProvisioningEvent;

/// Whether it passes by itself, and who acts.
pub(super) fn disposition(
    cause: Cause,
    decisive: Option<&Candidate<'_>>,
    known: Option<&EventType>,
    progress: Progress,
) -> (Disposition, Responder) {
    let usual = cause.usual();
    let mut disposition = decisive
        .and_then(|candidate| candidate.disposition)
        .unwrap_or(usual.0);
    let mut responder = decisive
        .and_then(|candidate| candidate.responder)
        .unwrap_or(usual.1);
    // Of a type that only reports failures the type's word is all there is; one that reports
    // successes as well says nothing of its failures.
    let speaks = |known: &&EventType| known.failure_semantics != FailureSemantics::ByOutcome;
    if let (Cause::Unknown, Some(known)) = (cause, known.filter(speaks)) {
        disposition = known.stated_disposition().unwrap_or(disposition);
        responder = known.responder.unwrap_or(responder);
    }

    // Whether Okta tries again decides over the cause, but trying again mends no credentials,
    // rights or licences.
    let mends_itself = !matches!(
        cause,
        Cause::CredentialsInvalid
            | Cause::PermissionDenied
            | Cause::LicenseExhausted
            | Cause::LicenseConflict
    );
    let retried = match progress {
        Progress::Deferred => Some(true),
        _ => known.and_then(|known| known.retried),
    };
    match retried {
        Some(true) if mends_itself && disposition != Disposition::SelfHealing => {
            (disposition, responder) = (Disposition::SelfHealing, Responder::Nobody);
        }
        Some(false) if disposition != Disposition::Informational => {
            disposition = Disposition::ActionRequired;
        }
        _ if disposition == Disposition::SelfHealing && !mends_itself => {
            disposition = Disposition::ActionRequired;
        }
        _ => {}
    }
    // Whoever has to act can't be nobody.
    if disposition == Disposition::ActionRequired && responder == Responder::Nobody {
        responder = known
            .and_then(|known| known.responder)
            .filter(|named| *named != Responder::Nobody)
            .unwrap_or(Responder::OktaAdmin);
    }
    (disposition, responder)
}

/// The first that fits.
pub(super) fn priority(
    answer: &Classification,
    known: Option<&EventType>,
    whole_connector: bool,
) -> Priority {
    let failed = answer.verdict == Verdict::Failure;
    if answer.security_relevant {
        let may_be_gone = answer.disposition == Disposition::SelfHealing
            || answer.cause == Some(Cause::TargetNotFound);
        return if may_be_gone {
            Priority::High
        } else {
            Priority::Critical
        };
    }
    let connector_is_down = match answer.cause {
        Some(Cause::CredentialsInvalid) => true,
        // Of a single user or group only that one is denied.
        Some(Cause::PermissionDenied) => {
            whole_connector
                || matches!(
                    answer.category,
                    Category::Authentication | Category::Configuration
                )
        }
        _ => false,
    };
    // Okta sends no more changes of members for a mapping that failed for good, removals included.
    // One that was never made, or not renamed, has nothing to send that would be missed.
    let of_mapping = answer.resource == Some(Resource::GroupPushMapping)
        && known.is_some_and(|known| known.group_push_failure && known.retried != Some(true));
    let mapping_is_dead = failed && of_mapping && answer.disposition == Disposition::ActionRequired;
    if connector_is_down || mapping_is_dead {
        return Priority::High;
    }
    match answer.disposition {
        Disposition::SelfHealing | Disposition::Informational => Priority::Low,
        Disposition::ActionRequired | Disposition::Undetermined => Priority::Medium,
    }
}

/// Whether a failure is one of a group push, also where its type speaks of the group alone.
pub(super) fn concerns_group_push(event: &ProvisioningEvent, known: Option<&EventType>) -> bool {
    if known.is_some_and(|known| known.group_push_failure) {
        return true;
    }
    let of_groups = [
        "application.provision.group.",
        "application.provision.group_membership.",
    ]
    .iter()
    .any(|prefix| event.event_type.starts_with(prefix));
    of_groups
        && (event.target("GroupPushMapping").is_some() || event.transaction.id.starts_with("gmr"))
}
