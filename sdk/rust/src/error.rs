//! What can go wrong, one variant for each remedy.

use std::fmt;

/// What failed, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An argument is not valid: a contract, a mode, a flag.
    #[error("{0}")]
    Invalid(Advice),
    /// No `p2p-agent` answers on this machine, and none could be started.
    #[error("{0}")]
    NoAgent(Advice),
    /// The agent that answers has only just been started and waits for something, or is stopping.
    #[error("{0}")]
    Starting(Advice),
    /// The contract does not list this node; [`Advice::command`] is what an operator has to run.
    #[error("{0}")]
    NotAMember(Advice),
    /// Permission was refused: to this node by the contract's owner, to the agent or the application by this machine, or to this
    #[error("{0}")]
    NotPermitted(Advice),
    /// The agent that runs here serves another cluster.
    #[error("{0}")]
    WrongContract(Advice),
    /// The agent that answers is not the right one: it runs in another mode, has another version, or is one of several.
    #[error("{0}")]
    WrongAgent(Advice),
    /// The agent refused the request, and says why.
    #[error("{0}")]
    Refused(Advice),
    /// The operation was not done in time.
    #[error("{0}")]
    TimedOut(Advice),
}

impl Error {
    /// What failed, and what to do next.
    #[must_use]
    pub const fn advice(&self) -> &Advice {
        match self {
            Self::Invalid(advice)
            | Self::NoAgent(advice)
            | Self::Starting(advice)
            | Self::NotAMember(advice)
            | Self::NotPermitted(advice)
            | Self::WrongContract(advice)
            | Self::WrongAgent(advice)
            | Self::Refused(advice)
            | Self::TimedOut(advice) => advice,
        }
    }
}

/// What an error says to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// What failed.
    pub message: String,
    /// What to do next, in words. Empty where none was given with the refusal.
    pub hint: String,
    /// The operator's command for it, where there is one.
    pub command: Option<String>,
}

impl Advice {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), command: None }
    }

    /// An operator has to run `command`, where one is known.
    pub(crate) fn by_operator(message: impl Into<String>, command: Option<&str>) -> Self {
        let hint = command.map_or_else(
            || "`meshctl status` says what is missing".to_owned(),
            |command| format!("an operator has to run: {command}"),
        );
        Self { message: message.into(), hint, command: command.map(str::to_owned) }
    }
}

impl fmt::Display for Advice {
    /// The message, and the hint on a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\nhint: {}", self.hint) }
    }
}
