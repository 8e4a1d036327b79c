//! What can happen, and when it does.

use std::time::Duration;

use super::{Profile, Timed, WorldPlan};
use crate::{rng::Rng, rpc::Lie};

/// What happens to the packets of direct UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathFault {
    /// Nothing arrives, from either.
    Cut,
    /// Nothing of the first node arrives at the second.
    OneWay,
    /// So many of a thousand are lost, from either.
    Loss(u64),
    /// They take so much longer.
    Delay(Duration),
    /// They overtake each other by up to so much.
    Reorder(Duration),
    /// So many of a thousand arrive twice.
    Duplicate(u64),
    /// Of so many of a thousand one bit is another.
    Alter(u64),
    /// So many of a thousand are recorded, and come again later, from a stranger's address. Half of them came the first time, too.
    Record(u64),
    /// What is longer is dropped without a word.
    Narrow(usize),
}

/// How a gateway ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayEnd {
    /// Every connection is reset.
    Killed,
    /// It is silent from now on; when it is back it knows no connection.
    Crashed,
}

/// One thing that happens. Those with a duration are over by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "nodes, endpoints and durations, in this order")]
pub enum Fault {
    /// Operators' transactions.
    Revoke(usize),
    Deactivate(usize),
    Burn(usize),
    /// A revoked, deactivated or burned node is bound anew, and restarted as its agent asks for.
    Reinstate(usize),
    /// The process is killed, and starts again after so long.
    Kill(usize, Duration),
    /// An orderly stop, and a start after so long.
    Stop(usize, Duration),
    /// The wall clock jumps by so many seconds.
    ClockStep(usize, i64),
    /// Changes of this kind fail.
    ChangesFail(usize, &'static str, Duration),
    /// Another program gives the device another UDP port, so that the agent makes it anew.
    PortChanges(usize),
    DiskFull(usize, Duration),
    SigningFails(usize, Duration),
    /// Its host keeps a node from every endpoint: refuses what goes there, or drops it.
    Blocked(usize, bool, Duration),
    /// These members say of another that it left.
    Collude(Vec<usize>, usize, Duration),
    /// The chain.
    Reorganise(u64),
    Halt(Duration),
    LoseTransactions(Duration),
    /// RPC endpoints.
    EndpointDown(usize, Duration),
    EndpointLags(usize, Duration, Duration),
    EndpointFreezes(usize, Duration),
    EndpointLies(usize, Lie, Duration),
    /// Direct UDP between two nodes.
    Path(usize, usize, PathFault, Duration),
    /// All UDP of a node.
    NodeWithoutUdp(usize, Duration),
    /// A host loses its address, and has another one after so long.
    AddressChanges(usize, Duration),
    /// A NAT forgets everything, and gives other ports from then on.
    NatRestarts(usize),
    /// The gateway.
    GatewayEnds(GatewayEnd, Duration),
    GatewayRefuses(usize, Duration),
    /// A node's packets to and from the gateway are lost.
    GatewayUnreachable(usize, Duration),
    /// The gateway ends the streams of a node.
    StreamsReset(usize),
}

impl Fault {
    /// How long it lasts.
    #[must_use]
    pub const fn lasts(&self) -> Duration {
        match self {
            Self::Kill(_, time)
            | Self::Stop(_, time)
            | Self::ChangesFail(_, _, time)
            | Self::DiskFull(_, time)
            | Self::SigningFails(_, time)
            | Self::Blocked(_, _, time)
            | Self::Collude(_, _, time)
            | Self::Halt(time)
            | Self::LoseTransactions(time)
            | Self::EndpointDown(_, time)
            | Self::EndpointLags(_, _, time)
            | Self::EndpointFreezes(_, time)
            | Self::EndpointLies(_, _, time)
            | Self::Path(_, _, _, time)
            | Self::NodeWithoutUdp(_, time)
            | Self::AddressChanges(_, time)
            | Self::GatewayEnds(_, time)
            | Self::GatewayRefuses(_, time)
            | Self::GatewayUnreachable(_, time) => *time,
            Self::Revoke(_)
            | Self::Deactivate(_)
            | Self::Burn(_)
            | Self::Reinstate(_)
            | Self::ClockStep(..)
            | Self::PortChanges(_)
            | Self::Reorganise(_)
            | Self::NatRestarts(_)
            | Self::StreamsReset(_) => Duration::ZERO,
        }
    }
}

/// What happens in a run of this length, in order.
pub(super) fn draw(profile: Profile, world: &WorldPlan, length: Duration, rng: &mut Rng) -> Vec<Timed> {
    let mut history = Vec::new();
    match profile {
        Profile::Long => return history,
        Profile::OldState => return old_state(world, rng),
        Profile::Blind => return blind(world, length, rng),
        _ => {}
    }
    // Those that were there from the beginning have found each other by then.
    let mut at = rng.millis(4_000, 7_000);
    while at + Duration::from_millis(500) < length {
        let fault = fault(profile, world, length - at, rng);
        let pause = match profile {
            Profile::Calm | Profile::OldState | Profile::Long | Profile::Blind => rng.millis(2_000, 6_000),
            Profile::Failover => fault.lasts() + rng.millis(16_000, 30_000),
            Profile::Nat | Profile::Gateway => fault.lasts() + rng.millis(2_000, 8_000),
            Profile::Hosts => fault.lasts() + rng.millis(5_000, 12_000),
            Profile::Sources | Profile::Chaos => rng.millis(100, 5_000),
        };
        history.push(Timed { at, fault });
        at += pause;
    }
    history
}

/// A node leaves, another is started again, and the endpoint shows the state from before, which is not yet older than what it can show.
fn old_state(world: &WorldPlan, rng: &mut Rng) -> Vec<Timed> {
    let leaver = some_node(world, rng);
    let other = (leaver + 1 + rng.index(world.nodes.len() - 1)) % world.nodes.len();
    let leaves = match rng.below(3) {
        0 => Fault::Revoke(leaver),
        1 => Fault::Deactivate(leaver),
        _ => Fault::Burn(leaver),
    };
    let left = rng.millis(9_000, 13_000);
    let killed = left + world.block_time + rng.millis(500, 2_000);
    let down_for = rng.millis(200, 1_500);
    let lies = killed + down_for + rng.millis(1_500, 3_000);
    vec![
        Timed { at: left, fault: leaves },
        Timed { at: killed, fault: Fault::Kill(other, down_for) },
        Timed { at: lies, fault: Fault::EndpointLies(0, Lie::OldState, rng.millis(1_000, 6_000)) },
    ]
}

/// The host of one node keeps it from all endpoints until the end, and another node is revoked, or as many members lie as may. Or
/// both: then not enough honest ones are left to say that it was.
fn blind(world: &WorldPlan, length: Duration, rng: &mut Rng) -> Vec<Timed> {
    let many = world.nodes.len();
    let mut nodes: Vec<usize> = (0..many).collect();
    let mut take = |rng: &mut Rng| nodes.swap_remove(rng.index(nodes.len()));
    let (blind, gone) = (take(rng), take(rng));
    let blocked_at = rng.millis(6_000, 9_000);
    // A moment before, when the node has not found out, or long before.
    let left_at = blocked_at + if rng.chance(500) { rng.millis(10, 900) } else { rng.millis(900, 20_000) };
    let mut history =
        vec![Timed { at: blocked_at, fault: Fault::Blocked(blind, rng.chance(500), length - blocked_at) }];
    let (lie, leaves) = match rng.below(3) {
        0 => (true, false),
        1 => (true, true),
        _ => (false, true),
    };
    if lie {
        let victim = take(rng);
        // f of 2f + 1 members: one fewer than are believed.
        let liars = (0..((many - 1) / 2).min(many - 3)).map(|_| take(rng)).collect();
        history.push(Timed {
            at: blocked_at + rng.millis(0, 3_000),
            fault: Fault::Collude(liars, victim, rng.millis(3_000, 20_000)),
        });
    }
    if leaves {
        let fault = match rng.below(3) {
            0 => Fault::Revoke(gone),
            1 => Fault::Deactivate(gone),
            _ => Fault::Burn(gone),
        };
        history.push(Timed { at: left_at, fault });
    }
    if rng.chance(400) {
        let at = left_at + world.block_time + rng.millis(2_500, 6_000);
        history.push(Timed { at, fault: Fault::Kill(blind, rng.millis(200, 2_000)) });
    }
    history.sort_by_key(|timed| timed.at);
    history
}

fn fault(profile: Profile, world: &WorldPlan, left: Duration, rng: &mut Rng) -> Fault {
    match profile {
        // Nothing happens there.
        Profile::Calm | Profile::OldState | Profile::Long | Profile::Blind => operator(world, rng),
        Profile::Sources => match rng.below(10) {
            0..=5 => source(world, left, rng),
            6 => node(world, left, rng),
            _ => operator(world, rng),
        },
        Profile::Failover => {
            let lasts = rng.millis(4_000, 9_000).min(left);
            Fault::Path(0, 1, path(rng), lasts)
        }
        Profile::Nat => match rng.below(6) {
            0 | 1 if !world.nats.is_empty() => Fault::NatRestarts(rng.index(world.nats.len())),
            0..=2 => Fault::NodeWithoutUdp(some_node(world, rng), rng.millis(2_000, 8_000).min(left)),
            3 | 4 => Fault::PortChanges(some_node(world, rng)),
            _ => Fault::Kill(some_node(world, rng), rng.millis(300, 3_000).min(left)),
        },
        Profile::Gateway => gateway(world, left, rng),
        Profile::Hosts => match rng.below(3) {
            0 => Fault::Stop(1 + rng.index(world.nodes.len() - 1), rng.millis(1_500, 6_000)),
            _ => Fault::AddressChanges(0, rng.millis(1, 700).min(left)),
        },
        Profile::Chaos => match rng.below(16) {
            0..=3 => source(world, left, rng),
            4..=6 => operator(world, rng),
            7..=8 => node(world, left, rng),
            9..=12 => network(world, left, rng),
            _ => gateway(world, left, rng),
        },
    }
}

fn some_node(world: &WorldPlan, rng: &mut Rng) -> usize {
    rng.index(world.nodes.len())
}

fn operator(world: &WorldPlan, rng: &mut Rng) -> Fault {
    let node = some_node(world, rng);
    match rng.below(8) {
        0..=2 => Fault::Revoke(node),
        3 => Fault::Deactivate(node),
        4 => Fault::Burn(node),
        _ => Fault::Reinstate(node),
    }
}

fn node(world: &WorldPlan, left: Duration, rng: &mut Rng) -> Fault {
    let (node, lasts) = (some_node(world, rng), rng.millis(200, 6_000).min(left));
    match rng.below(11) {
        0..=3 => Fault::Kill(node, lasts),
        4 | 5 => Fault::Stop(node, lasts),
        10 => Fault::PortChanges(node),
        6 => Fault::ClockStep(node, rng.pick(&[-600, -90, -2, 2, 90, 600])),
        7 => Fault::DiskFull(node, lasts),
        8 => Fault::SigningFails(node, lasts),
        _ => {
            let kinds = ["add_peer", "remove_peer", "edit_peer", "create_device", "remove_device"];
            Fault::ChangesFail(node, rng.pick(&kinds), lasts)
        }
    }
}

fn source(world: &WorldPlan, left: Duration, rng: &mut Rng) -> Fault {
    let (endpoint, lasts) = (rng.index(world.endpoints), rng.millis(300, 12_000).min(left));
    match rng.below(12) {
        0 | 1 => Fault::EndpointDown(endpoint, lasts),
        2 => Fault::EndpointLags(endpoint, rng.millis(200, 5_000), lasts),
        3 => Fault::EndpointFreezes(endpoint, lasts),
        // More than one liar than the quorum bears is an attack that nothing withstands: it is always the first endpoint that lies.
        4..=7 => Fault::EndpointLies(0, rng.pick(&Lie::ALL), lasts),
        8 | 9 => Fault::Reorganise(1 + rng.below(4)),
        10 => Fault::Halt(lasts),
        _ => Fault::LoseTransactions(lasts),
    }
}

fn path(rng: &mut Rng) -> PathFault {
    match rng.below(11) {
        0..=2 => PathFault::Cut,
        3 | 4 => PathFault::OneWay,
        5 => PathFault::Loss(rng.pick(&[300, 500, 800])),
        6 => PathFault::Narrow(rng.pick(&[600, 1000])),
        7 => PathFault::Reorder(rng.millis(5, 60)),
        8 => PathFault::Alter(rng.pick(&[100, 500])),
        9 => PathFault::Record(rng.pick(&[100, 500])),
        _ => PathFault::Duplicate(500),
    }
}

fn network(world: &WorldPlan, left: Duration, rng: &mut Rng) -> Fault {
    let lasts = rng.millis(300, 9_000).min(left);
    let first = some_node(world, rng);
    let second = (first + 1 + rng.index(world.nodes.len() - 1)) % world.nodes.len();
    match rng.below(10) {
        0 | 1 => Fault::NodeWithoutUdp(first, lasts),
        2 if !world.nats.is_empty() => Fault::NatRestarts(rng.index(world.nats.len())),
        3 => Fault::Path(first, second, PathFault::Delay(rng.millis(20, 400)), lasts),
        _ => Fault::Path(first, second, path(rng), lasts),
    }
}

fn gateway(world: &WorldPlan, left: Duration, rng: &mut Rng) -> Fault {
    let (node, lasts) = (some_node(world, rng), rng.millis(300, 8_000).min(left));
    match rng.below(8) {
        0 => Fault::GatewayEnds(GatewayEnd::Killed, lasts),
        // Long enough to be found out, about as often as not.
        1 => Fault::GatewayEnds(GatewayEnd::Crashed, rng.millis(300, 20_000).min(left)),
        2 => Fault::GatewayRefuses(node, lasts),
        3 => Fault::GatewayUnreachable(node, lasts),
        _ => Fault::StreamsReset(node),
    }
}
