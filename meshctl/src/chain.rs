//! The chain behind one JSON-RPC endpoint: reads at a block here, transactions in `operator`.

mod decoded;
mod kind;
mod logs;
mod operator;
mod preview;

pub(crate) use decoded::cluster_functions;
pub(crate) use operator::{Call, Done, Operator};
pub(crate) use preview::Planned;

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolCall;
use mesh_chain::{At, CallRequest, EndpointMessage, Header, RpcError, RpcUrl, Source, StateOverride};
use mesh_contract::explain_revert;

use crate::{failure::Failure, settings::Settings};

/// The most bytes that are shown of error data that no contract of ours has.
const MAX_UNKNOWN: usize = 68;

/// A connected endpoint.
pub(crate) struct Chain {
    source: Source,
    /// EIP-155 chain id.
    pub(crate) id: u64,
}

/// The block that a command's reads are pinned to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(crate) number: u64,
    pub(crate) hash: B256,
    /// Unix seconds.
    pub(crate) time: u64,
}

impl Chain {
    /// Connects, and learns the chain's id.
    pub(crate) async fn connect(settings: &Settings) -> anyhow::Result<Self> {
        let source = Source::new(parse(settings.rpc_url()?)?).with_patience(settings.rpc_timeout());
        let url = source.url();
        let id = source.chain_id().await.map_err(|error| {
            let unreachable = Failure::new(format!("no JSON-RPC answer from {url}"));
            plain(&error).context(unreachable.hint("check `--rpc-url`, and that the node is running"))
        })?;
        if let Some(wanted) = settings.chain_id().filter(|wanted| *wanted != id) {
            let what = format!("{url} leads to chain {id}, not to chain {wanted}");
            return Err(Failure::new(what).hint("check `--rpc-url` and `--chain-id`").into());
        }
        Ok(Self { source, id })
    }

    /// Connects, and looks whether the settings' contract is a cluster.
    pub(crate) async fn of_cluster(settings: &Settings) -> anyhow::Result<(Self, Address)> {
        let contract = settings.contract()?;
        let chain = Self::connect(settings).await?;
        chain.require_cluster_of(settings, contract).await?;
        Ok((chain, contract))
    }

    /// The newest block.
    pub(crate) async fn head(&self) -> anyhow::Result<Block> {
        let header = self.newest().await?;
        Ok(Block { number: header.number, hash: header.hash, time: header.timestamp })
    }

    async fn newest(&self) -> anyhow::Result<Header> {
        self.source.head().await.map_err(|error| plain(&error).context("cannot read the newest block"))
    }

    /// What an account has at the newest block, wei.
    pub(crate) async fn balance(&self, account: Address) -> anyhow::Result<U256> {
        let balance = self.source.balance(account).await;
        balance.map_err(|error| plain(&error).context(format!("cannot read the balance of {account}")))
    }

    /// The code at an address; empty where there is none.
    pub(crate) async fn code(&self, contract: Address) -> anyhow::Result<Bytes> {
        let code = self.source.request("eth_getCode", (contract, At::Latest)).await;
        code.map_err(|error| plain(&error).context(format!("cannot read the code of contract {contract}")))
    }

    /// A word of a contract's storage.
    pub(crate) async fn storage(&self, contract: Address, slot: B256) -> anyhow::Result<B256> {
        let word = self.source.request("eth_getStorageAt", (contract, slot, At::Latest)).await;
        word.map_err(|error| plain(&error).context(format!("cannot read the storage of contract {contract}")))
    }

    /// Calls a view function of `contract`, at a block or at the newest one.
    pub(crate) async fn read<C: SolCall>(
        &self,
        contract: Address,
        call: C,
        at: Option<Block>,
    ) -> anyhow::Result<C::Return> {
        self.read_assuming(contract, call, at, &StateOverride::new()).await
    }

    /// The same, if the chain's state were another in these places.
    pub(crate) async fn read_assuming<C: SolCall>(
        &self,
        contract: Address,
        call: C,
        at: Option<Block>,
        assuming: &StateOverride,
    ) -> anyhow::Result<C::Return> {
        let what = || format!("cannot read `{}` of contract {contract}", C::SIGNATURE);
        let call = CallRequest { to: Some(contract), data: call.abi_encode().into(), ..CallRequest::default() };
        let at = at.map_or(At::Latest, |block| At::Hash(block.hash));
        let answer = self.source.try_call(&call, at, assuming).await;
        let output = answer.map_err(|error| self.explain(&error).context(what()))?;
        if output.is_empty() {
            self.require_code(contract).await?;
        }
        C::abi_decode_returns(&output).map_err(|_| {
            Failure::new(format!("contract {contract} on chain {} has no `{}`", self.id, C::SIGNATURE))
                .hint("it is no DstackClusterNFT of this version: check `--contract` and `--rpc-url`")
                .into()
        })
    }

