//! Commands that a text suggests, with the options without which they would act on another cluster, or on none.

/// Commands that ask no contract, or are given it in another way.
const WITHOUT_CONTRACT: [&str; 6] = ["status", "peers", "why", "wait", "schema", "deploy"];

/// Adds `options` (each with a space before it) to every command of ours in backticks that names no contract.
pub(crate) fn pasteable(text: &str, options: &str) -> String {
    if options.is_empty() {
        return text.to_owned();
    }
    let mut parts = text.split('`');
    let mut complete = parts.next().unwrap_or_default().to_owned();
    // Every second part stands between two backticks.
    let mut is_quoted = true;
    for part in parts {
        complete.push('`');
        complete.push_str(part);
        if is_quoted && needs_options(part) {
            complete.push_str(options);
        }
        is_quoted = !is_quoted;
    }
    complete
}

fn needs_options(quoted: &str) -> bool {
    let mut words = quoted.split(' ');
    words.next() == Some("meshctl")
        && words.next().is_some_and(|command| !WITHOUT_CONTRACT.contains(&command))
        && words.all(|word| !matches!(word, "--contract" | "--help"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_a_contract_get_what_was_given() {
        let options = " --contract CONTRACT";
        for (text, complete) in [
            ("see `meshctl nodes`", "see `meshctl nodes --contract CONTRACT`"),
            (
                "`meshctl burn 7`, then `x`; `meshctl revoke 7`!",
                "`meshctl burn 7 --contract CONTRACT`, then `x`; `meshctl revoke 7 --contract CONTRACT`!",
            ),
            ("`meshctl nodes --contract ADDRESS`", "`meshctl nodes --contract ADDRESS`"),
            (
                "`meshctl status` and `meshctl deploy`, meshctl nodes",
                "`meshctl status` and `meshctl deploy`, meshctl nodes",
            ),
            ("check `--rpc-url`", "check `--rpc-url`"),
            ("", ""),
        ] {
            assert_eq!(pasteable(text, options), complete);
            assert_eq!(pasteable(text, ""), text);
        }
    }
}
