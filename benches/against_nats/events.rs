//! System Log events as a busy org would send them, made up; and the records they are stored as.
//!
//! Each has its own uuid, ids and time; types, outcomes and wording vary. About 1.3 KiB of JSON.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use provident::domain::classify::Classifier;
use provident::domain::event::{Intake, Timestamp};
use provident::engine::intake::{Input, Keep, Preparation};
use provident::okta::org::Orgs;
use provident::wire::record::AppendTime;

/// How many different records the peer is given, over and over.
const RECORDS: usize = 4096;

/// Type, legacy type, sentence, severity, result, reason.
const KINDS: [[&str; 6]; 8] = [
    [
        "application.provision.user.push",
        "app.api.error.create_user",
        "Push new user to external application",
        "WARN",
        "FAILURE",
        "Error while creating user: Conflict. Errors reported by remote server: User already exists",
    ],
    [
        "application.provision.user.push_profile",
        "app.user_management.push_profile_success",
        "Push user's profile to external application",
        "INFO",
        "SUCCESS",
        "",
    ],
    [
        "application.provision.group_membership.add",
        "app.api.error.add_user_to_group",
        "Add user to group in external application",
        "WARN",
        "FAILURE",
        "Unable to update Group Push mapping target App group: Error while updating membership: Not Found. Errors reported by remote server: Resource not found",
    ],
    [
        "application.provision.group_push.mapping.update.or.delete.failed.with.error",
        "",
        "Group Push mapping update or delete failed with an error",
        "ERROR",
        "FAILURE",
        "Unable to update Group Push mapping target App group: Forbidden. Errors reported by remote server: Insufficient permissions",
    ],
    [
        "application.provision.user.deactivate",
        "app.api.error.deactivate_user",
        "Deactivate user in external application",
        "WARN",
        "FAILURE",
        "Error while deactivating user: Service Unavailable. Errors reported by remote server: Try again later",
    ],
    [
        "application.integration.rate_limit_exceeded",
        "app.api.error.rate_limit_exceeded",
        "Rate limit exceeded in external application",
        "WARN",
        "FAILURE",
        "Too many requests: 429, retry after 30 seconds",
    ],
    [
        "application.provision.user.sync",
        "app.user_management.user_sync",
        "Sync user in external application",
        "INFO",
        "SUCCESS",
        "",
    ],
    [
        "application.provision.user.import_profile",
        "app.api.error.import_user_profile",
        "Import user profile from external application",
        "WARN",
        "FAILURE",
        "Error while downloading user: read timed out after 60000 ms",
    ],
];

const APPLICATIONS: [&str; 6] = [
    "Salesforce",
    "Slack",
    "Zoom",
    "Google Workspace",
    "Workday",
    "GitHub Enterprise Cloud - Organization",
];

/// Makes events, none like another.
#[derive(Debug)]
pub(crate) struct Events {
    state: u64,
    made: usize,
}

impl Events {
    /// Starts at a random place, so no two makers repeat each other.
    pub(crate) fn new() -> Self {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        Self {
            state: high ^ low,
            made: usize::try_from(low % 64).unwrap_or_default(),
        }
    }

    /// The next event's JSON.
    pub(crate) fn next_json(&mut self) -> Bytes {
        let mut json = String::with_capacity(1536);
        self.write(&mut json)
            .expect("writing to a string never fails");
        json.into()
    }

