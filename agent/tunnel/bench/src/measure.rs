//! The measurements. Each takes a tunnel and returns named values: throughput in Gbit/s or Mbit/s, times in seconds or
//! milliseconds, memory in KiB, as their names say.

mod gateway;
mod iperf;
mod memory;
mod peers;
mod ping;
mod tcp;
mod udp;
mod vxlan;

use std::collections::BTreeMap;

use anyhow::Result;
use testkit::Scratch;

use crate::gateway::{Behind, Traffic};
use crate::plan::{Lengths, Measure};
use crate::tunnel::Tunnel;

/// The values of one run.
pub(crate) type Values = BTreeMap<&'static str, f64>;

/// Measures a tunnel once. `None` where a measurement makes no sense for an implementation.
pub(crate) fn measure(what: Measure, tunnel: &Tunnel, lengths: Lengths, scratch: &Scratch) -> Result<Option<Values>> {
    match what {
        Measure::Tcp1 | Measure::Tcp4 | Measure::Rev | Measure::Flows => {
            tcp::measure(what, tunnel, lengths.tcp_s).map(Some)
        }
        Measure::Vxlan => vxlan::measure(tunnel, lengths.tcp_s).map(Some),
        Measure::Burst => udp::burst(tunnel, lengths.tcp_s).map(Some),
        Measure::Udp => udp::measure(tunnel, lengths.udp_s).map(Some),
        Measure::Ping => ping::idle(tunnel, lengths.pings).map(Some),
        Measure::PingLoad => ping::under_load(tunnel, lengths.loaded_pings).map(Some),
        Measure::Memory if tunnel.ends.is_empty() => Ok(None),
        // What it costs the kernel cannot be told from what else the kernel does.
        Measure::Peers(_) | Measure::Unanswered(_) if tunnel.ends.is_empty() => Ok(None),
        Measure::Memory => memory::measure(tunnel, lengths.memory_s).map(Some),
        // Between other namespaces.
        Measure::Gateway | Measure::GatewayPing => Ok(None),
        Measure::Peers(_) | Measure::Unanswered(_) if !tunnel.implementation.speaks_wireguard() => Ok(None),
        Measure::Peers(count) => peers::measure(count, false, &tunnel.implementation, lengths, scratch).map(Some),
        Measure::Unanswered(count) => peers::measure(count, true, &tunnel.implementation, lengths, scratch).map(Some),
    }
}

/// Makes a measurement through the gateway once.
pub(crate) fn measure_by_gateway(
    what: Measure,
    whose: Traffic,
    behind: &Behind,
    lengths: Lengths,
) -> Result<Option<Values>> {
    match (what, whose) {
        (Measure::Gateway, Traffic::Ours) => tcp::measure(Measure::Tcp1, &behind.tunnel, lengths.tcp_s).map(Some),
        (Measure::Gateway, Traffic::Tls) => gateway::plain_tls(behind, lengths.tcp_s).map(Some),
        (Measure::GatewayPing, Traffic::Ours) => ping::under_load(&behind.tunnel, lengths.loaded_pings).map(Some),
        _ => Ok(None),
    }
}

/// The commands behind a measurement, with ADDRESS for the server's.
pub(crate) fn commands(what: Measure, lengths: Lengths) -> String {
    match what {
        Measure::Tcp1 | Measure::Tcp4 | Measure::Rev | Measure::Flows => {
            iperf::words(&tcp::options(what, lengths.tcp_s))
        }
        Measure::Vxlan => {
            format!("{}, ADDRESS in a VXLAN", iperf::words(&tcp::options(Measure::Tcp1, lengths.tcp_s)))
        }
        Measure::Burst => iperf::words(&udp::options("0", lengths.tcp_s)),
        Measure::Udp => iperf::words(&udp::options("RATE", lengths.udp_s)),
        Measure::Ping => ping::words(&ping::options("0.005", lengths.pings)),
        Measure::PingLoad => {
            let pings = ping::words(&ping::options("0.02", lengths.loaded_pings));
            format!("{pings}, beside {}", iperf::words(&ping::load()))
        }
        Measure::Memory => format!(
            "VmRSS and VmHWM of /proc/PID/status during {}",
            iperf::words(&tcp::options(Measure::Tcp4, lengths.memory_s))
        ),
        Measure::Gateway => {
            let stream = iperf::words(&tcp::options(Measure::Tcp1, lengths.tcp_s));
            format!("{stream}; gateway-end --what tls --seconds {}", lengths.tcp_s)
        }
        Measure::GatewayPing => commands(Measure::PingLoad, lengths),
        Measure::Peers(_) | Measure::Unanswered(_) => "wg setconf INTERFACE FILE; wg show INTERFACE dump".into(),
    }
}
