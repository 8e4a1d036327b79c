//! What `compose` and `device` share: lists of the boot gate, which the contract answers for one entry at a time and records as events.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256};
use alloy_sol_types::SolCall;
use serde::Serialize;

use crate::{
    chain::Chain,
    output::Printer,
    render::{Cell, Color, Column, table},
    settings::Settings,
};

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Search the contract's events from this block on: the one of its deployment is early enough
    #[arg(long, value_name = "BLOCK", default_value = "0")]
    from_block: u64,
}

#[derive(Debug, Serialize)]
struct Listed {
    contract: Address,
    chain_id: u64,
    /// What the states below are as of.
    block_number: u64,
    entries: Vec<EntryView>,
}

#[derive(Debug, Serialize)]
struct EntryView {
    /// SHA-256.
    id: B256,
    allowed: bool,
    /// The block in which it was last added.
    added_block: u64,
}

/// Prints every entry that was ever added, with the contract's word on it now. `topic` is that of the event of an addition, whose
/// data is the entry; `allowed` makes the call that asks for one.
pub(super) async fn list<C: SolCall<Return = bool>>(
    args: &ListArgs,
    settings: &Settings,
    printer: &Printer,
    title: &'static str,
    topic: B256,
    allowed: impl Fn(B256) -> C,
) -> anyhow::Result<u8> {
    let (chain, contract) = Chain::of_cluster(settings).await?;
    let head = chain.head().await?;
    let mut added: BTreeMap<B256, u64> = BTreeMap::new();
    for log in chain.logs(printer, contract, topic, (args.from_block, head.number)).await? {
        // Nothing but the entry is in its data.
        if let (Ok(id), Some(block)) = (B256::try_from(&log.data[..]), log.block_number) {
            added.insert(id, block);
        }
    }
    let mut entries = Vec::new();
    for (id, added_block) in added {
        let allowed = chain.read(contract, allowed(id), Some(head)).await?;
        entries.push(EntryView { id, allowed, added_block });
    }
    entries.sort_by_key(|entry| (entry.added_block, entry.id));
    let listed = Listed { contract, chain_id: chain.id, block_number: head.number, entries };
    printer.result(&listed, || text(&listed, title, printer.color()))?;
    Ok(0)
}

fn text(listed: &Listed, title: &'static str, color: bool) -> String {
    let columns = [Column::left(title), Column::left("STATE"), Column::right("ADDED IN BLOCK")];
    let row = |entry: &EntryView| {
        let (word, paint) = if entry.allowed { ("allowed", Color::Good) } else { ("removed", Color::Dim) };
        vec![
            Cell::new(entry.id.to_string()),
            Cell::colored(word, Some(paint)),
            Cell::new(entry.added_block.to_string()),
        ]
    };
    table(&columns, &listed.entries.iter().map(row).collect::<Vec<_>>(), color)
}
