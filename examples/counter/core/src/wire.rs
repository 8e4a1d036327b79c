//! The messages between nodes. A question goes to a token's mesh address; the answer names the disk it comes from.

use serde::{Deserialize, Serialize};

use crate::{
    entry::{Entry, Members},
    id::{NodeId, Term},
    log::End,
};

/// Asked by the leader of a term or, with [`Wants::Reach`], asked of it. The receiver must know by the mesh that it comes from the token
/// in `from`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The leader; with [`Wants::Reach`] another node.
    pub from: NodeId,
    /// The leader's term.
    pub term: Term,
    /// What is wanted.
    pub wants: Wants,
}

/// What a leader wants, or another node of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wants {
    /// The promise to refuse every older term.
    Promise,
    /// The entries of a log that was promised, after an index.
    Fetch {
        /// An index.
        after: u64,
        /// The term of the leader's entry there.
        term: Term,
    },
    /// That entries be put on disk.
    Append {
        /// The index before the first of them.
        after: u64,
        /// The term of the leader's entry there.
        term: Term,
        /// Maybe none: a sign of life.
        entries: Vec<Entry>,
        /// Up to where the leader's log counts.
        counted: u64,
        /// For how long no majority has followed, milliseconds: a leader without one is no sign of life.
        silent: u64,
    },
    /// Whether the leader of that term is reached.
    Reach,
}

/// An answer to a question. All of it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The node that answers.
    pub from: NodeId,
    /// The term of the question.
    pub term: Term,
    /// The answer.
    pub says: Says,
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Says {
    /// The promise to refuse older terms from now on, with the log up to then.
    Promised {
        /// Where it ends.
        end: End,
        /// The members in it.
        members: Option<Members>,
    },
    /// The entries after an index.
    Fetched {
        /// The index.
        after: u64,
        /// As many as fit.
        entries: Vec<Entry>,
    },
    /// The log is the leader's up to an index.
    Holds {
        /// The index.
        upto: u64,
    },
    /// The log differs at the index in question; at `hint` or before it may be the same.
    Differs {
        /// An index below.
        hint: u64,
    },
    /// An earlier promise forbids it.
    Refused {
        /// The term that was promised.
        promised: Term,
    },
    /// The receiver has not seen the contract give this term to this leader.
    NotSeen,
    /// The entries contradict some that count. An honest leader never sends such.
    Contradicts,
    /// It was reached. This says nothing about who leads.
    Reached,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        entry::{ClientId, Increment, Operation},
        id::{DiskId, Token},
    };

    fn node(token: u16) -> NodeId {
        NodeId { token: Token(token), disk: DiskId([0xab; 16]) }
    }

    /// Nodes of one cluster may have two versions for a while, and logs are kept in this encoding.
    #[test]
    fn the_words_are_fixed() {
        let disk = "ab".repeat(16);
        let client = ClientId::try_from("me".to_owned()).unwrap();
        let members = Members::try_from(BTreeMap::from([1, 12].map(|token| (Token(token), node(token).disk)))).unwrap();
        let operations =
            [Operation::Begin, Operation::Increment(Increment { client, request: 7 }), Operation::Members(members)];
        let entries = operations.map(|operation| Entry { term: 3, operation }).to_vec();
        let wants = Wants::Append { after: 4, term: 2, entries, counted: 4, silent: 0 };
        let question = Question { from: node(1), term: 3, wants };
        let expected = json!({
            "from": { "token": 1, "disk": disk },
            "term": 3,
            "wants": { "append": {
                "after": 4, "term": 2, "counted": 4, "silent": 0,
                "entries": [
                    { "term": 3, "operation": "begin" },
                    { "term": 3, "operation": { "increment": { "client": "me", "request": 7 } } },
                    { "term": 3, "operation": { "members": { "1": disk, "12": disk } } },
                ],
            } },
        });
        assert_eq!(serde_json::to_value(&question).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Question>(expected).unwrap(), question);

        let end = End { term: 2, length: 9 };
        let answer = Answer { from: node(2), term: 3, says: Says::Promised { end, members: None } };
        let expected = json!({
            "from": { "token": 2, "disk": disk },
            "term": 3,
            "says": { "promised": { "end": { "term": 2, "length": 9 }, "members": null } },
        });
        assert_eq!(serde_json::to_value(&answer).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Answer>(expected).unwrap(), answer);
        assert_eq!(serde_json::to_value(Wants::Reach).unwrap(), json!("reach"));
        assert_eq!(serde_json::to_value(Says::Reached).unwrap(), json!("reached"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |text: Value| serde_json::from_value::<Operation>(text).is_err();
        assert!(refused(json!({ "members": {} })));
        assert!(refused(json!({ "members": { "1": "ab" } })));
        assert!(refused(json!({ "members": { "65536": "ab".repeat(16) } })));
        for client in [String::new(), "a b".to_owned(), "é".to_owned(), "x".repeat(65)] {
            assert!(refused(json!({ "increment": { "client": client, "request": 1 } })), "{client}");
        }
        assert!(refused(json!({ "increment": { "client": "a", "request": -1 } })));
    }
}
