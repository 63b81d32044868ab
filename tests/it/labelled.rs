//! What the built program says of labelled events: every table of `tests/labelled`, every axis.
//!
//! A table has a line of column names and a line for each event; columns are parted by ` | `. First
//! come the labels, `·` where the facts on Okta leave an axis open, then what tells the event, `-`
//! where it has no such thing. `also` holds further labels by their name in the contract; the names
//! are targets by type (`Type=display name <alternate id>`), beside `legacy=`, `transaction=`,
//! `message=` (displayMessage) and `debug.KEY=`, parted by ` ;; `. In the reason `\n` is a line's end.
//!
//! The labels were given from the facts alone, before anybody looked at what the rules say.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Map, Value, json};

use crate::harness::provident;

/// The columns that hold labels, by their name in the contract, and whether their values are
/// an enum's.
const LABELS: [(&str, bool); 9] = [
    ("verdict", true),
    ("category", true),
    ("operation", true),
    ("resource", true),
    ("cause", true),
    ("disposition", true),
    ("responder", true),
    ("priority", true),
    ("security_relevant", false),
];

struct Case {
    line: usize,
    /// Names in the contract, and values as the program writes them.
    labels: Vec<(String, Value)>,
    event: Value,
}

fn read_table(text: &str) -> Vec<Case> {
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with('#') && !line.is_empty())
        .skip(1);
    lines
        .map(|(index, line)| read_case(index + 1, line))
        .collect()
}

fn read_case(line: usize, text: &str) -> Case {
    let columns: Vec<&str> = text.splitn(15, " | ").map(str::trim).collect();
    assert_eq!(columns.len(), 15, "line {line} has too few columns");
    let yes_or_no = |text: &str| match text {
        "yes" => Value::Bool(true),
        "no" => Value::Bool(false),
        other => panic!("line {line}: {other:?} is neither yes nor no"),
    };
    let mut labels = Vec::new();
    for ((name, is_enum), label) in LABELS.iter().zip(&columns) {
        let value = match *label {
            "·" => continue,
            label if *is_enum => json!(format!("{}_{label}", name.to_ascii_uppercase())),
            label => yes_or_no(label),
        };
        labels.push(((*name).to_owned(), value));
    }
    for label in columns[9].split(' ').filter(|label| *label != "-") {
        let (name, value) = label.split_once('=').unwrap();
        // A name that there is not would count as false.
        let known = ["known_event_type", "unexpected", "group_push_failed"];
        assert!(known.contains(&name), "line {line}: {name}");
        labels.push((name.to_owned(), yes_or_no(value)));
    }
    Case {
        line,
        labels,
        event: event(&columns[10..]),
    }
}

fn event(columns: &[&str]) -> Value {
    let given = |text: &str| match text {
        "-" => Value::Null,
        text => json!(text),
    };
    let mut event = json!({
        "eventType": columns[0],
        "severity": given(columns[2]),
        "outcome": {"result": given(columns[1]), "reason": reason(columns[4])},
    });
    let (mut targets, mut debug_data) = (Vec::new(), Map::new());
    for detail in columns[3].split(" ;; ").filter(|detail| *detail != "-") {
        let (key, value) = detail.split_once('=').unwrap();
        match key {
            "legacy" => event["legacyEventType"] = json!(value),
            "transaction" => event["transaction"] = json!({"id": value, "type": "JOB"}),
            "message" => event["displayMessage"] = json!(value),
            key if key.starts_with("debug.") => {
                debug_data.insert(key["debug.".len()..].to_owned(), json!(value));
            }
            kind => targets.push(target(kind, value)),
        }
    }
    event["target"] = json!(targets);
    event["debugContext"] = json!({"debugData": debug_data});
    event
}

fn target(kind: &str, name: &str) -> Value {
    let (name, alternate) = match name.split_once(" <") {
        Some((name, alternate)) => (name, alternate.trim_end_matches('>')),
        None => (name, ""),
    };
    json!({"type": kind, "id": format!("{kind}1"), "displayName": name, "alternateId": alternate})
}

fn reason(text: &str) -> Value {
    if text == "-" {
        return Value::Null;
    }
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        plain.push(match c {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                _ => '\\',
            },
            c => c,
        });
    }
    json!(plain)
}

/// What the program answers of each event.
fn classify(cases: &[Case]) -> Vec<Value> {
    let mut child = provident()
        .args(["classify", "--output", "json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines: Vec<_> = cases.iter().map(|case| case.event.to_string()).collect();
    let events = lines.join("\n");
    let writer = std::thread::spawn(move || stdin.write_all(events.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    let answers = String::from_utf8(output.stdout).unwrap();
    answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn camel_case(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| {
        format!("{name}{}{}", part[..1].to_ascii_uppercase(), &part[1..])
    })
}

/// What is wrong with an answer, one line for each axis.
fn wrong(case: &Case, answer: &Value) -> String {
    let mut wrong = String::new();
    for (name, expected) in &case.labels {
        let said = if name == "group_push_failed" {
            json!(answer.get("groupPushFailed").is_some())
        } else {
            let said = &answer["classification"][camel_case(name)];
            if said.is_null() && expected.is_boolean() {
                json!(false)
            } else {
                said.clone()
            }
        };
        if said != *expected {
            let evidence = &answer["classification"]["evidence"];
            let _ = writeln!(
                wrong,
                "  line {}: {name} is {said}, not {expected}, by {evidence}",
                case.line
            );
        }
    }
    wrong
}

fn check(name: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/labelled")
        .join(name);
    let cases = read_table(&std::fs::read_to_string(&path).unwrap());
    assert!(cases.len() >= 100, "{name} has {} cases only", cases.len());
    let answers = classify(&cases);
    assert_eq!(answers.len(), cases.len());
    let wrong: Vec<String> = cases
        .iter()
        .zip(&answers)
        .map(|(case, answer)| wrong(case, answer))
        .filter(|wrong| !wrong.is_empty())
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {} cases of {name} are wrong:\n{}",
        wrong.len(),
        cases.len(),
        wrong.concat()
    );
}

#[test]
fn documented_error_texts_mean_what_the_facts_say() {
    check("documented.txt");
}

#[test]
fn errors_in_the_words_of_many_vendors_are_understood() {
    check("vendors.txt");
}

#[test]
fn other_languages_and_misleading_names_are_understood() {
    check("languages.txt");
}

#[test]
fn types_outcomes_and_codes_lead_to_their_axes() {
    check("axes.txt");
}

#[test]
fn cases_that_were_held_back_while_the_rules_were_written_are_understood() {
    for table in [
        "held-back-1.txt",
        "held-back-2.txt",
        "held-back-3.txt",
        "held-back-4.txt",
        "held-back-5.txt",
    ] {
        check(table);
    }
}
