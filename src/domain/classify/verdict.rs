//! Whether something failed: the event type's semantics, and Okta's outcome.
//!
//! Every value of `outcome.result` has its meaning here. A value that Okta adds later is treated
//! as if none had been sent: then severity, error text and the type's name tell, or nothing does.

use crate::domain::catalogue::EventType;
use crate::domain::classification::{FailureSemantics, Verdict};
use crate::domain::event::ProvisioningEvent;

/// How far Okta came with what the event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    Failed,
    /// Left out, and not tried again by itself.
    Skipped,
    /// Put off: Okta will come back to it.
    Deferred,
    /// To be done at a time that was set.
    Scheduled,
    /// The event doesn't say.
    Untold,
}

/// What an outcome says by itself. SIEMs write the values in lower case.
pub(super) fn progress(result: &str) -> Progress {
    const MEANINGS: &[(&str, Progress)] = &[
        ("SUCCESS", Progress::Done),
        ("ALLOW", Progress::Done),
        ("FAILURE", Progress::Failed),
        ("DENY", Progress::Failed),
        // Given up by somebody, or waited for in vain: either way it was not done.
        ("ABANDONED", Progress::Failed),
        ("UNANSWERED", Progress::Failed),
        ("RATE_LIMIT", Progress::Failed),
        ("SKIPPED", Progress::Skipped),
        ("DEFERRED", Progress::Deferred),
        ("SCHEDULED", Progress::Scheduled),
        // A challenge was put; another event tells how it ended.
        ("CHALLENGE", Progress::Untold),
        ("UNKNOWN", Progress::Untold),
    ];
    let result = result.trim();
    MEANINGS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(result))
        .map_or(Progress::Untold, |&(_, meaning)| meaning)
}

/// What else an event without a telling outcome has to go by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hints {
    /// The rules say that the type means failure when Okta sends no outcome.
    pub(super) failure_without_outcome: bool,
    /// The error text, or the old name, names a cause.
    pub(super) cause_named: bool,
}

/// The verdict on an event of the catalogue or of one of its families, and how far Okta came.
pub(super) fn judge(
    event: &ProvisioningEvent,
    known: Option<&EventType>,
    hints: impl FnOnce() -> Hints,
) -> (Verdict, Progress) {
    let progress = progress(&event.outcome.result);
    match (known.map(|known| known.failure_semantics), progress) {
        // Okta marks even sure failures with SUCCESS now and then.
        (Some(FailureSemantics::Always), _) => (Verdict::Failure, Progress::Failed),
        // What was left out is no failed attempt, even where Okta says FAILURE of it.
        (Some(FailureSemantics::Warns), _) => (Verdict::Warning, Progress::Done),
        (_, Progress::Failed) => (Verdict::Failure, progress),
        (Some(FailureSemantics::Never), Progress::Scheduled)
        | (_, Progress::Done | Progress::Scheduled) => (Verdict::Success, progress),
        (Some(FailureSemantics::Never), _) => (Verdict::Success, Progress::Done),
        (_, Progress::Skipped | Progress::Deferred) => (Verdict::Warning, progress),
        (_, Progress::Untold) => judge_untold(event, known.is_some(), hints()),
    }
}

fn judge_untold(event: &ProvisioningEvent, is_known: bool, hints: Hints) -> (Verdict, Progress) {
    const FAILURE: (Verdict, Progress) = (Verdict::Failure, Progress::Failed);
    let bad = ["WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"];
    if bad
        .iter()
        .any(|name| name.eq_ignore_ascii_case(event.severity.trim()))
        || hints.failure_without_outcome
        || hints.cause_named
    {
        return FAILURE;
    }
    // The name of an unknown type is all there is; a known one's was read when the catalogue was
    // written. The old name is finer than either.
    let names = [
        event.legacy_event_type.as_str(),
        if is_known {
            ""
        } else {
            event.event_type.as_str()
        },
    ];
    for name in names {
        if has_word(name, &["error", "failed", "failure", "fail", "exception"]) {
            return FAILURE;
        }
        if has_word(name, &["success", "successful", "succeeded"]) {
            return (Verdict::Success, Progress::Done);
        }
    }
    (Verdict::Undetermined, Progress::Untold)
}

