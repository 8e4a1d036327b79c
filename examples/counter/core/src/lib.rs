//! A counter that several nodes keep together: the pure part. No sockets, no files, no clock, no randomness.
//!
//! Each node keeps a log. The contract names a leader for a term; the leader writes entries, every node puts them on its disk, and
//! what a majority has on disk counts. [`Replica`] is one node: it takes facts ([`Input`]) and returns what to do ([`Command`]), in
//! an order that the shell keeps: each command is finished, on the disk too, before the next one is begun.
//!
//! # What holds
//!
//! **No increment that was acknowledged is ever lost or counted twice**, as long as of each set of n = 2f + 1 members named in the
//! log at most f lose their disks, and no disk is put back to what it was earlier: a node on a restored snapshot or backup has
//! forgotten what it promised, and does not know that it has. An operator who restores one moves the journal away first. It holds
//! whatever the network does with messages, whenever nodes stop and start, and whatever the contract, or an endpoint that lies
//! about it, says about leaders. These decide only whether there is progress: there is some while f + 1 members run, reach each
//! other, and read the same leader for long enough.
//!
//! Nodes are assumed to run this code: every member of the mesh has proved that. What "Byzantine" covers in the contract is the
//! seat of the leader (`ILeaderElection`), so that f members cannot depose a leader that the others trust, nor keep one that they
//! do not; it is not a leader that writes falsehoods into the log.
//!
//! # Why
//!
//! Call `(term, leader)` a *seat*. A *promise* to a seat is on disk before it is sent; after it a node refuses every lower term,
//! and every other leader in the same term. To *hold* an entry is to have it on disk.
//!
//! 1. **One leader a term.** A leader writes only after a majority has promised it its seat, itself included: the same rule
//!    ([`Replica`] promises itself first). Two seats of one term cannot both get a majority. So it does not matter that a
//!    reorganisation of the chain may give one term to two nodes, one after the other: at most one of them ever writes. The other
//!    waits, shows no sign of work, and is voted out; the next term has no leader yet.
//! 2. **A term's leader only appends**, and each entry is on its own disk before it is sent. A leader that restarts within its
//!    term and finds an entry of that term in its log goes on: its log has all that it ever sent. If it finds none it sent none, and takes
//!    over again. So index and term name one entry: logs that agree in the term at an index agree in all up to there.
//! 3. **A take-over begins with the latest log** (by the term of its last entry, then by length) among those of a majority of the
//!    members *that this log names*, each of which has promised first and so changes its log no more until the new leader writes. The
//!    new leader makes that log its own before it writes. In doing so, and when a follower takes entries, only entries go that
//!    differ from the later log.
//! 4. **An entry counts when a majority of the members holds it and it is of the leader's own term**; then all before it count too. So a
//!    new leader's first entry ([`Operation::Begin`]) is what makes the log that it took over count: an old entry that is merely on
//!    most disks may still be replaced by a later log of a term between.
//! 5. **What counts is in the log of every later leader.** Say an entry counts in term t, and take the first later term u whose
//!    leader begins without it. The majority that holds it and the majority that promised u have a node in common (6). That node
//!    took the entry before it promised u, because afterwards it refuses t. From then to the promise only leaders of the terms
//!    between could have changed its log, and these had the entry. So the log that it sent with its promise had the entry, and the
//!    leader of u took a log that is as late or later. The last entry of that log is of t, and then it is a log of t's leader at
//!    least as long; or of a term between, whose leader had the entry. Either way it has the entry.
//! 6. **Members change one at a time**, and a set is in force as soon as it is in the log. The next change is written only when the
//!    one before counts, and not before the leader's first entry of its own term counts. So any two sets that may decide at the
//!    same time differ by one node, and their majorities meet. A leader that has an old set, or none, asks all that the contract
//!    lists; which majority it needs is decided by the latest log it is shown, not by what it knew or by the contract. It need not
//!    be a member, and does not count itself then.
//! 7. **The cluster is founded once**: by a founder to whom *all* founders have promised, with empty logs. A node that had founded
//!    it before is a founder, has a log that is not empty, and would have said so. That founder, or one of those who hold its first
//!    entry, must still have its disk; so a node that comes later, or comes back on a new disk, is given no founders.
//! 8. **A member is a token with a disk.** A node that comes back under a token without the disk, or with the token of a node that
//!    left, has another [`DiskId`], counts in no majority, and is made a member like any newcomer: struck, brought up to date,
//!    added.
//! 9. **An increment carries its client's name and number.** The counter, which all nodes work out from the same log, counts a
//!    number of a client once, however often it is in the log; a client that asks again gets what was counted the first time.
//!
//! An old leader that was cut off can still write into its own log, but no majority follows: a node that promised a later term
//! refuses. It acknowledges nothing, and when it comes back what it wrote alone gives way to the new leader's log.
//!
//! # When a node votes
//!
//! Against a seat that has not worked for a while, as it sees it: no leader asks, or the one that does has no majority that follows
//! ([`Wants::Append`] says since when); or this node does not reach it ([`Wants::Reach`]), be it only because connections to it
//! are dropped and its own are not. A leader votes against itself when no majority follows. Votes of a minority are without
//! effect, so that one member that is cut off, in one direction or both, deposes no leader.
//!
//! # When a node sees the contract late or early
//!
//! A node promises a seat only when it has read of it itself ([`Says::NotSeen`] until then; the leader asks again), so that a
//! member cannot claim terms that the contract did not give it. A promise is kept whatever the contract says afterwards. An old
//! leader that has not heard of its successor goes on for as long as a majority has promised no other; what it acknowledges in that
//! time is held by a majority, and found by the successor.
//!
//! A node that promised a seat which a reorganisation undid is as good as down until the contract reaches a later term. Where so
//! many have that no majority is left, the leader shows no sign of work, and they vote for that term themselves.
//!
//! # What is deliberately absent
//!
//! The log is never shortened, and the numbers of all clients are remembered: this is an example, and `/log` shows all of it. What a node
//! says about the count is what it knows to count, which on a follower may be a moment old.

mod counter;
mod entry;
mod id;
mod log;
mod replica;
mod wire;

pub use counter::{Counted, Counter, Outdated};
pub use entry::{ClientId, Entry, Increment, InvalidClientId, Members, NoMembers, Operation};
pub use id::{DiskId, NodeId, Term, Token};
pub use log::{End, Log, Write};
pub use replica::{
    BATCH, Command, Doing, Input, Obstacle, Promise, Rejection, Replica, Restored, Seat, Ticket, Timing,
};
pub use wire::{Answer, Question, Says, Wants};
