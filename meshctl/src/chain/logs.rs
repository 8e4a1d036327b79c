//! Events of a contract over many blocks, from endpoints that answer only so many at once.

use alloy_primitives::{Address, B256};
use mesh_chain::Log;

use super::Chain;
use crate::output::Printer;

/// A longer search reports its progress after each such number of requests.
const REQUESTS_PER_NOTE: u32 = 100;

impl Chain {
    /// All logs of `contract` with this first topic, from one block to another, in order. An endpoint that refuses a range is asked
    /// for half of it; one that takes it, for twice as much the next time.
    pub(crate) async fn logs(
        &self,
        printer: &Printer,
        contract: Address,
        topic: B256,
        (first, last): (u64, u64),
    ) -> anyhow::Result<Vec<Log>> {
        let mut logs = Vec::new();
        let (mut from, mut span, mut requests) = (first, last.saturating_sub(first), 0);
        while from <= last {
            let to = from.saturating_add(span).min(last);
            match self.source.logs(contract, &[topic], (from, to)).await {
                Ok(found) => {
                    logs.extend(found);
                    from = to.saturating_add(1);
                    span = span.saturating_mul(2);
                }
                Err(error) if span > 0 && error.is_refusal() => span /= 2,
                Err(error) => {
                    return Err(self
                        .explain(&error)
                        .context(format!("cannot read the events of blocks {from} to {to}")));
                }
            }
            requests += 1;
            if requests % REQUESTS_PER_NOTE == 0 {
                printer.note(format!("searched blocks {first} to {from} of {last}; `--from-block` begins later"));
            }
        }
        Ok(logs)
    }
}
