//! `meshctl phala deploy`: N nodes of a cluster at Phala Cloud, each of them a member. The contract is the dstack app: its own boot gate
//! decides what boots, and it is registered with the KMS's contract, which any account may do.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, FixedBytes, TxHash};
use mesh_contract::DstackClusterNFT::mintCall;
use mesh_core::id::{InstanceId, TokenId};
use serde::Serialize;

use super::{
    super::register,
    cluster::{Cluster, Waiting, other_document},
    given::{AgentArgs, ApiArgs, ENDPOINT, LISTEN_PORT, Software, SourceArgs, WaitArgs},
    names::{parse_name, parse_word},
    policy::Policy,
    report::Report,
};
use crate::{
    address::parse_address,
    chain::{Call, Operator},
    failure::Failure,
    output::Printer,
    phala::{
        Agents, Api, Changed, Cvm, CvmId, KmsInfo, NodeId, Prepared, Provision, Provisioned, Seen, Step, Tried, Wanted,
        expected_kms, least_used, next, require_expected,
    },
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many nodes there are to be
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    nodes: u16,
    /// What the CVMs are called, with a number behind it: 3 to 56 letters, digits and hyphens, a letter first
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    sources: SourceArgs,
    /// Take this compose hash from Phala Cloud although it is none that is known to come of what was given
    #[arg(long, value_name = "HASH")]
    compose_hash: Option<B256>,
    /// Whose KMS the CVMs get their keys from: that of the contract's chain
    #[arg(long, help_heading = "Machine options", value_name = "CHAIN", default_value = "base", value_parser = ["base", "ethereum"])]
    kms: String,
    /// The DstackKms contract that the app is registered with: Phala Cloud must name the same [default: the one that Phala publishes for
    /// Base or Ethereum]
    #[arg(long, help_heading = "Machine options", value_name = "ADDRESS", value_parser = parse_address)]
    kms_contract: Option<Address>,
    /// What each CVM is given
    #[arg(long, help_heading = "Machine options", value_name = "TYPE", default_value = "tdx.small", value_parser = parse_word)]
    instance_type: String,
    /// The OS image [default: the newest stable one]
    #[arg(long, help_heading = "Machine options", value_name = "NAME", value_parser = parse_word)]
    image: Option<String>,
    /// Of each CVM, at least 20
    #[arg(long, help_heading = "Machine options", value_name = "GB", value_parser = clap::value_parser!(u32).range(20..=10_000))]
    disk_size: Option<u32>,
    /// Put CVMs on this machine of Phala Cloud's (repeatable: they are spread over all) [default: Phala Cloud chooses]
    #[arg(long, help_heading = "Machine options", value_name = "ID")]
    node: Vec<u64>,
    /// Map no UDP port of the host to each CVM: nodes then find each other behind NATs, or meet at the gateway
    #[arg(long, help_heading = "Machine options")]
    no_udp: bool,
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
    chain_id: u64,
    /// CVMs that are there.
    cvms: usize,
    /// CVMs that would be made.
    missing: usize,
    /// One of them will be allowed: what Phala Cloud adds to app-compose.json differs.
    compose_hashes: Vec<B256>,
    allowed_envs: Vec<String>,
}

struct Deploying<'a> {
    args: &'a Args,
    printer: &'a Printer,
    api: &'a Api,
    cluster: Cluster<'a>,
    policy: Policy<'a>,
    software: &'a Software,
    agents: Option<Agents>,
    wanted: Wanted,
    tried: Tried,
    /// Made in this run: an endpoint or a list that lags must not have it made twice.
    minted: BTreeSet<InstanceId>,
    relayed: BTreeSet<InstanceId>,
    /// As many CVMs as there must be in the list.
    listed: usize,
    /// The DstackKms that the API must name.
    expected_kms: Address,
    kms: Option<KmsInfo>,
    transactions: Vec<TxHash>,
}