/// Whether a type without a catalogue entry takes access away, by the verbs in its name. Better
/// to sound the alarm for too many than to miss one.
pub(super) fn name_removes_access(event_type: &str) -> bool {
    const VERBS: &[&str] = &[
        "deactivate",
        "deprovision",
        "delete",
        "remove",
        "revoke",
        "suspend",
        "unassign",
        "disable",
        "offboard",
    ];
    has_word(event_type, VERBS)
}

fn has_word(name: &str, words: &[&str]) -> bool {
    name.split(['.', '_', '-'])
        .any(|part| words.contains(&part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::catalogue::Catalogue;

    const ALWAYS: &str = "application.provision.group.add";
    const BY_OUTCOME: &str = "application.provision.user.push";
    const WARNS: &str = "application.provision.group_push.deactivate_mapping";
    const NEVER: &str = "application.lifecycle.update";
    const UNKNOWN: &str = "application.provision.user.teleport";

    fn event(event_type: &str, result: &str, severity: &str) -> ProvisioningEvent {
        let mut event = ProvisioningEvent {
            event_type: event_type.into(),
            severity: severity.into(),
            ..Default::default()
        };
        event.outcome.result = result.into();
        event
    }

    fn check(event: &ProvisioningEvent, expected: Verdict) {
        let known = Catalogue::embedded().event_type(&event.event_type);
        let (verdict, _) = judge(event, known, Hints::default);
        assert_eq!(
            verdict, expected,
            "{} {:?} {}",
            event.event_type, event.outcome, event.severity
        );
    }

    #[test]
    fn each_outcome_has_its_verdict() {
        use Verdict::{Failure, Success, Undetermined, Warning};
        for (result, always, by_outcome, warns, never) in [
            ("SUCCESS", Failure, Success, Warning, Success),
            ("ALLOW", Failure, Success, Warning, Success),
            ("FAILURE", Failure, Failure, Warning, Failure),
            ("failure", Failure, Failure, Warning, Failure),
            ("DENY", Failure, Failure, Warning, Failure),
            ("ABANDONED", Failure, Failure, Warning, Failure),
            ("UNANSWERED", Failure, Failure, Warning, Failure),
            ("RATE_LIMIT", Failure, Failure, Warning, Failure),
            ("SKIPPED", Failure, Warning, Warning, Success),
            ("DEFERRED", Failure, Warning, Warning, Success),
            ("SCHEDULED", Failure, Success, Warning, Success),
            ("CHALLENGE", Failure, Undetermined, Warning, Success),
            ("UNKNOWN", Failure, Undetermined, Warning, Success),
            ("", Failure, Undetermined, Warning, Success),
            ("SOMETHING_NEW", Failure, Undetermined, Warning, Success),
        ] {
            check(&event(ALWAYS, result, "INFO"), always);
            check(&event(BY_OUTCOME, result, "INFO"), by_outcome);
            check(&event(UNKNOWN, result, "INFO"), by_outcome);
            check(&event(WARNS, result, "INFO"), warns);
            check(&event(NEVER, result, "INFO"), never);
        }
    }

    #[test]
    fn without_an_outcome_severity_text_and_names_tell() {
        check(&event(BY_OUTCOME, "", "WARN"), Verdict::Failure);
        check(&event(BY_OUTCOME, "UNKNOWN", "ERROR"), Verdict::Failure);
        check(&event(BY_OUTCOME, "SUCCESS", "ERROR"), Verdict::Success);
        check(&event(BY_OUTCOME, "", "DEBUG"), Verdict::Undetermined);
        check(
            &event("application.provision.user.teleport.failed", "", ""),
            Verdict::Failure,
        );

        let mut old = event(BY_OUTCOME, "", "INFO");
        old.legacy_event_type = "app.api.error.create_user".into();
        check(&old, Verdict::Failure);
        old.legacy_event_type = "app.user_management.push_profile_success".into();
        check(&old, Verdict::Success);

        let hints = || Hints {
            cause_named: true,
            ..Hints::default()
        };
        assert_eq!(
            judge(&event(BY_OUTCOME, "", ""), None, hints).0,
            Verdict::Failure
        );
    }

    #[test]
    fn the_verb_of_an_unknown_type_tells_whether_it_removes_access() {
        assert!(name_removes_access("application.provision.user.offboard"));
        assert!(name_removes_access(
            "application.provision.user.remove_roles"
        ));
        assert!(!name_removes_access(
            "application.provision.user.removed_badge_shown"
        ));
        assert!(!name_removes_access("application.provision.user.push"));
    }
}
