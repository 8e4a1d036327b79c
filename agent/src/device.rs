//! The machine's side of the mesh: the WireGuard device, its interface, addresses and routes, and the guard that keeps mesh traffic
//! from leaving in clear.

pub mod guard;
pub mod link;
pub mod machine;
pub mod tunnel;
