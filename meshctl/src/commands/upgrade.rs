//! `meshctl upgrade`: gives a cluster the code of this version, or another implementation that is deployed. Both pieces of its code are
//! replaced together; the proxy keeps its address and everything that it holds.

use std::{collections::BTreeMap, fmt};

use alloy_primitives::{Address, TxHash, U256};
use anyhow::Context as _;
use mesh_chain::{AccountOverride, StateOverride};
use mesh_contract::{
    DeployedCode,
    DstackClusterNFT::{
        EXTENSIONCall, appIdsCall, clusterConfigCall, kmsRootsCall, meshNetworkCall, ownerCall, proxiableUUIDCall,
    },
    IMPLEMENTATION_SLOT, implementation_init_code, upgrade,
};
use serde::Serialize;

use super::{change::dry_run, leaving::nothing_to_do};
use crate::{
    address::parse_address,
    chain::{Call, Chain, Operator, Planned, cluster_functions},
    confirm::Consequences,
    failure::Failure,
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl upgrade --dry-run")]
pub(crate) struct Args {
    /// Upgrade to this implementation, which is deployed already: to go back, or on from where an upgrade ended [default: deploy
    /// this version's]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    implementation: Option<Address>,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Upgraded {
    contract: Address,
    chain_id: u64,
    previous_implementation: Address,
    implementation: Address,
    /// The implementation has the code of this version.
    is_this_version: bool,
    /// Functions that the previous code did not have.
    new_functions: Vec<String>,
    transactions: Vec<TxHash>,
}

/// What an upgrade must not change, and no other account can meanwhile: nodes come and go.
#[derive(Debug, PartialEq, Eq)]
struct State {
    owner: Address,
    network: ([u8; 4], u8),
    max_nodes: U256,
    kms_roots: Vec<Address>,
    app_ids: Vec<Address>,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, network: ([a, b, c, d], prefix), max_nodes, kms_roots, app_ids } = self;
        write!(
            f,
            "owner {owner}, network {a}.{b}.{c}.{d}/{prefix}, at most {max_nodes} nodes, KMS roots {kms_roots:?} and apps {app_ids:?}"
        )
    }
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let chain = &operator.chain;
    let now = code(chain, contract, implementation_of(chain, contract).await?).await?;
    let previous = now.as_ref().map_or_else(|Unknown(address)| *address, |code| code.implementation);
    let next = match args.implementation {
        Some(next) if next == previous => {
            return Err(
                nothing_to_do(format!("{next} is the implementation already"), "meshctl upgrade --dry-run").into()
            );
        }
        Some(next) => Some(known_implementation(chain, next).await?),
        None if now.as_ref().is_ok_and(DeployedCode::is_this_version) => {
            let what = format!("the contract runs the code of this version already, at {previous}");
            return Err(Failure::new(what)
                .hint("there is nothing to do; another version's meshctl has other code")
                .into());
        }
        None => None,
    };
    if chain.read(contract, clusterConfigCall {}, None).await?.upgradesDisabled {
        return Err(Failure::new("upgrades of this contract are disabled for ever")
            .hint("deploy a new cluster with `meshctl deploy` and move the nodes there")
            .into());
    }
    let before = state(chain, contract, None).await?;
    if let Some(next) = &next {
        try_out(chain, contract, next.implementation, &before).await?;
    }
    let new_functions = new_functions(now.as_ref().ok(), next.as_ref());
    let consequences = consequences(previous, next.as_ref(), &new_functions);
    if operator.is_dry_run() {
        return preview(&operator, printer, contract, next.as_ref(), consequences).await;
    }
    let owner = before.owner;
    if owner != operator.address {
        let what = format!("{} is not the contract's owner, and may not upgrade it", operator.address);
        return Err(Failure::new(what).hint(format!("send it from the contract owner's key: that of {owner}")).into());
    }

    let mut transactions = Vec::new();
    let implementation = match &next {
        Some(next) => next.implementation,
        None => {
            let done = operator.send(printer, &implementation_call().after_asking(consequences.clone())).await?;
            transactions.push(done.hash);
            let implementation = done.created();
            printer.note(format!(
                "the implementation is at {implementation}: should the upgrade fail now, `meshctl upgrade --implementation {implementation}` goes on"
            ));
            implementation
        }
    };
    // It is asked once, before anything is sent.
    let call = upgrade_call(contract, implementation).after_asking(transactions.is_empty().then_some(consequences));
    transactions.push(operator.send(printer, &call).await?.hash);
    verify(chain, contract, (previous, implementation), &before).await?;

    let is_this_version = next.as_ref().is_none_or(DeployedCode::is_this_version);
    let upgraded = Upgraded {
        contract,
        chain_id: chain.id,
        previous_implementation: previous,
        implementation,
        is_this_version,
        new_functions,
        transactions,
    };
    printer.result(&upgraded, || text(&upgraded))?;
    Ok(0)
}

