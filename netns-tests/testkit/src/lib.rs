//! What the tests of all crates share: scratch directories, seeded random numbers, waiting by polling, clocks, network namespaces, and child
//! processes that end with the test. It knows nothing of the product.

mod namespace;
pub mod process;
mod rng;
mod scratch;
pub mod stall_clock;
mod steady_clock;
mod wait;

pub use namespace::{Namespace, unique_name};
pub use process::{Finished, Launch, Process, Signal};
pub use rng::Rng;
pub use scratch::Scratch;
pub use steady_clock::SteadyClock;
pub use wait::{interrupt, interrupted, uninterrupted, wait_until};
