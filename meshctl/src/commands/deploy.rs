//! `meshctl deploy`: a new cluster, the contract's implementation and a proxy that is initialized as it is born; or the proxy of a
//! dstack app, which becomes a cluster by an upgrade and keeps its owner and its boot gate.

mod app;

use alloy_primitives::{Address, Bytes, TxHash};
use alloy_sol_types::SolCall as _;
use alloy_sol_types::sol;
use anyhow::Context as _;
use ipnetwork::Ipv4Network;
use mesh_contract::{
    DstackClusterNFT::{meshNetworkCall, ownerCall},
    NewCluster, implementation_init_code, initialize, initialize_from_dstack_app, proxy_init_code, upgrade_dstack_app,
};
use mesh_core::{id::AppId, network::MeshNetwork};
use serde::Serialize;

use super::change::dry_run;
use crate::{
    address::{parse_address, parse_app_id},
    chain::{Call, Chain, Done, Operator, Planned},
    confirm::Consequences,
    failure::Failure,
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

sol! {
    /// The dstack KMS contract (kms/auth-eth/contracts/DstackKms.sol of dstack): its owner sets the key, any account registers apps.
    interface DstackKms {
        function kmsInfo() external view
            returns (bytes memory k256Pubkey, bytes memory caPubkey, bytes memory quote, bytes memory eventlog);
        function registerApp(address appId) external;
        function registeredApps(address appId) external view returns (bool);
    }
}

/// The most gas of `registerApp`, which behind a proxy sets one word and emits one event or two: about 60,000.
const REGISTER_GAS: u64 = 200_000;

#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("trust").required(true).multiple(true).args(["kms_root", "kms_contract"])),
    after_help = "Example: meshctl deploy --kms-contract 0x3333333333333333333333333333333333333333 --name prod-db"
)]
pub(crate) struct Args {
    /// Trust this dstack KMS root: the address of its k256 key (repeatable)
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    kms_root: Vec<Address>,
    /// Trust the root that this DstackKms contract names, and register the new cluster with it as an app
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    kms_contract: Option<Address>,
    /// Make a cluster of this dstack app's contract, by an upgrade: it keeps its owner, compose hashes, devices and flags
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address, conflicts_with = "owner")]
    upgrade_app: Option<Address>,
    /// Allow a further dstack app besides the contract's own address (repeatable)
    #[arg(long, value_name = "APP_ID", value_parser = parse_app_id)]
    app_id: Vec<AppId>,
    /// The mesh network, fixed for ever; prefix length 16 to 29
    #[arg(long, value_name = "CIDR", default_value = "10.0.1.0/24", value_parser = parse_network)]
    network: MeshNetwork,
    /// Name of the mesh
    #[arg(long, value_name = "NAME", default_value = "dstack-mesh")]
    name: String,
    /// Symbol of its tokens
    #[arg(long, value_name = "SYMBOL", default_value = "NODE")]
    symbol: String,
    /// Contract owner: mints, revokes and upgrades [default: the key's address]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    owner: Option<Address>,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Deployed {
    contract: Address,
    chain_id: u64,
    implementation: Address,
    name: String,
    owner: Address,
    network: MeshNetwork,
    kms_roots: Vec<Address>,
    /// Besides the contract's own address.
    app_ids: Vec<AppId>,
    /// It was a dstack app's contract before.
    upgraded: bool,
    /// The DstackKms with which it was registered as an app.
    registered_with: Option<Address>,
    transactions: Vec<TxHash>,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    for root in &args.kms_root {
        settings.refuse_published("a KMS root", *root)?;
    }
    let operator = Operator::connect(settings, &args.key).await?;
    let chain = &operator.chain;
    let mut kms_roots = args.kms_root.clone();
    if let Some(kms) = args.kms_contract {
        let root = root_of_kms(chain, kms).await?;
        printer.note(format!("DstackKms {kms} names the root {root}"));
        settings.refuse_published("a KMS root", root)?;
        kms_roots.push(root);
    }
    let owner = match args.upgrade_app {
        Some(app) => app::check(&operator, app).await?,
        None => args.owner.unwrap_or(operator.address),
    };
    settings.refuse_published("the contract's owner", owner)?;
    let cluster = NewCluster {
        name: args.name.clone(),
        symbol: args.symbol.clone(),
        owner,
        network: args.network,
        kms_roots,
        app_ids: args.app_id.clone(),
    };
    // The app of an upgrade is registered already.
    let kms = args.kms_contract.filter(|_| args.upgrade_app.is_none());
    if operator.is_dry_run() {
        let calls = planned(&operator, args.upgrade_app, &cluster, kms).await?;
        return dry_run(&operator, printer, calls).await;
    }
    if args.upgrade_app.is_some() {
        app::try_out(&operator, printer, planned(&operator, args.upgrade_app, &cluster, kms).await?).await?;
    }

    let first = operator.send(printer, &first_call(args.upgrade_app)).await?;
    let implementation = first.created();
    let second = operator.send(printer, &cluster_call(args.upgrade_app, implementation, &cluster)).await?;
    let contract = args.upgrade_app.unwrap_or_else(|| second.created());
    verify(chain, contract, &cluster).await?;
    let mut transactions = vec![first.hash, second.hash];
    if let Some(kms) = kms {
        transactions.push(register_app(&operator, printer, kms, contract).await?.hash);
    }

    let deployed = Deployed {
        contract,
        chain_id: chain.id,
        implementation,
        name: cluster.name,
        owner,
        network: args.network,
        kms_roots: cluster.kms_roots,
        app_ids: cluster.app_ids,
        upgraded: args.upgrade_app.is_some(),
        registered_with: kms,
        transactions,
    };
    printer.result(&deployed, || text(&deployed))?;
    Ok(0)
}

