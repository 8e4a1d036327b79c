//! The measurements, how long they take, and how often they are made.

use std::fmt::{Display, Formatter, Result as FmtResult};
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// One kind of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// One TCP stream from client to server.
    Tcp1,
    /// Four of them.
    Tcp4,
    /// One from server to client.
    Rev,
    /// The highest rate of 1200-byte datagrams at which hardly any is lost.
    Udp,
    /// One TCP stream in a VXLAN in the tunnel: its superpackets reach the tunnel cut.
    Vxlan,
    /// 1200-byte datagrams as fast as one program sends them, each with a call of its own: what arrives.
    Burst,
    /// Sixty-four TCP streams of small writes.
    Flows,
    /// Round trips of an idle tunnel.
    Ping,
    /// Round trips beside one TCP stream.
    PingLoad,
    /// Resident memory of the larger process under four TCP streams.
    Memory,
    /// One TCP stream between sides that reach only the gateway, and plain TLS through it.
    Gateway,
    /// Round trips beside one TCP stream through the gateway.
    GatewayPing,
    /// The cost of so many silent peers.
    Peers(u32),
    /// The same for peers with endpoints, of which none answers.
    Unanswered(u32),
}

impl Measure {
    /// Numbers of peers, in full and quick runs.
    const PEERS: [&[u32]; 2] = [&[1, 100, 1000, 10_000], &[1, 10_000]];

    /// Everything, in the order of a round.
    pub(crate) fn all(quick: bool) -> Vec<Self> {
        let traffic = [
            Self::Tcp1,
            Self::Tcp4,
            Self::Rev,
            Self::Udp,
            Self::Vxlan,
            Self::Burst,
            Self::Flows,
            Self::Ping,
            Self::PingLoad,
            Self::Memory,
            Self::Gateway,
            Self::GatewayPing,
        ];
        let peers = Self::PEERS[usize::from(quick)].iter().map(|count| Self::Peers(*count));
        traffic.into_iter().chain(peers).chain([Self::Unanswered(10_000)]).collect()
    }

    /// Its name in `ONLY=`; all numbers of peers have the same.
    pub(crate) fn group(self) -> Group {
        match self {
            Self::Tcp1 => Group::Tcp1,
            Self::Tcp4 => Group::Tcp4,
            Self::Rev => Group::Rev,
            Self::Udp => Group::Udp,
            Self::Vxlan => Group::Vxlan,
            Self::Burst => Group::Burst,
            Self::Flows => Group::Flows,
            Self::Ping => Group::Ping,
            Self::PingLoad => Group::PingLoad,
            Self::Memory => Group::Memory,
            Self::Gateway | Self::GatewayPing => Group::Gateway,
            Self::Peers(_) | Self::Unanswered(_) => Group::Peers,
        }
    }
}

impl Display for Measure {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        match self {
            Self::Peers(count) => write!(f, "peers{count}"),
            Self::Unanswered(count) => write!(f, "peers{count}-unanswered"),
            Self::GatewayPing => f.write_str("gatewayping"),
            Self::Tcp1
            | Self::Tcp4
            | Self::Rev
            | Self::Udp
            | Self::Vxlan
            | Self::Burst
            | Self::Flows
            | Self::Ping
            | Self::PingLoad
            | Self::Memory
            | Self::Gateway => f.write_str(self.group().name()),
        }
    }
}

impl Serialize for Measure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A value of `ONLY=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Tcp1,
    Tcp4,
    Rev,
    Udp,
    /// What no offload helps.
    Vxlan,
    Burst,
    Flows,
    Ping,
    PingLoad,
    Memory,
    /// Through the dstack gateway, beside plain TLS.
    Gateway,
    Peers,
    /// The gain by each offload of `wg-tunnel`: `tcp1` and `udp` with one or all of them off.
    Offloads,
}

impl Group {
    const ALL: [Self; 13] = [
        Self::Tcp1,
        Self::Tcp4,
        Self::Rev,
        Self::Udp,
        Self::Vxlan,
        Self::Burst,
        Self::Flows,
        Self::Ping,
        Self::PingLoad,
        Self::Memory,
        Self::Gateway,
        Self::Peers,
        Self::Offloads,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Tcp1 => "tcp1",
            Self::Tcp4 => "tcp4",
            Self::Rev => "rev",
            Self::Udp => "udp",
            Self::Vxlan => "vxlan",
            Self::Burst => "burst",
            Self::Flows => "flows",
            Self::Ping => "ping",
            Self::PingLoad => "pingload",
            Self::Memory => "memory",
            Self::Gateway => "gateway",
            Self::Peers => "peers",
            Self::Offloads => "offloads",
        }
    }
}

impl FromStr for Group {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|group| group.name() == name);
        found.ok_or_else(|| format!("nothing is measured by this name; there are {}", names()))
    }
}

/// How long each measurement takes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Lengths {
    /// Of a TCP run, in seconds.
    pub(crate) tcp_s: u32,
    /// Of one step of the search for the UDP rate, in seconds.
    pub(crate) udp_s: u32,
    /// Pings of an idle tunnel, 5 ms apart.
    pub(crate) pings: u32,
    /// Pings beside a TCP stream, 20 ms apart.
    pub(crate) loaded_pings: u32,
    /// Of the load under which memory is read, in seconds.
    pub(crate) memory_s: u32,
    /// From the configuration of peers until memory is read, in milliseconds.
    pub(crate) settle_ms: u64,
    /// How long an idle device is watched, in milliseconds.
    pub(crate) idle_ms: u64,
}

impl Lengths {
    /// Those of complete runs, on which claims are based.
    pub(crate) const FULL: Self =
        Self { tcp_s: 6, udp_s: 2, pings: 600, loaded_pings: 250, memory_s: 4, settle_ms: 1500, idle_ms: 4000 };
    /// Those of quick runs.
    pub(crate) const QUICK: Self =
        Self { tcp_s: 2, udp_s: 1, pings: 200, loaded_pings: 60, memory_s: 2, settle_ms: 500, idle_ms: 1500 };

    pub(crate) fn settle(&self) -> Duration {
        Duration::from_millis(self.settle_ms)
    }

    pub(crate) fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measurement_is_known_by_its_name() {
        for measure in Measure::all(false) {
            let name = measure.to_string();
            let name = ["peers", "gateway"].into_iter().find(|group| name.starts_with(group)).unwrap_or(&name);
            assert_eq!(name.parse(), Ok(measure.group()));
        }
        assert_eq!("offloads".parse(), Ok(Group::Offloads));
        assert!("tcp2".parse::<Group>().unwrap_err().contains("tcp1"));
    }
}
