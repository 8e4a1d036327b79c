//! `meshctl register`: relays what an agent signed. The operator pays the gas; everything is in the signatures.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::Bytes;
use alloy_sol_types::SolCall;
use anyhow::Context as _;
use mesh_contract::DstackClusterNFT::{registerPeerCall, updateEndpointCall};
use mesh_core::{
    id::{Address, TokenId},
    registration::{EndpointUpdate, Registration},
    status::RegistrationOffer,
};
use serde::{Serialize, de::DeserializeOwned};

use super::change::change;
use crate::{
    agent_socket::AgentSocket,
    chain::{Call, Chain, Operator},
    failure::Failure,
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

/// An offer is a page of hex.
const MAX_OFFER: u64 = 64 << 10;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl register --offer offer.json")]
pub(crate) struct Args {
    /// File with the offer, as `GET /v1/registration` of the agent's socket gives it; `-` reads stdin
    /// [default: ask the agent at --socket]
    #[arg(long, value_name = "PATH")]
    offer: Option<PathBuf>,
    /// Ask the agent to sign for this token
    #[arg(long, value_name = "TOKEN", conflicts_with = "offer")]
    token: Option<TokenId>,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Submitted {
    token_id: TokenId,
    key_epoch: u32,
    method: &'static str,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let offer = match &args.offer {
        Some(path) => read_json(path, "offer")?,
        None => ask_agent(settings, args.token).await?,
    };
    let SignedCall { method, .. } = check(&offer, settings.given_contract(), now())?;
    let operator = Operator::connect(settings, &args.key).await?;
    let call = call(&offer, settings.given_contract(), &operator.chain)?;
    operator.chain.require_cluster(offer.contract).await?;
    let RegistrationOffer { contract, token_id, key_epoch, .. } = offer;
    change(&operator, printer, contract, call, |_| {
        let text = format!("{method} is accepted: token {token_id}, key epoch {key_epoch}");
        Ok((Submitted { token_id, key_epoch, method }, text))
    })
    .await
}

/// The call that an offer asks for, once it is known to be one that may be relayed.
pub(super) fn call(offer: &RegistrationOffer, contract: Option<Address>, chain: &Chain) -> anyhow::Result<Call> {
    let SignedCall { verb, data, .. } = check(offer, contract, now())?;
    check_chain(offer, chain)?;
    Ok(Call::new(format!("{verb} token {}", offer.token_id), Some(offer.contract), data))
}

/// In Unix seconds.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn ask_agent(settings: &Settings, token: Option<TokenId>) -> anyhow::Result<RegistrationOffer> {
    let agent = AgentSocket::new(settings.socket()?);
    agent.registration(token).await
}

/// Reads a short JSON document from a file, or from stdin where the path is `-`. `what` says what it should be.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path, what: &str) -> anyhow::Result<T> {
    let failed = || format!("cannot read the {what} `{}`", path.display());
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().take(MAX_OFFER).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(MAX_OFFER).read_to_string(&mut text))
    };
    read.with_context(failed)?;
    serde_json::from_str(&text).with_context(failed)
}

/// One of the only two calls that this command lends the operator's key to.
struct SignedCall {
    method: &'static str,
    verb: &'static str,
    data: Bytes,
}

/// An offer is hostile until its call data is decoded and says what the offer says: otherwise its author could have
/// the operator's key send any call at all.
fn check(offer: &RegistrationOffer, contract: Option<Address>, now: u64) -> anyhow::Result<SignedCall> {
    let refuse = |why: String| Failure::new(format!("refused to relay the offer: {why}"));
    if let Some(contract) = contract.filter(|contract| *contract != offer.contract) {
        return Err(refuse(format!("it is for contract {}, not {contract}", offer.contract)).into());
    }
    let data = offer.calldata.strip_prefix("0x").and_then(|digits| hex::decode(digits).ok());
    let data = data.ok_or_else(|| refuse("its call data is not 0x and hex digits".to_owned()))?;
    let (method, verb, token, key_epoch, deadline) = match data.first_chunk::<4>() {
        Some(selector) if *selector == registerPeerCall::SELECTOR => {
            let signed = Registration::try_from(decode::<registerPeerCall>(&data)?.registration)?;
            ("registerPeer", "register", signed.token, signed.key_epoch, signed.deadline)
        }
        Some(selector) if *selector == updateEndpointCall::SELECTOR => {
            let signed = EndpointUpdate::try_from(decode::<updateEndpointCall>(&data)?.update)?;
            ("updateEndpoint", "update the endpoint of", signed.token, signed.key_epoch, signed.deadline)
        }
        _ => return Err(refuse("it calls neither registerPeer nor updateEndpoint".to_owned()).into()),
    };
    let said = (offer.method.as_str(), offer.token_id, offer.key_epoch, offer.deadline);
    if (method, token, key_epoch, deadline) != said {
        return Err(refuse("its call data does not say what its other fields say".to_owned()).into());
    }
    if deadline < now {
        return Err(refuse(format!("it expired {}s ago", now - deadline)).hint("ask the agent for a fresh one").into());
    }
    Ok(SignedCall { method, verb, data: data.into() })
}