/// The implementation. Where a dstack app's contract is to get it, the operator is asked before anything is sent.
fn first_call(app: Option<Address>) -> Call {
    let call = Call::creation("deploy the implementation", implementation_init_code());
    match app {
        Some(app) => call.after_asking(Consequences::new(
            format!(
                "the contract of dstack app {app} becomes a cluster; it keeps owner, compose hashes, devices and flags"
            ),
            "none by meshctl: its owner would have to upgrade it to dstack's own code",
        )),
        None => call,
    }
}

/// The call that makes the cluster, once its implementation is there.
fn cluster_call(app: Option<Address>, implementation: Address, cluster: &NewCluster) -> Call {
    match app {
        Some(app) => Call::function(
            format!("upgrade the dstack app {app} to a cluster"),
            app,
            &upgrade_dstack_app(implementation, cluster),
        ),
        None => Call::creation("deploy and initialize the cluster's proxy", proxy_init_code(implementation, cluster)),
    }
}

pub(super) fn register_call(kms: Address, contract: Address) -> Call {
    Call::function(
        format!("register the cluster with DstackKms {kms}"),
        kms,
        &DstackKms::registerAppCall { appId: contract },
    )
    .with_most_gas(REGISTER_GAS)
}

/// All calls, to be tried as if the earlier ones had been sent.
async fn planned(
    operator: &Operator,
    app: Option<Address>,
    cluster: &NewCluster,
    kms: Option<Address>,
) -> anyhow::Result<Vec<Planned>> {
    let [implementation, proxy] = operator.next_contracts().await?;
    let inner: Bytes = match app {
        Some(_) => initialize_from_dstack_app(cluster).abi_encode().into(),
        None => initialize(cluster).abi_encode().into(),
    };
    let second = Planned { call: cluster_call(app, implementation, cluster), inner: Some(inner) };
    let register = kms.map(|kms| Planned::from(register_call(kms, proxy)));
    Ok([first_call(app).into(), second].into_iter().chain(register).collect())
}

/// The contract is what was asked for: an upgrade of something else could have left anything there.
async fn verify(chain: &Chain, contract: Address, cluster: &NewCluster) -> anyhow::Result<()> {
    let owner = chain.read(contract, ownerCall {}, None).await?;
    anyhow::ensure!(owner == cluster.owner, "the contract at {contract} belongs to {owner}, not to {}", cluster.owner);
    let network = chain.read(contract, meshNetworkCall {}, None).await?;
    let network = mesh_contract::mesh_network(network.base, network.prefixLength)?;
    anyhow::ensure!(network == cluster.network, "the contract at {contract} has network {}", network.network());
    Ok(())
}

/// What is deployed must not be lost when this last step fails.
async fn register_app(operator: &Operator, printer: &Printer, kms: Address, contract: Address) -> anyhow::Result<Done> {
    operator.send(printer, &register_call(kms, contract)).await.with_context(|| {
        Failure::new(format!("the cluster is deployed at {contract}, but no app of DstackKms {kms} yet"))
            .hint(format!("any account may register it: call `registerApp({contract})` of that contract"))
    })
}

