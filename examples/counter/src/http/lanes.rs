//! Names for increments of clients that give none. A name is used for one increment at a time, and again only for the next one after
//! it counted: so a few names are enough, and a node can forward an increment without its being counted twice.

use std::sync::{Mutex, PoisonError};

use counter_core::{ClientId, Increment, Token};

/// The names of one process.
pub(super) struct Lanes {
    node: Token,
    /// The last increment of each name that is free: it counted.
    free: Mutex<Vec<Increment>>,
}

impl Lanes {
    pub(super) const fn new(node: Token) -> Self {
        Self { node, free: Mutex::new(Vec::new()) }
    }

    /// An increment of this client alone.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub(super) fn take(&self) -> Result<Increment, String> {
        if let Some(last) = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(Increment { client: last.client, request: last.request + 1 });
        }
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(|error| error.to_string())?;
        let name = format!("node-{}.{}", self.node, hex::encode(name));
        let client = ClientId::try_from(name).map_err(|error| error.to_string())?;
        Ok(Increment { client, request: 1 })
    }

    /// It counted. The name of an increment with an unknown outcome is not used again.
    pub(super) fn give_back(&self, counted: Increment) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(counted);
    }
}
