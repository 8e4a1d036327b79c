//! Events of a contract over many blocks, from endpoints that answer only so many at once.

use alloy::{
    primitives::{Address, B256},
    providers::Provider as _,
    rpc::types::{Filter, Log},
};

use super::Chain;
use crate::output::Printer;

/// A search that takes more requests says so, once for each so many.
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
            let filter = Filter::new().address(contract).event_signature(topic).from_block(from).to_block(to);
            match self.ask(self.provider.get_logs(&filter)).await {
                Ok(found) => {
                    // An endpoint may answer what nobody asked.
                    logs.extend(
                        found.into_iter().filter(|log| log.address() == contract && log.topic0() == Some(&topic)),
                    );
                    from = to.saturating_add(1);
                    span = span.saturating_mul(2);
                }
                Err(error) if span > 0 && error.as_error_resp().is_some() => span /= 2,
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