/// Decodes a call, and insists that it has but one encoding.
fn decode<C: SolCall>(data: &[u8]) -> anyhow::Result<C> {
    let call = C::abi_decode(data).ok().filter(|call| call.abi_encode() == data);
    call.ok_or_else(|| Failure::new("refused to relay the offer: its call data is malformed").into())
}

fn check_chain(offer: &RegistrationOffer, chain: &Chain) -> anyhow::Result<()> {
    if offer.chain_id != chain.id {
        let what = format!("the offer is for chain {}, but `--rpc-url` leads to chain {}", offer.chain_id, chain.id);
        return Err(Failure::new(what).hint("give an endpoint of the agent's chain").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{B256, U256};
    use mesh_contract::{DstackClusterNFT::transferOwnershipCall, update_endpoint};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn update() -> updateEndpointCall {
        let update = EndpointUpdate {
            token: TokenId::new(7).unwrap(),
            key_epoch: 3,
            endpoint_epoch: 1,
            endpoint: Some("203.0.113.7:51821".parse().unwrap()),
            gateway: None,
            deadline: NOW + 600,
        };
        update_endpoint(&update, &[9; 65])
    }

    fn offer(calldata: &[u8]) -> RegistrationOffer {
        RegistrationOffer {
            chain_id: 31337,
            contract: Address::repeat_byte(0xcc),
            token_id: TokenId::new(7).unwrap(),
            key_epoch: 3,
            deadline: NOW + 600,
            calldata: format!("0x{}", hex::encode(calldata)),
            method: "updateEndpoint".to_owned(),
        }
    }

    fn refusal(offer: &RegistrationOffer, contract: Option<Address>, now: u64) -> String {
        check(offer, contract, now).err().map(|error| error.to_string()).unwrap_or_else(|| "accepted".to_owned())
    }

    #[test]
    fn an_honest_offer_passes_until_its_deadline() {
        let offer = offer(&update().abi_encode());
        assert_eq!(refusal(&offer, Some(offer.contract), NOW), "accepted");
        assert_eq!(refusal(&offer, None, NOW + 600), "accepted");
        assert!(refusal(&offer, None, NOW + 601).contains("expired 1s ago"));
    }

    #[test]
    fn no_other_call_is_relayed() {
        let takeover = transferOwnershipCall { newOwner: Address::repeat_byte(0xee) }.abi_encode();
        assert!(refusal(&offer(&takeover), None, NOW).contains("calls neither"));
        assert!(refusal(&offer(&[]), None, NOW).contains("calls neither"));
        let mut not_hex = offer(&[]);
        not_hex.calldata = "zz".to_owned();
        assert!(refusal(&not_hex, None, NOW).contains("not 0x and hex"));
    }

    #[test]
    fn call_data_with_anything_appended_or_missing_is_malformed() {
        let mut data = update().abi_encode();
        data.push(0);
        assert!(refusal(&offer(&data), None, NOW).contains("malformed"));
        data.truncate(100);
        assert!(refusal(&offer(&data), None, NOW).contains("malformed"));
    }

    #[test]
    fn call_data_must_say_what_the_offer_says() {
        let honest = update().abi_encode();
        let edits: [fn(&mut RegistrationOffer); 4] = [
            |offer| offer.token_id = TokenId::new(8).unwrap(),
            |offer| offer.key_epoch = 4,
            |offer| offer.deadline += 1,
            |offer| offer.method = "registerPeer".to_owned(),
        ];
        for edit in edits {
            let mut offer = offer(&honest);
            edit(&mut offer);
            assert!(refusal(&offer, None, NOW).contains("does not say"), "{offer:?}");
        }
    }

    #[test]
    fn tokens_beyond_every_network_and_other_contracts_are_refused() {
        let mut huge = update();
        huge.update.tokenId = U256::MAX;
        assert_ne!(refusal(&offer(&huge.abi_encode()), None, NOW), "accepted");
        let other = Address::repeat_byte(0xdd);
        assert!(refusal(&offer(&update().abi_encode()), Some(other), NOW).contains("it is for contract"));
    }

    #[test]
    fn a_registration_passes_too() {
        let registration = Registration {
            token: TokenId::new(7).unwrap(),
            instance: mesh_core::id::InstanceId([1; 20]),
            member_address: Address::repeat_byte(6),
            wireguard_key: mesh_core::id::WireguardKey([2; 32]),
            tls_key: None,
            key_epoch: 3,
            network_type: mesh_core::registration::NetworkType::Wireguard,
            endpoint: None,
            gateway: None,
            deadline: NOW + 600,
        };
        let chain = mesh_contract::IDstackClusterNFT::SignatureChain {
            nodeKeyX: B256::ZERO,
            nodeKeyY: B256::ZERO,
            appKeyX: B256::ZERO,
            appKeyY: B256::ZERO,
            appSignature: Bytes::from(vec![3; 65]),
            kmsSignature: Bytes::from(vec![4; 65]),
            appId: Address::ZERO,
        };
        let call = registerPeerCall {
            registration: (&registration).into(),
            chain,
            nodeSignature: Bytes::from(vec![5; 65]),
            memberSignature: Bytes::from(vec![6; 65]),
        };
        let mut offer = offer(&call.abi_encode());
        offer.method = "registerPeer".to_owned();
        assert_eq!(refusal(&offer, None, NOW), "accepted");
    }
}
