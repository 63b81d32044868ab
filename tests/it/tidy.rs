//! The sources keep the rules that no other tool checks: which module may name which, what the
//! domain may not know, a head on every file, nothing left over.
//!
//! Reads the files as text. That can be fooled on purpose; it is there for slips.

use std::path::{Path, PathBuf};

/// The modules by layer: each may name those of the layers before, and itself.
const LAYERS: [&[&str]; 7] = [
    &["domain"],
    &["okta", "wire", "journal"],
    &["engine"],
    &["grpc", "http"],
    &["server"],
    &["cli"],
    &["main"],
];

/// Name nothing of ours; all but `domain` may name them.
const FREE: [&str; 3] = ["config", "telemetry", "shutdown"];

/// What the domain must not know: I/O, time, tasks, gRPC, storage.
const NOT_IN_DOMAIN: [&str; 22] = [
    "tokio",
    "tonic",
    "tonic_types",
    "prost",
    "prost_types",
    "fjall",
    "jiff",
    "axum",
    "tower",
    "rustix",
    "figment",
    "tracing",
    "metrics",
    "futures_util",
    "std::fs",
    "std::net",
    "std::io",
    "std::env",
    "std::thread",
    "std::process",
    "std::time::SystemTime",
    "std::time::Instant",
];

/// Modules that see the generated types, beside the client command.
const SEES_TYPES: [&str; 4] = ["wire", "grpc", "client", "cli"];

/// A source file: its path from the root, and its text.
struct Source {
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(below: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(below)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(Source {
                    path: relative(&path),
                    text: std::fs::read_to_string(&path).unwrap(),
                });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn relative(path: &Path) -> String {
    let below = path.strip_prefix(root()).unwrap();
    below.to_string_lossy().replace('\\', "/")
}

/// The crate's module that a file below `src/` belongs to.
fn module(path: &str) -> &str {
    let below = path.strip_prefix("src/").unwrap();
    below.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The line without its comment, and without what stands in quotes.
fn code(line: &str) -> String {
    let mut code = String::new();
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted => {
                characters.next();
            }
            '"' => quoted = !quoted,
            '/' if !quoted && characters.peek() == Some(&'/') => break,
            _ if !quoted => code.push(character),
            _ => {}
        }
    }
    code
}

/// The modules of ours that a line names: `crate::a`, `crate::{a, b}`, `provident::a`.
fn named_modules(code: &str) -> Vec<String> {
    let mut named = Vec::new();
    for prefix in ["crate::", "provident::"] {
        let mut rest = code;
        while let Some(at) = rest.find(prefix) {
            let before = rest[..at].chars().next_back();
            let is_path = !before.is_some_and(|before| before.is_alphanumeric() || before == '_');
            rest = &rest[at + prefix.len()..];
            if !is_path {
                continue;
            }
            let names = match rest.strip_prefix('{') {
                // A group of modules: only its outer names.
                Some(group) => outer_names(group),
                None => vec![first_name(rest)],
            };
            named.extend(names);
        }
    }
    named
}

fn first_name(text: &str) -> String {
    text.chars()
        .take_while(|character| character.is_alphanumeric() || *character == '_')
        .collect()
}

fn outer_names(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = vec![String::new()];
    for character in group.chars() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(String::new()),
            _ if depth == 0 => names.last_mut().unwrap().push(character),
            _ => {}
        }
    }
    names
        .iter()
        .map(|name| first_name(name.trim()))
        .filter(|name| !name.is_empty())
        .collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Whether code of module `from` may name module `to`.
fn may_name(from: &str, to: &str) -> bool {
    if from == to {
        return true;
    }
    if FREE.contains(&to) {
        return from != "domain" && !FREE.contains(&from);
    }
    match from {
        // The client that others use knows the wire alone; the command line may use it.
        "client" => to == "wire",
        _ if FREE.contains(&from) => false,
        _ if to == "client" => matches!(from, "cli" | "main"),
        _ => match (layer(from), layer(to)) {
            (Some(from), Some(to)) => to < from,
            // A module that the tree does not name: give it a place here first.
            _ => false,
        },
    }
}

