//! Where output goes: results to standard output, everything else to standard error.
//!
//! Colours are taken out where nobody sees them (no terminal, `NO_COLOR`). A reader that went away
//! (`| head`) is no failure: it ends the command as [`OutputClosed`].

use std::io::{self, Write as _};

use anstyle::{AnsiColor, Style};
use anyhow::Context as _;
use prost::Message;

use crate::wire::json;

/// Whoever read our output has gone. Nothing is left to be done.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub struct OutputClosed;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// Protobuf's JSON mapping, one object a line.
    Json,
}

pub(super) const BOLD: Style = Style::new().bold();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const GREEN: Style = AnsiColor::Green.on_default();
pub(super) const YELLOW: Style = AnsiColor::Yellow.on_default();
pub(super) const RED: Style = AnsiColor::Red.on_default();
pub(super) const RED_BOLD: Style = AnsiColor::Red.on_default().bold();

/// Writes text to standard output, at once and whole.
pub(super) fn emit(text: &str) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        written => written.context("can't write to standard output"),
    }
}

/// Writes one line to standard error.
pub(super) fn note(text: &str) {
    // There is nobody left to tell if this fails.
    _ = writeln!(anstream::stderr(), "{text}");
}

/// A message as a line of JSON.
pub(super) fn json_line<M: Message>(name: &str, message: &M) -> String {
    let mut line = json::to_line(name, message);
    line.push('\n');
    line
}

/// Text that came from outside, with nothing in it that a terminal obeys.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => ' ',
            // Also what turns the direction of text around, and so hides what stands there.
            c if c.is_control()
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                '\u{fffd}'
            }
            c => c,
        })
        .collect()
}

/// Words laid out in lines of at most `width` characters; a longer word has a line of its own.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in text.split_whitespace() {
        let chars = word.chars().count();
        if length > 0 && length + 1 + chars > width {
            lines.push(String::new());
            length = 0;
        }
        let line = lines.last_mut().expect("there is a first line");
        if length > 0 {
            line.push(' ');
            length += 1;
        }
        line.push_str(word);
        length += chars;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_reaches_the_terminal_as_a_command() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{202e}"), "a\u{fffd}[2Jb c\u{fffd}");
    }

    #[test]
    fn words_are_laid_out_in_lines() {
        assert_eq!(wrapped("ab cd  efghijk l", 5), ["ab cd", "efghijk", "l"]);
        assert_eq!(wrapped("", 5), [""]);
    }
}
