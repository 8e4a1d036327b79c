//! A NAT, as the terms of RFC 4787 describe it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

/// How long a NAT remembers where something was sent to.
const REMEMBERS: Duration = Duration::from_secs(30);

/// Which outside port a host behind it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// One, whatever it sends to.
    EndpointIndependent,
    /// Another for each address and port that it sends to ("symmetric").
    PerDestination,
}

/// What is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Everything ("full cone").
    Open,
    /// What comes from a host that something was sent to.
    Address,
    /// What comes from an address and port that something was sent to.
    AddressAndPort,
}

#[derive(Debug, Clone)]
pub(crate) struct Nat {
    pub(crate) ip: Ipv4Addr,
    pub(crate) mapping: Mapping,
    pub(crate) filter: Filter,
    /// Whether a host behind it reaches another by its outside address.
    pub(crate) hairpins: bool,
    pub(crate) mapped: Vec<Mapped>,
}

#[derive(Debug, Clone)]
pub(crate) struct Mapped {
    inside: SocketAddr,
    port: u16,
    sent: Vec<(SocketAddr, Duration)>,
}

impl Nat {
    /// Something is sent from the inside: the address that it has outside.
    pub(crate) fn outbound(&mut self, from: SocketAddr, to: SocketAddr, now: Duration) -> SocketAddr {
        let fits = |mapped: &Mapped| {
            let same_way =
                self.mapping == Mapping::EndpointIndependent || mapped.sent.iter().any(|(sent, _)| *sent == to);
            mapped.inside == from && same_way
        };
        let at = self.mapped.iter().position(fits).unwrap_or(self.mapped.len());
        if at == self.mapped.len() {
            let port = self.mapped.last().map_or(40_000, |last| last.port + 1);
            self.mapped.push(Mapped { inside: from, port, sent: Vec::new() });
        }
        let mapped = &mut self.mapped[at];
        mapped.sent.retain(|(sent, _)| *sent != to);
        mapped.sent.push((to, now));
        SocketAddr::new(self.ip.into(), mapped.port)
    }

    /// Forgets everything, and gives out other ports than before.
    pub(crate) fn restart(&mut self) {
        for mapped in &mut self.mapped {
            mapped.port += 1000;
            mapped.sent.clear();
        }
    }

    /// Something comes from outside for a port: the address inside that it is let through to.
    pub(crate) fn inbound(&self, from: SocketAddr, port: u16, now: Duration) -> Option<SocketAddr> {
        let mapped = self.mapped.iter().find(|mapped| mapped.port == port)?;
        let open = |ip: IpAddr, port: Option<u16>| {
            mapped.sent.iter().any(|(sent, at)| {
                sent.ip() == ip && port.is_none_or(|port| sent.port() == port) && now < *at + REMEMBERS
            })
        };
        let passes = match self.filter {
            Filter::Open => true,
            Filter::Address => open(from.ip(), None),
            Filter::AddressAndPort => open(from.ip(), Some(from.port())),
        };
        passes.then_some(mapped.inside)
    }
}
