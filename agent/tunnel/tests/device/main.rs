//! The device in real network namespaces, against itself and against Debian's `wireguard-go`.
//!
//! ```text
//!        switch (a bridge in a namespace of its own)
//!       /            |              \
//!    node 1        node 2         node 3          outside 192.0.2.N  2001:db8::N
//!   [device]      [device]       [device]         inside  10.77.0.N  fd77::N
//! ```
//!
//! Needs root, iproute2, wireguard-tools and wireguard-go; a test that lacks one of them fails and says so.
#![expect(clippy::unwrap_used, reason = "a panic in a test shows its position")]

mod carriers;
mod congestion;
mod cryptokey;
mod direction;
mod hostile;
mod hostile_streams;
mod interop;
mod lab;
mod lifecycle;
mod links_outside;
mod live_change;
mod memory;
mod offload;
mod packets;
mod path_mtu;
mod patience;
mod pipe;
mod program;
mod relay;
mod rewriting;
mod roaming;
mod scale;
mod streams;
mod tap;
mod traffic;
mod uapi;
mod under_load;
