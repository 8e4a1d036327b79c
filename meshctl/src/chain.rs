//! The chain behind one JSON-RPC endpoint: reads at a block here, transactions in `operator`.

mod operator;
mod url;

pub(crate) use operator::Operator;

use std::{future::Future, time::Duration};

use alloy::{
    eips::BlockId,
    network::TransactionBuilder as _,
    primitives::{Address, B256},
    providers::{DynProvider, Provider as _, ProviderBuilder},
    rpc::types::TransactionRequest,
    sol_types::SolCall,
    transports::{RpcError, TransportError},
};
use anyhow::Context as _;
use mesh_contract::explain_revert;
use tokio::time::timeout;

use crate::{failure::Failure, settings::Settings};
use url::Url;

/// One request to the endpoint takes at most this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A connected endpoint.
pub(crate) struct Chain {
    provider: DynProvider,
    url: Url,
    /// EIP-155 chain id.
    pub(crate) id: u64,
}

/// The block that a command's reads are pinned to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(crate) number: u64,
    pub(crate) hash: B256,
}

impl Chain {
    /// Connects for reading.
    pub(crate) async fn connect(settings: &Settings) -> anyhow::Result<Self> {
        Self::open(settings, |url| async move { Ok(ProviderBuilder::new().connect(&url).await?.erased()) }).await
    }

    async fn open<F, P>(settings: &Settings, connect: F) -> anyhow::Result<Self>
    where
        F: FnOnce(String) -> P,
        P: Future<Output = Result<DynProvider, TransportError>>,
    {
        let url = Url::parse(settings.rpc_url()?)?;
        let shown = url.to_string();
        let unreachable = || {
            Failure::new(format!("no JSON-RPC answer from {shown}"))
                .hint("check `--rpc-url`, and that the node is running")
        };
        let provider = match timeout(ANSWER_WITHIN, connect(url.full())).await {
            Ok(Ok(provider)) => provider,
            Ok(Err(error)) => return Err(url.scrub(&error).context(unreachable())),
            Err(_) => return Err(unreachable().into()),
        };
        let mut chain = Self { provider, url, id: 0 };
        let answer = chain.ask(chain.provider.get_chain_id()).await;
        chain.id = answer.map_err(|error| chain.plain(error).context(unreachable()))?;
        Ok(chain)
    }

    /// The newest block.
    pub(crate) async fn head(&self) -> anyhow::Result<Block> {
        let block = self.ask(self.provider.get_block(BlockId::latest())).await;
        let block = block.map_err(|error| self.plain(error).context("cannot read the newest block"))?;
        let header = block.with_context(|| format!("{} has no newest block", self.url))?.header;
        Ok(Block { number: header.number, hash: header.hash })
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
        let output = answer.map_err(|error| self.explain(error).context(what()))?;
        if output.is_empty() {
            self.require_code(contract).await?;
        }
        C::abi_decode_returns(&output).map_err(|_| {
            Failure::new(format!("contract {contract} on chain {} is not a DstackClusterNFT", self.id))
                .hint("check `--contract` and `--rpc-url`")
                .into()
        })
    }

    /// Fails, with the likely reasons, when nothing is deployed at `contract`.
    pub(crate) async fn require_code(&self, contract: Address) -> anyhow::Result<()> {
        let code = self.ask(self.provider.get_code_at(contract)).await;
        let code = code.map_err(|error| self.plain(error).context(format!("cannot look for contract {contract}")))?;
        if code.is_empty() {
            return Err(Failure::new(format!("there is no contract at {contract} on chain {}", self.id))
                .hint("check `--contract`, and that `--rpc-url` leads to the right chain")
                .into());
        }
        Ok(())
    }

    /// Waits at most [`ANSWER_WITHIN`].
    async fn ask<T>(&self, call: impl IntoFuture<Output = Result<T, TransportError>>) -> Result<T, TransportError> {
        let late = |_| RpcError::local_usage_str(&format!("no answer within {}s", ANSWER_WITHIN.as_secs()));
        timeout(ANSWER_WITHIN, call.into_future()).await.map_err(late)?
    }

    fn plain(&self, error: TransportError) -> anyhow::Error {
        self.url.scrub(&error)
    }

    /// What a failed call means: the contract's own reason when it reverted.
    fn explain(&self, error: TransportError) -> anyhow::Error {
        let response = error.as_error_resp();
        match response.and_then(|response| response.as_revert_data()) {
            Some(data) => revert(&data),
            None => match response {
                Some(response) => anyhow::anyhow!("{}", self.url.scrub_text(&response.message)),
                None => self.plain(error),
            },
        }
    }
}

/// The contract's refusal in words. The explanation's hint comes after a semicolon.
fn revert(data: &[u8]) -> anyhow::Error {
    match explain_revert(data) {
        Some(explanation) => match explanation.split_once("; ") {
            Some((reason, hint)) => Failure::new(format!("the contract refused: {reason}")).hint(hint).into(),
            None => anyhow::anyhow!("the contract refused: {explanation}"),
        },
        None if data.is_empty() => anyhow::anyhow!("the contract refused without a reason"),
        None => anyhow::anyhow!("the contract refused with unknown error data 0x{}", hex::encode(data)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_becomes_a_reason_and_a_hint() {
        let error = mesh_contract::DstackClusterNFT::NodeRevoked { tokenId: alloy::primitives::U256::from(7) };
        let (text, _) = crate::failure::report(&revert(&alloy::sol_types::SolError::abi_encode(&error)));
        assert!(text.starts_with("error: the contract refused: token 7 is revoked\nhint: "), "{text}");
        assert!(text.contains("meshctl reinstate 7"), "{text}");
    }

    #[test]
    fn unknown_revert_data_is_shown_as_it_is() {
        assert_eq!(revert(&[]).to_string(), "the contract refused without a reason");
        let unknown = revert(&[0xde, 0xad, 0xbe, 0xef]).to_string();
        assert_eq!(unknown, "the contract refused with unknown error data 0xdeadbeef");
    }
}
