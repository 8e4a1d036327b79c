//! The chain behind one JSON-RPC endpoint: reads at a block here, transactions in `operator`.

mod fees;
mod logs;
mod operator;
mod preview;
mod url;

pub(crate) use fees::ether;
pub(crate) use operator::{Call, Done, Operator};
pub(crate) use preview::Planned;

use std::{future::Future, time::Duration};

use alloy::{
    eips::BlockId,
    network::{Ethereum, TransactionBuilder as _},
    primitives::{Address, B256},
    providers::{DynProvider, Provider as _, RootProvider},
    rpc::{
        client::ClientBuilder,
        types::{Header, TransactionRequest},
    },
    sol_types::SolCall,
    transports::{
        TransportError, TransportErrorKind,
        ws::{WebSocketConfig, WsConnect},
    },
};
use anyhow::Context as _;
use mesh_contract::{BoundedHttp, MAX_ANSWER, RpcUrl, explain_revert};
use tokio::time::timeout;

use crate::{failure::Failure, settings::Settings};
use url::Url;

/// The most bytes that are shown of error data that nobody understands.
const MAX_UNKNOWN: usize = 68;

/// A connected endpoint.
pub(crate) struct Chain {
    provider: DynProvider,
    url: Url,
    /// One request takes at most this long.
    patience: Duration,
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
        let url = Url::parse(settings.rpc_url()?)?;
        let patience = settings.rpc_timeout();
        let unreachable = || {
            Failure::new(format!("no JSON-RPC answer from {url}"))
                .hint("check `--rpc-url`, and that the node is running")
        };
        let provider = within(patience, connect(url.full())).await;
        let provider = provider.map_err(|error| url.scrub(&error).context(unreachable()))?;
        let id = within(patience, provider.get_chain_id().into_future()).await;
        let id = id.map_err(|error| url.scrub(&error).context(unreachable()))?;
        if let Some(wanted) = settings.chain_id().filter(|wanted| *wanted != id) {
            let what = format!("{url} leads to chain {id}, not to chain {wanted}");
            return Err(Failure::new(what).hint("check `--rpc-url` and `--chain-id`").into());
        }
        Ok(Self { provider, url, patience, id })
    }

    /// The newest block.
    pub(crate) async fn head(&self) -> anyhow::Result<Block> {
        let header = self.newest().await?;
        Ok(Block { number: header.number, hash: header.hash, time: header.timestamp })
    }

    async fn newest(&self) -> anyhow::Result<Header> {
        let block = self.ask(self.provider.get_block(BlockId::latest())).await;
        let block = block.map_err(|error| self.plain(&error).context("cannot read the newest block"))?;
        Ok(block.with_context(|| format!("{} has no newest block", self.url))?.header)
    }

    /// Calls a view function of `contract`, at a block or at the newest one.
    pub(crate) async fn read<C: SolCall>(
        &self,
        contract: Address,
        call: C,
        at: Option<Block>,
    ) -> anyhow::Result<C::Return> {
        let what = || format!("cannot read `{}` of contract {contract}", C::SIGNATURE);
        let request = TransactionRequest::default().with_to(contract).with_input(call.abi_encode());
        let block = at.map_or_else(BlockId::latest, |block| BlockId::hash(block.hash));
        let answer = self.ask(self.provider.call(request).block(block)).await;
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
        let code = self.ask(self.provider.get_code_at(contract)).await;
        let code = code.map_err(|error| self.plain(&error).context(format!("cannot look for contract {contract}")))?;
        if code.is_empty() {
            return Err(Failure::new(format!("there is no contract at {contract} on chain {}", self.id))
                .hint("check `--contract`, and that `--rpc-url` leads to the right chain")
                .into());
        }
        Ok(())
    }

    /// Waits no longer than the operator said.
    async fn ask<T>(&self, call: impl IntoFuture<Output = Result<T, TransportError>>) -> Result<T, TransportError> {
        within(self.patience, call.into_future()).await
    }

    fn plain(&self, error: &TransportError) -> anyhow::Error {
        self.url.scrub(error)
    }

    /// What a failed call means: the contract's own reason when it reverted.
    fn explain(&self, error: &TransportError) -> anyhow::Error {
        let Some(response) = error.as_error_resp() else { return self.plain(error) };
        match response.as_revert_data() {
            Some(data) => refused(&data, &self.url),
            None => anyhow::anyhow!("{}", self.url.scrub_text(&response.message)),
        }
    }
}

/// Nothing that an endpoint does has a deadline of its own, neither connecting nor answering.
async fn within<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, TransportError>>,
) -> Result<T, TransportError> {
    let late = |_| TransportErrorKind::custom_str(&format!("no answer within {}s", patience.as_secs()));
    timeout(patience, answer).await.map_err(late)?
}

/// Answers are bounded on every transport.
async fn connect(url: &RpcUrl) -> Result<DynProvider, TransportError> {
    let client = if url.is_websocket() {
        let bounds = WebSocketConfig::default().max_message_size(Some(MAX_ANSWER)).max_frame_size(Some(MAX_ANSWER));
        // A command is short: a connection that dies is its end.
        let connect = WsConnect::new(url.secret().as_str()).with_config(bounds).with_max_retries(0);
        ClientBuilder::default().pubsub(connect).await?
    } else {
        ClientBuilder::default().transport(BoundedHttp::new(url.secret().clone())?, false)
    };
    Ok(RootProvider::<Ethereum>::new(client).erased())
}

/// The contract's refusal in words. It comes from the endpoint, which may put anything into it, the operator's API key included;
/// the hint is ours.
fn refused(data: &[u8], url: &Url) -> anyhow::Error {
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
    let failure = Failure::new(format!("the contract refused: {}", url.scrub_text(&explanation.reason)));
    match explanation.hint {
        Some(hint) => failure.hint(hint).into(),
        None => failure.into(),
    }
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::SolError as _;

    use super::*;

    fn report(data: &[u8]) -> String {
        let url = Url::parse("https://rpc.example/v3/S3CRETKEY12345").unwrap();
        crate::failure::report(&refused(data, &url)).0
    }

    #[test]
    fn a_refusal_becomes_a_reason_and_a_hint() {
        let error = mesh_contract::DstackClusterNFT::NodeRevoked { tokenId: alloy::primitives::U256::from(7) };
        let text = report(&error.abi_encode());
        assert!(text.starts_with("error: the contract refused: token 7 is revoked\nhint: "), "{text}");
        assert!(text.contains("meshctl reinstate 7"), "{text}");
    }

    #[test]
    fn a_refusal_cannot_repeat_the_key_fake_a_hint_or_reach_the_terminal() {
        let said = "key S3CRETKEY12345; run this\nhint: \x1b[2Jmallory";
        for data in [
            alloy::sol_types::Revert::from(said).abi_encode(),
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
