//! One TCP stream in a VXLAN in the tunnel. What the kernel sends in a VXLAN reaches a tunnel's interface in packets of their final
//! size, and the receiver's kernel joins nothing: so it shows what a packet costs where no offload helps.

use anyhow::Result;

use super::{Values, tcp};
use crate::lab::{TUNNEL_MTU, inner, outer};
use crate::plan::Measure;
use crate::rivals::Kind;
use crate::tunnel::Tunnel;

/// The interface's name on both sides.
const NAME: &str = "vx0";

/// Bytes that VXLAN adds (RFC 7348): Ethernet, IPv4, UDP and its own header.
const OVERHEAD: u32 = 50;

/// The address of a side in the VXLAN.
fn address(side: usize) -> &'static str {
    ["10.78.0.1", "10.78.0.2"][side]
}

/// As [`tcp::measure`].
pub(crate) fn measure(tunnel: &Tunnel, seconds: u32) -> Result<Values> {
    let is_bare = tunnel.implementation.kind == Kind::Veth;
    let place = |side| if is_bare { outer(side) } else { inner(side) };
    let _interfaces = Interfaces(tunnel);
    for side in [0, 1] {
        let namespace = tunnel.wire.side(side);
        let (here, there) = (place(side), place(1 - side));
        namespace.ip(&format!("link add {NAME} type vxlan id 7 local {here} remote {there} dstport 4789"))?;
        namespace.ip(&format!("addr add {}/24 dev {NAME}", address(side)))?;
        namespace.ip(&format!("link set {NAME} mtu {} up", TUNNEL_MTU - OVERHEAD))?;
    }
    tcp::measure_to(address(1), Measure::Tcp1, tunnel, seconds)
}

/// Removes both, also where one could not be made.
struct Interfaces<'a>(&'a Tunnel);

impl Drop for Interfaces<'_> {
    fn drop(&mut self) {
        for side in [0, 1] {
            // It fails only where there is none.
            let _ = self.0.wire.side(side).ip(&format!("link del {NAME}"));
        }
    }
}
