//! `meshctl domain`: the base domains under which the dstack gateway makes nodes reachable. Nodes name them by index.

use std::collections::BTreeMap;

use alloy_primitives::Address;
use clap::Subcommand;
use mesh_contract::{
    DstackClusterNFT::{BaseDomainAdded, addBaseDomainCall, baseDomainsCall, meshNetworkCall, removeBaseDomainCall},
    base_domains, mesh_network,
};
use mesh_core::{place::Domain, registration::NetworkType, registry::PeerRecord};
use serde::Serialize;

use super::{change::change, leaving, nodes::peers};
use crate::{
    chain::{Call, Chain, Operator},
    confirm::Consequences,
    failure::Failure,
    output::Printer,
    render::{Cell, Column, table},
    settings::Settings,
    signer::SignerArgs,
};

/// Peers that are named one by one.
const NAMED: usize = 8;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl domain add gateway.example.com")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add a base domain: a lower-case host name, and the gateway's port where that is not 443 (contract owner)
    Add(AddArgs),
    /// Remove a base domain; nodes under it lose their gateway path (contract owner)
    Remove(RemoveArgs),
    /// List the base domains, and how many peers are under each
    List,
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// As `gateway.example.com`, or `gateway.example.com:8443`
    #[arg(value_name = "HOST[:PORT]")]
    domain: Domain,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, clap::Args)]
struct RemoveArgs {
    /// The domain as it is listed, or its index
    #[arg(value_name = "HOST[:PORT]|INDEX")]
    domain: String,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Changed {
    index: u16,
    domain: String,
}

#[derive(Debug, Serialize)]
struct Listed {
    contract: Address,
    chain_id: u64,
    block_number: u64,
    domains: Vec<DomainView>,
}

#[derive(Debug, Serialize)]
struct DomainView {
    index: u16,
    /// `null`: removed.
    domain: Option<String>,
    /// Peers whose registration names it.
    peers: usize,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    match &args.verb {
        Verb::Add(args) => add(args, settings, printer).await,
        Verb::Remove(args) => remove(args, settings, printer).await,
        Verb::List => list(settings, printer).await,
    }
}

async fn add(args: &AddArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let call = addBaseDomainCall { domain: args.domain.to_string() };
    let call = Call::function(format!("add base domain `{}`", args.domain), contract, &call);
    change(&operator, printer, contract, call, |done| {
        let BaseDomainAdded { index, domain, .. } = done.event(contract)?;
        let text = format!("base domain {index} is {domain}: nodes may name it as their gateway");
        Ok((Changed { index, domain }, text))
    })
    .await
}

async fn remove(args: &RemoveArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let domains = read(&operator.chain, contract).await?;
    let DomainView { index, domain, peers } = find(domains.domains, &args.domain)?;
    let domain = domain.unwrap_or_default();
    let under = leaving::peers(&operator.chain, contract).await?;
    let under = under.values().filter(|peer| peer.gateway.is_some_and(|gateway| gateway.domain == index));
    let consequences = loss(under, &domain);
    let call =
        Call::function(format!("remove base domain {index} (`{domain}`)"), contract, &removeBaseDomainCall { index });
    let call = call.after_asking(consequences);
    change(&operator, printer, contract, call, |_| {
        let lost = if peers == 1 { "1 peer lost its".to_owned() } else { format!("{peers} peers lost their") };
        let text = format!("base domain {index} ({domain}) is removed: {lost} gateway path");
        Ok((Changed { index, domain }, text))
    })
    .await
}

/// What the operator is asked: who is under the domain, and what is lost.
fn loss<'a>(under: impl Iterator<Item = &'a PeerRecord>, domain: &str) -> Consequences {
    let (mut tokens, mut of_tls) = (Vec::new(), 0);
    for peer in under {
        tokens.push(format!("token {}", peer.token));
        of_tls += usize::from(peer.network_type == NetworkType::TlsGateway);
    }
    let many = tokens.len();
    let named = if many > NAMED { "too many to name".to_owned() } else { tokens.join(", ") };
    let effect = match many {
        0 => "no peer is under it".to_owned(),
        1 => format!("1 peer loses its gateway path: {named}"),
        _ => format!("{many} peers lose their gateway path: {named}"),
    };
    let urls = if of_tls > 0 { format!("; {of_tls} of kind tls cannot be reached any more") } else { String::new() };
    // The contract's text comes from the endpoint: only a domain is repeated in a command.
    let domain = domain.parse::<Domain>().map_or_else(|_| "HOST".to_owned(), |domain| domain.to_string());
    let way_back = "under another index: each node then updates its place, and pays for that";
    Consequences::new(effect + &urls, format!("`meshctl domain add {domain}`, {way_back}"))
}

