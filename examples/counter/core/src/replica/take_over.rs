//! Taking over: promises of a majority, and the latest of their logs.

use std::{collections::BTreeMap, time::Duration};

use super::{Command, Replica, Role, lead::Lead};
use crate::{
    entry::{Entry, Members, Operation},
    id::{DiskId, NodeId, Term, Token},
    log::End,
    wire::{Answer, Question, Says, Wants},
};

/// How often a log is requested before another one is chosen.
const TRIES: u32 = 4;

#[derive(Debug)]
pub(super) struct TakeOver {
    term: Term,
    promises: BTreeMap<Token, Promised>,
    asked_at: BTreeMap<Token, Duration>,
    fetch: Option<Fetch>,
}

/// The log of a node that promised: only the leader that it was promised to changes it from then on.
#[derive(Debug)]
struct Promised {
    disk: DiskId,
    end: End,
    members: Option<Members>,
}

/// The latest log on its way.
#[derive(Debug)]
struct Fetch {
    from: NodeId,
    end: End,
    /// Where the logs may part. They agree up to here once something has come.
    after: u64,
    came: Vec<Entry>,
    asked_at: Option<Duration>,
    tries: u32,
}

/// What the promises allow.
enum Verdict {
    /// To wait for more.
    Wait,
    /// To lead with the own log.
    Lead,
    /// To lead with another's.
    Fetch(NodeId, End),
    /// To found the cluster.
    Found(Members),
}

impl Replica {
    /// The contract gives the seat to this node, and this node has promised itself.
    pub(super) fn begin(&mut self, term: Term) {
        // Entries of this term are this node's own, written before it was restarted or lost the contract's seat for a moment. No
        // other node has any that this log lacks: each was on this disk before it was sent.
        if self.log.end().term == term {
            self.role = Role::Leading(Lead::new(term));
            return;
        }
        self.role =
            Role::TakingOver(TakeOver { term, promises: BTreeMap::new(), asked_at: BTreeMap::new(), fetch: None });
    }

    pub(super) fn answered_taking_over(&mut self, answer: Answer) {
        let Role::TakingOver(taking) = &mut self.role else { return };
        if answer.term != taking.term {
            return;
        }
        let Answer { from, says, .. } = answer;
        match says {
            Says::Promised { end, members } if members.is_some() == (end.length > 0) => {
                taking.promises.insert(from.token, Promised { disk: from.disk, end, members });
            }
            Says::Fetched { after, entries } => taking.take(from, after, entries),
            Says::Differs { hint } => taking.go_back(from, hint),
            Says::Promised { .. }
            | Says::Holds { .. }
            | Says::Refused { .. }
            | Says::NotSeen
            | Says::Contradicts
            | Says::Reached => {}
        }
    }

    pub(super) fn proceed_taking_over(&mut self) -> bool {
        let Role::TakingOver(taking) = &mut self.role else { return false };
        if let Some(fetch) = taking.fetch.take_if(|fetch| fetch.is_whole()) {
            return self.adopt(fetch);
        }
        if taking.fetch.is_none() {
            match self.verdict() {
                Verdict::Wait => {}
                Verdict::Lead => return self.lead(Operation::Begin),
                Verdict::Found(members) => return self.lead(Operation::Members(members)),
                Verdict::Fetch(from, end) => {
                    let after = end.length.min(self.log.length());
                    let fetch = Fetch { from, end, after, came: Vec::new(), asked_at: None, tries: 0 };
                    if let Role::TakingOver(taking) = &mut self.role {
                        taking.fetch = Some(fetch);
                    }
                }
            }
        }
        self.ask_for_promises();
        self.ask_for_entries();
        false
    }

    /// The latest log decides who the members are, and a majority of these must have promised. This node's own log is one of them.
    fn verdict(&self) -> Verdict {
        let Role::TakingOver(taking) = &self.role else { return Verdict::Wait };
        let promised = |node: NodeId| {
            node == self.me || taking.promises.get(&node.token).is_some_and(|promised| promised.disk == node.disk)
        };
        let latest = taking.promises.iter().max_by_key(|(_, promised)| promised.end);
        let (end, members) = self.standing();
        let (holder, end, members) = match latest {
            Some((&token, latest)) if latest.end > end => {
                (NodeId { token, disk: latest.disk }, latest.end, latest.members.as_ref())
            }
            Some(_) | None => (self.me, end, members.as_ref()),
        };
        match members {
            None => self.founding(taking).map_or(Verdict::Wait, Verdict::Found),
            Some(members) if !members.most(promised) => Verdict::Wait,
            Some(_) if holder == self.me => Verdict::Lead,
            Some(_) => Verdict::Fetch(holder, end),
        }
    }