pub(super) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let software = args.sources.read()?;
    let api = args.api.api()?;
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let chain = &operator.chain;
    let policy = Policy { operator: &operator, printer, contract };
    policy.require_owner().await?;
    let expected_kms = expected_kms(chain.id, args.kms_contract)?;
    if !args.no_udp && !software.takes_endpoint {
        printer.note(format!(
            "no UDP ports are mapped: the compose file does not pass ${{{ENDPOINT}:-}} and ${{{LISTEN_PORT}:-}} to the agent"
        ));
    }
    let has_udp = !args.no_udp && software.takes_endpoint;
    let mut cluster = Cluster::new(&api, chain, contract, Some(operator.address), has_udp);
    let composes: BTreeSet<B256> = software.rendered.texts.keys().copied().chain(args.compose_hash).collect();
    let nodes = usize::from(args.nodes);
    if operator.is_dry_run() {
        let cvms = cluster.look().await?.len();
        let missing = nodes.saturating_sub(cvms);
        let compose_hashes = composes.into_iter().collect();
        let allowed_envs = software.names.clone();
        let outline = Outline { contract, chain_id: chain.id, cvms, missing, compose_hashes, allowed_envs };
        printer.result(&outline, || outline.text())?;
        return Ok(0);
    }
    operator.settle(printer).await?;
    let agents = args.agents.agents();
    let mut deploying = Deploying {
        args,
        printer,
        api: &api,
        cluster,
        policy,
        software: &software,
        wanted: Wanted { nodes, composes, relays: agents.is_some() },
        agents,
        tried: Tried::default(),
        minted: BTreeSet::new(),
        relayed: BTreeSet::new(),
        listed: 0,
        expected_kms,
        kms: None,
        transactions: Vec::new(),
    };
    let seen = deploying.run().await?;
    let report = Report::of(chain, contract, &seen, deploying.transactions).await?;
    printer.result(&report, || report.text(printer.color()))?;
    Ok(0)
}

