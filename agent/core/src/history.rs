//! What happened in the last hour: changes of verdict, reads, warnings, and of each peer's state and path. For people who ask why, after
//! it is over. Nothing is decided by it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    agent::Now,
    id::TokenId,
    status::{PathKind, PeerState, VerdictState},
    time::rfc3339,
};

/// The value of [`History::schema`].
const SCHEMA: &str = "p2p-agent.history/v1";
/// What is older is forgotten.
pub const KEPT_FOR: Duration = Duration::from_secs(3600);
/// Events kept of one peer: one that flaps does not push out what is known of others.
const MAX_OF_A_PEER: usize = 64;
/// Events kept of the node itself.
const MAX_OF_THE_NODE: usize = 512;
/// Bytes kept of a text: endpoints choose texts, too.
const MAX_TEXT: usize = 300;

/// `GET /v1/history`: the last hour, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Always `p2p-agent.history/v1`.
    pub schema: String,
    /// What happened, oldest first; of several at one moment, the node's own first, then by token.
    pub events: Vec<Event>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// To which peer; `None`: to the node itself.
    pub peer: Option<TokenId>,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// The node's verdict on itself changed.
    Verdict {
        /// What it was.
        from: VerdictState,
        /// What it is.
        to: VerdictState,
    },
    /// A read brought another state of the contract.
    Epoch {
        /// The contract's epoch.
        epoch: u64,
        /// The block that was read.
        block: u64,
    },
    /// A warning began, or says something else; also that the contract cannot be read.
    Warning {
        /// Its code, for example `W103`.
        code: String,
        /// What it says.
        message: String,
    },
    /// A warning is over.
    WarningOver {
        /// Its code.
        code: String,
    },
    /// A peer's state changed.
    State {
        /// What it was; `None` for one that was not known.
        from: Option<PeerState>,
        /// What it is; `None` for one that is gone.
        to: Option<PeerState>,
    },
    /// A peer's packets take another path.
    Path {
        /// The one before.
        from: PathKind,
        /// The one now.
        to: PathKind,
        /// What was wrong with the one before: a code of `meshctl why`, or a word.
        reason: String,
    },
}

/// The events of the last hour, bounded for each peer and for the node.
#[derive(Debug, Default)]
pub(crate) struct HistoryBook {
    of_node: VecDeque<Entry>,
    of_peers: BTreeMap<TokenId, VecDeque<Entry>>,
    /// The epoch of the last state.
    epoch: Option<u64>,
}

#[derive(Debug)]
struct Entry {
    /// By its monotonic reading it is forgotten.
    at: Now,
    what: What,
}

impl HistoryBook {
    /// Notes what happened to the node.
    pub(crate) fn note(&mut self, what: What, at: Now) {
        push(&mut self.of_node, MAX_OF_THE_NODE, what, at);
    }

    /// Notes what happened to a peer. Peers of which nothing was heard for an hour are forgotten here, too.
    pub(crate) fn note_peer(&mut self, peer: TokenId, what: What, at: Now) {
        if !self.of_peers.contains_key(&peer) {
            // Once for each newcomer, so that there are never more than changed within an hour.
            self.of_peers.retain(|_, entries| entries.back().is_some_and(|last| is_recent(last, at)));
        }
        push(self.of_peers.entry(peer).or_default(), MAX_OF_A_PEER, what, at);
    }

    /// Notes what was read, where it is new.
    pub(crate) fn note_epoch(&mut self, epoch: u64, block: u64, at: Now) {
        if self.epoch.replace(epoch) != Some(epoch) {
            self.note(What::Epoch { epoch, block }, at);
        }
    }

    /// The last hour, as of `now`.
    pub(crate) fn history(&self, now: Now) -> History {
        let of_node = self.of_node.iter().map(|entry| (None, entry));
        let of_peers =
            self.of_peers.iter().flat_map(|(peer, entries)| entries.iter().map(|entry| (Some(*peer), entry)));
        let mut events: Vec<_> = of_node.chain(of_peers).filter(|(_, entry)| is_recent(entry, now)).collect();
        events.sort_by_key(|(_, entry)| entry.at.since_start);
        let events = events.into_iter().map(|(peer, entry)| Event {
            at: rfc3339(entry.at.unix),
            peer,
            what: entry.what.clone(),
        });
        History { schema: SCHEMA.to_owned(), events: events.collect() }
    }
}

