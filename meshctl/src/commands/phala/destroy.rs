//! `meshctl phala destroy`: tokens first, so that the members cut the nodes off at once; then the CVMs with their disks.

use std::collections::BTreeSet;

use alloy_primitives::Address;
use mesh_contract::DstackClusterNFT::burnCall;
use mesh_core::id::TokenId;
use serde::Serialize;

use super::{
    super::{change::dry_run, leaving, nodes, token::uint},
    cluster::{Cluster, Waiting},
    given::{ApiArgs, WaitArgs},
    policy::Policy,
    tokens::{Left, Tokens},
};
use crate::{
    chain::{Call, Operator},
    confirm::{Consequences, LeavingPeer},
    output::Printer,
    phala::Seen,
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Destroyed {
    contract: Address,
    chain_id: u64,
    /// Names of the CVMs.
    deleted: Vec<String>,
    burned: Vec<TokenId>,
    /// Tokens of these CVMs' instance ids that nothing ties to the app.
    left: Vec<Left>,
}

pub(super) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let api = args.api.api()?;
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let chain = &operator.chain;
    let policy = Policy { operator: &operator, printer, contract };
    policy.require_owner().await?;
    if !operator.is_dry_run() {
        // A token that a run before was still minting would be overlooked.
        operator.settle(printer).await?;
    }
    // Tokens of other accounts too: no CVM is deleted whose token stays a member.
    let mut cluster = Cluster::new(&api, chain, contract, None, false);
    let seen = cluster.look().await?;
    let tokens = tokens(&cluster, &seen).await?;
    for Left { token_id, why } in &tokens.left {
        printer.note(format!("token {token_id} stays, although a CVM has its instance id: {why}"));
    }
    if operator.is_dry_run() {
        let names: Vec<_> = seen.iter().map(|seen| seen.cvm.name.as_str()).collect();
        printer.note(format!("then these CVMs would be deleted: {}", names.join(", ")));
        return dry_run(&operator, printer, tokens.own.iter().map(|token| burn(contract, *token).into()).collect())
            .await;
    }
    if !seen.is_empty() {
        consequences(&cluster, &seen, &tokens.own).await?.confirm(printer, "destroy the app's CVMs", settings.yes())?;
    }
    for token in &tokens.own {
        operator.send(printer, &burn(contract, *token)).await?;
    }
    for Seen { cvm, .. } in &seen {
        printer.note(format!("deleting {}", cvm.name));
        api.delete(&cvm.id).await.map_err(|error| error.failure(&format!("delete {}", cvm.name)))?;
    }
    let mut waiting = Waiting::new(printer, &args.wait);
    while !cluster.look().await?.is_empty() {
        waiting.wait_for("Phala Cloud has deleted the CVMs").await?;
    }
    let deleted = seen.iter().map(|seen| seen.cvm.name.clone()).collect();
    let Tokens { own: burned, left } = tokens;
    let destroyed = Destroyed { contract, chain_id: chain.id, deleted, burned, left };
    printer.result(&destroyed, || destroyed.text())?;
    Ok(0)
}

async fn tokens(cluster: &Cluster<'_>, seen: &[Seen]) -> anyhow::Result<Tokens> {
    let nodes = nodes::all(cluster.chain, cluster.contract).await?;
    let peers = leaving::peers(cluster.chain, cluster.contract).await?;
    let instances: BTreeSet<_> = seen.iter().filter_map(|seen| seen.cvm.instance).collect();
    Ok(Tokens::of(cluster.app(), &instances, &nodes, &peers))
}

async fn consequences(cluster: &Cluster<'_>, seen: &[Seen], burned: &[TokenId]) -> anyhow::Result<Consequences> {
    let peers = leaving::peers(cluster.chain, cluster.contract).await?;
    let leaving = burned.iter().filter_map(|token| peers.get(token));
    let leaving = leaving.map(|peer| LeavingPeer { token_id: peer.token, instance_id: peer.instance }).collect();
    let names: Vec<_> = seen.iter().map(|seen| seen.cvm.name.as_str()).collect();
    let effect = format!("{} CVMs are deleted with all that is on their disks: {}", seen.len(), names.join(", "));
    Ok(Consequences::new(effect, "none: new CVMs have new instance ids, keys and disks")
        .leaving(leaving, peers.len() as u64))
}

fn burn(contract: Address, token: TokenId) -> Call {
    Call::function(format!("burn token {token}"), contract, &burnCall { tokenId: uint(token) })
}

impl Destroyed {
    fn text(&self) -> String {
        if self.deleted.is_empty() {
            return "the app has no CVMs\n".to_owned();
        }
        let tokens: Vec<_> = self.burned.iter().map(TokenId::to_string).collect();
        let left = self.left.iter().map(|Left { token_id, why }| {
            format!("left     token {token_id}: {why} (`meshctl burn {token_id}` burns it)\n")
        });
        let left: String = left.collect();
        format!(
            "deleted  {}\nburned   tokens {}\n{left}the contract is as it was otherwise: `meshctl compose list` shows what may still boot\n",
            self.deleted.join(", "),
            tokens.join(", ")
        )
    }
}