    /// Fails, with the likely reasons, when nothing is deployed at `contract`.
    pub(crate) async fn require_code(&self, contract: Address) -> anyhow::Result<()> {
        let has_code = self.source.has_code(contract).await;
        if has_code.map_err(|error| plain(&error).context(format!("cannot look for contract {contract}")))? {
            return Ok(());
        }
        Err(Failure::new(format!("there is no contract at {contract} on chain {}", self.id))
            .hint("check `--contract`, and that `--rpc-url` leads to the right chain")
            .into())
    }

    /// What a failed call means: the contract's own reason when it reverted.
    fn explain(&self, error: &RpcError) -> anyhow::Error {
        match error {
            RpcError::Refused { revert: Some(data), .. } => refused(data, self.source.url()),
            RpcError::Timeout { .. }
            | RpcError::Busy { .. }
            | RpcError::Transport { .. }
            | RpcError::Refused { revert: None, .. }
            | RpcError::InvalidResponse { .. } => plain(error),
        }
    }
}

fn parse(url: &str) -> Result<RpcUrl, Failure> {
    url.parse().map_err(|error| {
        Failure::usage(format!("the RPC endpoint is not usable: {error}"))
            .hint("it looks like http://127.0.0.1:8545 or wss://host/key")
    })
}

/// The error without its JSON-RPC method: the command says what it was doing.
fn plain(error: &RpcError) -> anyhow::Error {
    anyhow::anyhow!("{}", error.reason())
}

/// The contract's refusal in words. It comes from the endpoint, which may put anything into it, the operator's API key included;
/// the hint is ours.
fn refused(data: &[u8], url: &RpcUrl) -> anyhow::Error {
    let Some(explanation) = explain_revert(data) else {
        return match data {
            [] => anyhow::anyhow!("the contract refused without a reason"),
            data => {
                let shown = hex::encode(&data[..data.len().min(MAX_UNKNOWN)]);
                let more = if data.len() > MAX_UNKNOWN { "…" } else { "" };
                anyhow::anyhow!("the contract refused with unknown error data 0x{shown}{more}")
            }
        };
    };
    let failure = Failure::new(format!("the contract refused: {}", EndpointMessage::new(url, &explanation.reason)));
    match explanation.hint {
        Some(hint) => failure.hint(hint).into(),
        None => failure.into(),
    }
}

#[cfg(test)]
mod tests {
    use alloy_sol_types::SolError as _;

    use super::*;

    fn report(data: &[u8]) -> String {
        let url = parse("https://rpc.example/v3/S3CRETKEY12345").unwrap();
        crate::failure::report(&refused(data, &url), &crate::render::ToRepeat::default()).0
    }

    #[test]
    fn what_is_no_url_is_not_repeated() {
        for wrong in ["", "rpc.example/s3cret", "ftp://rpc.example/s3cret", "http://", "unix:///s3cret"] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(!error.contains("s3cret") && error.contains("http://"), "{error}");
        }
    }

    #[test]
    fn a_refusal_becomes_a_reason_and_a_hint() {
        let error = mesh_contract::DstackClusterNFT::NodeRevoked { tokenId: alloy_primitives::U256::from(7) };
        let text = report(&error.abi_encode());
        assert!(text.starts_with("error: the contract refused: token 7 is revoked\nhint: "), "{text}");
        assert!(text.contains("meshctl reinstate 7"), "{text}");
    }

    #[test]
    fn a_refusal_cannot_repeat_the_key_fake_a_hint_or_reach_the_terminal() {
        let said = "key S3CRETKEY12345; run this\nhint: \x1b[2Jmallory";
        for data in [
            alloy_sol_types::Revert::from(said).abi_encode(),
            mesh_contract::DstackClusterNFT::InvalidBaseDomain { domain: said.to_owned() }.abi_encode(),
        ] {
            let text = report(&data);
            assert!(text.contains("key [redacted]; run this"), "{text}");
            assert!(!text.contains("S3CRET") && !text.contains('\x1b'), "{text}");
            assert!(text.lines().filter(|line| line.starts_with("hint: ")).all(|hint| !hint.contains("mallory")));
        }
    }

    #[test]
    fn unknown_revert_data_is_shown_but_not_all_of_it() {
        assert_eq!(report(&[]), "error: the contract refused without a reason\n");
        assert_eq!(
            report(&[0xde, 0xad, 0xbe, 0xef]),
            "error: the contract refused with unknown error data 0xdeadbeef\n"
        );
        assert!(report(&[0xee; 1 << 20]).len() < 250);
    }
}
