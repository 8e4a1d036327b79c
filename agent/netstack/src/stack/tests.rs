//! Stack against stack over a link in memory, on virtual time.

mod lifetimes;
mod transfers;
mod wire;
