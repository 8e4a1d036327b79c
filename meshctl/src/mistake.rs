//! What was meant by a mistyped command or option.

use clap::{
    CommandFactory as _,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{cli::Cli, suggest::nearest};

/// The command or option that was meant. `arguments` begin with the program's name.
pub(crate) fn meant(error: &clap::Error, arguments: impl IntoIterator<Item = String>) -> Option<String> {
    let is_option = error.kind() == ErrorKind::UnknownArgument;
    let kind = if is_option { ContextKind::InvalidArg } else { ContextKind::InvalidSubcommand };
    let Some(ContextValue::String(word)) = error.get(kind) else { return None };
    let mut root = Cli::command();
    root.build();
    let (mut command, mut path) = (&root, "meshctl".to_owned());
    for argument in arguments.into_iter().skip(1) {
        if let Some(found) = command.find_subcommand(&argument) {
            command = found;
            path = format!("{path} {argument}");
        }
    }
    if is_option {
        let known = nearest(word.strip_prefix("--")?, command.get_arguments().filter_map(clap::Arg::get_long))?;
        return Some(format!("--{known}"));
    }
    let known = nearest(word, command.get_subcommands().map(clap::Command::get_name))?;
    Some(format!("{path} {known}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn suggested(line: &str) -> Option<String> {
        let words: Vec<_> = ["meshctl"].into_iter().chain(line.split(' ')).map(str::to_owned).collect();
        meant(&Cli::try_parse_from(&words).unwrap_err(), words)
    }

    #[test]
    fn commands_verbs_and_options_are_suggested() {
        assert_eq!(suggested("revok 7").unwrap(), "meshctl revoke");
        assert_eq!(suggested("--json compose ad 0x1").unwrap(), "meshctl compose add");
        assert_eq!(suggested("nodes --contrat 0x1").unwrap(), "--contract");
        assert_eq!(suggested("frobnicate"), None);
        assert_eq!(suggested("revoke zero"), None);
    }
}
