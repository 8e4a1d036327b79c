//! `p2p-agent check`: asks every endpoint of the configuration once, and changes nothing, neither on this machine nor elsewhere.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use mesh_chain::{RpcError, RpcUrl, Source, Sources, Subject};
use mesh_core::{
    id::Address,
    place::{OwnPlace, host_name},
};
use serde::Serialize;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::start::check_root;
use crate::{
    config::{Config, Mode, WireguardKeySource},
    identity::{
        Expected, MemberKeySource,
        attested::Attested,
        dstack::{self, GuestAgent},
        node_key::Outlook,
    },
    state::dir,
};

/// For a name's address, and for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found, as `--json` prints it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Always `p2p-agent.check/v1`.
    pub schema: &'static str,
    /// Every endpoint is as it should be.
    pub ok: bool,
    /// Each endpoint.
    pub checks: Vec<Check>,
}

/// One endpoint.
#[derive(Debug, Serialize)]
pub struct Check {
    /// `guest-agent`, `rpc` or `gateway`.
    pub kind: &'static str,
    /// Where it is: of an RPC URL, without what may be an API key.
    pub endpoint: String,
    /// It is as it should be.
    pub ok: bool,
    /// What it said, where it answered.
    pub found: Option<String>,
    /// What is wrong.
    pub error: Option<String>,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

/// Asks all of them.
pub async fn check(config: &Config) -> Report {
    let (guest_agent, attested) = check_guest_agent(config).await;
    let contract = config.contract.or_else(|| Some(attested.as_ref()?.app_id.into()));
    let gateway = async {
        match &config.place {
            Some(place) => Some(check_gateway(place, config, attested.as_ref()).await),
            None => None,
        }
    };
    let rpcs = join_all(config.rpc_urls.iter().map(|url| check_rpc(url, contract)));
    let node_key = async {
        let (attested, contract) = (attested.as_ref()?, contract?);
        Some(node_key_of(config, attested, contract).await)
    };
    let (rpcs, gateway, node_key) = tokio::join!(rpcs, gateway, node_key);
    let guest_agent = guest_agent.and_found(node_key);
    let rpcs = of_one_chain(rpcs, config.chain_id);
    let checks: Vec<_> = [guest_agent].into_iter().chain(rpcs).chain(gateway).collect();
    Report { schema: "p2p-agent.check/v1", ok: checks.iter().all(|check| check.ok), checks }
}

async fn check_guest_agent(config: &Config) -> (Check, Option<Attested>) {
    let kind = "guest-agent";
    let endpoint = match dstack::find(config.dstack_socket.as_deref()) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            let configured = config.dstack_socket.clone().unwrap_or_else(|| "nowhere".to_owned());
            return (Check::failed(kind, configured, &error.to_string()), None);
        }
    };
    let name = endpoint.to_string();
    let expected = Expected { instance: config.expected_instance, kms_root: config.expected_kms_root };
    // As the agent would be asked, but for a member key, which it would draw where there is none.
    let asked = async {
        let agent = GuestAgent::detect(endpoint).await?;
        let member = match config.wireguard_key {
            WireguardKeySource::Random => {
                MemberKeySource::Disk { state_dir: &config.state_dir, user: dir::effective_user() }
            }
            WireguardKeySource::Derived => MemberKeySource::GuestAgent,
        };
        Attested::ask(&agent, expected, member).await
    };
    let attested = match asked.await {
        Ok(attested) => attested,
        Err(error) => return (Check::failed(kind, name, &error.to_string()), None),
    };
    if let Err(error) = check_root(attested.kms_root, config.development) {
        return (Check::failed(kind, name, &error.to_string()), Some(attested));
    }
    let simulated = if attested.simulated { ", SIMULATED" } else { "" };
    let Attested { instance, app_id, kms_root, guest_api, .. } = &attested;
    let listens = match config.mode {
        Mode::Wireguard => format!(", UDP port {}", config.listen_port_of(*instance)),
        Mode::Tls => String::new(),
    };
    let found =
        format!("instance {instance}, app {app_id}, KMS root {kms_root}, guest API {guest_api}{listens}{simulated}");
    (Check::good(kind, name, found), Some(attested))
}

