//! Two peers with two paths between them, in virtual time: both run the real machine, applications talk, links fail. What has
//! to hold at every moment is checked here, whatever the test does.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::Duration,
};

use mesh_paths::path::{KINDS, PathKind, PerPath, Selector, Switch, rank};

use crate::link::{Dice, Fault, Link};

/// Between a timer's time and the moment at which a busy machine's driver gets there, at most.
const LATE: u64 = 20;
/// What was sent and received goes into the machine in batches, at most so many milliseconds late.
const BATCH: u64 = 100;
/// What any machine may take to notice that a path is broken and to use the other, as the product promises.
const GAP: Duration = Duration::from_millis(1500);
/// While a path works, packets go by both for so long in a row, and in all while no link changes: a path that is half dead is left,
/// not bridged for ever.
const HEDGED: Duration = Duration::from_secs(10);
/// Nothing else explains more debug text than this: a machine that grows without bound.
const LARGEST_STATE: usize = 30_000;

pub(crate) const MTU: u16 = 1420;

/// What an application does, until it does something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    Idle,
    /// Long packets in both directions.
    Bulk,
    /// Long packets from this side only.
    OneWay(usize),
    /// Short packets from this side, each answered by a long one.
    Requests(usize),
}

#[derive(Debug, Clone)]
enum Packet {
    /// `asks`: the receiver answers with a packet of its own.
    Data {
        number: u64,
        asks: bool,
    },
    Probe(Vec<u8>),
}

/// One side's stream of packets, as the other side gets them.
#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// Since when packets are sent steadily.
    since: Option<Duration>,
    delivered: Option<Duration>,
    longest_gap: Duration,
}

#[derive(Debug)]
struct Side {
    paths: Selector,
    wakes: Option<Duration>,
    /// When what was sent and received goes into the machine.
    tells: Option<Duration>,
    sent: bool,
    received: PerPath<bool>,
    seen: HashSet<u64>,
    stream: Stream,
    talked: Option<Duration>,
    talking_since: Option<Duration>,
    /// Packets go by both paths although one works: in a row, and in all since a link changed.
    hedged_since: Option<Duration>,
    hedged_for: Duration,
    checked: Duration,
    /// When a path was left because it failed.
    fell: PerPath<Option<Duration>>,
    was_hedged: bool,
    hedges: u64,
    probed: PerPath<Option<Duration>>,
    came_up: PerPath<Duration>,
}

/// The whole world.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) now: Duration,
    pub(crate) links: PerPath<Link>,
    /// Lost of a thousand, at the best of times.
    pub(crate) background_loss: u64,
    /// Microseconds by which each datagram is late, at most.
    pub(crate) jitter: u64,
    /// Between packets of an application.
    pub(crate) every: Duration,
    sides: [Side; 2],
    traffic: Traffic,
    traffic_since: Duration,
    next_packet: Duration,
    number: u64,
    in_flight: BTreeMap<(Duration, u64), (usize, PathKind, Packet)>,
    dice: Dice,
    /// For the message of a failing test.
    pub(crate) history: VecDeque<String>,
}

impl Network {
    /// Both paths work, and no packets go.
    pub(crate) fn new(delays: PerPath<Duration>, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let side = |seed| Side {
            paths: Selector::new(MTU, seed, Duration::ZERO),
            wakes: None,
            tells: None,
            sent: false,
            received: [false; 2],
            seen: HashSet::new(),
            stream: Stream::default(),
            talked: None,
            talking_since: None,
            hedged_since: None,
            hedged_for: Duration::ZERO,
            checked: Duration::ZERO,
            fell: [None; 2],
            was_hedged: false,
            hedges: 0,
            probed: [None; 2],
            came_up: [Duration::ZERO; 2],
        };
        let sides = [side(dice.below(u64::MAX)), side(dice.below(u64::MAX))];
        let mut network = Self {
            now: Duration::ZERO,
            links: delays.map(Link::new),
            background_loss: 0,
            jitter: 3000,
            every: Duration::from_millis(50),
            sides,
            traffic: Traffic::Idle,
            traffic_since: Duration::ZERO,
            next_packet: Duration::ZERO,
            number: 0,
            in_flight: BTreeMap::new(),
            dice,
            history: VecDeque::new(),
        };
        for side in 0..2 {
            for kind in KINDS {
                network.sides[side].paths.path_up(kind, Duration::ZERO);
                network.after(side);
            }
        }
        network
    }