    fn write(&mut self, out: &mut String) -> std::fmt::Result {
        let place = self.made;
        self.made += 1;
        let [kind, legacy, sentence, severity, result, reason] = KINDS[place % KINDS.len()];
        let application = APPLICATIONS[place / KINDS.len() % APPLICATIONS.len()];
        let (user, number) = (self.random() % 90_000, self.random());
        let millis = number % 86_400_000;
        write!(
            out,
            r#"{{"actor":{{"id":"00u{:017x}","type":"User","alternateId":"provisioning-{}@acme.example","displayName":"Provisioning Service {}","detailEntry":null}},"#,
            self.random() >> 8,
            user % 7,
            user % 7
        )?;
        write!(
            out,
            r#""client":{{"userAgent":null,"zone":null,"device":null,"ipAddress":"203.0.113.{}"}},"authenticationContext":{{"authenticationStep":0,"externalSessionId":"trs{:016x}"}},"#,
            number % 250,
            self.random()
        )?;
        write!(
            out,
            r#""displayMessage":"{sentence}","eventType":"{kind}","outcome":{{"result":"{result}","reason":"{reason}"}},"published":"2026-10-{:02}T{:02}:{:02}:{:02}.{:03}Z","#,
            1 + number / 86_400_000 % 28,
            millis / 3_600_000,
            millis / 60_000 % 60,
            millis / 1000 % 60,
            millis % 1000
        )?;
        write!(
            out,
            r#""securityContext":{{"asNumber":null,"asOrg":null,"isp":null,"domain":null,"isProxy":null}},"severity":"{severity}","debugContext":{{"debugData":{{"appname":"{application}","requestId":"{:016x}{:08x}","traceId":"{:016x}"}}}},"legacyEventType":"{legacy}","transaction":{{"type":"JOB","id":"cpb{:017x}","detail":{{}}}},"#,
            self.random(),
            number >> 32,
            self.random(),
            self.random() >> 8
        )?;
        let (high, low) = (self.random(), self.random());
        write!(
            out,
            r#""uuid":"{:08x}-{:04x}-11f0-{:04x}-{:012x}","version":"0","request":{{"ipChain":[]}},"target":["#,
            high >> 32,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )?;
        write!(
            out,
            r#"{{"id":"0ua{:017x}","type":"AppUser","alternateId":"user{user}@acme.example","displayName":"User Number {user}","detailEntry":null}},"#,
            self.random() >> 8
        )?;
        write!(
            out,
            r#"{{"id":"0oa1b2c3d4e5f6g7h{:03}","type":"AppInstance","alternateId":"{application}","displayName":"{application}","detailEntry":null}}"#,
            place / KINDS.len() % APPLICATIONS.len()
        )?;
        if kind.contains("group") {
            write!(
                out,
                r#",{{"id":"00g{:017x}","type":"UserGroup","alternateId":"unknown","displayName":"Team {}","detailEntry":null}}"#,
                self.random() >> 8,
                user % 900
            )?;
        }
        out.push_str("]}");
        Ok(())
    }

    /// The next number of `SplitMix64`.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Records as the journal stores them, to be given to the peer.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) stored: Arc<[Bytes]>,
    pub(crate) stored_bytes: usize,
    pub(crate) json_bytes: usize,
}

/// Makes them by the way that events take in the service.
pub(crate) fn records() -> anyhow::Result<Records> {
    let preparation = Preparation {
        classifier: Classifier::embedded(),
        orgs: Orgs::default(),
        keep: Keep::Provisioning,
        event_bytes_max: 512 * 1024,
    };
    let now = Timestamp {
        seconds: 1_790_000_000,
        nanos: 123_456_789,
    };
    let call = preparation.orgs.of_call("acme.okta.com")?;
    let mut events = Events::new();
    let (mut stored, mut json_bytes) = (Vec::new(), 0);
    for _ in 0..RECORDS {
        let json = events.next_json();
        json_bytes += json.len();
        let taken = preparation.prepare(&call, vec![Input::Json(json)], Intake::Grpc, 1, now);
        let kept = taken?.pop().context("one event in, one out")?.outcome?;
        let prepared = kept.prepared.context("the event is not kept")?;
        stored.push(prepared.draft.seal(AppendTime::from_timestamp(now)));
    }
    Ok(Records {
        stored_bytes: stored.iter().map(Bytes::len).sum::<usize>() / RECORDS,
        json_bytes: json_bytes / RECORDS,
        stored: stored.into(),
    })
}
