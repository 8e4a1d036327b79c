//! `/etc/p2p-agent/config.toml` as it is installed: every setting with its explanation, none of them set.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, CommandFactory as _};
use p2p_agent::cli::Cli;

const HEAD: &str = "\
# Settings of p2p-agent.service; `p2p-agent check` tries them. A flag of the command line wins over a variable of the environment
# (`P2P_RPC_URL` for rpc-url), and both win over this file. Every user who may read it learns the API keys in its URLs.
#
# Needed: where the chain is read. Three endpoints of different operators, so that one of them may lie or be down:
#   rpc-url = [\"https://one.example/KEY\", \"https://two.example/KEY\", \"https://three.example/KEY\"]
# and, where the cluster's contract is not the dstack app itself:
#   contract = \"0x…\"

";
const TAIL: &str = "\
# What status and logs of this node call the peers, by token: this must stay the last part of the file.
#[names]
#2 = \"redis-1\"
";
/// Of a comment's text.
const WIDTH: usize = 110;

pub(super) fn text() -> String {
    let mut text = HEAD.to_owned();
    for setting in settings() {
        write_setting(&mut text, &setting);
    }
    text + TAIL
}

/// The agent's flags that can stand in the file.
fn settings() -> Vec<Arg> {
    let command = Cli::command();
    let flags = command.get_arguments().filter(|flag| flag.get_long().is_some_and(|name| name != "config"));
    // clap's own `--help` and `--version` have other actions.
    flags.filter(|flag| matches!(flag.get_action(), ArgAction::Set | ArgAction::Append)).cloned().collect()
}

fn write_setting(text: &mut String, flag: &Arg) {
    let name = flag.get_long().unwrap_or_default();
    let help = flag.get_long_help().or_else(|| flag.get_help()).map(ToString::to_string).unwrap_or_default();
    for line in help.lines() {
        for part in wrapped(line) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# {part}");
        }
    }
    let values: Vec<_> = flag.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let value = if values.is_empty() {
        flag.get_value_names().map(|names| names.join(" ")).unwrap_or_default()
    } else {
        values.join("|")
    };
    let (open, close) = if matches!(flag.get_action(), ArgAction::Append) { ("[", "]") } else { ("", "") };
    let _ = writeln!(text, "#{name} = {open}\"{value}\"{close}\n");
}

fn wrapped(line: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in line.split_whitespace() {
        let full = lines.last().is_some_and(|last| !last.is_empty() && last.len() + 1 + word.len() > WIDTH);
        if full {
            lines.push(String::new());
        }
        if let Some(last) = lines.last_mut() {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use p2p_agent::config::Layers;

    use super::*;

    #[test]
    fn it_sets_nothing_and_explains_every_setting_the_agent_knows() {
        let as_installed: toml::Table = text().parse().unwrap();
        assert_eq!(as_installed, toml::Table::new());
        // Taken out of their comments all are TOML, and the agent knows them: it gets as far as their values.
        let settings: String = text()
            .lines()
            .filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')))
            .map(|line| format!("{line}\n"))
            .collect();
        let table: toml::Table = settings.parse().unwrap();
        let named: BTreeSet<_> = table.keys().map(String::as_str).collect();
        let refused = |file: String| {
            let file = Some(("config.toml".into(), file));
            Layers { arguments: Vec::new(), variable: &|_| None, file }.read().unwrap_err().to_string()
        };
        let error = refused("no-such-key = 1".to_owned());
        let known: BTreeSet<_> = error.split("the flags: ").nth(1).unwrap().split(", ").collect();
        assert!(known.len() > 30, "{error}");
        let expected = known.into_iter().filter(|name| *name != "config").chain(["names"]).collect();
        assert_eq!(named, expected);
        assert!(!refused(settings).contains("unknown key"));
    }

    #[test]
    fn long_lines_are_wrapped_between_words() {
        let line = format!("{} end", "word ".repeat(60));
        let parts = wrapped(&line);
        assert!(parts.len() > 2 && parts.iter().all(|part| part.len() <= WIDTH), "{parts:?}");
        assert_eq!(parts.join(" ").split(' ').count(), 61);
    }
}
