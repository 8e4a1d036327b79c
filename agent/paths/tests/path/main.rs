//! The choice between the paths to a peer: the message, its packet and each rule alone, then two peers on a simulated network.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod link;
mod network;
mod peer;

mod faults;
mod hedging;
mod hostile;
mod idle;
mod message;
mod moving;
mod packet;
mod rules;
mod stopping;
