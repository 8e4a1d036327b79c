//! Every command of meshctl and p2p-agent that README, docs and the examples name is one that the programs take: a flag that was renamed
//! or a command that is gone fails here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory as _, error::ErrorKind};

const INSTANCE: &str = "8a19f0c2b4d6e8091a2b3c4d5e6f708192a3b4c5";
const ADDRESS: &str = "0x5bb4ff9a3837357f19dc176407a5709c62eb6c56";
const HASH: &str = "0x12a20aed7d6c68601e9f6e108a93b4199ae7231684307ffc4833c9cd08d45de7";
const URL: &str = "https://rpc.example/v2/key";

/// What documents write for something of the reader's own, with a value of that kind.
const PLACEHOLDERS: [(&str, &str); 24] = [
    ("<instance id>", INSTANCE),
    ("8a19…", INSTANCE),
    ("<app id>", ADDRESS),
    ("APP_ID", ADDRESS),
    ("0x5bb4…", ADDRESS),
    ("0x…", ADDRESS),
    ("<DstackKms>", ADDRESS),
    ("<app contract>", ADDRESS),
    ("<timelock>", ADDRESS),
    ("ADDRESS", ADDRESS),
    ("OWNER", ADDRESS),
    ("PREVIOUS", ADDRESS),
    ("HASH", HASH),
    ("OLD-HASH", HASH),
    ("ID", HASH),
    ("<rpc>", URL),
    ("URL", URL),
    ("TOKEN", "7"),
    ("UID", "1000"),
    ("<key>", "owner.key"),
    ("KEY", "owner.key"),
    ("FILE", "app-compose.json"),
    ("PEER", "redis-1"),
    ("COMMAND", "status"),
];

/// A command in a document.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    line: usize,
    words: Vec<String>,
    /// Of a code block: it is to be run as it is. In a sentence, arguments may be left out.
    whole: bool,
}

/// Commands of these programs in a Markdown text: lines of code blocks that begin with one, and code spans.
fn commands(text: &str, programs: &[&str]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    let mut in_block = false;
    while let Some((at, line)) = lines.next() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            let mut command = line.trim().trim_start_matches("$ ").trim_start_matches("sudo ").to_owned();
            while let Some(begun) = command.strip_suffix('\\') {
                let next = lines.next().map(|(_, line)| line.trim()).unwrap_or_default();
                command = format!("{begun}{next}");
            }
            found.push(Found { line: at + 1, words: words(&command), whole: true });
        } else {
            let spans = line.split('`').skip(1).step_by(2);
            found.extend(spans.map(|span| Found { line: at + 1, words: words(span), whole: false }));
        }
    }
    found.retain(|found| found.words.first().is_some_and(|first| programs.contains(&first.as_str())));
    found
}