/// Looks at every line of code of `src/`; `problem` says what is wrong with it, if anything.
fn check_code(mut problem: impl FnMut(&str, &str) -> Option<String>) {
    let mut problems = Vec::new();
    for source in sources("src") {
        for (line, number) in source.text.lines().zip(1..) {
            if let Some(problem) = problem(&source.path, &code(line)) {
                problems.push(format!("{}:{number}: {problem}", source.path));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn modules_name_only_those_below_them() {
    check_code(|path, code| {
        let from = module(path);
        if from == "lib" {
            return None;
        }
        let wrong: Vec<_> = named_modules(code)
            .into_iter()
            .filter(|to| {
                let ours = layer(to).is_some() || FREE.contains(&to.as_str()) || to == "client";
                ours && !may_name(from, to)
            })
            .collect();
        (!wrong.is_empty()).then(|| format!("`{from}` names {wrong:?}"))
    });
}

#[test]
fn every_module_has_a_place_in_the_order() {
    for source in sources("src") {
        let module = module(&source.path);
        let known = layer(module).is_some()
            || FREE.contains(&module)
            || ["lib", "client"].contains(&module);
        assert!(known, "{}: `{module}` has no place in LAYERS", source.path);
    }
}

#[test]
fn the_domain_knows_no_io_no_time_and_no_transport() {
    check_code(|path, code| {
        let known = NOT_IN_DOMAIN.iter().find(|name| {
            code.match_indices(**name).any(|(at, _)| {
                let apart = |character: Option<char>| {
                    !character.is_some_and(|c| c.is_alphanumeric() || c == '_')
                };
                let after = &code[at + name.len()..];
                let is_path = after.starts_with("::") || name.contains("::");
                apart(code[..at].chars().next_back()) && apart(after.chars().next()) && is_path
            })
        });
        (module(path) == "domain")
            .then_some(known)?
            .map(|name| format!("`domain` knows `{name}`"))
    });
}

#[test]
fn only_the_edges_see_generated_types() {
    check_code(|path, code| {
        let sees = ["wire::v1", "v1::"].iter().any(|name| code.contains(name));
        (sees && !SEES_TYPES.contains(&module(path)))
            .then(|| "names a generated type; `wire` gives bytes and domain values".to_owned())
    });
}

#[test]
fn only_the_server_knows_which_journal_runs() {
    check_code(|path, code| {
        let names = ["journal::embedded", "EmbeddedJournal", "JetStreamJournal"]
            .iter()
            .any(|name| code.contains(name));
        (names && !["journal", "server"].contains(&module(path)))
            .then(|| "knows which journal runs".to_owned())
    });
}

#[test]
fn nobody_reaches_over_two_levels() {
    check_code(|_, code| {
        let reach = ["super", "super"].join("::");
        code.contains(&reach).then(|| format!("`{reach}`"))
    });
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let mut without = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for source in sources(folder) {
            if !source.text.starts_with("//!") {
                without.push(source.path);
            }
        }
    }
    assert!(without.is_empty(), "no `//!` at the top of {without:?}");
}

/// The files that belong to the project: what git would take, or all where there is no git.
fn tracked() -> Vec<PathBuf> {
    let output = std::process::Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output()
        .expect("git, by which the sources came here");
    assert!(output.status.success(), "this is no git clone: {output:?}");
    let names = String::from_utf8(output.stdout).unwrap();
    let files: Vec<_> = names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .collect();
    assert!(files.len() > 20, "{files:?}");
    files
}

#[test]
fn nothing_is_left_over_and_no_machine_is_named() {
    // Put together here, so that this file does not hold what it looks for.
    let left_over = ["TO", "FIX", "XX"].map(|word| {
        let end = if word == "TO" {
            "DO"
        } else if word == "FIX" {
            "ME"
        } else {
            "X"
        };
        format!("{word}{end}")
    });
    let places = ["work", "root", "home", "Users"].map(|place| format!("/{place}/"));
    let mut problems = Vec::new();
    for file in tracked() {
        let path = root().join(&file);
        // Deleted and not committed yet, or no text.
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        for (line, number) in text.lines().zip(1..) {
            let word = left_over.iter().find(|word| {
                line.split(|c: char| !c.is_alphanumeric())
                    .any(|found| found == word.as_str())
            });
            let place = places.iter().find(|place| {
                line.match_indices(place.as_str()).any(|(at, _)| {
                    // The beginning of a path, not a part of a longer one or of an address.
                    !line[..at]
                        .chars()
                        .next_back()
                        .is_some_and(|before| before.is_alphanumeric() || "_.-}$".contains(before))
                })
            });
            for found in [word, place].into_iter().flatten() {
                problems.push(format!("{}:{number}: {found}", file.display()));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn the_checks_themselves_see_what_they_look_for() {
    let names = |line: &str| named_modules(&code(line));
    assert_eq!(
        names("use crate::engine::Engine; // crate::grpc"),
        ["engine"]
    );
    assert_eq!(
        names("use crate::{domain::{a, b}, okta, wire::c};"),
        ["domain", "okta", "wire"]
    );
    assert_eq!(names("let text = \"crate::grpc\";"), [""; 0]);
    assert!(may_name("engine", "journal") && !may_name("journal", "engine"));
    assert!(!may_name("okta", "wire") && !may_name("domain", "config"));
    assert!(may_name("server", "config") && !may_name("config", "server"));
    assert!(may_name("client", "wire") && !may_name("client", "engine"));
}