/// By index, else by host name. What is not there any more is left to the contract's answer.
fn find(domains: Vec<DomainView>, wanted: &str) -> Result<DomainView, Failure> {
    let index: Option<u16> = wanted.parse().ok();
    let is_it = |view: &DomainView| index == Some(view.index) || view.domain.as_deref() == Some(wanted);
    domains.into_iter().find(is_it).ok_or_else(|| {
        Failure::new(format!("the cluster has no base domain `{wanted}`")).hint("see `meshctl domain list`")
    })
}

async fn list(settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (chain, contract) = Chain::of_cluster(settings).await?;
    let listed = read(&chain, contract).await?;
    printer.result(&listed, || text(&listed))?;
    Ok(0)
}

async fn read(chain: &Chain, contract: Address) -> anyhow::Result<Listed> {
    let head = chain.head().await?;
    let network = chain.read(contract, meshNetworkCall {}, Some(head)).await?;
    let network = mesh_network(network.base, network.prefixLength)?;
    let mut under: BTreeMap<u16, usize> = BTreeMap::new();
    for peer in peers(chain, contract, network, head).await?.into_values() {
        if let Some(gateway) = peer.gateway {
            *under.entry(gateway.domain).or_default() += 1;
        }
    }
    let domains = base_domains(chain.read(contract, baseDomainsCall {}, Some(head)).await?);
    let view = |(index, domain)| DomainView { index, domain, peers: under.get(&index).copied().unwrap_or(0) };
    let domains = (1..=u16::MAX).zip(domains).map(view).collect();
    Ok(Listed { contract, chain_id: chain.id, block_number: head.number, domains })
}

const COLUMNS: [Column; 3] = [Column::right("INDEX"), Column::right("PEERS"), Column::left("DOMAIN")];

fn text(listed: &Listed) -> String {
    let row = |view: &DomainView| {
        let domain = view.domain.as_deref().unwrap_or("- (removed)");
        vec![Cell::new(view.index.to_string()), Cell::new(view.peers.to_string()), Cell::new(domain)]
    };
    table(&COLUMNS, &listed.domains.iter().map(row).collect::<Vec<_>>(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains() -> Vec<DomainView> {
        let view = |index, domain: Option<&str>| DomainView { index, domain: domain.map(str::to_owned), peers: 2 };
        vec![view(1, Some("gw.example")), view(2, None), view(3, Some("4.example")), view(4, Some("gw.example:8443"))]
    }

    #[test]
    fn domains_are_found_by_host_and_by_index() {
        let found = |wanted| find(domains(), wanted).map(|view| view.index).map_err(|failure| failure.to_string());
        assert_eq!((found("gw.example"), found("3"), found("4.example")), (Ok(1), Ok(3), Ok(3)));
        assert_eq!(found("gw.example:8443"), Ok(4), "another gateway on the same host");
        // The contract says that it was removed.
        assert_eq!(found("2"), Ok(2));
        for wrong in ["5", "", "GW.example", "gw.example:443", "65536"] {
            assert_eq!(found(wrong), Err(format!("the cluster has no base domain `{wrong}`")));
        }
    }

    #[test]
    fn a_text_that_is_no_domain_gets_into_no_command() {
        let way_back = |domain| loss(std::iter::empty(), domain).way_back;
        for domain in ["gw.example", "gw.example:8443"] {
            assert!(way_back(domain).starts_with(&format!("`meshctl domain add {domain}`, ")));
        }
        for hostile in ["gw.example; rm -rf ~", "$(id).example", "a`id`.example", ""] {
            assert!(way_back(hostile).starts_with("`meshctl domain add HOST`, "), "{hostile}");
        }
    }

    #[test]
    fn removed_domains_keep_their_line() {
        let listed = Listed { contract: Address::ZERO, chain_id: 1, block_number: 1, domains: domains() };
        let expected = "INDEX  PEERS  DOMAIN\n    1      2  gw.example\n    2      2  - (removed)\n    3      2  4.example\n    4      2  gw.example:8443\n";
        assert_eq!(text(&listed), expected);
    }
}