/// An implementation whose two pieces of code cannot be told apart: not one of ours, or too old.
struct Unknown(Address);

async fn implementation_of(chain: &Chain, contract: Address) -> anyhow::Result<Address> {
    let slot = chain.storage(contract, IMPLEMENTATION_SLOT).await?;
    let implementation = Address::from_word(slot);
    if implementation.is_zero() {
        return Err(Failure::new(format!("{contract} is no proxy whose implementation can be replaced"))
            .hint("check `--contract`")
            .into());
    }
    Ok(implementation)
}

/// The code of an implementation; `at` answers for its extension: itself, or the proxy before it.
async fn code(chain: &Chain, at: Address, implementation: Address) -> anyhow::Result<Result<DeployedCode, Unknown>> {
    let Some(extension) = chain.answers(at, EXTENSIONCall {}).await else { return Ok(Err(Unknown(implementation))) };
    let (code, extension_code) = (chain.code(implementation).await?, chain.code(extension).await?);
    Ok(Ok(DeployedCode { implementation, code, extension, extension_code }))
}

/// One that the operator names must be an implementation of clusters, of whatever version.
async fn known_implementation(chain: &Chain, implementation: Address) -> anyhow::Result<DeployedCode> {
    chain.require_code(implementation).await?;
    let is_uups = chain.answers(implementation, proxiableUUIDCall {}).await == Some(IMPLEMENTATION_SLOT);
    match code(chain, implementation, implementation).await? {
        Ok(code) if is_uups => Ok(code),
        Ok(_) | Err(Unknown(_)) => Err(Failure::new(format!("{implementation} is no implementation of a cluster"))
            .hint("leave `--implementation` out to deploy this version's")
            .into()),
    }
}

/// Functions of this version's interface that only the next code has.
fn new_functions(now: Option<&DeployedCode>, next: Option<&DeployedCode>) -> Vec<String> {
    let Some(now) = now else { return Vec::new() };
    let is_new = |selector: [u8; 4]| !now.knows(selector) && next.is_none_or(|next| next.knows(selector));
    cluster_functions().filter(|(selector, _)| is_new(*selector)).map(|(_, signature)| signature).collect()
}

fn consequences(previous: Address, next: Option<&DeployedCode>, new_functions: &[String]) -> Consequences {
    let to = match next {
        None => "this version's, which is deployed first".to_owned(),
        Some(next) if next.is_this_version() => format!("this version's at {}", next.implementation),
        Some(next) => format!("that of another version, at {}", next.implementation),
    };
    let kept = match next {
        Some(next) if !next.is_this_version() => {
            "what that code makes of tokens, members, trust and settings is not known here"
        }
        Some(_) | None => "tokens, members, trust and settings stay",
    };
    let new = if new_functions.is_empty() { "none that is known".to_owned() } else { new_functions.join(", ") };
    Consequences::new(
        format!("the contract's code at {previous} is replaced by {to}; {kept}; new functions: {new}"),
        format!("`meshctl upgrade --implementation {previous}`, until upgrades are disabled"),
    )
}

