//! Commands that a text suggests, with the options without which they would act on another cluster or agent, or on none.

/// Commands that ask the local agent alone.
const OF_AGENT: [&str; 4] = ["status", "peers", "why", "wait"];
/// Commands that ask the local agent and a contract.
const OF_BOTH: [&str; 3] = ["mint", "register", "fund"];
/// Commands that ask nothing.
const OF_NONE: [&str; 1] = ["schema"];

/// Options to repeat, each with a space before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ToRepeat {
    /// Which contract: not for what makes one.
    pub(crate) contract: String,
    /// Where and how a contract is reached.
    pub(crate) chain: String,
    /// Which agent.
    pub(crate) agent: String,
}

/// Adds the options to every command of ours in backticks that names no contract and no socket.
pub(crate) fn pasteable(text: &str, options: &ToRepeat) -> String {
    let mut parts = text.split('`');
    let mut complete = parts.next().unwrap_or_default().to_owned();
    // Every second part stands between two backticks.
    let mut is_quoted = true;
    for part in parts {
        complete.push('`');
        complete.push_str(part);
        if is_quoted {
            complete.push_str(&options.of(part));
        }
        is_quoted = !is_quoted;
    }
    complete
}

impl ToRepeat {
    /// Those that a command in backticks lacks.
    fn of(&self, quoted: &str) -> String {
        let Some(command) = quoted.strip_prefix("meshctl ").and_then(|words| words.split(' ').next()) else {
            return String::new();
        };
        let names = |option| quoted.split(' ').any(|word| word == option);
        if OF_NONE.contains(&command) || names("--help") {
            return String::new();
        }
        let mut options = String::new();
        if !OF_AGENT.contains(&command) {
            if command != "deploy" && !names("--contract") {
                options.push_str(&self.contract);
            }
            if !names("--contract") {
                options.push_str(&self.chain);
            }
        }
        if (OF_AGENT.contains(&command) || OF_BOTH.contains(&command)) && !names("--socket") {
            options.push_str(&self.agent);
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_get_what_was_given() {
        let options = ToRepeat {
            contract: " --contract CONTRACT".into(),
            chain: " --chain-id 7".into(),
            agent: " --socket S".into(),
        };
        for (text, complete) in [
            ("see `meshctl nodes`", "see `meshctl nodes --contract CONTRACT --chain-id 7`"),
            (
                "`meshctl burn 7`, then `x`; `meshctl fund 7`!",
                "`meshctl burn 7 --contract CONTRACT --chain-id 7`, then `x`; `meshctl fund 7 --contract CONTRACT --chain-id 7 --socket S`!",
            ),
            ("`meshctl nodes --contract ADDRESS`", "`meshctl nodes --contract ADDRESS`"),
            (
                "`meshctl status` and `meshctl deploy --kms-root ADDRESS`, meshctl nodes",
                "`meshctl status --socket S` and `meshctl deploy --kms-root ADDRESS --chain-id 7`, meshctl nodes",
            ),
            ("`meshctl schema`, `meshctl why --help`", "`meshctl schema`, `meshctl why --help`"),
            ("check `--rpc-url`", "check `--rpc-url`"),
            ("", ""),
        ] {
            assert_eq!(pasteable(text, &options), complete);
            assert_eq!(pasteable(text, &ToRepeat::default()), text);
        }
    }
}
