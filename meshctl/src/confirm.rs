//! What a change takes from others and what its way back costs: shown before it is sent, and asked about.

use std::io::{self, BufRead as _, IsTerminal as _};

use mesh_core::id::{InstanceId, TokenId};
use serde::Serialize;

use crate::{
    failure::Failure,
    output::{self, Printer},
    render::printable,
};

/// Peers that are named one by one; of the others the number is.
const NAMED: usize = 8;

/// What cannot be taken back at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Consequences {
    /// In words, without the peers that leave.
    pub(crate) effect: String,
    /// Peers that leave the mesh.
    pub(crate) leaving: Vec<LeavingPeer>,
    /// Peers that there are now; `null` where none leaves because of what the change is.
    pub(crate) peers: Option<u64>,
    /// How it is undone, and how long that takes.
    pub(crate) way_back: String,
}

/// A peer that leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct LeavingPeer {
    pub(crate) token_id: TokenId,
    pub(crate) instance_id: InstanceId,
}

impl Consequences {
    /// A change by which no peer leaves.
    pub(crate) fn new(effect: impl Into<String>, way_back: impl Into<String>) -> Self {
        Self { effect: effect.into(), leaving: Vec::new(), peers: None, way_back: way_back.into() }
    }

    /// The same; these leave, of so many peers.
    pub(crate) fn leaving(self, leaving: Vec<LeavingPeer>, peers: u64) -> Self {
        Self { leaving, peers: Some(peers), ..self }
    }

    /// Lines for people, each with its line feed.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("effect    {}\n", self.effect);
        if let Some(peers) = self.peers {
            text.push_str(&format!("leaving   {} of {peers} peers{}\n", self.leaving.len(), self.names()));
        }
        text.push_str(&format!("way back  {}\n", self.way_back));
        text
    }

    fn names(&self) -> String {
        let named = self.leaving.iter().take(NAMED);
        let named: Vec<_> = named.map(|peer| format!("token {} ({})", peer.token_id, peer.instance_id)).collect();
        let more = self.leaving.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        if named.is_empty() { String::new() } else { format!(": {}{more}", named.join(", ")) }
    }

    /// Shows it, and asks on a terminal unless the operator has said yes.
    ///
    /// # Errors
    /// The operator says no, or there is no terminal to ask on.
    pub(crate) fn confirm(&self, printer: &Printer, what: &str, yes: bool) -> Result<(), Failure> {
        output::warn(&printable(&printer.pasteable(&format!("{what}:\n{}", self.text()))));
        if yes {
            return Ok(());
        }
        match ask("go ahead?") {
            Some(true) => Ok(()),
            Some(false) => Err(Failure::new("nothing was sent: not confirmed")),
            None => {
                Err(Failure::usage(format!("refused to {what} without being told so: there is no terminal to ask on"))
                    .hint("add `--yes` if that is what you want; `--dry-run` shows the call"))
            }
        }
    }
}

/// Asks on the terminal; `None` where there is none.
pub(crate) fn ask(question: &str) -> Option<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    output::warn(&printable(&format!("{question} [y/N] ")));
    let mut answer = String::new();
    // What cannot be read is no.
    let _ = io::stdin().lock().read_line(&mut answer);
    Some(is_yes(&answer))
}

fn is_yes(answer: &str) -> bool {
    let answer = answer.trim();
    answer.eq_ignore_ascii_case("y") || answer.eq_ignore_ascii_case("yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(count: u32) -> Vec<LeavingPeer> {
        let peer = |id| LeavingPeer { token_id: TokenId::new(id).unwrap(), instance_id: InstanceId([0x11; 20]) };
        (1..=count).map(peer).collect()
    }

    #[test]
    fn peers_that_leave_are_named_and_many_are_counted() {
        let root = Consequences::new("no node can register", "a day");
        assert_eq!(root.text(), "effect    no node can register\nway back  a day\n");
        let text = root.clone().leaving(peers(2), 4).text();
        let instance = "11".repeat(20);
        assert!(
            text.contains(&format!("\nleaving   2 of 4 peers: token 1 ({instance}), token 2 ({instance})\n")),
            "{text}"
        );
        let text = root.clone().leaving(peers(11), 11).text();
        assert!(
            text.contains("11 of 11 peers: token 1 ") && text.contains("token 8 (") && text.contains("), and 3 more\n")
        );
        assert!(root.leaving(Vec::new(), 4).text().contains("\nleaving   0 of 4 peers\n"));
    }

    #[test]
    fn only_yes_is_yes() {
        assert!(["y\n", "Y\n", "yes\n", " YES \n"].iter().all(|answer| is_yes(answer)));
        assert!(["", "\n", "n\n", "ye\n", "no\n", "yes please\n"].iter().all(|answer| !is_yes(answer)));
    }
}