    pub(crate) fn paths(&self, side: usize) -> &Selector {
        &self.sides[side].paths
    }

    pub(crate) fn switches(&self, side: usize) -> u64 {
        self.sides[side].paths.report(self.now).switches
    }

    /// How often packets of a side began to go by both paths.
    pub(crate) fn hedges(&self, side: usize) -> u64 {
        self.sides[side].hedges
    }

    pub(crate) fn is_talking(&self, side: usize) -> bool {
        self.sides[side].talking_since.is_some()
    }

    /// The longest time that a side went without a packet although the other was sending and a path worked.
    pub(crate) fn longest_gap(&self, side: usize) -> Duration {
        self.sides[side].stream.longest_gap
    }

    /// The longest that a packet and its answer may be under way.
    pub(crate) fn round_trip(&self) -> Duration {
        let jitter = Duration::from_micros(self.jitter);
        self.links.iter().map(|link| (link.delay + jitter) * 2).max().unwrap()
    }

    pub(crate) fn forget_gaps(&mut self) {
        for side in &mut self.sides {
            side.stream.longest_gap = Duration::ZERO;
        }
    }

    pub(crate) fn set_traffic(&mut self, traffic: Traffic) {
        self.note(format!("traffic {traffic:?}"));
        self.traffic = traffic;
        self.traffic_since = self.now;
        self.next_packet = self.now;
        for side in &mut self.sides {
            side.stream.since = None;
        }
    }

