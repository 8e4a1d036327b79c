//! The agent's last log lines: of the journal, or of a file.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
    process::{Command, Stdio},
};

/// Lines in a report.
const LINES: usize = 500;
/// Bytes read of a file's end.
const MAX: u64 = 256 << 10;

/// The last lines that systemd's journal has of a unit.
///
/// # Errors
/// Why there are none.
pub(crate) fn journal(unit: &str) -> Result<String, String> {
    let lines = LINES.to_string();
    let arguments = ["--unit", unit, "--lines", &lines, "--output", "short-iso", "--no-pager", "--quiet", "--all"];
    let output = Command::new("journalctl").args(arguments.map(OsStr::new)).stdin(Stdio::null()).output();
    let output =
        output.map_err(|error| format!("journalctl cannot be run: {error}; give the log with `--log FILE`"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !text.trim().is_empty() {
        return Ok(text);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words.lines().next().unwrap_or("it is empty");
    Err(format!("the journal has no line of {unit}: {words}; give the log with `--log FILE`"))
}

/// The last lines of a file.
///
/// # Errors
/// Why it cannot be read.
pub(crate) fn tail(path: &Path) -> Result<String, String> {
    last_lines(path).map_err(|error| format!("`{}` cannot be read: {error}", path.display()))
}

fn last_lines(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let begin = file.metadata()?.len().saturating_sub(MAX);
    file.seek(SeekFrom::Start(begin))?;
    let mut text = Vec::new();
    file.take(MAX).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    // The first line may be half of one.
    let text = if begin == 0 { &text } else { text.split_once('\n').map_or("", |(_, rest)| rest) };
    let skipped = text.lines().count().saturating_sub(LINES);
    Ok(text.lines().skip(skipped).collect::<Vec<_>>().join("\n"))
}
