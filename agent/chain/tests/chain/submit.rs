//! Transactions through endpoints that lie or refuse, and what becomes of their words.

use alloy_primitives::{Address, B256, Bytes, Signature, U256, keccak256};
use alloy_rlp::Decodable as _;
use alloy_sol_types::SolError as _;
use k256::ecdsa::SigningKey;
use mesh_chain::{Mined, NotSubmitted, Signer, sign_digest};
use mesh_contract::DstackClusterNFT as contract;
use mesh_core::{agent::ProofRequest, text::is_hostile, wei::Wei};

use super::{
    rpc::{self, Manner, Rpc},
    sources, token,
};

/// An account that pays.
struct Payer(SigningKey);

impl Signer for Payer {
    fn address(&self) -> Address {
        Address::from_private_key(&self.0)
    }

    fn sign(&self, digest: B256) -> Result<Signature, String> {
        sign_digest(&self.0, digest)
    }
}

fn signer() -> Payer {
    Payer(SigningKey::from_slice(&[7; 32]).unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_repeats_the_api_key_does_not_get_it_into_status_or_log() {
    let rpc = Rpc::start();
    rpc.chain().manner = Manner::Echo;
    let sources = sources(&[&rpc], 1);
    let (registry, report) = sources.read(None).await;
    let proofs = sources.proofs(vec![ProofRequest { token: token(2), block: 5 }]).await;
    let signer = signer();
    let submitted = sources.submit(&signer, 31337, Bytes::new()).await.unwrap_err();
    for said in [registry.unwrap_err(), format!("{report:?}"), format!("{proofs:?}"), submitted.to_string()] {
        assert!(said.contains("exceeded its limit") && !said.to_lowercase().contains("s3cre"), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_endpoint_says_is_one_short_line_wherever_it_goes() {
    let rpc = Rpc::start();
    rpc.chain().manner = Manner::Hostile;
    let sources = sources(&[&rpc], 1);
    let (registry, report) = sources.read(None).await;
    let proofs = sources.proofs(vec![ProofRequest { token: token(2), block: 5 }]).await;
    let submitted = sources.submit(&signer(), 31337, Bytes::new()).await.unwrap_err();
    for said in [
        registry.unwrap_err(),
        report.sources[0].error.clone().unwrap(),
        proofs[0].1.clone().unwrap_err(),
        sources.leader().await.unwrap_err(),
        submitted.to_string(),
        submitted.for_agent().reason,
    ] {
        assert!(
            said.contains("busy 2026-01-01T00:00:00.000000Z INFO p2p_agent: ready\\u{1b}[2J\\u{9b}1m\\u{202e}"),
            "{said}"
        );
        assert!(!said.chars().any(is_hostile), "{said:?}");
        // 300 characters, some as escapes, and our own words around them.
        assert!(said.len() < 4000, "{} bytes", said.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_revert_reason_is_one_short_line_too() {
    let rpc = Rpc::start();
    rpc.chain().is_poor = true;
    rpc.chain().reverts = Some(alloy_sol_types::Revert::from(rpc::hostile_text()).abi_encode().into());
    let error = sources(&[&rpc], 1).submit(&signer(), 31337, vec![1, 2, 3, 4].into()).await.unwrap_err().to_string();
    assert!(error.contains("the contract reverted: busy") && !error.chars().any(is_hostile), "{error:?}");
    assert!(error.len() < 4000, "{} bytes", error.len());
}

#[tokio::test(start_paused = true)]
async fn one_liar_of_three_neither_ends_nor_prices_nor_names_a_transaction() {
    for manner in [Manner::Echo, Manner::Hang, Manner::Html, Manner::MadeUp] {
        let (liar, one, two) = (Rpc::start(), Rpc::start(), Rpc::start());
        liar.chain().manner = manner;
        let sources = sources(&[&liar, &one, &two], 2);
        let signer = signer();
        let hash = sources.submit(&signer, 31337, Bytes::from(vec![1, 2, 3, 4])).await.unwrap();
        let raw = one.chain().sent[0].clone();
        assert_eq!(two.chain().sent, one.chain().sent, "the same transaction to every endpoint");
        // Without a base fee: nonce, gas price, gas limit, and so on.
        let mut fields = alloy_rlp::Header::decode_bytes(&mut &raw[..], true).unwrap();
        let [nonce, price, gas] = [(); 3].map(|()| u64::decode(&mut fields).unwrap());
        assert_eq!((keccak256(&raw), nonce, price), (hash, 7, 1_000_000_000));
        // More than the estimate, 196,608: a vote that turns out to be the last one required elects, which no estimate knows.
        assert_eq!(gas, 300_000);
    }
    let (one, liar) = (Rpc::start(), Rpc::start());
    liar.chain().manner = Manner::Echo;
    let signer = signer();
    let refused = sources(&[&one, &liar], 2).submit(&signer, 31337, Bytes::new()).await;
    assert!(refused.is_err() && one.chain().sent.is_empty(), "two must be ready to take it");
}

#[tokio::test(start_paused = true)]
async fn what_the_contract_would_refuse_is_found_out_without_funds() {
    let rpc = Rpc::start();
    rpc.chain().is_poor = true;
    let signer = signer();
    let submit = || async { sources(&[&rpc], 1).submit(&signer, 31337, vec![1, 2, 3, 4].into()).await.unwrap_err() };
    let error = submit().await;
    assert!(matches!(error, NotSubmitted::NoFunds { balance: U256::ZERO, .. }), "{error}");
    assert_eq!(
        error.to_string(),
        format!("member address {} has 0 ether, about 0.00025 ether are needed", signer.address())
    );
    assert_eq!(error.for_agent().balance, Some(Wei(U256::ZERO)));
    // The policies of a single type have the number of that type.
    let refusal = contract::NetworkTypeNotAllowed { allowed: 1 }.abi_encode();
    rpc.chain().reverts = Some(refusal.into());
    let error = submit().await;
    assert!(error.to_string().contains("this cluster takes only"), "{error}");
    let NotSubmitted::Refused { remedy: Some(remedy), .. } = error else { panic!("{error}") };
    assert!(remedy.contains("meshctl config set --network-type any"), "{remedy}");
    // No reason that this program knows, and still a refusal.
    rpc.chain().reverts = Some(vec![0xde, 0xad, 0xbe, 0xef].into());
    let error = submit().await;
    assert!(matches!(&error, NotSubmitted::Refused { remedy: None, .. }), "{error}");
    assert!(rpc.chain().sent.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_block_of_a_transaction_is_what_enough_endpoints_say() {
    let (liar, one, two) = (Rpc::start(), Rpc::start(), Rpc::start());
    let sources = sources(&[&liar, &one, &two], 2);
    let hash = B256::repeat_byte(5);
    assert_eq!(sources.mined(hash).await, None);
    liar.chain().mined_at = Some(99);
    one.chain().mined_at = Some(97);
    assert_eq!(sources.mined(hash).await, None, "one of three");
    two.chain().mined_at = Some(97);
    assert_eq!(sources.mined(hash).await, Some(Mined { block: 97, succeeded: true }));
}
