//! The operator's manual has a row for every warning that the agent can give.

use std::{collections::BTreeSet, fs, path::Path};

const MANUAL: &str = include_str!("../../../../docs/operating.md");

#[test]
fn every_warning_has_one_row_in_the_operators_manual() {
    let mut warnings = BTreeSet::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/agent"), &mut warnings);
    assert!(warnings.len() >= 39, "{warnings:?}");
    let rows: BTreeSet<_> = MANUAL.lines().filter_map(|line| line.strip_prefix("| W")?.split_once(" | ")).collect();
    let documented: BTreeSet<_> = rows.iter().map(|(warning, _)| format!("W{warning}")).collect();
    assert_eq!(documented, warnings);
}

/// Adds code and name of each finding in the sources below `directory`, as in `"W101", "no-token"`.
fn collect(directory: &Path, warnings: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), warnings);
            continue;
        }
        let source = fs::read_to_string(entry.path()).unwrap();
        let pieces: Vec<_> = source.split('"').collect();
        let is_code = |text: &str| text.len() == 4 && text.starts_with('W') && text[1..].parse::<u16>().is_ok();
        let findings = pieces.windows(3).filter(|triple| is_code(triple[0]) && triple[1] == ", ");
        warnings.extend(findings.map(|triple| format!("{} {}", triple[0], triple[2])));
    }
}