impl Deploying<'_> {
    async fn run(&mut self) -> anyhow::Result<Vec<Seen>> {
        let mut waiting = Waiting::new(self.printer, &self.args.wait);
        loop {
            let seen = self.cluster.look().await?;
            let step = self.plan(&seen)?;
            if step == Step::Done {
                return Ok(seen);
            }
            match self.perform(step, &seen).await? {
                Some(what) => {
                    waiting.wait_for(&what).await?;
                    self.tried.not_signed.clear();
                }
                None => waiting.begin_again(),
            }
        }
    }

    fn plan(&self, seen: &[Seen]) -> Result<Step, Failure> {
        if seen.len() < self.listed {
            return Ok(Step::WaitFor("Phala Cloud lists the CVM that was made".to_owned()));
        }
        Ok(next(&self.wanted, seen, &self.tried)?)
    }

    /// One step; what it waits for, where it could not be done.
    async fn perform(&mut self, step: Step, seen: &[Seen]) -> anyhow::Result<Option<String>> {
        match step {
            Step::Create => {
                self.create(seen).await?;
                self.listed = seen.len() + 1;
                Ok(None)
            }
            Step::MapUdp { cvm, instance, port } => {
                self.printer.note(format!("{}: mapping a UDP port to its port {port}", name_of(seen, &cvm)));
                let mapped = self.api.map_udp(&cvm, port).await;
                mapped.map_err(|error| error.failure("map a UDP port (`--no-udp` does without)"))?;
                self.tried.mapped.insert(instance);
                Ok(None)
            }
            Step::Advertise { cvm, instance, port, endpoint } => {
                self.printer.note(format!("{}: others reach it at {endpoint}", name_of(seen, &cvm)));
                let own = [(LISTEN_PORT, port.to_string()), (ENDPOINT, endpoint.to_string())];
                let kms = self.kms().await?;
                let sealed = self.cluster.seal(&self.software.environment.with(&own), &kms, &self.policy).await?;
                match self.api.set_environment(&cvm, &sealed).await {
                    Err(error) if error.status() == Some(409) => return Ok(Some("the CVM takes changes".to_owned())),
                    set => set.map_err(|error| error.failure("set the CVM's environment"))?,
                }
                self.tried.advertised.insert(instance);
                Ok(None)
            }
            Step::Mint { instance } => self.mint(instance).await,
            Step::Relay { cvm, instance, token } => {
                let cvm = seen.iter().map(|seen| &seen.cvm).find(|known| known.id == cvm);
                if let Some(cvm) = cvm
                    && let Err(why) = self.relay(cvm, instance, token).await?
                {
                    self.tried.not_signed.insert(instance, why);
                }
                Ok(None)
            }
            Step::WaitFor(what) => Ok(Some(what)),
            Step::Done => Ok(None),
        }
    }

    /// One more CVM. Everything that can be wrong with what the API says is found before anything is paid.
    async fn create(&mut self, seen: &[Seen]) -> anyhow::Result<()> {
        let nodes: Vec<_> = self.args.node.iter().copied().map(NodeId).collect();
        let name = format!("{}-{}", self.args.name, seen.len() + 1);
        let wanted = Provision {
            name: &name,
            compose_file: &self.software.rendered.compose_file,
            kms: &self.args.kms,
            node: least_used(&nodes, seen),
            instance_type: &self.args.instance_type,
            image: self.args.image.as_deref(),
            disk_size: self.args.disk_size,
            env_keys: &self.software.names,
        };
        let provisioned = self.api.provision(&wanted).await;
        let provisioned = provisioned.map_err(|error| error.failure(&format!("prepare the CVM {name}")))?;
        self.require_own_document(provisioned.compose_hash)?;
        require_expected(&provisioned.kms, self.expected_kms)?;
        let sealed = self.cluster.seal(&self.software.environment, &provisioned.kms, &self.policy).await?;
        self.kms = Some(provisioned.kms.clone());

        let registered = self.policy.register(provisioned.kms.contract).await?;
        let allowed = self.policy.allow_compose(provisioned.compose_hash).await?;
        self.transactions.extend(registered.into_iter().chain(allowed));
        if let Some(device) = provisioned.device_id {
            self.transactions.extend(self.policy.allow_device(device).await?);
        }
        self.printer.note(format!("making the CVM {name}"));
        if seen.is_empty() {
            let made = self.api.create(self.cluster.app(), &provisioned, &sealed, self.policy.operator.address).await;
            return Ok(made.map_err(|error| error.failure(&format!("make the CVM {name}")))?);
        }
        self.add_instance(&provisioned, &sealed).await
    }

    fn require_own_document(&self, hash: B256) -> Result<(), Failure> {
        if !self.wanted.composes.contains(&hash) {
            return Err(other_document(hash));
        }
        let added = self.software.rendered.texts.get(&hash).filter(|added| !added.is_empty());
        let added = added.map_or_else(String::new, |added| format!(" (Phala Cloud adds {added})"));
        self.printer.note(format!("compose hash {hash} is that of what was given{added}"));
        Ok(())
    }

    /// A copy of the CVMs that are there. Its hash is allowed by now, so that at most the API's own two steps are left.
    async fn add_instance(&mut self, provisioned: &Provisioned, sealed: &str) -> anyhow::Result<()> {
        let (app, failed) = (self.cluster.app(), |error: crate::phala::ApiError| error.failure("make a further CVM"));
        let asked = self.api.add_instance(app, provisioned, sealed, None).await.map_err(failed)?;
        let Changed::Waits(Prepared { compose_hash, device_id, token }) = asked else { return Ok(()) };
        self.require_own_document(compose_hash)?;
        let mut last = self.policy.allow_compose(compose_hash).await?;
        if let Some(device) = device_id {
            last = self.policy.allow_device(device).await?.or(last);
        }
        self.transactions.extend(last);
        let transaction = last.map_or_else(|| "already-registered".to_owned(), |hash| hash.to_string());
        let committed = token.as_ref().map(|token| (token, transaction.as_str()));
        match self.api.add_instance(app, provisioned, sealed, committed).await.map_err(failed)? {
            Changed::Begun => Ok(()),
            Changed::Waits(_) => {
                Err(Failure::new("cannot make a further CVM: Phala Cloud does not see that the contract allows it")
                    .hint("run the same command again in a minute")
                    .into())
            }
        }
    }

    /// The KMS of the app, from the machine that was chosen in this run or from the list.
    async fn kms(&mut self) -> anyhow::Result<KmsInfo> {
        if let Some(kms) = &self.kms {
            return Ok(kms.clone());
        }
        let kms = self.cluster.kms(&self.policy).await?;
        require_expected(&kms, self.expected_kms)?;
        self.kms = Some(kms.clone());
        Ok(kms)
    }

    async fn mint(&mut self, instance: InstanceId) -> anyhow::Result<Option<String>> {
        if self.minted.contains(&instance) {
            return Ok(Some(format!("the RPC endpoint knows the token of instance {instance}")));
        }
        if self.minted.len() >= self.wanted.nodes {
            let what =
                format!("Phala Cloud names ever new instance ids: {} tokens were minted for them", self.minted.len());
            return Err(Failure::new(what)
                .hint("see `meshctl phala status`; `meshctl burn` frees tokens of no node")
                .into());
        }
        let (operator, contract) = (self.policy.operator, self.cluster.contract);
        let call = mintCall { to: operator.address, instanceId: FixedBytes(instance.0), appId: contract };
        let call = Call::function(format!("mint a token for instance {instance}"), contract, &call);
        self.transactions.push(operator.send(self.printer, &call).await?.hash);
        self.minted.insert(instance);
        Ok(None)
    }

    /// Submits what the agent has signed; else why it has nothing yet.
    async fn relay(&mut self, cvm: &Cvm, instance: InstanceId, token: TokenId) -> anyhow::Result<Result<(), String>> {
        let Some(agents) = &self.agents else { return Ok(Err("there is no `--agent-url`".to_owned())) };
        let offer = match agents.registration(cvm, token).await {
            Ok(offer) if offer.token_id == token => offer,
            Ok(offer) => return Ok(Err(format!("its agent signed for token {}", offer.token_id))),
            Err(why) => return Ok(Err(why)),
        };
        let operator = self.policy.operator;
        let call = match register::call(&offer, Some(self.cluster.contract), &operator.chain) {
            Ok(call) => call,
            Err(error) => return Ok(Err(format!("{error:#}"))),
        };
        match operator.send(self.printer, &call).await {
            Ok(done) => self.transactions.push(done.hash),
            // An RPC endpoint may not know yet what was submitted before.
            Err(error) if self.relayed.contains(&instance) => return Ok(Err(format!("{error:#}"))),
            Err(error) => return Err(error),
        }
        self.relayed.insert(instance);
        Ok(Ok(()))
    }
}

impl Outline {
    fn text(&self) -> String {
        let Self { contract, chain_id, cvms, missing, .. } = self;
        let hashes = self.compose_hashes.iter().map(|hash| format!("compose hash  {hash}\n")).collect::<String>();
        format!(
            "contract      {contract}\nchain         {chain_id}\nCVMs          {cvms}, {missing} would be made\n\
             variables     {}\none of these will be allowed; which one, Phala Cloud says:\n{hashes}",
            self.allowed_envs.join(", ")
        )
    }
}

fn name_of<'a>(seen: &'a [Seen], cvm: &CvmId) -> &'a str {
    seen.iter().find(|seen| seen.cvm.id == *cvm).map_or("a CVM", |seen| seen.cvm.name.as_str())
}
