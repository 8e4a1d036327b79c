//! Help, the commands that it lists and that messages recommend, and the schema.

use std::path::Path;

use mesh_core::development::PUBLISHED_KEYS;

use super::{
    COMMANDS, VERBS, run,
    support::{Scratch, meshctl, outcome},
};

const DEGRADED: &str = include_str!("../samples/degraded.json");

#[test]
fn help_of_every_command() {
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!("help", help);
    for command in COMMANDS {
        let (code, text, errors) = run(&[command, "--help"]);
        assert_eq!((code, errors.as_str()), (0, ""));
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in --help");
        insta::assert_snapshot!(format!("help_{command}"), text);
    }
}

#[test]
fn every_command_in_the_help_has_a_snapshot() {
    assert_eq!(listed(&["--help"]), [&COMMANDS[..], &["help"]].concat());
    for (command, verbs) in VERBS {
        assert_eq!(listed(&[command, "--help"]), [verbs, &["help"]].concat());
        for verb in verbs {
            let (code, text, errors) = run(&[command, verb, "--help"]);
            assert_eq!((code, errors.as_str()), (0, ""));
            // The global options are those of every command.
            let own = text.split("Global options:").next().unwrap();
            insta::assert_snapshot!(format!("help_{command}_{verb}"), own);
        }
    }
}

/// The commands that a help text lists.
fn listed(arguments: &[&str]) -> Vec<String> {
    let (_, help, _) = run(arguments);
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    // A description that goes on stands further to the right.
    let names = list.lines().filter(|line| !line.starts_with("    "));
    names.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

#[test]
fn every_command_of_an_operator_gives_an_example() {
    for command in &COMMANDS[4..COMMANDS.len() - 1] {
        let (_, text, _) = run(&[command, "--help"]);
        // A long one is wrapped.
        let example = text.split("Example: ").nth(1).unwrap_or_else(|| panic!("{command} gives no example"));
        let example: Vec<_> = example.split_whitespace().collect();
        assert_eq!(example[..2], ["meshctl", command], "{example:?}");
        // It is understood: what fails, for lack of an endpoint or a file, is not its form.
        let (_, _, errors) = run(&example[1..]);
        assert!(errors.starts_with("error: ") && !errors.contains("'--help'"), "{errors}");
    }
}

#[test]
fn every_command_that_is_recommended_exists() {
    let mut found = 0;
    for dir in ["src", "../contracts/bindings/src", "../agent/src", "../agent/core/src"] {
        for source in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)) {
            let text = std::fs::read_to_string(&source).unwrap();
            for quote in ['`', '"'] {
                for (at, _) in text.match_indices(&format!("{quote}meshctl ")) {
                    let rest = &text[at + 1..];
                    let recommended = &rest[..rest.find(quote).unwrap()];
                    found += 1;
                    assert!(is_understood(recommended), "{}: `{recommended}`", source.display());
                }
            }
        }
    }
    assert!(found > 70, "only {found} recommendations are found");
}

/// Whether a command line from a message is one that a person can type, with values for what it leaves open; a command alone is
/// its name.
fn is_understood(recommended: &str) -> bool {
    let command = recommended.split(" # ").next().unwrap_or_default();
    let words: Vec<&str> = command.split_whitespace().skip(1).collect();
    if words.first() == Some(&"{}") || words.contains(&"|") {
        // A template, a pipe.
        return true;
    }
    let before = [""].into_iter().chain(words.iter().copied());
    let words: Vec<String> = before.zip(words.iter().copied()).map(|(before, word)| filled(before, word)).collect();
    let run = |arguments: &[&str]| outcome(meshctl().args(&words).args(arguments).output().unwrap());
    run(&["--help"]).0 == 0 && {
        let named = words.iter().all(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
        let socket = ["--socket", "/nonexistent"];
        let socket = if words.iter().any(|word| word == "--socket") { &[][..] } else { &socket };
        let (_, _, errors) = run(&[&["--rpc-url", "ftp://x"], socket].concat());
        named || !errors.contains("'--help'")
    }
}

fn filled(before: &str, word: &str) -> String {
    match word {
        "{}" | "{contract}" if before == "--contract" => format!("0x{}", "33".repeat(20)),
        "{}" if before == "--network-type" => "any".to_owned(),
        "{}" if before == "offer" => format!("0x{}", "33".repeat(20)),
        "{previous}" | "{previous_implementation}" | "{implementation}" | "{root}" => format!("0x{}", "33".repeat(20)),
        "{compose_hash}" | "{device_id}" => "22".repeat(32),
        "ID" | "INSTANCE" => "11".repeat(20),
        "HASH" => "22".repeat(32),
        "ADDRESS" | "OWNER" | "CONTRACT" => format!("0x{}", "33".repeat(20)),
        "HOST" | "{domain}" => "gw.example".to_owned(),
        "N" | "TOKEN" => "7".to_owned(),
        word if word.starts_with('{') && (word.contains("instance") || word.contains("app_id")) => "11".repeat(20),
        word if word.starts_with('{') => "7".to_owned(),
        word => word.to_owned(),
    }
}

/// Every source file below a directory.
fn sources(dir: &Path) -> Vec<std::path::PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let (dirs, files): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
    let here = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    dirs.iter().flat_map(|dir| sources(dir)).chain(here).collect()
}

#[test]
fn no_help_names_a_key_that_everybody_can_use() {
    let verbs = VERBS.iter().flat_map(|(command, verbs)| verbs.iter().map(move |verb| vec![*command, *verb]));
    for words in COMMANDS.iter().map(|command| vec![*command]).chain(verbs) {
        let (code, help, _) = run(&[&words[..], &["--help"]].concat());
        assert_eq!(code, 0);
        let help = help.to_ascii_lowercase();
        for (address, _) in PUBLISHED_KEYS {
            let digits = hex::encode(address);
            assert!(!help.contains(&digits), "`meshctl {} --help` names 0x{digits}", words.join(" "));
        }
    }
}

#[test]
fn the_schema_is_printed_and_checks_documents() {
    let (code, schema, _) = run(&["schema"]);
    assert_eq!((code, schema.as_str()), (0, include_str!("../../schema/meshctl.status.v1.schema.json")));
    let scratch = Scratch::new();
    let check = |document: &str| {
        let path = scratch.path("status.json");
        std::fs::write(&path, document).unwrap();
        outcome(meshctl().args(["schema", "--check"]).arg(path).output().unwrap())
    };
    assert_eq!(check(DEGRADED), (0, String::new(), "1 document(s) follow the schema\n".to_owned()));
    let (code, _, errors) = check(&DEGRADED.replace("\"exit_code\": 1", "\"exit_code\": 7"));
    assert_eq!(code, 1);
    assert!(errors.contains("/verdict/exit_code"), "{errors}");
}
