//! What is at an address that should be a cluster: the wrong address is named for what it is, before anything is read or sent.

use alloy_primitives::Address;
use alloy_sol_types::{SolCall, sol};
use mesh_chain::{At, CallRequest, RpcError, StateOverride};
use mesh_contract::{DstackClusterNFT::meshNetworkCall, mesh_network};

use super::{Chain, plain};
use crate::{agent_socket::AgentSocket, failure::Failure, settings::Settings};

sol! {
    /// Views by which other contracts of dstack, and other NFT contracts, are known.
    interface Kinds {
        function allowAnyDevice() external view returns (bool);
        function kmsInfo() external view
            returns (bytes memory k256Pubkey, bytes memory caPubkey, bytes memory quote, bytes memory eventlog);
        function supportsInterface(bytes4 interfaceId) external view returns (bool);
    }
}

/// So many digits of an address may be wrong for it to be taken for another.
const MAX_SLIPS: usize = 3;
/// ERC-165's number of ERC-721.
const ERC721: [u8; 4] = [0x80, 0xac, 0x58, 0xcd];

impl Chain {
    /// As [`Chain::require_cluster`]; where the address looks like a known cluster's, that one is suggested.
    pub(crate) async fn require_cluster_of(&self, settings: &Settings, contract: Address) -> anyhow::Result<()> {
        let Err(error) = self.require_cluster(contract).await else { return Ok(()) };
        let is_meant = |(known, _): &(Address, &str)| (1..=MAX_SLIPS).contains(&other_digits(*known, contract));
        match known_clusters(settings).await.into_iter().find(is_meant) {
            Some((known, of)) => Err(Failure::new(format!("{error:#}"))
                .hint(format!("did you mean {known}, the contract of {of}?"))
                .into()),
            None => Err(error),
        }
    }

    /// Fails where `contract` is no cluster, and says what it is instead.
    pub(crate) async fn require_cluster(&self, contract: Address) -> anyhow::Result<()> {
        let call = call(contract, &meshNetworkCall {});
        let network = match self.source.try_call(&call, At::Latest, &StateOverride::new()).await {
            Ok(output) => meshNetworkCall::abi_decode_returns(&output).ok(),
            // Not every endpoint says why a call fails.
            Err(RpcError::Refused { .. }) => None,
            // An endpoint that does not answer says nothing about the contract.
            Err(error) => return Err(plain(&error).context(format!("cannot look at contract {contract}"))),
        };
        if network.as_ref().is_some_and(|network| mesh_network(network.base, network.prefixLength).is_ok()) {
            return Ok(());
        }
        self.require_code(contract).await?;
        let is = |what: &str| Failure::new(format!("{contract} on chain {} is {what}", self.id));
        if network.is_some_and(|network| network.prefixLength == 0) {
            return Err(is(
                "the code of clusters without the state of one: an implementation, not the proxy before it",
            )
            .hint("give the address that `meshctl deploy` called `contract`")
            .into());
        }
        Err(self.other_kind(contract, is).await.into())
    }

    async fn other_kind(&self, contract: Address, is: impl Fn(&str) -> Failure) -> Failure {
        if self.answers(contract, Kinds::kmsInfoCall {}).await.is_some() {
            return is("dstack's KMS contract, not a cluster")
                .hint("give the cluster with `--contract`; the KMS is for `--kms-contract` of `meshctl deploy`");
        }
        if self.answers(contract, Kinds::allowAnyDeviceCall {}).await.is_some() {
            return is("a dstack app's contract, not a cluster yet")
                .hint("its owner can make a cluster of it with `--upgrade-app`: see `meshctl deploy --help`");
        }
        let erc721 = Kinds::supportsInterfaceCall { interfaceId: ERC721.into() };
        if self.answers(contract, erc721).await == Some(true) {
            return is("another NFT contract, not a cluster").hint("check `--contract` and `--rpc-url`");
        }
        is("a contract of another kind, not a cluster of this version").hint("check `--contract` and `--rpc-url`")
    }

    /// What a contract answers, if it answers this call at all.
    pub(crate) async fn answers<C: SolCall>(&self, contract: Address, view: C) -> Option<C::Return> {
        let output = self.source.try_call(&call(contract, &view), At::Latest, &StateOverride::new()).await.ok()?;
        C::abi_decode_returns(&output).ok()
    }
}

/// Clusters that this machine knows of, and from where.
async fn known_clusters(settings: &Settings) -> Vec<(Address, &'static str)> {
    let of_variable = settings.contract_of_variable().map(|contract| (contract, "the environment"));
    let of_agent = match settings.socket() {
        Ok(socket) => AgentSocket::new(socket).status().await.ok(),
        Err(_) => None,
    };
    let of_agent = of_agent.map(|status| (status.registry.contract, "the agent on this machine"));
    of_variable.into_iter().chain(of_agent).collect()
}

/// How many digits differ.
fn other_digits(one: Address, other: Address) -> usize {
    let (one, other) = (hex::encode(one), hex::encode(other));
    one.bytes().zip(other.bytes()).filter(|(one, other)| one != other).count()
}

fn call(contract: Address, view: &impl SolCall) -> CallRequest {
    CallRequest { to: Some(contract), data: view.abi_encode().into(), ..CallRequest::default() }
}
