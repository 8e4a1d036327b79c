//! The mesh agent: its driver loop, the guest agent client and identity, the device and its links, the local API. `mesh_core` decides
//! which nodes are peers; this crate carries facts to it and changes from it.

pub mod run;

pub mod device;
pub mod identity;
pub mod state;

pub mod api;
pub mod cli;
pub mod config;

#[cfg(test)]
mod scratch;