impl What {
    /// A warning began. Its text may be an endpoint's, of any length.
    pub(crate) fn warning(code: &str, message: &str) -> Self {
        Self::Warning { code: code.to_owned(), message: shortened(message) }
    }
}

fn push(entries: &mut VecDeque<Entry>, max: usize, what: What, at: Now) {
    while entries.front().is_some_and(|first| entries.len() >= max || !is_recent(first, at)) {
        entries.pop_front();
    }
    entries.push_back(Entry { at, what });
}

fn is_recent(entry: &Entry, now: Now) -> bool {
    now.since_start.saturating_sub(entry.at.since_start) <= KEPT_FOR
}

fn shortened(text: &str) -> String {
    match text.char_indices().map(|(at, _)| at).find(|at| *at >= MAX_TEXT) {
        Some(end) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        let time = Duration::from_secs(seconds);
        Now { since_start: time, unix: time }
    }

    fn token(id: u32) -> TokenId {
        TokenId::new(id).unwrap()
    }

    fn entered(state: PeerState) -> What {
        What::State { from: None, to: Some(state) }
    }

    #[test]
    fn events_of_all_come_in_order_and_leave_after_an_hour() {
        let mut book = HistoryBook::default();
        book.note_peer(token(9), entered(PeerState::Up), at(1));
        book.note_peer(token(2), entered(PeerState::Down), at(3));
        book.note_epoch(7, 100, at(2));
        book.note_epoch(7, 101, at(4));
        let order: Vec<_> = book.history(at(5)).events.into_iter().map(|event| event.peer).collect();
        assert_eq!(order, [Some(token(9)), None, Some(token(2))], "the same epoch again is no event");
        assert_eq!(book.history(at(3602)).events.len(), 2);
        assert_eq!(book.history(at(3604)).events, []);
    }

    #[test]
    fn a_peer_that_flaps_pushes_out_its_own_events_alone() {
        let mut book = HistoryBook::default();
        book.note_peer(token(1), entered(PeerState::Up), at(1));
        for second in 0..1000 {
            book.note_peer(token(2), entered(PeerState::Suspect), at(second));
        }
        let events = book.history(at(1000)).events;
        assert_eq!(events.len(), 1 + MAX_OF_A_PEER);
        assert_eq!(events.iter().filter(|event| event.peer == Some(token(1))).count(), 1);
    }

    #[test]
    fn a_cluster_whose_members_come_and_go_takes_no_more_memory_than_an_hour_of_it() {
        let mut book = HistoryBook::default();
        for id in 1..=5000 {
            book.note_peer(token(id), entered(PeerState::Up), at(u64::from(id) * 10));
        }
        assert!(book.of_peers.len() <= 362, "{}", book.of_peers.len());
    }

    #[test]
    fn a_text_is_bounded() {
        let What::Warning { message, .. } = What::warning("W305", &"ä".repeat(MAX_TEXT)) else { panic!() };
        assert!(message.len() <= MAX_TEXT + '…'.len_utf8(), "{}", message.len());
    }

    #[test]
    fn events_are_json_that_reads_back() {
        let mut book = HistoryBook::default();
        book.note_peer(
            token(3),
            What::Path { from: PathKind::Direct, to: PathKind::Gateway, reason: "direct_udp_silent".to_owned() },
            at(1),
        );
        let history = book.history(at(1));
        let json = serde_json::to_value(&history).unwrap();
        assert_eq!(
            json["events"][0],
            serde_json::json!({
                "at": "1970-01-01T00:00:01.000Z", "peer": 3,
                "event": "path", "from": "direct", "to": "gateway", "reason": "direct_udp_silent",
            })
        );
        assert_eq!(serde_json::from_value::<History>(json).unwrap(), history);
    }
}
