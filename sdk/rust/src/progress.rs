//! The steps to becoming a member, as reported to an application.

use std::fmt;

/// How far a node has come in becoming a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// No agent answers yet.
    NoAgent,
    /// The agent waits for something of this machine, such as the dstack guest agent.
    Starting,
    /// The agent reads the contract.
    Reading,
    /// No token is bound to this node: an operator mints or binds one.
    NoToken,
    /// Several tokens are bound to this node: its operator chooses one.
    Ambiguous,
    /// The contract's owner bars the token.
    Revoked,
    /// The registration is signed and waits for its transaction.
    Registering,
    /// A member, whose tunnels are being made.
    Converging,
    /// A member, but the contract has another URL of it than the application's.
    NoUrl,
}

impl fmt::Display for Stage {
    /// One word, as in the agent's status where it has one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAgent => "no-agent",
            Self::Starting => "starting",
            Self::Reading => "reading",
            Self::NoToken => "no-token",
            Self::Ambiguous => "ambiguous",
            Self::Revoked => "revoked",
            Self::Registering => "registering",
            Self::Converging => "converging",
            Self::NoUrl => "no-url",
        })
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// How far the node is.
    pub stage: Stage,
    /// What is waited for, in words.
    pub message: String,
    /// What an operator has to run for it to go on, when it is their turn.
    pub command: Option<String>,
    /// What else the agent advises, in words.
    pub hint: Option<String>,
}

impl Progress {
    pub(crate) fn new(stage: Stage, message: impl Into<String>, command: Option<&str>) -> Self {
        Self { stage, message: message.into(), command: command.map(str::to_owned), hint: None }
    }

    /// Whether it is the same step. Ages and counts in a message grow by themselves, and do not count.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        let words = |step: &Self| step.message.replace(|c: char| c.is_ascii_digit(), "");
        self.stage == other.stage && self.command == other.command && words(self) == words(other)
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.command {
            Some(command) => write!(f, "; an operator has to run: {command}"),
            None => Ok(()),
        }
    }
}
