//! When to vote against the contract's leader.

use super::{Command, Replica, Seat};

impl Replica {
    /// A node votes against a seat that does not work for too long: also against its own, where it leads and no majority follows, and
    /// against one whose leader it does not reach. Votes decide which node may try to lead, never what counts.
    pub(super) fn consider_vote(&mut self) {
        let Some(seat) = self.seat else { return };
        let voted_lately = self.voted_at.is_some_and(|at| self.now < at + self.timing.vote_again);
        if self.silence() > self.timing.patience && !voted_lately && self.can_judge(seat) {
            self.voted_at = Some(self.now);
            self.outbox.push_back(Command::Vote(seat));
        }
    }

    /// Before the cluster is founded a leader cannot show that it works, and founders would vote for as long as one of them is missing.
    /// They know only that a leader that is no founder never will. Nodes that are no founders join later.
    fn can_judge(&self, seat: Seat) -> bool {
        let is_founded = self.log.members().is_some() || self.cluster_seen || !self.founders.contains(&self.me.token);
        is_founded || seat.leader.is_none_or(|leader| !self.founders.contains(&leader))
    }
}
