//! The members in the log follow the peers in the contract, one at a time.

use std::collections::BTreeSet;

use super::{Replica, Role, lead::Lead};
use crate::{
    entry::{Entry, Members, Operation},
    id::{NodeId, Token},
};

impl Replica {
    pub(super) fn listed(&mut self, mut listed: BTreeSet<Token>) {
        listed.remove(&self.me.token);
        self.absent_since.retain(|token, _| !listed.contains(token));
        for node in self.log.members().into_iter().flat_map(Members::iter) {
            if node.token != self.me.token && !listed.contains(&node.token) {
                self.absent_since.entry(node.token).or_insert(self.now);
            }
        }
        self.listed = Some(listed);
    }

    /// Writes the next change of members, where one is due and may be. It may be when this leader's first entry counts, and so does
    /// the change before: then any majority of the old members and any majority of the new ones have a node in common, whichever
    /// node takes over.
    pub(super) fn change_members(&mut self) -> bool {
        let (Role::Leading(lead), Some(members)) = (&self.role, self.log.members()) else { return false };
        let term = lead.term;
        if self.log.last_change() > self.counted || self.log.term_at(self.counted) != Some(term) {
            return false;
        }
        let Some(members) = self.struck(lead, members).or_else(|| self.joined(lead, members)) else { return false };
        self.log.push(Entry { term, operation: Operation::Members(members) });
        true
    }

    /// The members without one that left, or came back with another disk.
    fn struck(&self, lead: &Lead, members: &Members) -> Option<Members> {
        let gone = |node: &NodeId| {
            if node.token == self.me.token {
                return node.disk != self.me.disk;
            }
            let absent = self.absent_since.get(&node.token);
            let left = absent.is_some_and(|&since| self.now >= since + self.timing.strike_after);
            let disk = lead.follower(node.token).and_then(|follower| follower.disk);
            left || disk.is_some_and(|disk| disk != node.disk)
        };
        members.without(members.iter().find(gone)?.token)
    }

    /// The members with one more, which has all that counts.
    fn joined(&self, lead: &Lead, members: &Members) -> Option<Members> {
        if members.disk_of(self.me.token).is_none() {
            return Some(members.with(self.me));
        }
        let ready = |&token: &Token| {
            let follower = lead.follower(token).filter(|_| members.disk_of(token).is_none())?;
            (follower.holds >= self.counted).then_some(NodeId { token, disk: follower.disk? })
        };
        self.listed.as_ref()?.iter().find_map(ready).map(|node| members.with(node))
    }
}
