//! One follower, step by step.

use std::{collections::BTreeSet, time::Duration};

use counter_core::{
    Answer, Command, Entry, Input, NodeId, Obstacle, Operation, Promise, Question, Replica, Restored, Says, Seat,
    Ticket, Timing, Token, Wants,
};

use crate::steps::{node, old_log};

/// Node 1 with this log, which follows node 3 in term 3.
fn follower(entries: Vec<Entry>) -> Replica {
    let promise = Promise { term: 1, leader: Some(node(2)) };
    let mut replica =
        Replica::new(node(1), BTreeSet::new(), Restored { promise, entries }, Timing::default(), Duration::ZERO);
    replica.handle(Input::Seat(Seat { term: 3, leader: Some(Token(3)) }), Duration::ZERO);
    replica
}

/// What it does when node 3 sends entries.
fn told(replica: &mut Replica, (after, term): (u64, u32), entries: Vec<Entry>, counted: u64) -> Vec<Command> {
    let wants = Wants::Append { after, term, entries, counted, silent: 0 };
    let question = Question { from: node(3), term: 3, wants };
    replica.handle(Input::Question(Ticket(1), question), Duration::ZERO);
    std::iter::from_fn(|| replica.poll_command()).collect()
}

fn says(commands: &[Command]) -> Option<&Says> {
    commands.iter().find_map(|command| {
        let Command::Answer(_, answer) = command else { return None };
        Some(&answer.says)
    })
}

fn begin(term: u32) -> Entry {
    Entry { term, operation: Operation::Begin }
}

#[test]
fn promise_and_entries_are_on_disk_before_they_are_spoken_of() {
    let mut replica = follower(old_log(3));
    let commands = told(&mut replica, (4, 1), vec![begin(3)], 0);
    let [Command::SavePromise(promise), Command::SaveLog(write), Command::Answer(_, answer), ..] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!((promise.term, promise.leader), (3, Some(node(3))));
    assert_eq!((write.keep, &write.entries), (4, &vec![begin(3)]));
    assert_eq!(answer.says, Says::Holds { upto: 5 });
}

/// What it has beyond what it was sent is an old leader's, and the new one may have other entries there.
#[test]
fn it_holds_and_counts_what_the_leader_showed_and_nothing_beyond() {
    let mut replica = follower(old_log(9));
    let commands = told(&mut replica, (2, 1), vec![old_log(9)[2].clone()], 8);
    assert_eq!(says(&commands), Some(&Says::Holds { upto: 3 }));
    assert_eq!((replica.log().length(), replica.counted()), (10, 3));
}

#[test]
fn what_counts_is_not_replaced_and_what_does_not_is() {
    let mut replica = follower(old_log(9));
    let commands = told(&mut replica, (6, 1), vec![], 6);
    assert_eq!((says(&commands), replica.counted()), (Some(&Says::Holds { upto: 6 }), 6));
    let commands = told(&mut replica, (5, 1), vec![begin(3)], 6);
    assert_eq!((says(&commands), replica.log().length()), (Some(&Says::Contradicts), 10));
    let commands = told(&mut replica, (6, 1), vec![begin(3)], 6);
    assert_eq!((says(&commands), replica.log().length()), (Some(&Says::Holds { upto: 7 }), 7));
}

#[test]
fn entries_from_a_later_term_than_the_leaders_are_refused() {
    let mut replica = follower(old_log(3));
    for terms in [[4, 4], [3, 2], [1, 4]] {
        let commands = told(&mut replica, (4, 1), terms.map(begin).to_vec(), 6);
        assert_eq!(says(&commands), Some(&Says::Contradicts), "{terms:?}");
        assert_eq!((replica.log().length(), replica.counted()), (4, 0));
    }
}

/// As [`node`], on another disk.
fn stranger(token: u16) -> NodeId {
    NodeId { disk: counter_core::DiskId([0xcc; 16]), ..node(token) }
}

#[test]
fn of_one_term_only_the_promised_leader_is_followed() {
    let mut replica = follower(old_log(3));
    drop(told(&mut replica, (4, 1), vec![], 0));
    let wants = Wants::Append { after: 4, term: 1, entries: vec![begin(3)], counted: 0, silent: 0 };
    let question = Question { from: stranger(3), term: 3, wants };
    replica.handle(Input::Question(Ticket(2), question), Duration::ZERO);
    let commands: Vec<_> = std::iter::from_fn(|| replica.poll_command()).collect();
    assert_eq!((says(&commands), replica.log().length()), (Some(&Says::Refused { promised: 3 }), 4));
}

/// The leader is heard all the time, and answers until five seconds have passed.
#[test]
fn a_leader_that_is_heard_and_not_reached_is_voted_against() {
    let seat = Seat { term: 3, leader: Some(Token(3)) };
    let mut replica = follower(old_log(3));
    assert_eq!(replica.obstacle(), Some(Obstacle::Silent));
    let (mut obstacles, mut voted) = (Vec::new(), Vec::new());
    for milliseconds in (0..10_000).step_by(100) {
        let now = Duration::from_millis(milliseconds);
        let wants = Wants::Append { after: 4, term: 1, entries: vec![], counted: 4, silent: 0 };
        replica.handle(Input::Question(Ticket(1), Question { from: node(3), term: 3, wants }), now);
        while let Some(command) = replica.poll_command() {
            match command {
                Command::Ask(to, Question { wants: Wants::Reach, term, .. }) if milliseconds < 5_000 => {
                    let from = NodeId { token: to, ..node(3) };
                    replica.handle(Input::Answer(Answer { from, term, says: Says::Reached }), now);
                }
                Command::Vote(against) => voted.push((milliseconds, against)),
                Command::SavePromise(_)
                | Command::SaveLog(_)
                | Command::Ask(..)
                | Command::Answer(..)
                | Command::Reply(..) => {}
            }
        }
        if obstacles.last().is_none_or(|&(_, obstacle)| obstacle != replica.obstacle()) {
            obstacles.push((milliseconds, replica.obstacle()));
        }
    }
    assert!(matches!(obstacles[..], [(0, None), (5_000..8_000, Some(Obstacle::OutOfReach))]), "{obstacles:?}");
    assert!(matches!(voted[..], [(7_000..8_000, against)] if against == seat), "{voted:?}");
}

/// An answer from another node, or about another seat, is not the leader's.
#[test]
fn only_the_leader_is_reached_by_its_answer() {
    let mut replica = follower(old_log(3));
    drop(told(&mut replica, (4, 1), vec![], 0));
    for (from, term) in [(node(2), 3), (node(3), 2), (node(1), 3)] {
        replica.handle(Input::Answer(Answer { from, term, says: Says::Reached }), Duration::ZERO);
        assert_eq!(replica.obstacle(), Some(Obstacle::OutOfReach), "{from:?} in term {term}");
    }
    replica.handle(Input::Answer(Answer { from: node(3), term: 3, says: Says::Reached }), Duration::ZERO);
    assert_eq!(replica.obstacle(), None);
}