/// Splits as a shell does, up to a comment or a redirection; `<…>` is one word.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut end_of_quote = None;
    for c in line.chars() {
        match (end_of_quote, c) {
            (Some(end), c) if c == end => {
                end_of_quote = None;
                if c == '>' {
                    word.get_or_insert_default().push(c);
                }
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                end_of_quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '<') => {
                end_of_quote = Some('>');
                word.get_or_insert_default().push(c);
            }
            (None, ' ') => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            (None, '|' | ';' | '&') => break,
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The words of a command with values in the place of what the reader is to fill in; `…` at the end stands for more of the same.
fn filled(words: &[String]) -> Vec<String> {
    let mut filled: Vec<String> = Vec::new();
    for word in words {
        let value = PLACEHOLDERS.iter().find(|(placeholder, _)| placeholder == word).map(|(_, value)| *value);
        let value = match (value, filled.last().map(String::as_str)) {
            (Some(value), _) => value,
            (None, Some("--rpc-url")) if word == "…" => URL,
            (None, Some("--instance")) if word == "…" => INSTANCE,
            (None, _) if word == "…" => break,
            (None, _) => word,
        };
        filled.push(value.to_owned());
    }
    filled
}

/// Why the program does not take it.
fn refusal(program: Command, found: &Found) -> Option<String> {
    let error = program.try_get_matches_from(filled(&found.words)).err()?;
    let is_left_out = [
        ErrorKind::MissingRequiredArgument,
        ErrorKind::MissingSubcommand,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
    ]
    .contains(&error.kind());
    let is_shortened = is_left_out || (error.kind() == ErrorKind::InvalidValue && lacks_its_value(&error));
    let is_taken = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let why = || error.to_string().lines().next().unwrap_or_default().to_owned();
    (!is_taken && (found.whole || !is_shortened)).then(why)
}

/// A flag at the end of a sentence's command, as in `meshctl fund --to`.
fn lacks_its_value(error: &clap::Error) -> bool {
    let value = error.get(clap::error::ContextKind::InvalidValue);
    value.is_some_and(|value| value.to_string().is_empty())
}

#[test]
fn every_command_in_the_documents_is_one_that_the_programs_take() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut documents = vec![repository.join("README.md"), repository.join("CHANGELOG.md")];
    for folder in ["docs", "examples", "sdk"] {
        documents.extend(markdown_below(&repository.join(folder)));
    }
    assert!(documents.len() > 10, "{documents:?}");
    let (mut whole, mut refused) = (0, Vec::new());
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for found in commands(&text, &["meshctl", "p2p-agent"]) {
            // A sentence about any command, or a drawing.
            if found.words.get(1).is_some_and(|word| word == "…" || word.starts_with('◄')) {
                continue;
            }
            whole += usize::from(found.whole);
            let program = match found.words[0].as_str() {
                "meshctl" => meshctl::command(),
                _ => p2p_agent::cli::Cli::command(),
            };
            if let Some(why) = refusal(program, &found) {
                refused.push(format!("{}:{}: {}\n  {}", document.display(), found.line, found.words.join(" "), why));
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(whole >= 10, "only {whole} lines of code blocks were found: are they still written so?");
}

fn markdown_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(markdown_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

#[test]
fn commands_are_found_as_a_shell_would_read_them() {
    let text = "Run `meshctl bind 7 --instance <instance id>`, or `wg`.\n\n```sh\n$ meshctl status  # ok\nexport A=1\nmeshctl phala deploy \\\n  \
                --agent-url 'https://{a}-8088.{b}' | jq\n```\n`meshctl`\n";
    let found =
        |line, words: &[&str], whole| Found { line, words: words.iter().map(|&word| word.into()).collect(), whole };
    assert_eq!(
        commands(text, &["meshctl"]),
        [
            found(1, &["meshctl", "bind", "7", "--instance", "<instance id>"], false),
            found(4, &["meshctl", "status"], true),
            found(6, &["meshctl", "phala", "deploy", "--agent-url", "https://{a}-8088.{b}"], true),
            found(9, &["meshctl"], false),
        ]
    );
}

#[test]
fn what_is_misspelled_or_cut_short_is_told_apart() {
    let refused =
        |line: &str, whole| refusal(meshctl::command(), &Found { line: 1, words: words(line), whole }).is_some();
    for whole in [false, true] {
        assert!(!refused("meshctl bind 7 --instance …", whole));
        assert!(!refused("meshctl deploy --kms-contract <DstackKms>", whole));
        assert!(refused("meshctl bind 7 --instances …", whole), "no such flag");
        assert!(refused("meshctl binds 7", whole), "no such command");
        assert!(refused("meshctl fund many", whole), "no such value");
        assert!(refused("meshctl bind 7 <something else>", whole), "a placeholder that this test does not know");
    }
    assert!(!refused("meshctl bind", false) && refused("meshctl bind", true));
    assert!(!refused("meshctl fund 0.05 --to", false) && refused("meshctl fund 0.05 --to", true));
}