fn text(deployed: &Deployed) -> String {
    let Deployed { contract, chain_id, implementation, name, owner, network, .. } = deployed;
    let list = |label: &str, items: Vec<String>| -> String {
        items.into_iter().map(|item| format!("{label:15}{item}\n")).collect()
    };
    let roots = list("kms root", deployed.kms_roots.iter().map(Address::to_string).collect());
    let own = [format!("{} (the contract itself)", AppId::from(*contract))];
    let apps = list("app id", own.into_iter().chain(deployed.app_ids.iter().map(AppId::to_string)).collect());
    let kms = list("registered at", deployed.registered_with.iter().map(Address::to_string).collect());
    let transactions = list("transaction", deployed.transactions.iter().map(TxHash::to_string).collect());
    let network = network.network();
    let head = format!(
        "contract       {contract}\nchain          {chain_id}\nname           {name}\nowner          {owner}\n\
         network        {network}\nimplementation {implementation}\n"
    );
    let gate = match deployed.upgraded {
        true => String::new(),
        false => format!(
            "next: `meshctl compose add HASH --contract {contract}`, so that its CVMs may boot\n\
             next: `meshctl device allow-any on --contract {contract}`, or `device add` for each machine\n"
        ),
    };
    let mint = format!(
        "next: for each node the command that its agent's log names: `meshctl mint --instance ID --contract {contract}`\n"
    );
    crate::render::printable(&(head + &roots + &apps + &kms + &transactions)) + "\n" + &gate + &mint
}

pub(super) async fn root_of_kms(chain: &Chain, kms: Address) -> anyhow::Result<Address> {
    let what = || {
        Failure::new(format!("contract {kms} on chain {} names no KMS root", chain.id))
            .hint("check `--kms-contract`, or give the root itself with `--kms-root`")
    };
    chain.require_code(kms).await?;
    let info = chain.read(kms, DstackKms::kmsInfoCall {}, None).await.with_context(what)?;
    address_of_compressed_key(&info.k256Pubkey).with_context(what)
}

/// The address that `DstackKms.kmsInfo` gives as its key: the KMS root.
fn address_of_compressed_key(key: &[u8]) -> anyhow::Result<Address> {
    let key = k256::PublicKey::from_sec1_bytes(key).context("not a secp256k1 public key")?;
    let point = k256::elliptic_curve::sec1::ToEncodedPoint::to_encoded_point(&key, false);
    Ok(Address::from_raw_public_key(&point.as_bytes()[1..]))
}

fn parse_network(text: &str) -> Result<MeshNetwork, String> {
    let network: Ipv4Network = text.parse().map_err(|_| "not an IPv4 network such as 10.0.1.0/24".to_owned())?;
    MeshNetwork::try_from(network).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kms_calls_have_dstacks_selectors() {
        assert_eq!(DstackKms::kmsInfoCall::SELECTOR, [0x09, 0x17, 0x70, 0x63]);
        assert_eq!(DstackKms::registerAppCall::SELECTOR, [0x17, 0xa1, 0xd8, 0x0f]);
    }

    #[test]
    fn a_compressed_key_gives_its_address() {
        // The generator: private key 1.
        let generator = hex::decode("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798").unwrap();
        let address = address_of_compressed_key(&generator).unwrap();
        assert_eq!(address.to_string(), "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf");
        assert!(address_of_compressed_key(&generator[1..]).is_err());
        assert!(address_of_compressed_key(&[2; 33]).is_ok_and(|other| other != address));
    }

    #[test]
    fn networks_a_contract_would_refuse_are_refused_here() {
        for (text, reason) in [
            ("10.0.1.0/30", "mesh network prefix length 30 is not within 16..=29"),
            ("10.0.0.0/8", "mesh network prefix length 8 is not within 16..=29"),
            ("10.0.1.1/24", "mesh network base 10.0.1.1 has host bits set"),
            ("fd00::/64", "not an IPv4 network such as 10.0.1.0/24"),
            ("10.0.1", "not an IPv4 network such as 10.0.1.0/24"),
        ] {
            assert_eq!(parse_network(text).unwrap_err(), reason);
        }
        assert!(parse_network("10.0.1.0/24").is_ok());
    }

    #[test]
    fn text_and_json() {
        let deployed = Deployed {
            contract: Address::repeat_byte(1),
            chain_id: 31337,
            implementation: Address::repeat_byte(2),
            name: "prod\x1b[2J".to_owned(),
            owner: Address::repeat_byte(3),
            network: parse_network("10.0.1.0/24").unwrap(),
            kms_roots: vec![Address::repeat_byte(4)],
            app_ids: vec![AppId([5; 20])],
            upgraded: false,
            registered_with: Some(Address::repeat_byte(8)),
            transactions: vec![TxHash::repeat_byte(6), TxHash::repeat_byte(7)],
        };
        insta::assert_snapshot!("text", text(&deployed));
        insta::assert_snapshot!("json", serde_json::to_string_pretty(&deployed).unwrap());
    }
}
