//! What Provident says of an event: the axes, their values, and the whole answer.
//!
//! The values' names are the contract's (`proto/provident/v1`), without their prefixes. Each
//! axis knows its names, so data files and the command line spell them in one way.

use std::fmt;
use std::str::FromStr;

/// A name that no value of an axis has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {axis} {name:?}, known are {known}")]
pub struct UnknownName {
    pub axis: &'static str,
    pub name: String,
    pub known: String,
}

/// Defines an axis: an enum whose values have one upper-case name each, and whose numbers are
/// the contract's (0 is never used: there it means "unspecified").
macro_rules! axis {
    ($(#[$meta:meta])* $axis:ident { $($(#[$doc:meta])* $value:ident = $number:literal $name:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $axis { $($(#[$doc])* $value = $number,)* }

        impl $axis {
            pub const ALL: &[Self] = &[$(Self::$value,)*];

            /// The value's upper-case name, as in the contract without its prefix.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$value => $name,)* }
            }

            /// The number of the contract's enum value.
            pub const fn number(self) -> u8 {
                self as u8
            }

            /// The value with that number of the contract.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$value),)* _ => None }
            }
        }

        impl fmt::Display for $axis {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $axis {
            type Err = UnknownName;

            /// Reads a name without regard to case; `-` stands for `_`.
            fn from_str(text: &str) -> Result<Self, UnknownName> {
                let name = text.to_ascii_uppercase().replace('-', "_");
                Self::ALL.iter().copied().find(|value| value.name() == name).ok_or_else(|| UnknownName {
                    axis: stringify!($axis),
                    name: text.to_owned(),
                    known: Self::ALL.iter().map(|value| value.name()).collect::<Vec<_>>().join(", "),
                })
            }
        }

        impl<'de> serde::Deserialize<'de> for $axis {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                name.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

axis! {
    /// Whether something failed.
    Verdict {
        Failure = 1 "FAILURE",
        Warning = 2 "WARNING",
        Success = 3 "SUCCESS",
        /// A type of the provisioning families whose outcome can't be told.
        Undetermined = 4 "UNDETERMINED",
        /// Neither in the catalogue nor of its families.
        Unrelated = 5 "UNRELATED",
    }
}

axis! {
    /// Which part of provisioning an event type is about.
    Category {
        Configuration = 1 "CONFIGURATION",
        Authentication = 2 "AUTHENTICATION",
        RateLimit = 3 "RATE_LIMIT",
        General = 4 "GENERAL",
        Group = 5 "GROUP",
        GroupMembership = 6 "GROUP_MEMBERSHIP",
        GroupPush = 7 "GROUP_PUSH",
        User = 8 "USER",
        Import = 9 "IMPORT",
        Other = 10 "OTHER",
    }
}

axis! {
    /// What Okta was doing.
    Operation {
        Create = 1 "CREATE",
        Update = 2 "UPDATE",
        Delete = 3 "DELETE",
        Add = 4 "ADD",
        Remove = 5 "REMOVE",
        Import = 6 "IMPORT",
        Verify = 7 "VERIFY",
        Activate = 8 "ACTIVATE",
        Deactivate = 9 "DEACTIVATE",
        Reactivate = 10 "REACTIVATE",
        Push = 11 "PUSH",
        Sync = 12 "SYNC",
        Configure = 13 "CONFIGURE",
        Call = 14 "CALL",
        Transfer = 15 "TRANSFER",
    }
}

axis! {
    /// What it was done to.
    Resource {
        Application = 1 "APPLICATION",
        Schema = 2 "SCHEMA",
        Credentials = 3 "CREDENTIALS",
        Api = 4 "API",
        User = 5 "USER",
        Profile = 6 "PROFILE",
        Password = 7 "PASSWORD",
        Group = 8 "GROUP",
        Membership = 9 "MEMBERSHIP",
        GroupPushMapping = 10 "GROUP_PUSH_MAPPING",
        Entitlement = 11 "ENTITLEMENT",
        File = 12 "FILE",
    }
}

axis! {
    /// Why it failed.
    Cause {
        RateLimited = 1 "RATE_LIMITED",
        CredentialsInvalid = 2 "CREDENTIALS_INVALID",
        PermissionDenied = 3 "PERMISSION_DENIED",
        TargetNotFound = 4 "TARGET_NOT_FOUND",
        /// More than one user or group was found.
        AmbiguousMatch = 5 "AMBIGUOUS_MATCH",
        Duplicate = 6 "DUPLICATE",
        LicenseExhausted = 7 "LICENSE_EXHAUSTED",
        LicenseConflict = 8 "LICENSE_CONFLICT",
        InvalidData = 9 "INVALID_DATA",
        /// Another system is the master.
        ImmutableData = 10 "IMMUTABLE_DATA",
        SchemaConflict = 11 "SCHEMA_CONFLICT",
        Misconfigured = 12 "MISCONFIGURED",
        Unsupported = 13 "UNSUPPORTED",
        /// An answer that is not the API's: HTML, empty, unparsable.
        ProtocolError = 14 "PROTOCOL_ERROR",
        /// 502, 503, 504, connection refused.
        RemoteUnavailable = 15 "REMOTE_UNAVAILABLE",
        /// 500.
        RemoteError = 16 "REMOTE_ERROR",
        /// Directory sync pending and the like.
        RemoteNotReady = 17 "REMOTE_NOT_READY",
        Timeout = 18 "TIMEOUT",
        Safeguard = 19 "SAFEGUARD",
        PartialPush = 20 "PARTIAL_PUSH",
        Unknown = 21 "UNKNOWN",
    }
}

axis! {
    /// Whether it passes by itself.
    Disposition {
        /// Okta or the app retries; nobody acts unless it lasts.
        SelfHealing = 1 "SELF_HEALING",
        ActionRequired = 2 "ACTION_REQUIRED",
        Informational = 3 "INFORMATIONAL",
        Undetermined = 4 "UNDETERMINED",
    }
}

axis! {
    /// Who has to act.
    Responder {
        Nobody = 1 "NOBODY",
        OktaAdmin = 2 "OKTA_ADMIN",
        AppOwner = 3 "APP_OWNER",
        AppVendor = 4 "APP_VENDOR",
        Network = 5 "NETWORK",
    }
}

axis! {
    /// How urgent it is; values compare.
    Priority {
        Low = 1 "LOW",
        Medium = 2 "MEDIUM",
        High = 3 "HIGH",
        Critical = 4 "CRITICAL",
    }
}

axis! {
    /// How an event type tells failure from success.
    FailureSemantics {
        /// The type itself means failure.
        Always = 1 "ALWAYS",
        /// Success and failure share the type; the outcome tells.
        ByOutcome = 2 "BY_OUTCOME",
        /// The type means that something was left out or switched off.
        Warns = 3 "WARNS",
        /// Administrative; never a failure of itself.
        Never = 4 "NEVER",
    }
}

axis! {
    /// Where Okta documents an event type.
    DocumentedIn {
        ErrorEventTable = 1 "ERROR_EVENT_TABLE",
        ApplicationLists = 2 "APPLICATION_LISTS",
        GroupPushFailedCard = 3 "GROUP_PUSH_FAILED_CARD",
        EventCatalogue = 4 "EVENT_CATALOGUE",
    }
}

impl Cause {
    /// What the cause usually means: whether it passes by itself, and who acts.
    pub const fn usual(self) -> (Disposition, Responder) {
        use Disposition::{ActionRequired, SelfHealing};
        match self {
            Self::RateLimited | Self::RemoteUnavailable | Self::RemoteError | Self::Timeout => {
                (SelfHealing, Responder::Nobody)
            }
            Self::RemoteNotReady => (SelfHealing, Responder::AppOwner),
            Self::CredentialsInvalid
            | Self::InvalidData
            | Self::ImmutableData
            | Self::SchemaConflict
            | Self::Misconfigured
            | Self::Safeguard
            | Self::PartialPush
            | Self::TargetNotFound
            | Self::AmbiguousMatch
            | Self::Duplicate => (ActionRequired, Responder::OktaAdmin),
            Self::PermissionDenied | Self::LicenseExhausted | Self::LicenseConflict => {
                (ActionRequired, Responder::AppOwner)
            }
            Self::Unsupported | Self::ProtocolError => (ActionRequired, Responder::AppVendor),
            Self::Unknown => (Disposition::Undetermined, Responder::OktaAdmin),
        }
    }
}

/// A thing that an event is about. Either part may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectRef {
    pub id: String,
    pub name: String,
}

/// What decided the cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Id of the rule that spoke.
    pub rule: String,
    /// The event's field it read, as a System Log path (`outcome.reason`).
    pub field: String,
    /// The words it decided by, quoted from that field.
    pub text: String,
}

/// All that Provident says of one event.
#[expect(
    clippy::struct_excessive_bools,
    reason = "four facts that have nothing to do with each other"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classification {
    pub verdict: Verdict,
    pub category: Category,
    /// `None` where the type is unknown and its family names none.
    pub operation: Option<Operation>,
    pub resource: Option<Resource>,
    /// `None` unless something failed or warns.
    pub cause: Option<Cause>,
    pub disposition: Disposition,
    pub responder: Responder,
    pub priority: Priority,
    /// A removal of access failed.
    pub security_relevant: bool,
    /// One sentence that names the application, the user or the group.
    pub summary: String,
    /// What to do, one to three sentences; empty where nothing is to be done.
    pub remediation: String,
    pub application: Option<ObjectRef>,
    pub user: Option<ObjectRef>,
    pub group: Option<ObjectRef>,
    pub evidence: Option<Evidence>,
    pub rule_set_version: String,
    /// The catalogue has the type.
    pub known_event_type: bool,
    /// A failure of a type that never fails.
    pub unexpected: bool,
    /// The event is a failure of a group push: the card's payload goes with it.
    pub group_push_failed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back_to_their_value() {
        for cause in Cause::ALL {
            assert_eq!(cause.name().parse(), Ok(*cause));
            assert_eq!(Cause::from_number(cause.number()), Some(*cause));
        }
        assert_eq!("rate-limited".parse(), Ok(Cause::RateLimited));
        assert_eq!(Cause::from_number(0), None);
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = "HIGHEST".parse::<Priority>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown Priority \"HIGHEST\", known are LOW, MEDIUM, HIGH, CRITICAL"
        );
    }
}
