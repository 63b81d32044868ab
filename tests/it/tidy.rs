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

/// What sees the generated types: where their paths begin.
const SEES_TYPES: [&str; 4] = ["src/wire/", "src/grpc/", "src/client", "src/cli/client"];

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

/// The text without comments and without what stands in quotes, line by line as before.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(hashes) = raw_text_hashes(rest).filter(|_| apart(code.chars().last())) {
            let end = format!("\"{}", "#".repeat(hashes));
            let open = hashes + 2;
            rest[open..]
                .find(&end)
                .map_or(rest.len(), |at| open + at + end.len())
        } else if character == '"' {
            quoted_bytes(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\''") {
            // A quotation mark as a character opens no text.
            rest.find('"').map_or(4, |at| at.min(2) + 2)
        } else {
            code.push(character);
            rest = &rest[character.len_utf8()..];
            continue;
        };
        let skipped = skipped.min(rest.len());
        code.extend(rest[..skipped].matches('\n'));
        rest = &rest[skipped..];
    }
    code
}

/// How many `#` a raw text that begins here has.
fn raw_text_hashes(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// How long the text in quotes is that begins here.
fn quoted_bytes(rest: &str) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Whether a character is no part of a name.
fn apart(character: Option<char>) -> bool {
    !character.is_some_and(|character| character.is_alphanumeric() || character == '_')
}

/// The modules of ours that code names, with the line: `crate::a`, `crate::{a, b}`,
/// `provident::a`.
fn named_modules(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for prefix in ["crate::", "provident::"] {
        for (at, _) in code.match_indices(prefix) {
            if !apart(code[..at].chars().next_back()) {
                continue;
            }
            let line = 1 + code[..at].matches('\n').count();
            let rest = &code[at + prefix.len()..];
            let names = match rest.strip_prefix('{') {
                // A group of modules: only its outer names.
                Some(group) => outer_names(group),
                None => vec![first_name(rest)],
            };
            found.extend(names.into_iter().map(|name| (line, name)));
        }
    }
    found
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
///
/// It is given the file's path and the line.
fn check_lines(mut problem: impl FnMut(&str, &str) -> Option<String>) {
    let mut problems = Vec::new();
    for source in sources("src") {
        for (line, number) in code(&source.text).lines().zip(1..) {
            if let Some(problem) = problem(&source.path, line) {
                problems.push(format!("{}:{number}: {problem}", source.path));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn modules_name_only_those_below_them() {
    let mut problems = Vec::new();
    for source in sources("src") {
        let from = module(&source.path);
        if from == "lib" {
            continue;
        }
        for (line, to) in named_modules(&code(&source.text)) {
            let ours = layer(&to).is_some() || FREE.contains(&to.as_str()) || to == "client";
            if ours && !may_name(from, &to) {
                problems.push(format!("{}:{line}: `{from}` names `{to}`", source.path));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
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
    check_lines(|path, code| {
        let known = NOT_IN_DOMAIN.iter().find(|name| {
            code.match_indices(**name).any(|(at, _)| {
                let after = &code[at + name.len()..];
                let is_path = after.starts_with("::") || name.contains("::");
                is_path && apart(code[..at].chars().next_back()) && apart(after.chars().next())
            })
        });
        (module(path) == "domain")
            .then_some(known)?
            .map(|name| format!("`domain` knows `{name}`"))
    });
}

#[test]
fn only_the_edges_see_generated_types() {
    check_lines(|path, code| {
        let sees = ["wire::v1", "v1::"].iter().any(|name| {
            code.match_indices(name)
                .any(|(at, _)| apart(code[..at].chars().next_back()))
        });
        let may = SEES_TYPES.iter().any(|place| path.starts_with(place));
        (sees && !may)
            .then(|| "names a generated type; `wire` gives bytes and domain values".to_owned())
    });
}

#[test]
fn only_the_server_knows_which_journal_runs() {
    check_lines(|path, code| {
        let names = ["journal::embedded", "EmbeddedJournal", "JetStreamJournal"]
            .iter()
            .any(|name| code.contains(name));
        (names && !["journal", "server"].contains(&module(path)))
            .then(|| "knows which journal runs".to_owned())
    });
}

#[test]
fn nobody_reaches_over_two_levels() {
    check_lines(|_, code| {
        let reach = ["super", "super"].join("::");
        code.contains(&reach).then(|| format!("`{reach}`"))
    });
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let mut without = Vec::new();
    for folder in ["src", "tests", "benches", "examples"] {
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
    let names = |text: &str| named_modules(&code(text));
    let found = |line: usize, names: &[&str]| -> Vec<_> {
        names
            .iter()
            .map(|name| (line, (*name).to_owned()))
            .collect()
    };
    assert_eq!(
        names("use crate::engine::Engine; // crate::grpc"),
        found(1, &["engine"])
    );
    assert_eq!(
        names("\n\nuse crate::{\n    domain::{a, b}, okta,\n    wire::c,\n};"),
        found(3, &["domain", "okta", "wire"])
    );
    assert_eq!(
        names("let text = \"a \\\" crate::grpc\n crate::http\";"),
        []
    );
    assert_eq!(
        names("r#\"a \" crate::grpc\"#; '\"'; crate::http"),
        found(1, &["http"])
    );
    assert_eq!(
        names("'\\''; \"\\\\\"; crate::http // \""),
        found(1, &["http"])
    );
    assert!(may_name("engine", "journal") && !may_name("journal", "engine"));
    assert!(!may_name("okta", "wire") && !may_name("domain", "config"));
    assert!(may_name("server", "config") && !may_name("config", "server"));
    assert!(may_name("client", "wire") && !may_name("client", "engine"));
}