    pub(crate) fn set_fault(&mut self, kind: PathKind, fault: Option<Fault>) {
        self.note(format!("{kind:?}: {fault:?}"));
        let link = &mut self.links[rank(kind)];
        let (was, is) = (link.fault == Some(Fault::Gone), fault == Some(Fault::Gone));
        link.set(fault, self.now);
        for side in 0..2 {
            self.sides[side].hedged_for = Duration::ZERO;
            let paths = &mut self.sides[side].paths;
            match (was, is) {
                (false, true) => paths.path_away(kind, None, self.now),
                (true, false) => paths.path_up(kind, self.now),
                (true, true) | (false, false) => continue,
            }
            if was {
                self.sides[side].came_up[rank(kind)] = self.now;
            }
            self.after(side);
        }
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrival = self.in_flight.first_key_value().map(|(&(at, _), _)| at);
            let packet = (self.traffic != Traffic::Idle).then_some(self.next_packet);
            let wakes = self.sides.iter().flat_map(|side| [side.wakes, side.tells]);
            let next = wakes.chain([arrival, packet]).flatten().min();
            let Some(next) = next.filter(|&next| next <= end) else { break };
            self.now = self.now.max(next);
            self.step(arrival, packet);
            self.check();
        }
        self.now = end;
        self.check();
    }

    /// Lets time pass until packets of a side go by one path, at most `time`.
    pub(crate) fn run_until_unhedged(&mut self, side: usize, time: Duration) {
        let end = self.now + time;
        while self.paths(side).is_hedged() && self.now < end {
            self.run(Duration::from_millis(10));
        }
    }

    fn step(&mut self, arrival: Option<Duration>, packet: Option<Duration>) {
        if arrival.is_some_and(|at| at <= self.now) {
            let (_, (to, kind, packet)) = self.in_flight.pop_first().unwrap();
            self.arrive(to, kind, packet);
        } else if packet.is_some_and(|at| at <= self.now) {
            self.next_packet += self.every;
            match self.traffic {
                Traffic::Idle => {}
                Traffic::Bulk => (0..2).for_each(|side| self.send(side, 1400, false)),
                Traffic::OneWay(side) => self.send(side, 1400, false),
                Traffic::Requests(side) => self.send(side, 200, true),
            }
        } else {
            for side in 0..2 {
                if self.sides[side].tells.is_some_and(|at| at <= self.now) {
                    self.tell(side);
                }
                if self.sides[side].wakes.is_some_and(|at| at <= self.now) {
                    self.sides[side].paths.handle_timeout(self.now);
                    self.after(side);
                }
            }
        }
    }

    /// An application's packet from `side`.
    fn send(&mut self, side: usize, bytes: usize, asks: bool) {
        let steady = self.sides[side].talked.is_some_and(|talked| self.now - talked <= self.every * 4);
        if !steady {
            self.sides[side].talking_since = Some(self.now);
        }
        self.sides[side].talked = Some(self.now);
        self.sides[side].sent = true;
        self.tell_soon(side);
        let stream = &mut self.sides[1 - side].stream;
        stream.since.get_or_insert(self.now);
        self.number += 1;
        let packet = Packet::Data { number: self.number, asks };
        for kind in KINDS.into_iter().filter(|kind| self.paths(side).carries(*kind)).collect::<Vec<_>>() {
            self.put(side, kind, bytes + 60, packet.clone());
        }
    }

    fn tell_soon(&mut self, side: usize) {
        let at = self.now + Duration::from_millis(self.dice.below(BATCH));
        self.sides[side].tells.get_or_insert(at);
    }

    fn tell(&mut self, side: usize) {
        let this = &mut self.sides[side];
        this.tells = None;
        if std::mem::take(&mut this.sent) {
            this.paths.sent(self.now);
        }
        let received = std::mem::take(&mut this.received);
        for kind in KINDS.into_iter().filter(|&kind| received[rank(kind)]) {
            this.paths.received(kind, self.now);
        }
        self.after(side);
    }

    fn put(&mut self, from: usize, kind: PathKind, bytes: usize, packet: Packet) {
        let link = &self.links[rank(kind)];
        if link.carries(from, bytes, self.dice.below(1000), self.background_loss) {
            let at = self.now + link.delay + Duration::from_micros(self.dice.below(self.jitter));
            self.number += 1;
            self.in_flight.insert((at, self.number), (1 - from, kind, packet));
        }
    }

    fn arrive(&mut self, to: usize, kind: PathKind, packet: Packet) {
        if self.links[rank(kind)].fault == Some(Fault::Gone) {
            return;
        }
        match packet {
            Packet::Probe(payload) => {
                let side = &mut self.sides[to];
                // Late, or asked before the path was gone and came back: refused, and no harm done.
                let _ = side.paths.handle_probe(kind, &payload, self.now);
                self.after(to);
            }
            Packet::Data { number, asks } => {
                if !self.sides[to].seen.insert(number) {
                    return;
                }
                self.sides[to].received[rank(kind)] = true;
                self.tell_soon(to);
                self.sides[to].stream.delivered = Some(self.now);
                if asks {
                    self.send(to, 1200, false);
                }
            }
        }
    }

    /// What a driver does after each call.
    fn after(&mut self, side: usize) {
        while let Some(transmit) = self.sides[side].paths.poll_transmit() {
            assert!(transmit.payload.len() + 28 <= usize::from(MTU), "a probe longer than the MTU");
            if transmit.payload[5] == 1 {
                self.check_pace(side, transmit.path);
            }
            let bytes = transmit.payload.len() + 28 + 60;
            self.put(side, transmit.path, bytes, Packet::Probe(transmit.payload));
        }
        while let Some(switch) = self.sides[side].paths.poll_switch() {
            self.check_return(side, &switch);
            self.note(format!("side {side}: {switch:?}"));
        }
        let late = Duration::from_millis(self.dice.below(LATE));
        let due = self.sides[side].paths.poll_timeout();
        let same = self.sides[side]
            .wakes
            .filter(|&wakes| due.is_some_and(|due| wakes >= due && wakes - due < Duration::from_millis(LATE)));
        self.sides[side].wakes = same.filter(|&at| at > self.now).or(due.map(|due| due.max(self.now) + late));
    }

    fn check_pace(&mut self, side: usize, kind: PathKind) {
        let now = self.now;
        let this = &mut self.sides[side];
        let idle =
            this.talked.is_none_or(|talked| now - talked >= Duration::from_secs(5) + Duration::from_millis(BATCH));
        let settled = now - this.came_up[rank(kind)] >= Duration::from_secs(9);
        let before = this.probed[rank(kind)].replace(now);
        if let Some(before) = before.filter(|_| idle && settled) {
            assert!(
                now - before >= Duration::from_secs(25),
                "side {side} probes {kind:?} after {:?} although idle",
                now - before
            );
        }
    }

    /// What must hold at every moment.
    fn check(&mut self) {
        let now = self.now;
        let good_since = self.links.iter().filter_map(|link| link.good_since).min();
        for index in 0..2 {
            self.check_gap(index, good_since);
            let hedged = self.paths(index).is_hedged();
            let side = &mut self.sides[index];
            side.hedges += u64::from(hedged && !side.was_hedged);
            side.was_hedged = hedged;
            if side.talked.is_some_and(|talked| now - talked > self.every * 4) {
                side.talking_since = None;
            }
            let talking = side.talking_since.is_some();
            let since_checked = now - std::mem::replace(&mut side.checked, now);
            let before = side.hedged_since;
            side.hedged_since = (hedged && talking && good_since.is_some()).then(|| before.unwrap_or(now));
            side.hedged_for += if before.is_some() { since_checked } else { Duration::ZERO };
            let hedge = side.hedged_for.max(side.hedged_since.map_or(Duration::ZERO, |since| now - since));
            assert!(hedge <= HEDGED, "side {index} hedges for {hedge:?}: {:#?}", side.paths.report(now));
        }
    }

    /// A path that failed is not taken again before it was clean for ten seconds.
    fn check_return(&mut self, side: usize, switch: &Switch) {
        let fell = &mut self.sides[side].fell;
        if switch.trouble.is_some() {
            fell[rank(switch.from)] = Some(switch.at);
        } else if let Some(fell) = fell[rank(switch.to)] {
            let after = switch.at - fell;
            assert!(after >= Duration::from_secs(10), "side {side} is back on {:?} after {after:?}", switch.to);
        }
    }

    fn check_gap(&mut self, to: usize, good_since: Option<Duration>) {
        let round_trip = self.round_trip();
        let mut allowed = GAP + round_trip + self.every;
        if matches!(self.traffic, Traffic::Requests(_)) {
            allowed += round_trip;
        }
        let now = self.now;
        let from = 1 - to;
        let talked = self.sides[from].talked.is_some_and(|talked| now - talked <= self.every * 2);
        let asked = matches!(self.traffic, Traffic::Requests(asker) if asker != from);
        let stream = &mut self.sides[to].stream;
        let since = if asked { Some(self.traffic_since) } else { stream.since.filter(|_| talked) };
        let (Some(since), Some(good_since)) = (since, good_since) else { return };
        let gap = now - since.max(good_since).max(stream.delivered.unwrap_or_default());
        stream.longest_gap = stream.longest_gap.max(gap);
        assert!(
            gap <= allowed,
            "side {to} gets nothing for {gap:?} (allowed {allowed:?}) although a path works:\n{:#?}\n{:#?}",
            self.sides[0].paths.report(now),
            self.sides[1].paths.report(now),
        );
    }

    /// The machines stay small.
    pub(crate) fn check_size(&self) {
        for side in &self.sides {
            let size = format!("{:?}", side.paths).len();
            assert!(size <= LARGEST_STATE, "{size} bytes of state");
        }
    }

    fn note(&mut self, what: String) {
        if self.history.len() == 200 {
            self.history.pop_front();
        }
        self.history.push_back(format!("{:>9.3} s  {what}", self.now.as_secs_f64()));
    }
}
