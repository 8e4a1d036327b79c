//! What every command that changes a contract shares: its calls are tried with `--dry-run` or sent, and the outcome is printed.

use alloy_primitives::{Address, TxHash};
use alloy_sol_types::SolCall;
use serde::Serialize;

use crate::{
    chain::{Call, Done, Operator, Planned},
    failure::FAILED,
    output::Printer,
    render::printable,
    settings::Settings,
    signer::SignerArgs,
};

/// What a transaction did, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Outcome<D> {
    contract: Address,
    chain_id: u64,
    #[serde(flatten)]
    details: D,
    transaction: TxHash,
    block_number: Option<u64>,
}

/// What a command says about its change: fields for `--json`, and lines for people without the transaction's.
pub(super) type Report<D> = (D, String);

/// Sends one call of `contract` and prints what `report` makes of it; with `--dry-run` prints what would happen. The exit code.
pub(super) async fn change<D: Serialize>(
    operator: &Operator,
    printer: &Printer,
    contract: Address,
    call: Call,
    report: impl FnOnce(&Done) -> anyhow::Result<Report<D>>,
) -> anyhow::Result<u8> {
    if operator.is_dry_run() {
        return dry_run(operator, printer, vec![call.into()]).await;
    }
    let done = operator.send(printer, &call).await?;
    let (details, text) = report(&done)?;
    let (transaction, block_number) = (done.hash, done.receipt.block_number);
    let outcome = Outcome { contract, chain_id: operator.chain.id, details, transaction, block_number };
    printer.result(&outcome, || printable(&format!("{}\ntransaction {transaction}\n", text.trim_end())))?;
    Ok(0)
}

/// Sends one call of the settings' contract whose outcome is known beforehand. `what` completes "cannot ...".
pub(super) async fn change_cluster<D: Serialize>(
    settings: &Settings,
    key: &SignerArgs,
    printer: &Printer,
    what: impl Into<String>,
    call: impl SolCall,
    report: Report<D>,
) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, key).await?;
    change(&operator, printer, contract, Call::function(what, contract, &call), |_| Ok(report)).await
}

/// Prints what the calls would do. The exit code says whether all would be accepted.
pub(super) async fn dry_run(operator: &Operator, printer: &Printer, calls: Vec<Planned>) -> anyhow::Result<u8> {
    let preview = operator.preview(printer, calls).await?;
    printer.result(&preview, || preview.text())?;
    Ok(if preview.accepted() { 0 } else { FAILED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_stand_between_the_contract_and_the_transaction() {
        #[derive(Serialize)]
        struct Details {
            token_id: u32,
        }
        let outcome = Outcome {
            contract: Address::repeat_byte(1),
            chain_id: 31337,
            details: Details { token_id: 7 },
            transaction: TxHash::repeat_byte(2),
            block_number: Some(9),
        };
        insta::assert_snapshot!("json", serde_json::to_string_pretty(&outcome).unwrap());
    }
}