    /// The first members, if this is one of them and all of them have promised, with empty logs.
    fn founding(&self, taking: &TakeOver) -> Option<Members> {
        let disk = |token: Token| {
            if token == self.me.token { Some(self.me.disk) } else { Some(taking.promises.get(&token)?.disk) }
        };
        if !self.founders.contains(&self.me.token) {
            return None;
        }
        let members = self.founders.iter().map(|&token| Some((token, disk(token)?)));
        Members::try_from(members.collect::<Option<BTreeMap<_, _>>>()?).ok()
    }

    fn adopt(&mut self, fetch: Fetch) -> bool {
        let term = self.log.term_at(fetch.after).unwrap_or(0);
        let adopted =
            self.log.merge(fetch.after, term, fetch.came, self.counted).is_ok() && self.log.end() == fetch.end;
        if adopted {
            return self.lead(Operation::Begin);
        }
        // Not the log that was promised: that node is left out.
        if let Role::TakingOver(taking) = &mut self.role {
            taking.promises.remove(&fetch.from.token);
        }
        true
    }

    fn lead(&mut self, first: Operation) -> bool {
        let Role::TakingOver(TakeOver { term, .. }) = self.role else { return false };
        self.log.push(Entry { term, operation: first });
        self.role = Role::Leading(Lead::new(term));
        true
    }

    fn ask_for_promises(&mut self) {
        let others = self.others();
        let Role::TakingOver(taking) = &mut self.role else { return };
        let question = Question { from: self.me, term: taking.term, wants: Wants::Promise };
        for token in others.into_iter().chain(self.founders.iter().copied().filter(|&token| token != self.me.token)) {
            let due = taking.asked_at.get(&token).is_none_or(|&at| self.now >= at + self.timing.ask_again);
            if due && !taking.promises.contains_key(&token) {
                taking.asked_at.insert(token, self.now);
                self.outbox.push_back(Command::Ask(token, question.clone()));
            }
        }
    }

    fn ask_for_entries(&mut self) {
        let Role::TakingOver(taking) = &mut self.role else { return };
        let Some(fetch) = &mut taking.fetch else { return };
        if fetch.asked_at.is_some_and(|at| self.now < at + self.timing.ask_again) {
            return;
        }
        if fetch.tries == TRIES {
            taking.promises.remove(&fetch.from.token);
            taking.fetch = None;
            return;
        }
        fetch.tries += 1;
        fetch.asked_at = Some(self.now);
        let wants = match fetch.came.last() {
            Some(last) => Wants::Fetch { after: fetch.reached(), term: last.term },
            None => Wants::Fetch { after: fetch.after, term: self.log.term_at(fetch.after).unwrap_or(0) },
        };
        self.outbox.push_back(Command::Ask(fetch.from.token, Question { from: self.me, term: taking.term, wants }));
    }
}

impl TakeOver {
    fn take(&mut self, from: NodeId, after: u64, entries: Vec<Entry>) {
        let Some(fetch) = self.fetch.as_mut().filter(|fetch| fetch.from == from && fetch.reached() == after) else {
            return;
        };
        if !entries.is_empty() {
            fetch.came.extend(entries);
            (fetch.asked_at, fetch.tries) = (None, 0);
        }
    }

    fn go_back(&mut self, from: NodeId, hint: u64) {
        let Some(fetch) = self.fetch.as_mut().filter(|fetch| fetch.from == from && fetch.came.is_empty()) else {
            return;
        };
        if hint < fetch.after {
            (fetch.after, fetch.asked_at, fetch.tries) = (hint, None, 0);
        }
    }
}

impl Fetch {
    fn reached(&self) -> u64 {
        self.after + self.came.len() as u64
    }

    fn is_whole(&self) -> bool {
        self.reached() >= self.end.length && !self.came.is_empty()
    }
}
