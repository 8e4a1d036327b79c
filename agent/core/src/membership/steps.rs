//! What has to be done so that this node becomes a peer, by whom, and with which command.

use super::{Loss, OwnIdentity, Standing};
use crate::{
    id::{Address, TokenId},
    registry::NodeRecord,
};

/// What lets a fenced node back, as the contract's record of its token is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextStep {
    /// What is next.
    pub step: Step,
    /// The token's owner, where the token exists.
    pub owner: Option<Address>,
}

/// What is next, before the node registers by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The contract owner lets the token be used again, and then its owner binds it.
    Reinstate,
    /// The token's owner ends the binding that there is, and binds the token again.
    Deactivate,
    /// The token's owner binds it to this instance.
    Bind,
    /// The contract owner mints a token for this instance.
    Mint,
    /// The operator stops one of two copies of this node, and restarts the other.
    StopCopy,
}

impl NextStep {
    /// After this loss, where the token stands so; `None` where the contract says nothing about it.
    pub(super) fn after(loss: Loss, node: Option<&NodeRecord>, me: &OwnIdentity) -> Self {
        let step = match (loss, node) {
            (Loss::Cloned, _) => Step::StopCopy,
            (Loss::Burned, None) => Step::Mint,
            (_, Some(node)) if node.owner.is_none() => Step::Mint,
            (_, Some(node)) if node.revoked => Step::Reinstate,
            (_, Some(node)) if node.instance == Some(me.instance) => Step::Deactivate,
            (_, Some(_) | None) => Step::Bind,
        };
        Self { step, owner: node.and_then(|node| node.owner) }
    }
}

impl Standing {
    /// What has to be done to make this node a peer: complete commands, one a line, each with a comment that says whose key signs it.
    #[must_use]
    pub fn hint(&self, me: &OwnIdentity, contract: Address) -> Option<String> {
        let commands = Commands { me, contract };
        let (loss, token, next) = match self {
            Self::NoToken { chosen: Some(token), minted: true } => return Some(commands.bind(*token, None)),
            Self::NoToken { .. } => return Some(commands.mint()),
            Self::Ambiguous(tokens) => {
                let flags: Vec<_> = tokens.iter().map(|token| format!("`--token {token}`")).collect();
                return Some(format!("restart the agent with one of {}", flags.join(", ")));
            }
            Self::Revoked(token) => return Some(commands.reinstate(*token, None)),
            Self::Registering { .. } => return Some(format!("meshctl register --contract {contract}")),
            Self::Active { .. } => return None,
            Self::Fenced { token, loss, next } => (*loss, *token, next),
        };
        let owner = next.owner;
        Some(match next.step {
            Step::Reinstate => commands.reinstate(token, owner),
            Step::Deactivate if loss == Loss::Superseded => {
                format!("stop one of the two nodes; to keep this one:\n{}", commands.deactivate(token, owner))
            }
            Step::Deactivate => commands.deactivate(token, owner),
            Step::Bind => commands.bind(token, owner),
            Step::Mint => commands.mint(),
            Step::StopCopy => {
                "stop one of the two nodes, and delete its state directory: each node draws keys of its own; then \
                restart the agent of the other"
                    .to_owned()
            }
        })
    }
}

/// Commands for one node of one contract.
struct Commands<'a> {
    me: &'a OwnIdentity,
    contract: Address,
}

/// What stands behind a command of the contract owner.
const CONTRACT_OWNER: &str = "  # with the contract owner's key";

/// What stands behind a command of a token's owner.
fn token_owner(owner: Option<Address>) -> String {
    let owner = owner.map(|owner| format!(" {owner}")).unwrap_or_default();
    format!("  # with the key of the token's owner{owner}")
}

impl Commands<'_> {
    fn mint(&self) -> String {
        let Self { me, contract } = self;
        let (instance, app_id) = (me.instance, Address::from(me.app_id));
        format!("meshctl mint --instance {instance} --app-id {app_id} --contract {contract}") + CONTRACT_OWNER
    }

    /// Pinned to the app: no instance of another allowed app can take it.
    fn bind(&self, token: TokenId, owner: Option<Address>) -> String {
        let Self { me, contract } = self;
        let (instance, app_id) = (me.instance, Address::from(me.app_id));
        format!("meshctl bind --token {token} --instance {instance} --app-id {app_id} --contract {contract}")
            + &token_owner(owner)
    }

    fn reinstate(&self, token: TokenId, owner: Option<Address>) -> String {
        let command = format!("meshctl reinstate --token {token} --contract {}", self.contract);
        format!("{command}{CONTRACT_OWNER}\n{}", self.bind(token, owner))
    }

    fn deactivate(&self, token: TokenId, owner: Option<Address>) -> String {
        let command = format!("meshctl deactivate --token {token} --contract {}", self.contract);
        format!("{command}{}\n{}", token_owner(owner), self.bind(token, owner))
    }
}
