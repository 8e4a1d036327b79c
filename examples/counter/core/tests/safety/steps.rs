//! One leader, step by step: what chance alone brings about too rarely.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use counter_core::{
    Answer, BATCH, ClientId, Command, DiskId, Doing, End, Entry, Increment, Input, Members, NodeId, Operation, Promise,
    Question, Replica, Restored, Says, Seat, Ticket, Timing, Token, Wants,
};

pub(crate) fn node(token: u16) -> NodeId {
    NodeId { token: Token(token), disk: DiskId([0xaa; 16]) }
}

fn members(tokens: impl IntoIterator<Item = u16>) -> Members {
    let disks: BTreeMap<Token, DiskId> = tokens.into_iter().map(|token| (Token(token), node(token).disk)).collect();
    Members::try_from(disks).unwrap()
}

/// Founded by three in term 1, and then increments of that term.
pub(crate) fn old_log(increments: u64) -> Vec<Entry> {
    let client = ClientId::try_from("old".to_owned()).unwrap();
    let increments =
        (1..=increments).map(|request| Operation::Increment(Increment { client: client.clone(), request }));
    let operations = std::iter::once(Operation::Members(members([1, 2, 3]))).chain(increments);
    operations.map(|operation| Entry { term: 1, operation }).collect()
}

struct Leader {
    replica: Replica,
    now: Duration,
}

impl Leader {
    /// Node 1 with this log, and the contract gives it term 2. Nodes 4 and 5 are listed too.
    fn with(entries: Vec<Entry>) -> Self {
        Self::of(entries, |_| {})
    }

    /// The same after node 3 has told it in term 1 that all of it counts.
    fn told_that_it_counts(entries: Vec<Entry>) -> Self {
        let after = entries.len() as u64;
        Self::of(entries, |replica| {
            let wants = Wants::Append { after, term: 1, entries: vec![], counted: after, silent: 0 };
            let question = Question { from: node(3), term: 1, wants };
            replica.handle(Input::Question(Ticket(1), question), Duration::ZERO);
        })
    }

    fn of(entries: Vec<Entry>, before: impl FnOnce(&mut Replica)) -> Self {
        let promise = Promise { term: 1, leader: Some(node(3)) };
        let now = Duration::ZERO;
        let restored = Restored { promise, entries };
        let mut replica = Replica::new(node(1), BTreeSet::new(), restored, Timing::default(), now);
        before(&mut replica);
        replica.handle(Input::Listed([2, 3, 4, 5].map(Token).into()), now);
        replica.handle(Input::Seat(Seat { term: 2, leader: Some(Token(1)) }), now);
        Self { replica, now }
    }

    /// What it does next, all of it.
    fn commands(&mut self) -> Vec<Command> {
        std::iter::from_fn(|| self.replica.poll_command()).collect()
    }

    /// What it asks a node next.
    fn asks(&mut self, token: u16) -> Vec<Question> {
        let asked = |command| {
            let Command::Ask(to, question) = command else { return None };
            (to == Token(token)).then_some(question)
        };
        self.commands().into_iter().filter_map(asked).collect()
    }

    fn hears(&mut self, from: NodeId, says: Says) {
        self.now += Duration::from_millis(10);
        self.replica.handle(Input::Answer(Answer { from, term: 2, says }), self.now);
    }

    /// Node 2 has an empty log.
    fn takes_over(&mut self) {
        assert!(self.asks(2).iter().any(|question| question.wants == Wants::Promise));
        self.hears(node(2), Says::Promised { end: End { term: 0, length: 0 }, members: None });
    }

    /// As [`Self::takes_over`], when the question was asked before.
    fn takes_over_again(&mut self) {
        self.hears(node(2), Says::Promised { end: End { term: 0, length: 0 }, members: None });
        drop(self.commands());
    }
}

/// What a node says that promised with this log.
fn promised(log: &[Entry]) -> Says {
    let members = log.iter().rev().find_map(|entry| match &entry.operation {
        Operation::Members(members) => Some(members.clone()),
        Operation::Begin | Operation::Increment(_) => None,
    });
    let end = End { term: log.last().map_or(0, |entry| entry.term), length: log.len() as u64 };
    Says::Promised { end, members }
}

/// The members that it writes.
fn changes(commands: &[Command]) -> Vec<Members> {
    let written = commands.iter().flat_map(|command| {
        let Command::SaveLog(write) = command else { return [].as_slice() };
        write.entries.as_slice()
    });
    let changes = written.filter_map(|entry| match &entry.operation {
        Operation::Members(members) => Some(members.clone()),
        Operation::Begin | Operation::Increment(_) => None,
    });
    changes.collect()
}

#[test]
fn old_entries_count_with_the_leaders_own_and_not_before() {
    let mut leader = Leader::with(old_log(300));
    leader.takes_over();
    let asked = leader.asks(2);
    assert!(matches!(asked[..], [Question { wants: Wants::Append { after: 301 | 302, .. }, .. }]), "{asked:?}");
    leader.hears(node(2), Says::Differs { hint: 0 });
    let asked = leader.asks(2);
    let [Question { wants: Wants::Append { after: 0, entries, .. }, .. }] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(entries.len(), BATCH);

    leader.hears(node(2), Says::Holds { upto: BATCH as u64 });
    drop(leader.commands());
    assert_eq!(leader.replica.counted(), 0, "a later log of a term between may still replace these");
    leader.hears(node(2), Says::Holds { upto: 302 });
    drop(leader.commands());
    assert_eq!((leader.replica.counted(), leader.replica.counter().value()), (302, 300));
}

