//! Packets put into one node's interface and expected at another's.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use testkit::Rng;

use crate::lab::Node;
use crate::packets::{Flow, clamped, cut, flow};
use crate::patience::DEADLINE;
use crate::program::run;
use crate::tap::{Frame, GSO_NONE, Tap};
use crate::traffic::{MTU, subnets};

/// One direction between two nodes.
pub(crate) struct Direction<'a> {
    injector: Tap,
    listener: Tap,
    /// The packets expected, by flow, in the order in which they were sent.
    expected: BTreeMap<Flow, VecDeque<Vec<u8>>>,
    outstanding: usize,
    /// Whether the network between the nodes changes the order.
    pub(crate) shuffled: bool,
    /// The name of the run, for failures.
    pub(crate) label: String,
    from: &'a Node,
    to: &'a Node,
    /// How many frames arrived as superpackets, by their kind.
    pub(crate) merged: BTreeMap<u8, usize>,
}

impl<'a> Direction<'a> {
    #[track_caller]
    pub(crate) fn new(from: &'a Node, to: &'a Node) -> Self {
        Self {
            injector: Tap::injector(&from.host, &from.name),
            listener: Tap::listener(&to.host, &to.name),
            expected: BTreeMap::new(),
            outstanding: 0,
            shuffled: false,
            label: String::new(),
            from,
            to,
            merged: BTreeMap::new(),
        }
    }

    /// Sends frames, and returns how many packets they contain.
    #[track_caller]
    pub(crate) fn send(&mut self, frames: &[Frame]) -> usize {
        let count = self.expect(frames);
        self.injector.inject(frames);
        count
    }

    /// Sends frames of several directions from one node, interleaved, those of each direction in order.
    #[track_caller]
    pub(crate) fn send_mixed(paths: &mut [Self], rng: &mut Rng, frames: Vec<Vec<Frame>>) {
        for (path, frames) in paths.iter_mut().zip(&frames) {
            path.expect(frames);
        }
        let (mut waiting, mut mixed) = (frames.into_iter().map(Vec::into_iter).collect::<Vec<_>>(), Vec::new());
        while !waiting.is_empty() {
            let next = rng.below(waiting.len());
            match waiting[next].next() {
                Some(frame) => mixed.push(frame),
                None => drop(waiting.swap_remove(next)),
            }
        }
        paths[0].injector.inject(&mixed);
    }

    fn expect(&mut self, frames: &[Frame]) -> usize {
        let packets: Vec<_> = frames.iter().flat_map(cut).collect();
        let count = packets.len();
        self.outstanding += count;
        for packet in packets {
            self.expected.entry(flow(&packet)).or_default().push_back(packet);
        }
        count
    }

    /// Waits until everything that was sent has arrived.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        self.settle_but(0);
    }

    /// Waits until everything that was sent has arrived except for so many packets, which are then no longer expected.
    #[track_caller]
    pub(crate) fn settle_but(&mut self, lost: usize) {
        let end = Instant::now() + DEADLINE;
        while self.outstanding > lost {
            let Some(frame) = self.listener.next(end) else { self.fail() };
            self.take(&frame);
        }
        if lost > 0 {
            self.expected.clear();
            self.outstanding = 0;
        }
    }

    /// Reads what has arrived, and asserts that all of it was expected.
    #[track_caller]
    pub(crate) fn drain(&mut self) {
        while let Some(frame) = self.listener.next(Instant::now()) {
            self.take(&frame);
        }
    }

    /// The number of packets that were lost between the interface and this test.
    pub(crate) fn lost(&self) -> u32 {
        self.listener.lost()
    }

    #[track_caller]
    fn take(&mut self, frame: &Frame) {
        if !is_of(self.from.number, &frame.bytes) {
            return;
        }
        if frame.vnet.gso != GSO_NONE {
            *self.merged.entry(frame.vnet.gso).or_default() += 1;
        }
        for packet in cut(frame) {
            let flow = flow(&packet);
            let waiting = self.expected.entry(flow).or_default();
            // The device may change only the MSS.
            let is_it = |sent: &Vec<u8>| packet == *sent || Some(&packet) == clamped(sent, MTU).as_ref();
            let place = if self.shuffled {
                waiting.iter().position(is_it)
            } else {
                waiting.front().is_some_and(is_it).then_some(0)
            };
            let Some(place) = place else {
                let next = waiting.front().map_or("nothing".to_owned(), |packet| hex(packet));
                panic!(
                    "{} from node {}, {flow:?}, {:?}\narrived  {}\nexpected {next}",
                    self.label,
                    self.from.number,
                    frame.vnet,
                    hex(&packet)
                );
            };
            waiting.remove(place);
            self.outstanding -= 1;
        }
    }

    #[track_caller]
    fn fail(&self) -> ! {
        let (flow, waiting) = self.expected.iter().find(|(_, waiting)| !waiting.is_empty()).unwrap();
        panic!(
            "{} from node {}: {} packets did not arrive (lost in the test itself: {}), in {flow:?} first {}\n{}\n{}",
            self.label,
            self.from.number,
            self.outstanding,
            self.lost(),
            hex(&waiting[0]),
            story(self.from),
            story(self.to),
        );
    }
}

/// Whether a flow comes from the subnets of the node.
fn is_of(node: u8, packet: &[u8]) -> bool {
    match packet[0] >> 4 {
        4 => packet[12..15] == [10, 88, node],
        _ => packet[8..12] == [0xfd, 0x88, 0, node],
    }
}

/// A node's own state, for failures.
fn story(node: &Node) -> String {
    let device =
        if node.is_ours() { format!("{:?}", node.device().snapshot()) } else { run("wg", &["show", &node.name]) };
    format!("node {}: {device}\n{}", node.number, node.host.ip(&format!("-s link show {}", node.name)).unwrap())
}

/// The first bytes, which have the headers in them, and the length.
fn hex(packet: &[u8]) -> String {
    let digits: String = packet.iter().take(100).map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes {digits}", packet.len())
}

/// Adds the subnets of both nodes to their allowed IPs. They are peers already.
#[track_caller]
pub(crate) fn let_through(a: &Node, b: &Node) {
    for (here, there) in [(a, b), (b, a)] {
        let (key, number) = (there.public_key(), there.number);
        here.wg(&format!("peer {key} allowed-ips {}/32,{}/128,{}", there.inner4(), there.inner6(), subnets(number)));
    }
}