fn implementation_call() -> Call {
    Call::creation("deploy the implementation", implementation_init_code())
}

fn upgrade_call(contract: Address, implementation: Address) -> Call {
    let what = format!("upgrade the contract to implementation {implementation}");
    Call::function(what, contract, &upgrade(implementation))
}

async fn preview(
    operator: &Operator,
    printer: &Printer,
    contract: Address,
    next: Option<&DeployedCode>,
    consequences: Consequences,
) -> anyhow::Result<u8> {
    let calls: Vec<Planned> = match next {
        Some(next) => vec![upgrade_call(contract, next.implementation).after_asking(consequences).into()],
        None => {
            let [implementation, _] = operator.next_contracts().await?;
            let first = implementation_call().after_asking(consequences);
            vec![first.into(), upgrade_call(contract, implementation).into()]
        }
    };
    dry_run(operator, printer, calls).await
}

/// As the contract's code reads it; or as another implementation would.
async fn state(chain: &Chain, contract: Address, implementation: Option<Address>) -> anyhow::Result<State> {
    let at = Some(chain.head().await?);
    let with = implementation.map(|implementation| {
        let storage = BTreeMap::from([(IMPLEMENTATION_SLOT, implementation.into_word())]);
        (contract, AccountOverride { storage, ..AccountOverride::default() })
    });
    let assuming: StateOverride = with.into_iter().collect();
    let network = chain.read_assuming(contract, meshNetworkCall {}, at, &assuming).await?;
    Ok(State {
        owner: chain.read_assuming(contract, ownerCall {}, at, &assuming).await?,
        network: (network.base.0, network.prefixLength),
        max_nodes: chain.read_assuming(contract, clusterConfigCall {}, at, &assuming).await?.maxNodes,
        kms_roots: chain.read_assuming(contract, kmsRootsCall {}, at, &assuming).await?.roots,
        app_ids: chain.read_assuming(contract, appIdsCall {}, at, &assuming).await?.accounts,
    })
}

/// An implementation that is deployed already has to read what is there as the code of now does: nothing is sent otherwise.
async fn try_out(chain: &Chain, contract: Address, implementation: Address, before: &State) -> anyhow::Result<()> {
    let refused = |what: String| Failure::new(what).hint("leave `--implementation` out to deploy this version's");
    let after = state(chain, contract, Some(implementation)).await;
    let after =
        after.with_context(|| refused(format!("{implementation} cannot read what contract {contract} holds")))?;
    if after == *before {
        return Ok(());
    }
    let what = format!("{implementation} would read {after}, where contract {contract} has {before}");
    Err(refused(what).into())
}

/// The new code is in place, and reads what the old one wrote.
async fn verify(
    chain: &Chain,
    contract: Address,
    (previous, implementation): (Address, Address),
    before: &State,
) -> anyhow::Result<()> {
    let is = implementation_of(chain, contract).await?;
    let after = state(chain, contract, None).await?;
    if is != implementation || after != *before {
        let what = format!(
            "after the upgrade the contract has implementation {is}, {after}; expected were {implementation}, {before}"
        );
        return Err(Failure::new(what)
            .hint(format!("look at it with `meshctl nodes`; `meshctl upgrade --implementation {previous}` goes back"))
            .into());
    }
    Ok(())
}

fn text(upgraded: &Upgraded) -> String {
    let Upgraded { contract, previous_implementation, implementation, .. } = upgraded;
    let functions = upgraded.new_functions.iter().map(|function| format!("new function    {function}\n"));
    let transactions = upgraded.transactions.iter().map(|hash| format!("transaction     {hash}\n"));
    format!("contract        {contract}\nimplementation  {previous_implementation} -> {implementation}\n")
        + &functions.chain(transactions).collect::<String>()
        + &format!("the way back: `meshctl upgrade --implementation {previous_implementation}`\n")
}
