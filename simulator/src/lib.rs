//! A dstack guest agent for development, which official dstack SDKs work against, and the gateway before it.
//!
//! It serves the guest agent's protocol on unix sockets, for many instances of one app. Its KMS root key is a
//! seed from the command line or a published fixture: **knowing the seed means having every key**, and its quotes prove
//! nothing. It says SIMULATED in Info (`cloud_vendor`, `app_name`), in Version and in its log. [`gateway`] is the TCP proxy
//! that CVMs are reached through.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use dstack_simulator::{Identity, Layout, Simulator};
//!
//! let identity = Identity::seeded(&[1; 32], [0x11; 20])?;
//! let simulator = Simulator::start(identity, &Layout::Numbered("/run/sim".into(), 3), &[]).await?;
//! for instance in simulator.instances() {
//!     println!("{} {}", instance.instance_id, instance.dstack_sock.display());
//! }
//! # Ok(())
//! # }
//! ```

mod simulator;

pub mod gateway;

mod fault;
mod fixture;
pub mod keys;

mod compose;
mod guest_api;
mod instance;
mod legacy;
mod signing;
mod v1;
mod worker;

mod certificate;
mod events;
mod quote;

mod dispatch;
mod http;
mod socket;
mod wire;

pub use fault::{FaultSwitch, Faults, UnknownFault};
pub use fixture::FixtureError;
pub use guest_api::{GuestApi, UnknownGuestApi};
pub use instance::{CLOUD_VENDOR, InstanceId};
pub use simulator::{Identity, InstanceInfo, Layout, MAX_INSTANCES, Settings, Simulator, StartError, Summary};
pub use socket::SocketError;
