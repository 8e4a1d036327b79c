//! A NAT, as the terms of RFC 4787 describe it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::scenario::{NatKind, NatPlan};

/// How long a NAT remembers where something was sent to.
const REMEMBERS: Duration = Duration::from_secs(30);
/// Mappings that it keeps at most.
const MAPPINGS: usize = 256;

#[derive(Debug)]
pub(crate) struct Nat {
    pub(crate) ip: Ipv4Addr,
    kind: NatKind,
    pub(crate) hairpins: bool,
    mappings: Vec<Mapping>,
    next_port: u16,
}

#[derive(Debug)]
struct Mapping {
    inside: SocketAddr,
    port: u16,
    /// Where something was sent to by it, and when last.
    sent: Vec<(SocketAddr, Duration)>,
}

impl Nat {
    pub(crate) const fn new(plan: NatPlan, ip: Ipv4Addr) -> Self {
        Self { ip, kind: plan.kind, hairpins: plan.hairpins, mappings: Vec::new(), next_port: 40_000 }
    }

    /// Something is sent from the inside: the address that it has outside.
    pub(crate) fn outbound(&mut self, from: SocketAddr, to: SocketAddr, now: Duration) -> SocketAddr {
        let is_symmetric = self.kind == NatKind::Symmetric;
        let fits = |mapping: &Mapping| {
            let is_alive = mapping.sent.iter().any(|(_, at)| now < *at + REMEMBERS);
            let same = !is_symmetric || mapping.sent.iter().any(|(sent, _)| *sent == to);
            mapping.inside == from && same && is_alive
        };
        let found = self.mappings.iter().position(fits);
        let at = found.unwrap_or_else(|| {
            if self.mappings.len() == MAPPINGS {
                self.mappings.remove(0);
            }
            self.mappings.push(Mapping { inside: from, port: self.next_port, sent: Vec::new() });
            self.next_port += 1;
            self.mappings.len() - 1
        });
        let mapping = &mut self.mappings[at];
        match mapping.sent.iter_mut().find(|(sent, _)| *sent == to) {
            Some(known) => known.1 = now,
            None => mapping.sent.push((to, now)),
        }
        SocketAddr::new(self.ip.into(), mapping.port)
    }

    /// Something comes from outside for a port: the address inside that it is let through to.
    pub(crate) fn inbound(&self, from: SocketAddr, port: u16, now: Duration) -> Option<SocketAddr> {
        let mapping = self.mappings.iter().find(|mapping| mapping.port == port)?;
        let is_open = |ip: Option<IpAddr>, port: Option<u16>| {
            mapping.sent.iter().any(|(sent, at)| {
                ip.is_none_or(|ip| sent.ip() == ip)
                    && port.is_none_or(|port| sent.port() == port)
                    && now < *at + REMEMBERS
            })
        };
        let passes = match self.kind {
            NatKind::FullCone => is_open(None, None),
            NatKind::AddressRestricted => is_open(Some(from.ip()), None),
            NatKind::PortRestricted | NatKind::Symmetric => is_open(Some(from.ip()), Some(from.port())),
        };
        passes.then_some(mapping.inside)
    }

    /// Forgets everything, and gives other ports from now on.
    pub(crate) fn restart(&mut self) {
        self.mappings.clear();
        self.next_port += 1000;
    }
}
