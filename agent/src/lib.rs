//! The mesh agent: chain watcher, guest agent client, identity, links, driver loop, local API. Who is a peer is decided in
//! `mesh_core`; this crate carries facts to it and changes from it.

pub mod agent;
pub mod run;

pub mod chain;
pub mod gateway;
pub mod link;
pub mod machine;
pub mod offer;
pub mod paths;
pub mod tunnel;

pub mod api;
pub mod config;
pub mod notify;
pub mod process;
pub mod sandbox;

pub mod cache;
pub mod dstack;
pub mod election;
pub mod endpoint;
pub mod identity;
pub mod keyfile;
pub mod lock;
pub mod member;
pub mod psk;
pub mod signer;
pub mod statedir;

mod resolve;

#[cfg(test)]
mod scratch;
