//! The whole machine of the paths on virtual time: nodes with devices that hide nothing, the network between their UDP ports, and a
//! gateway, without sockets, tasks or a clock.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod device;
mod names;
mod world;

mod devices;
mod gateway;
mod hostile;
mod moving;
mod punching;
mod scale;
mod stopping;
mod switching;