/// Which node key the agent would register with, and why: a new node asks the contract as its start does.
async fn node_key_of(config: &Config, attested: &Attested, contract: Address) -> String {
    let why = match attested.outlook {
        Outlook::Kept(_) => "kept in the state directory",
        Outlook::Derived => "this node's own keys are derived",
        Outlook::New if !attested.is_undecided() => "a new node, whose guest agent has v0 alone",
        Outlook::New => {
            let takes_v1 = sources(config, Subject { contract, instance: attested.instance }).takes_guest_v1().await;
            let api = attested.node_key_api(takes_v1 == Some(true));
            return format!("node key of {api} (a new node: {})", Outlook::of_new_node(takes_v1));
        }
    };
    format!("node key of {} ({why})", attested.node_key_api(false))
}

/// The endpoints, asked as the agent asks them.
fn sources(config: &Config, subject: Subject) -> Sources {
    let sources: Vec<_> = config.rpc_urls.iter().cloned().map(Source::new).map(Arc::new).collect();
    let trusted = config.rpc_trusted.then(|| sources.len() - 1);
    Sources::new(sources, config.rpc_quorum, config.chain_id, subject).trusting(trusted)
}

/// One RPC endpoint, with the chain that it is of.
async fn check_rpc(url: &RpcUrl, contract: Option<Address>) -> (Check, Option<u64>) {
    let source = Source::new(url.clone());
    let begun = Instant::now();
    let has_code = async {
        match contract {
            Some(contract) => source.has_code(contract).await.map(|has_code| Some((contract, has_code))),
            None => Ok(None),
        }
    };
    let answers: Result<_, RpcError> = tokio::try_join!(source.chain_id(), source.head(), has_code);
    let name = source.id().to_owned();
    let (chain, head, code) = match answers {
        Ok(answers) => answers,
        Err(error) => {
            let error = format!("{error}\nhint: check that endpoint, or replace it in --rpc-url");
            return (Check::failed("rpc", name, &error), None);
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (age, took) = (now.saturating_sub(head.timestamp), begun.elapsed().as_millis());
    let found = format!("chain {chain}, block {} ({age} s old), {took} ms", head.number);
    let check = match code {
        Some((contract, false)) => Check {
            found: Some(found),
            ..Check::failed(
                "rpc",
                name,
                &format!("there is no contract at {contract}\nhint: check --contract, and the chain of --rpc-url"),
            )
        },
        Some((_, true)) | None => Check::good("rpc", name, found),
    };
    (check, Some(chain))
}

/// All have to be of the chain that was configured, or else of the first one's.
fn of_one_chain(checks: Vec<(Check, Option<u64>)>, configured: Option<u64>) -> impl Iterator<Item = Check> {
    let wanted = configured.or_else(|| checks.iter().find_map(|(_, chain)| *chain));
    checks.into_iter().map(move |(check, chain)| match (chain, wanted) {
        (Some(found), Some(wanted)) if found != wanted => {
            let error = format!(
                "it is of chain {found}, not of chain {wanted}\nhint: leave it out of --rpc-url, or correct --chain-id"
            );
            Check { found: check.found, ..Check::failed("rpc", check.endpoint, &error) }
        }
        _ => check,
    })
}

/// Whether the gateway in front of this node accepts connections.
async fn check_gateway(place: &OwnPlace, config: &Config, attested: Option<&Attested>) -> Check {
    // Every name below the domain leads there.
    let host = match attested {
        Some(attested) => host_name(attested.instance, place.port, &place.domain),
        None => format!("check.{}", place.domain.host()),
    };
    let port = config.gateway.address.map_or_else(|| place.domain.port().get(), |address| address.port());
    let failed = |error: &str| Check::failed("gateway", host.clone(), error);
    let access = attested.and_then(|attested| attested.gateway_access.as_ref());
    let kind = config.mode.network_type();
    if let Some(closed) = access.and_then(|access| access.closed(place.port.get(), kind)) {
        return failed(&format!(
            "it does not let peers through (gateway_port_policy): {closed}\nhint: {}",
            closed.hint()
        ));
    }
    let addresses = match config.gateway.address {
        Some(address) => vec![address],
        None => match timeout(PATIENCE, lookup_host((host.as_str(), port))).await {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => {
                return failed(&format!(
                    "its name has no address (gateway_dns): {error}\nhint: check --gateway-domain, and this machine's DNS"
                ));
            }
            Err(_) => return failed("the resolver does not answer (gateway_dns)\nhint: check this machine's DNS"),
        },
    };
    let mut last = "its name has no address (gateway_dns)".to_owned();
    for address in addresses {
        match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Check::good("gateway", host, format!("{address} accepts connections")),
            Ok(Err(error)) => last = format!("{address}: {error} (gateway_unreachable)"),
            Err(_) => last = format!("{address}: no connection within {} s (gateway_unreachable)", PATIENCE.as_secs()),
        }
    }
    failed(&format!("{last}\nhint: check that outbound TCP {port} is open, and that the gateway runs"))
}

impl Check {
    fn good(kind: &'static str, endpoint: String, found: String) -> Self {
        Self { kind, endpoint, ok: true, found: Some(found), error: None, hint: None }
    }

    /// With more of what was found, where it is as it should be.
    fn and_found(self, more: Option<String>) -> Self {
        let found = match (self.found, more) {
            (Some(found), Some(more)) => Some(format!("{found}, {more}")),
            (found, _) => found,
        };
        Self { found, ..self }
    }

    /// `error` may have a hint on a line of its own.
    fn failed(kind: &'static str, endpoint: String, error: &str) -> Self {
        let (error, hint) = match error.split_once("\nhint: ") {
            Some((error, hint)) => (error, Some(hint.to_owned())),
            None => (error, None),
        };
        Self { kind, endpoint, ok: false, found: None, error: Some(error.to_owned()), hint }
    }
}

impl fmt::Display for Report {
    /// For people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Check { kind, endpoint, ok, found, error, hint } in &self.checks {
            let verdict = if *ok { "ok" } else { "FAIL" };
            let said: Vec<&str> = [error, found].into_iter().flatten().map(String::as_str).collect();
            writeln!(f, "{verdict:<5} {kind:<12} {endpoint}  {}", said.join("; "))?;
            if let Some(hint) = hint {
                writeln!(f, "      hint: {hint}")?;
            }
        }
        let failed = self.checks.iter().filter(|check| !check.ok).count();
        match failed {
            0 => write!(f, "the configuration is valid, and all of its endpoints answer"),
            _ => write!(f, "the configuration is valid, and {failed} of {} endpoints fail", self.checks.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_different_chains_do_not_pass() {
        let check = |name: &str| Check::good("rpc", name.to_owned(), "chain".to_owned());
        let of = |chains: [Option<u64>; 3], configured| {
            let checks = ["a", "b", "c"].map(check).into_iter().zip(chains).collect();
            of_one_chain(checks, configured).map(|check| check.ok).collect::<Vec<_>>()
        };
        assert_eq!(of([Some(1), Some(1), Some(1)], None), [true, true, true]);
        assert_eq!(of([Some(1), Some(5), None], None), [true, false, true]);
        assert_eq!(of([Some(1), Some(5), Some(1)], Some(5)), [false, true, false]);
    }

    #[test]
    fn a_hint_is_a_field_of_its_own_and_a_line_of_its_own() {
        let failed = Check::failed("rpc", "https://rpc.example".to_owned(), "no answer\nhint: try another");
        assert_eq!((failed.error.as_deref(), failed.hint.as_deref()), (Some("no answer"), Some("try another")));
        let good = Check::good("guest-agent", "/var/run/dstack.sock".to_owned(), "instance 1".to_owned());
        let report = Report { schema: "p2p-agent.check/v1", ok: false, checks: vec![good, failed] };
        assert_eq!(
            report.to_string(),
            "ok    guest-agent  /var/run/dstack.sock  instance 1\n\
             FAIL  rpc          https://rpc.example  no answer\n      hint: try another\n\
             the configuration is valid, and 1 of 2 endpoints fail"
        );
    }
}
