//! Splitting and merging against packets that are built field by field, and against arbitrary bytes.

mod fitting;
mod hostile;
mod merging;
pub(crate) mod packets;
mod splitting;
