//! What members tell each other: the shell's socket at the mesh address, and members that lie.

use std::{net::Ipv4Addr, time::Duration};

use mesh_core::{
    agent::Input,
    news::{Message, News, PORT, Removal},
};

use super::{Event, World};
use crate::{
    cluster::{cluster, mesh_address, sign_as_member, token, wireguard_key},
    packet::Datagram,
    scenario::Fault,
};

/// How long the shell takes to sign and send.
const SENT_AFTER: Duration = Duration::from_micros(300);
/// Members that lie do so again after this.
const LIES_EVERY: Duration = Duration::from_millis(500);

impl World {
    pub(super) fn send_news(&mut self, node: usize, to: &[Ipv4Addr], message: Message) {
        let datagram = match message {
            Message::News(news) => {
                let signature = sign_as_member(node, news.digest());
                news.signed(signature).encode()
            }
            Message::Ask(ask) => ask.encode(),
        };
        let from = mesh_address(token(node));
        let packets = to.iter().map(|to| Datagram { from, to: *to, port: PORT, payload: &datagram }.build()).collect();
        self.events.add(self.now + SENT_AFTER, Event::News(node, self.nodes[node].generation, packets));
    }

    /// The shell sends these, if its process still runs.
    pub(super) fn send_news_packets(&mut self, node: usize, generation: u64, packets: &[Vec<u8>]) {
        for packet in packets {
            if self.nodes[node].generation == generation {
                self.send_from_interface(node, packet);
            }
        }
    }

    /// A packet came out of the interface that is for the agent's socket: `false` where it is not.
    pub(super) fn hear_news(&mut self, node: usize, packet: &[u8]) -> bool {
        let Some(Datagram { from, to, payload, .. }) = Datagram::parse(packet).filter(|it| it.port == PORT) else {
            return false;
        };
        let sender = (0..self.nodes.len()).find(|other| mesh_address(token(*other)) == from);
        let process = self.nodes[node].process.as_ref();
        let is_peer =
            process.zip(sender).is_some_and(|(process, sender)| process.device.has_peer(wireguard_key(sender)));
        if to != mesh_address(token(node)) || !is_peer {
            let what = format!("node {node} delivers a datagram of {from} to {to}, which is no peer of its");
            self.checks.fail("removed-is-not-heard", self.now, what);
        }
        let datagram = payload.to_vec();
        self.events.add(self.now, Event::Told(node, self.nodes[node].generation, from, datagram));
        true
    }

    pub(super) fn tell_agent(&mut self, node: usize, generation: u64, from: Ipv4Addr, datagram: Vec<u8>) {
        if self.nodes[node].generation == generation {
            self.feed(node, Input::Told { from, datagram });
        }
    }

    /// Members say that others left which did not, to all nodes, as long as the fault lasts.
    pub(super) fn lie(&mut self, number: usize) {
        let Fault::Collude(liars, victim, _) = self.scenario.history[number].fault.clone() else { return };
        if !self.active.iter().any(|(active, _)| *active == number) {
            return;
        }
        self.events.add(self.now + LIES_EVERY, Event::Lie(number));
        let head = std::rc::Rc::clone(self.chain.head());
        // Of the next block, or of one that is far away; of a key epoch that bars every later one, too.
        let (epoch, block) = if self.rng.chance(500) { (1, 1) } else { (1_000_000, 1_000_000) };
        let (epoch, block) = (head.state.epoch + epoch, head.at.number + block);
        let key_epoch = if self.rng.chance(500) { 1 } else { u32::MAX };
        for liar in liars {
            let removals = vec![Removal { token: token(victim), key_epoch }];
            let (teller, domain, hash) = (token(liar), cluster().domain, head.at.hash);
            let news = News { teller, domain, epoch, block, hash, removals };
            let others = (0..self.nodes.len()).filter(|node| *node != liar);
            let to: Vec<Ipv4Addr> = others.map(|node| mesh_address(token(node))).collect();
            self.send_news(liar, &to, Message::News(news));
        }
    }
}
