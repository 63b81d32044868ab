//! Layers, names and every kind of problem of a configuration.

use std::ffi::OsString;
use std::io::Write as _;

use super::*;

fn load(
    file: &str,
    variables: &[(&str, &str)],
    flags: &[(&'static str, &str)],
) -> Result<Loaded, Vec<String>> {
    let mut at = tempfile::NamedTempFile::new().unwrap();
    at.write_all(file.as_bytes()).unwrap();
    let name = at.path().to_string_lossy().into_owned();
    let variables = variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect();
    let given = flags
        .iter()
        .map(|(path, value)| Flag {
            name: "--flag",
            path,
            value: (*value).to_owned(),
        })
        .collect();
    let flags = Flags {
        config: Some(at.path().to_owned()),
        given,
    };
    Reader::new(Sources::read(flags, variables))
        .config()
        .map_err(|InvalidConfig(problems)| {
            problems
                .iter()
                .map(|problem| problem.to_string().replace(&name, "FILE"))
                .collect()
        })
}

/// Each expected text stands in the problem of the same place, and there are no others.
fn check(file: &str, variables: &[(&str, &str)], expected: &[&str]) {
    match load(file, variables, &[]) {
        Ok(_) => assert!(expected.is_empty(), "{file}: no problem"),
        Err(problems) => {
            assert_eq!(problems.len(), expected.len(), "{file}: {problems:#?}");
            for (problem, expected) in problems.iter().zip(expected) {
                assert!(problem.contains(expected), "{problem}\nlacks {expected}");
            }
        }
    }
}

#[test]
fn with_nothing_given_the_defaults_hold() {
    let config = Config::default();
    assert_eq!(config.grpc.addr.to_string(), "127.0.0.1:50051");
    assert_eq!(config.ingest.event_bytes_max.as_usize(), 512 * 1024);
    assert_eq!(config.subscribe.stream_age_max, Duration::ZERO);
    assert_eq!(config.log.level.as_str(), "info");
    assert!(
        matches!(&config.journal, JournalConfig::Embedded { data_dir, .. } if data_dir.ends_with("data"))
    );
    assert!(config.warnings.is_empty() && config.orgs.is_empty());
}

#[test]
fn a_flag_counts_over_a_variable_over_the_file() {
    let file = "[grpc]\naddr = '127.0.0.1:1'\nconnections_max = 7\n[list]\nscan_records_max = 5";
    let variables = [
        ("PROVIDENT_GRPC_ADDR", "127.0.0.1:2"),
        ("PROVIDENT_LIST_SCAN_RECORDS_MAX", "6"),
    ];
    let loaded = load(file, &variables, &[("grpc.addr", "127.0.0.1:3")]).unwrap();
    assert_eq!(loaded.config.grpc.addr.port(), 3);
    assert_eq!(loaded.config.list.scan_records_max, 6);
    assert_eq!(loaded.config.grpc.connections_max, 7);
    let text = loaded.to_toml(false);
    for line in [
        "addr = \"127.0.0.1:3\" # --flag\n",
        "scan_records_max = 6 # PROVIDENT_LIST_SCAN_RECORDS_MAX\n",
        "reflection = true # default\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn what_is_shown_is_a_file_that_gives_the_same() {
    let file = "[journal]\ndata_dir = '/tmp/a \"b\"'\n[subscribe]\nstream_age_max = '1h 30m'\n\
                [[orgs]]\nname = 'acme.okta.com'\naliases = ['login.acme.com']\n[[orgs]]\nname = 'b.okta.com'";
    let loaded = load(file, &[], &[]).unwrap();
    assert_eq!(loaded.config.orgs.len(), 2);
    for explain in [false, true] {
        let again = load(&loaded.to_toml(explain), &[], &[]).unwrap();
        assert_eq!(again.config, loaded.config);
    }
}

#[test]
fn lengths_of_time_are_shown_as_people_write_them() {
    for text in ["0s", "250ms", "90s", "90m", "36h", "100days", "1ns"] {
        let file = format!("[retention]\nage_max = '{text}'");
        let shown = load(&file, &[], &[]).unwrap().to_toml(false);
        assert!(shown.contains(&format!("age_max = \"{text}\"")), "{shown}");
    }
}

#[test]
fn every_option_has_a_variable_of_its_own() {
    let mut names: Vec<_> = Config::keys().map(Key::variable).collect();
    names.extend(SHORT.map(|(name, _)| name.to_owned()));
    names.sort();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
    for (_, path) in SHORT {
        assert!(Config::keys().any(|key| key.path == path));
    }
}

#[test]
fn all_problems_are_told_at_once() {
    check(
        "[grpc]\naddr = 'here'\nadr = 1\n[ingest]\nkeep = 'some'\n[web]\n",
        &[
            ("PROVIDENT_GRPC_REFLECTION", "yes"),
            ("PROVIDENT_GRCP_ADDR", "x"),
        ],
        &[
            "FILE:3: grpc.adr: is not known; [grpc] has addr, ",
            "FILE:6: web: is not known; the sections are grpc, ",
            "PROVIDENT_GRCP_ADDR: is no option's variable",
            "FILE:2: grpc.addr: must be an IP address and a port",
            "PROVIDENT_GRPC_REFLECTION: grpc.reflection: must be true or false, here it is \"yes\"",
            "FILE:5: ingest.keep: must be one of provisioning, failures, all",
        ],
    );
}

#[test]
fn a_file_that_is_no_toml_says_where() {
    check("[grpc]\n\naddr = \n", &[], &["FILE:3: "]);
    let flags = Flags {
        config: Some("/no/such/file".into()),
        given: Vec::new(),
    };
    let InvalidConfig(problems) = Reader::new(Sources::read(flags, Vec::new()))
        .config()
        .unwrap_err();
    assert!(
        problems[0]
            .to_string()
            .contains("--config: can't read /no/such/file")
    );
    check("grpc = 5", &[], &["FILE:1: grpc: is a section"]);
    check("[grpc]\naddr = ['a']", &[], &["takes one value"]);
}

#[test]
fn a_value_of_the_wrong_form_says_the_right_one() {
    check(
        "[grpc]\nmessage_bytes_max = 'big'",
        &[],
        &["must be a number of bytes"],
    );
    check(
        "[grpc]\nconnections_max = 0",
        &[],
        &["must be a whole number from 1"],
    );
    check(
        "[grpc]\nconnections_max = -1",
        &[],
        &["must be a whole number from 1"],
    );
    check("[shutdown]\ndrain_timeout = 20", &[], &["with its unit"]);
    check(
        "[shutdown]\ndrain_timeout = '0s'",
        &[],
        &["longer than nothing"],
    );
    check(
        "[log]\nlevel = 'provident=loud'",
        &[],
        &["must be error, warn, info"],
    );
    check("[journal]\ndata_dir = ''", &[], &["must be a path"]);
    check("[grpc]\nconnections_max = 0x10", &[], &[]);
}

#[test]
fn limits_have_to_fit_together() {
    check(
        "[ingest]\nevent_bytes_max = '9MiB'",
        &[],
        &["is 9MiB, more than ingest.batch_bytes_max, which is 8MiB"],
    );
    check(
        "[ingest]\nqueue_bytes_max = '4MiB'",
        &[],
        &["FILE:2: ingest.batch_bytes_max: is 8MiB, more than ingest.queue_bytes_max"],
    );
    check(
        "[grpc]\nmessage_bytes_max = '5GiB'\nrequests_bytes_max = '6GiB'",
        &[],
        &["what gRPC can carry"],
    );
    check(
        "[grpc]\nmessage_bytes_max = 1",
        &[],
        &["at least 64KiB", "event_bytes_max"],
    );
    check(
        "[journal]\ngeneration_bytes_max = 1",
        &[],
        &["at least 1MiB"],
    );
    check(
        "[admin]\naddr = '127.0.0.1:50051'",
        &[],
        &["the same as grpc.addr"],
    );
    check(
        "[admin]\naddr = '127.0.0.1:0'\n[grpc]\naddr='127.0.0.1:0'",
        &[],
        &[],
    );
}

#[test]
fn beyond_loopback_plaintext_has_to_be_allowed() {
    let open = [("PROVIDENT_GRPC_ADDR", "0.0.0.0:50051")];
    check(
        "",
        &open,
        &["PROVIDENT_GRPC_ADDR: grpc.addr: 0.0.0.0:50051 can be reached"],
    );
    let allowed = load("", &[open[0], ("PROVIDENT_ALLOW_PLAINTEXT", "true")], &[]).unwrap();
    assert_eq!(allowed.config.warnings.len(), 1);
    assert!(load("", &[("PROVIDENT_GRPC_ADDR", "[::1]:1")], &[]).is_ok());
}

#[test]
fn a_journal_in_memory_has_no_directory() {
    check(
        "[journal]\nkind = 'memory'\ndata_dir = '/x'",
        &[],
        &["FILE:3: journal.data_dir: belongs to the embedded journal"],
    );
    let loaded = load(
        "[journal]\nkind = 'memory'",
        &[("PROVIDENT_DATA_DIR", "/x")],
        &[],
    )
    .unwrap();
    assert_eq!(loaded.config.journal, JournalConfig::Memory {});
    assert_eq!(loaded.config.warnings.len(), 2);
    assert!(!loaded.to_toml(false).contains("data_dir"));
}

#[test]
fn a_variable_has_one_meaning() {
    let both = |short, long| {
        [
            ("PROVIDENT_DATA_DIR", short),
            ("PROVIDENT_JOURNAL_DATA_DIR", long),
        ]
    };
    check("", &both("/a", "/a"), &[]);
    check(
        "",
        &both("/a", "/b"),
        &["is also set by PROVIDENT_DATA_DIR"],
    );
    check(
        "",
        &[
            ("PROVIDENT_PORT", "tcp://10.0.0.1:50051"),
            ("PROVIDENT_SERVER", "x"),
            ("PROVIDENT_BIN", "x"),
        ],
        &[],
    );
    check(
        "",
        &[("PROVIDENT_GRPC_ADR", "x")],
        &["there are PROVIDENT_GRPC_ADDR, "],
    );
}

#[test]
fn orgs_are_hosts_that_mean_one_org_each() {
    let of = |loaded: Loaded| loaded.config.orgs;
    let given = of(load(
        "",
        &[("PROVIDENT_ORGS", "a.okta.com=x.com+localhost, b.okta.com")],
        &[],
    )
    .unwrap());
    assert_eq!(given[0].aliases, ["x.com", "localhost"]);
    assert_eq!(given[1].name, "b.okta.com");
    check(
        "[[orgs]]\nname = 'https://a.okta.com'",
        &[],
        &["is not a host name"],
    );
    check(
        "[[orgs]]\naliases = ['a']",
        &[],
        &["FILE:1: orgs: an org needs its `name`"],
    );
    check(
        "[[orgs]]\nname='a'\naliases=['c']\n[[orgs]]\nname='b'\naliases=['C']",
        &[],
        &["C means both a and b"],
    );
    check(
        "[[orgs]]\nname='a'\nalias='b'",
        &[],
        &["FILE:3: orgs.alias: is not known"],
    );
    check(
        "[[orgs]]\nname='a'\naliases='b'",
        &[],
        &["must be a list of texts"],
    );
    check("orgs = 'a'", &[], &["write [[orgs]]"]);
}

const URL: (&str, &str) = ("PROVIDENT_OKTA_ORG_URL", "https://Acme.okta.com/");
const TOKEN: (&str, &str) = ("PROVIDENT_OKTA_API_TOKEN", "00hunter2");
const HOOK: (&str, &str) = ("PROVIDENT_HOOK_SECRET", "hunter2");

#[test]
fn short_forms_set_one_org_up() {
    let config = |file: &str, variables: &[_]| load(file, variables, &[]).unwrap().config;
    let polled = config("", &[URL, TOKEN, HOOK]);
    let [org] = &polled.orgs[..] else {
        panic!("{:?}", polled.orgs)
    };
    assert_eq!(org.name, "acme.okta.com");
    let api = org.api.as_ref().unwrap();
    assert_eq!(api.url, "https://Acme.okta.com");
    assert!(
        matches!(&api.login, LoginConfig::ApiToken(token) if *token == Secret::of_text("00hunter2"))
    );
    assert_eq!(org.hook.current, Some(Secret::of_text("hunter2")));

    let hooked = config("", &[HOOK]);
    assert!(hooked.orgs.is_empty() && hooked.hook_of_any_org.current.is_some());

    let named = config("[[orgs]]\nname = 'b.okta.com'", &[URL, TOKEN, HOOK]);
    assert!(named.warnings[0].contains("b.okta.com is polled at acme.okta.com"));
    let org = &named.orgs[0];
    assert!(org.name == "b.okta.com" && org.api.is_some() && org.hook.current.is_some());
}

#[test]
fn secrets_are_not_shown_and_not_taken_from_where_many_may_read() {
    let loaded = load("", &[URL, TOKEN, HOOK], &[]).unwrap();
    for explain in [false, true] {
        let text = loaded.to_toml(explain);
        assert!(!text.contains("hunter2"), "{text}");
        assert!(
            text.contains("# secret is set by PROVIDENT_HOOK_SECRET, and not shown\n"),
            "{text}"
        );
    }
    assert!(!format!("{loaded:?}").contains("hunter2"));
    check(
        "[hook]\nsecret = 'hunter2'",
        &[],
        &[
            "FILE:2: hook.secret: is a secret: set PROVIDENT_HOOK_SECRET, or name a file with hook.secret_file",
        ],
    );
    check("[okta]\napi_token = '00a'", &[], &["okta.api_token_file"]);
}

#[test]
fn a_way_in_says_what_it_lacks() {
    check(
        "",
        &[URL],
        &["PROVIDENT_OKTA_ORG_URL: okta.org_url: needs a login"],
    );
    check("", &[TOKEN], &["okta.org_url: is missing: a login is set"]);
    check(
        "",
        &[("PROVIDENT_OKTA_ORG_URL", "http://acme.okta.com"), TOKEN],
        &["must begin with https://"],
    );
    check(
        "",
        &[URL, ("PROVIDENT_OKTA_CLIENT_ID", "0oa1")],
        &["needs both of okta.client_id and okta.private_key_file"],
    );
    check(
        "",
        &[URL, TOKEN, ("PROVIDENT_OKTA_CLIENT_ID", "0oa1")],
        &["has two logins"],
    );
    check(
        "",
        &[URL, ("PROVIDENT_OKTA_API_TOKEN_FILE", "/no/such/token")],
        &["PROVIDENT_OKTA_API_TOKEN_FILE: okta.api_token_file: can't read /no/such/token: "],
    );
    check(
        "",
        &[HOOK, ("PROVIDENT_HOOK_SECRET_FILE", "/dev/null")],
        &["/dev/null is no file", "is set, and hook.secret too"],
    );
    check(
        "",
        &[("PROVIDENT_HOOK_PREVIOUS_SECRET", "x")],
        &["needs hook.secret beside it"],
    );
    let two = "[[orgs]]\nname = 'a.okta.com'\n[[orgs]]\nname = 'b.okta.com'";
    check(two, &[HOOK], &["there are several"]);
    check(two, &[], &[]);
    check(
        "[[orgs]]\nname = 'a.okta.com'\nhook_secret_file = '/no/such'\nurl = 'a.okta.com'",
        &[],
        &[
            "FILE:1: orgs.hook_secret_file: can't read /no/such",
            "orgs.url: must be the org's URL, such as https://acme.okta.com, here it is \"a.okta.com\"",
            "orgs.url: needs a login",
        ],
    );
    check(
        "[[orgs]]\nname = 'a.okta.com'\nurl = 7",
        &[],
        &["FILE:3: orgs.url: must be text"],
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "x").unwrap();
    let own = format!(
        "[[orgs]]\nname = 'a.okta.com'\nhook_secret_file = '{}'",
        file.path().display()
    );
    check(&own, &[HOOK], &["says what [hook] or [okta] says too"]);
    let shown = load(&own, &[], &[]).unwrap();
    let again = load(&shown.to_toml(true), &[], &[]).unwrap();
    assert_eq!(again.config, shown.config);
}

#[test]
fn limits_of_the_ways_in_are_checked() {
    check(
        "[poll]\nrate_share_percent = 101",
        &[],
        &["must be at most 100"],
    );
    check(
        "[poll]\npage_events_max = 1001",
        &[],
        &["must be at most 1000"],
    );
    for percent in [0, 101] {
        check(
            &format!("[retention]\nvolume_percent_max = {percent}"),
            &[],
            &["retention.volume_percent_max: must be "],
        );
    }
    check(
        "[retention]\ninterval = '0s'",
        &[],
        &["longer than nothing"],
    );
    check(
        "[hook]\nanswer_timeout = '0s'",
        &[],
        &["longer than nothing"],
    );
    check(
        "[hook]\nheader = 'a b'",
        &[],
        &["the name of an HTTP header"],
    );
    check(
        "[hook]\nkept_headers = 'x-a, y b'",
        &[],
        &["the name of an HTTP header"],
    );
    check(
        "[http]\naddr = '127.0.0.1:9090'",
        &[HOOK],
        &["http.addr: is the same as admin.addr"],
    );
    check("[http]\naddr = '127.0.0.1:9090'", &[], &[]);
    check(
        "[hook]\nanswer_timeout = '3s'",
        &[],
        &["shorter than the 3 s"],
    );
    check(
        "[poll]\nretry_delay_max = '0s'",
        &[],
        &["longer than nothing"],
    );
    let open = load("[http]\naddr = '0.0.0.0:8080'", &[HOOK], &[]).unwrap();
    assert_eq!(open.config.warnings.len(), 1, "{:?}", open.config.warnings);
}

#[test]
fn traces_go_to_a_collector_that_is_named_as_a_url() {
    for url in [
        "collector:4318",
        "grpc://collector:4317",
        "http://collector:4318/v1/traces",
        "http://collector:4318/?a=b",
        "https://user:key@collector",
    ] {
        let file = format!("[tracing]\nendpoint = '{url}'");
        check(&file, &[], &["must be the URL of a collector"]);
    }
    for ratio in ["-0.1", "1.5", "25%", "NaN"] {
        let ratio = ("PROVIDENT_TRACING_SAMPLE_RATIO", ratio);
        check("", &[ratio], &["must be a number from 0 to 1"]);
    }
    let file = "[tracing]\nendpoint = 'https://otel.example/intake/'\nsample_ratio = 0.05";
    let loaded = load(file, &[], &[]).unwrap();
    let tracing = &loaded.config.tracing;
    let url = tracing.endpoint.traces();
    assert_eq!(
        url.as_deref(),
        Some("https://otel.example/intake/v1/traces")
    );
    assert!((tracing.sample_ratio.get() - 0.05).abs() < f64::EPSILON);
    let again = load(&loaded.to_toml(true), &[], &[]).unwrap();
    assert_eq!(again.config, loaded.config);
    assert_eq!(Config::default().tracing.endpoint.traces(), None);
}
