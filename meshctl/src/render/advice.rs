//! What a reason means and what to do about it, and in which direction packets are lost.

use mesh_core::status::{PathKind, PeerStatus, Reason, Status};
use serde::Serialize;

/// In which direction packets are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Side {
    /// The peer gets what is sent to it, and nothing comes back.
    ReturnPath,
    /// The peer is heard, and does not get what is sent to it.
    ForwardPath,
    /// Nothing arrives on either side.
    BothWays,
}

impl Side {
    /// As in JSON.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::ReturnPath => "return_path",
            Self::ForwardPath => "forward_path",
            Self::BothWays => "both_ways",
        }
    }

    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::ReturnPath => "return path blocked",
            Self::ForwardPath => "forward path blocked",
            Self::BothWays => "blocked both ways",
        }
    }
}

/// What it means that packets are lost on this side, and what to do.
pub(super) fn side_advice(side: Side, peer: &PeerStatus, status: &Status) -> (&'static str, String) {
    let direct = peer.paths.iter().find(|path| path.kind == PathKind::Direct).and_then(|path| path.endpoint.as_deref());
    let there = direct.and_then(|endpoint| endpoint.rsplit_once(':')).map_or("", |(_, port)| port);
    let here = status.agent.listen_port.map(|port| port.to_string()).unwrap_or_default();
    let open = |port: &str, whose: &str| format!("UDP{}{port} inbound {whose}", if port.is_empty() { "" } else { " " });
    match side {
        Side::ReturnPath => (
            "inbound UDP to this node is dropped",
            format!("check host and cloud firewall for {}", open(&here, "to this node")),
        ),
        Side::ForwardPath => (
            "inbound UDP to the peer is dropped",
            format!("check host and cloud firewall for {}", open(there, "to the peer")),
        ),
        Side::BothWays => (
            "direct UDP passes neither way",
            format!(
                "check host and cloud firewalls for {} and {}",
                open(&here, "to this node"),
                open(there, "to the peer")
            ),
        ),
    }
}

/// What a reason means, and what to do.
pub(super) const fn advice(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::DirectUdpSilent => (
            "direct UDP packets are not answered",
            "check that host and cloud firewalls of both nodes let UDP to the listen port in",
        ),
        Reason::DirectSmallOnly => (
            "small packets pass, full-size ones do not",
            "the path carries less than 1280 bytes, or the peer's version answers no probes of its size: lower `--mtu`",
        ),
        Reason::DirectOneWay => (
            "packets pass one way only",
            "check the firewall of the side that receives nothing, and that its registered endpoint is right",
        ),
        Reason::DirectLossy => (
            "too many direct UDP packets are lost",
            "look for congestion, or a limit on UDP, between the nodes; packets return to direct UDP once it is clean",
        ),
        Reason::NoEndpoint => (
            "no UDP endpoint of the peer is known",
            "for direct UDP start its agent with `--endpoint IP:PORT`; without that it is reached through a gateway, or calls by itself",
        ),
        Reason::GatewayDns => {
            ("the gateway's name does not resolve", "check the base domain in the contract, and DNS here")
        }
        Reason::GatewayUnreachable => (
            "there is no TCP connection to the gateway",
            "check that TCP to the gateway (443, or the port in its base domain) is open from this node, and that the gateway runs",
        ),
        Reason::GatewayTls => (
            "what answers behind the gateway is not the peer's agent",
            "see that p2p-agent runs there and listens on the gateway port that it registered, and that nothing between ends TLS",
        ),
        Reason::GatewayPortPolicy => (
            "the gateway closed the connection: it does not know the CVM, cannot reach it, or may not connect to that port",
            "see that the CVM and its agent run, and allow the port in the app's compose file",
        ),
        Reason::GatewayLimit => {
            ("the gateway refuses further connections", "wait, or raise the gateway's connection limit")
        }
        Reason::GatewaySilent => (
            "the connection through the gateway is open, and nothing is answered on it",
            "it is replaced by itself; if that does not help, see whether the peer's agent runs",
        ),
        Reason::GatewayBroken => (
            "the connection through the gateway broke",
            "it is made again by itself; if that takes long, see whether the peer's agent runs",
        ),
        Reason::GatewayLossy => (
            "too much is dropped on the path through the gateway",
            "more is sent than its connection carries: send less, or let direct UDP pass",
        ),
        Reason::HandshakeRefused => (
            "the peer is reached and does not answer handshakes",
            "check that it is a member in its own view of the contract: run `meshctl status` there",
        ),
        Reason::KeyMismatch => (
            "the device and the registry have different keys of it",
            "the agent corrects this by itself; if it stays, something else configures the interface",
        ),
        Reason::NotInRegistry => (
            "the contract does not list it, or its proof does not verify",
            "run `meshctl nodes`; if it is listed as active, the agent's log says what in its proof is wrong",
        ),
        Reason::NotActive => ("its token is not active", "its agent has to register: run `meshctl status` there"),
        Reason::PeerStopped => {
            ("its agent said that it stops", "nothing is wrong on the way to it: start its agent if it should run")
        }
        Reason::RegistryStale => {
            ("the contract could not be read for too long", "check the RPC endpoints: `meshctl status` lists them")
        }
        Reason::SourceDisagree => {
            ("RPC endpoints contradict each other", "find out which one lies or lags, and replace it")
        }
        Reason::AddrConflict => {
            ("its address is in use elsewhere", "remove the address or route that overlaps the mesh network")
        }
        Reason::ClockSkew => ("this clock or the chain's is wrong", "synchronise the clock of this host"),
        Reason::SelfFenced => (
            "this node lost its own membership",
            "run what `meshctl status` shows: it is a member again some seconds later",
        ),
        Reason::TunMissing => ("there is no tunnel device", "make /dev/net/tun available to the agent"),
        Reason::PermNetAdmin => ("the agent may not configure interfaces", "give the agent CAP_NET_ADMIN"),
        Reason::UdpBind => ("the UDP port is taken", "free it, or choose another with `--listen-port`"),
    }
}
