//! What outlives a run of the agent: the state directory and the files in it.

pub mod cache;
pub mod dir;
pub mod instance;
pub mod lock;
pub mod spending;