#[test]
fn a_disk_that_is_no_members_counts_for_nothing() {
    let mut leader = Leader::with(old_log(3));
    let stranger = NodeId { disk: DiskId([0xbb; 16]), ..node(2) };
    drop(leader.commands());
    leader.hears(stranger, Says::Promised { end: End { term: 0, length: 0 }, members: None });
    assert!(
        leader.commands().iter().all(|command| !matches!(command, Command::SaveLog(_))),
        "leads by a stranger's word"
    );
    leader.takes_over_again();
    let first = leader.replica.log().length();
    leader.hears(stranger, Says::Holds { upto: first });
    drop(leader.commands());
    assert_eq!(leader.replica.counted(), 0);
    leader.hears(node(3), Says::Holds { upto: first });
    drop(leader.commands());
    assert!(leader.replica.counted() >= first);
}

#[test]
fn nothing_is_said_before_the_disk_has_it() {
    let mut leader = Leader::with(old_log(3));
    let commands = leader.commands();
    assert!(matches!(commands[0], Command::SavePromise(Promise { term: 2, .. })), "{commands:?}");
    assert!(commands[1..].iter().all(|command| matches!(command, Command::Ask(..))), "{commands:?}");
    leader.takes_over_again();
    leader.hears(node(2), Says::Holds { upto: 5 });
    drop(leader.commands());
    let increment = Increment { client: ClientId::try_from("new".to_owned()).unwrap(), request: 1 };
    leader.replica.handle(Input::Increment(Ticket(1), increment), leader.now);
    let commands = leader.commands();
    assert!(matches!(commands[0], Command::SaveLog(_)), "{commands:?}");
    assert!(commands[1..].iter().all(|command| matches!(command, Command::Ask(..))), "{commands:?}");
}

#[test]
fn a_message_with_this_nodes_own_id_is_not_believed() {
    let mut leader = Leader::with(old_log(3));
    drop(leader.commands());
    let wants = Wants::Append { after: 4, term: 1, entries: old_log(0), counted: 5, silent: 0 };
    let question = Question { from: node(1), term: 2, wants };
    leader.replica.handle(Input::Question(Ticket(7), question), leader.now);
    let commands = leader.commands();
    let [Command::Answer(Ticket(7), answer)] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!((&answer.says, leader.replica.log().length()), (&Says::Contradicts, 4));
}

/// Node 2 knows of a fourth member, and so a majority is three: two would do among the members that node 1 knows.
#[test]
fn whose_majority_it_takes_is_said_by_the_latest_log() {
    let mut later = old_log(3);
    later.push(Entry { term: 1, operation: Operation::Members(members([1, 2, 3, 4])) });
    let mut leader = Leader::with(old_log(3));
    drop(leader.commands());
    leader.hears(node(2), promised(&later));
    assert!(leader.asks(2).is_empty(), "two of four have promised, and it goes on");
    leader.hears(node(4), promised(&[]));
    let asked = leader.asks(2);
    assert!(matches!(asked[..], [Question { wants: Wants::Fetch { after: 4, term: 1 }, .. }]), "{asked:?}");
    leader.hears(node(2), Says::Fetched { after: 4, entries: later[4..].to_vec() });
    drop(leader.commands());
    assert_eq!((leader.replica.doing(), leader.replica.log().length()), (Doing::Leading, 6));
}

/// Who promised one log and sends another is done without.
#[test]
fn a_log_that_is_not_the_promised_one_is_not_led_with() {
    let mut later = old_log(3);
    later.push(Entry { term: 1, operation: Operation::Begin });
    let mut leader = Leader::with(old_log(3));
    drop(leader.commands());
    leader.hears(node(2), promised(&later));
    let asked = leader.asks(2);
    assert!(matches!(asked[..], [Question { wants: Wants::Fetch { after: 4, term: 1 }, .. }]), "{asked:?}");
    later.push(Entry { term: 1, operation: Operation::Begin });
    leader.hears(node(2), Says::Fetched { after: 4, entries: later[4..].to_vec() });
    drop(leader.commands());
    assert_eq!(leader.replica.doing(), Doing::TakingOver);
}

#[test]
fn members_change_one_at_a_time_and_not_before_the_leaders_first_entry_counts() {
    let mut leader = Leader::told_that_it_counts(old_log(3));
    leader.takes_over();
    drop(leader.commands());
    // Both newcomers have all of it; no member has the entries of this term.
    for newcomer in [4, 5] {
        leader.hears(node(newcomer), Says::Holds { upto: 5 });
    }
    assert_eq!((changes(&leader.commands()), leader.replica.counted()), (vec![], 4));
    leader.hears(node(2), Says::Holds { upto: 5 });
    assert_eq!((changes(&leader.commands()), leader.replica.counted()), (vec![members([1, 2, 3, 4])], 5));
    // Three of four have to have it, and node 5 is none of them: no sooner than that there is another.
    for newcomer in [4, 5] {
        leader.hears(node(newcomer), Says::Holds { upto: 6 });
    }
    assert_eq!((changes(&leader.commands()), leader.replica.counted()), (vec![], 5));
    leader.hears(node(2), Says::Holds { upto: 6 });
    assert_eq!((changes(&leader.commands()), leader.replica.counted()), (vec![members([1, 2, 3, 4, 5])], 6));
}

#[test]
fn no_node_that_lacks_entries_becomes_a_member() {
    let mut leader = Leader::with(old_log(3));
    leader.takes_over();
    drop(leader.commands());
    leader.hears(node(2), Says::Holds { upto: 5 });
    leader.hears(node(4), Says::Holds { upto: 4 });
    assert_eq!((changes(&leader.commands()), leader.replica.counted()), (vec![], 5));
    leader.hears(node(4), Says::Holds { upto: 5 });
    assert_eq!(changes(&leader.commands()), [members([1, 2, 3, 4])]);
}
