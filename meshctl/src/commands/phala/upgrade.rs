//! `meshctl phala upgrade`: another compose file for the CVMs, one after the other, so that the others carry the mesh meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, TxHash};
use mesh_core::listen_port::listen_port;
use serde::Serialize;

use super::{
    cluster::{Cluster, Waiting, other_document},
    given::{AgentArgs, ApiArgs, ENDPOINT, LISTEN_PORT, Software, SourceArgs, WaitArgs},
    policy::Policy,
    report::Report,
};
use crate::{
    chain::Operator,
    failure::Failure,
    output::Printer,
    phala::{Agents, Api, Changed, Cvm, CvmId, KmsInfo, Seen, UpgradeStep, next_upgrade},
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    sources: SourceArgs,
    /// Take this compose hash from Phala Cloud although it is none that is known to come of what was given
    #[arg(long, value_name = "HASH")]
    compose_hash: Option<B256>,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    agents: AgentArgs,
    #[command(flatten)]
    key: SignerArgs,
}

/// What a dry run can say.
#[derive(Debug, Serialize)]
struct Outline {
    contract: Address,
    /// CVMs that would get it.
    changed: Vec<String>,
    /// CVMs that run it.
    unchanged: Vec<String>,
    compose_hashes: Vec<B256>,
}

struct Upgrading<'a> {
    printer: &'a Printer,
    api: &'a Api,
    cluster: Cluster<'a>,
    policy: Policy<'a>,
    software: &'a Software,
    agents: Option<Agents>,
    composes: BTreeSet<B256>,
    kms: KmsInfo,
    /// With the compose hash that they had before.
    changed: BTreeMap<CvmId, Option<B256>>,
    transactions: Vec<TxHash>,
}

pub(super) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let software = args.sources.read()?;
    let api = args.api.api()?;
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let chain = &operator.chain;
    let policy = Policy { operator: &operator, printer, contract };
    policy.require_owner().await?;
    let mut cluster = Cluster::new(&api, chain, contract, None, true);
    let composes: BTreeSet<B256> = software.rendered.texts.keys().copied().chain(args.compose_hash).collect();
    let seen = cluster.look().await?;
    if seen.is_empty() {
        return Err(Failure::new(format!("app {} has no CVM in this workspace", cluster.app()))
            .hint("`meshctl phala deploy` makes some; check `--contract`, and whose API key this is")
            .into());
    }
    if operator.is_dry_run() {
        let outline = Outline::new(contract, &composes, &seen);
        printer.result(&outline, || outline.text())?;
        return Ok(0);
    }
    // What a run before is still allowing would be allowed, and paid for, once more.
    operator.settle(printer).await?;
    let kms = cluster.kms(&policy).await?;
    let (agents, changed, transactions) = (args.agents.agents(), BTreeMap::new(), Vec::new());
    let mut upgrading = Upgrading {
        printer,
        api: &api,
        cluster,
        policy,
        software: &software,
        agents,
        composes,
        kms,
        changed,
        transactions,
    };
    let seen = upgrading.run(Waiting::new(printer, &args.wait)).await?;
    let report = Report::of(chain, contract, &seen, upgrading.transactions).await?;
    printer.result(&report, || report.text(printer.color()))?;
    Ok(0)
}

impl Upgrading<'_> {
    async fn run(&mut self, mut waiting: Waiting<'_>) -> anyhow::Result<Vec<Seen>> {
        loop {
            let seen = self.cluster.look().await?;
            let ready = self.ready(&seen).await;
            let step = next_upgrade(&self.composes, &seen, &self.changed, |cvm| ready.contains(&cvm.id));
            match step.map_err(Failure::from)? {
                UpgradeStep::Done => return Ok(seen),
                UpgradeStep::WaitFor(what) => waiting.wait_for(&what).await?,
                UpgradeStep::Change(id) => {
                    if let Some(node) = seen.iter().find(|seen| seen.cvm.id == id) {
                        self.change(node).await?;
                    }
                    waiting.begin_again();
                }
            }
        }
    }

    /// Those whose agents say so; all, where agents cannot be asked.
    async fn ready(&self, seen: &[Seen]) -> BTreeSet<CvmId> {
        let mut ready = BTreeSet::new();
        for Seen { cvm, .. } in seen {
            let is_ready = match &self.agents {
                Some(agents) => agents.is_ready(cvm).await,
                None => true,
            };
            if is_ready {
                ready.insert(cvm.id.clone());
            }
        }
        ready
    }

    async fn change(&mut self, node: &Seen) -> anyhow::Result<()> {
        let Cvm { id, name, compose_hash, .. } = &node.cvm;
        let failed = |error: crate::phala::ApiError| error.failure(&format!("update {name}"));
        self.printer.note(format!("updating {name}"));
        let sealed =
            self.cluster.seal(&self.software.environment.with(&own_variables(node)), &self.kms, &self.policy).await?;
        let compose_file = &self.software.rendered.compose_file;
        if let Changed::Waits(prepared) = self.api.update(id, compose_file, Some(&sealed)).await.map_err(failed)? {
            if !self.composes.contains(&prepared.compose_hash) {
                return Err(other_document(prepared.compose_hash).into());
            }
            let mut last = self.policy.allow_compose(prepared.compose_hash).await?;
            if let Some(device) = prepared.device_id {
                last = self.policy.allow_device(device).await?.or(last);
            }
            self.transactions.extend(last);
            let transaction = last.map_or_else(|| "already-registered".to_owned(), |hash| hash.to_string());
            self.api.confirm_update(id, &prepared, &transaction).await.map_err(failed)?;
        }
        self.changed.insert(id.clone(), *compose_hash);
        Ok(())
    }
}

/// What this program has told the CVM's agent before: an environment is replaced as a whole.
fn own_variables(node: &Seen) -> Vec<(&'static str, String)> {
    let Some(port) = node.cvm.instance.map(listen_port) else { return Vec::new() };
    let mapping = node.ports.iter().flatten().find(|mapping| mapping.vm_port == port);
    let endpoint = mapping.and_then(|mapping| mapping.endpoint());
    endpoint.map_or_else(Vec::new, |endpoint| vec![(LISTEN_PORT, port.to_string()), (ENDPOINT, endpoint.to_string())])
}

impl Outline {
    fn new(contract: Address, composes: &BTreeSet<B256>, seen: &[Seen]) -> Self {
        let is_new = |seen: &&Seen| seen.cvm.compose_hash.is_some_and(|hash| composes.contains(&hash));
        let (unchanged, changed): (Vec<_>, Vec<_>) = seen.iter().partition(is_new);
        let names = |seen: Vec<&Seen>| seen.iter().map(|seen| seen.cvm.name.clone()).collect();
        let compose_hashes = composes.iter().copied().collect();
        Self { contract, changed: names(changed), unchanged: names(unchanged), compose_hashes }
    }

    fn text(&self) -> String {
        let hashes = self.compose_hashes.iter().map(|hash| format!("compose hash  {hash}\n")).collect::<String>();
        format!(
            "would change  {}\nunchanged     {}\none of these will be allowed; which one, Phala Cloud says:\n{hashes}",
            self.changed.join(", "),
            self.unchanged.join(", ")
        )
    }
}
