//! What handling one change costs among thousands of peers: printed, never asserted.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures time, and says what it took")]

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use mesh_core::{
    agent::{Agent, Applied, Command, Input, Now, PathsSeen, PeerPaths, SourceReport},
    id::TokenId,
    network::MeshNetwork,
    observed::Observed,
    registration::Proof,
    registry::{NodeRecord, Registry},
    status::Quorum,
};

use crate::{
    cluster::{Cluster, bound, member_address, registration, token},
    machine::make,
    paths::works,
    world::{OWN, me, policy},
};

/// Agent, contract and machine, and what each kind of input took.
struct Mesh {
    agent: Agent,
    cluster: Cluster,
    proofs: BTreeMap<TokenId, Proof>,
    registry: Registry,
    machine: Observed,
    now: Now,
    spent: BTreeMap<&'static str, (u32, Duration)>,
}

impl Mesh {
    fn new(peers: u32) -> Self {
        let cluster = Cluster::new();
        let now = Now { since_start: Duration::ZERO, unix: Duration::from_secs(1_700_000_000) };
        let node = &me(&cluster, mesh_core::registration::NetworkType::Wireguard);
        let network = MeshNetwork::new(Ipv4Addr::new(10, 64, 0, 0), 16).unwrap();
        let policy =
            mesh_core::agent::Policy { guard: Some(mesh_core::agent::Guard { network, table: true }), ..policy() };
        let own = NodeRecord { member_address: Some(member_address(OWN)), active: true, key_epoch: 1, ..bound(OWN) };
        let registry = Registry { network, ..cluster.registry(100, Vec::new(), vec![own]) };
        let agent = Agent::new(node.clone(), policy, now);
        let mut mesh = Self {
            agent,
            cluster,
            proofs: BTreeMap::new(),
            registry,
            machine: Observed::default(),
            now,
            spent: BTreeMap::new(),
        };
        (1..=peers).for_each(|id| mesh.register(id));
        mesh
    }

    fn register(&mut self, id: u32) {
        let signed = registration(id);
        self.proofs.insert(token(id), self.cluster.prove(signed));
        self.registry.peers.push(self.cluster.record(&signed, self.registry.block.number));
        self.registry.epoch += 1;
    }

    fn feed(&mut self, kind: &'static str, input: Input) {
        let begun = Instant::now();
        self.agent.handle(input, self.now);
        let took = begun.elapsed();
        let (times, spent) = self.spent.entry(kind).or_default();
        (*times, *spent) = (*times + 1, *spent + took);
    }

    fn run(&mut self) {
        while let Some(command) = self.agent.poll_command() {
            match command {
                Command::ReadRegistry { .. } => {
                    let registry = Box::new(self.registry.clone());
                    self.feed("read", Input::Registry(registry, report()));
                }
                Command::FetchProofs(requests) => {
                    let proof = |token: TokenId| Ok(Box::new(self.proofs[&token].clone()));
                    let answers = requests.iter().map(|request| (request.token, proof(request.token))).collect();
                    self.feed("proofs", Input::Proofs(answers));
                }
                Command::Observe => self.feed("observed", Input::Observed(self.machine.clone())),
                Command::Apply(changes) => {
                    changes.iter().for_each(|change| make(&mut self.machine, change));
                    self.feed("applied", Input::Applied(Applied { made: changes, failed: None }));
                }
                Command::Save(_) => self.feed("saved", Input::Saved(Ok(()))),
                Command::ReadBalance => self.feed("balance", Input::Balance(None)),
                Command::SetPathPeers(_) | Command::SendNews { .. } => {}
                Command::Offer(_) | Command::TellPeers | Command::Stop => panic!("not expected: {command:?}"),
            }
        }
    }

    /// All timers that are due within some time, and a report on the paths each second.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now.since_start += Duration::from_secs(1);
            self.now.unix += Duration::from_secs(1);
            let peers = self.registry.peers.iter().filter(|peer| peer.token != token(OWN));
            let peers: BTreeMap<TokenId, PeerPaths> = peers.map(|peer| (peer.token, works())).collect();
            let seen = PathsSeen { at: self.now.since_start, peers, ..PathsSeen::default() };
            self.feed("paths", Input::Paths(Box::new(seen)));
            self.run();
            while self.agent.poll_timeout().is_some_and(|(at, _)| at <= self.now.since_start) {
                self.feed("timeout", Input::Timeout);
                self.run();
            }
        }
    }

    fn next_block(&mut self) {
        self.registry.block = crate::cluster::block(self.registry.block.number + 1, 0);
        self.feed("hint", Input::Hint);
        self.run();
        self.pass(3);
    }

    fn print(&mut self, what: &str) {
        let spent = std::mem::take(&mut self.spent);
        let total: Duration = spent.values().map(|(_, spent)| *spent).sum();
        println!("{what}: {total:.1?}");
        for (kind, (times, spent)) in spent {
            println!("  {times:3} x {kind:9} {spent:8.1?}");
        }
    }
}

fn report() -> SourceReport {
    SourceReport { quorum: Quorum { need: 2, have: 2 }, ..SourceReport::default() }
}

#[test]
#[ignore = "measures: `cargo test --release -p mesh-core --test core cost -- --ignored --nocapture`"]
fn a_change_among_many() {
    for peers in [250, 1000, 5000] {
        println!("{peers} peers");
        let mut mesh = Mesh::new(peers);
        mesh.run();
        mesh.pass(60);
        assert_eq!(mesh.machine.device.as_ref().unwrap().peers.len(), peers as usize - 1);
        mesh.print("start and a minute");
        mesh.pass(3);
        mesh.print("3 s of idling");
        mesh.register(peers + 1);
        mesh.next_block();
        mesh.print("a join, and 3 s");
        mesh.registry.peers.remove(5);
        mesh.registry.epoch += 1;
        mesh.next_block();
        mesh.print("a revocation, and 3 s");
        assert_eq!(mesh.machine.device.as_ref().unwrap().peers.len(), peers as usize - 1);
    }
}
