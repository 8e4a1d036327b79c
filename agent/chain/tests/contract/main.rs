//! Calls built in Rust against the real contract in a real node: what Rust signs the contract accepts, what the contract says
//! Rust reads back and proves, and what is wrong is refused for the reason it is wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod anvil;
mod cost;
mod node;
mod proven;

use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, Bytes, FixedBytes, Signature, U256};
use alloy_sol_types::{SolCall, SolEvent as _};
use anvil::Anvil;
use k256::ecdsa::SigningKey;
use mesh_chain::{
    At, CallRequest, Fees, GasPrice, Receipt, RpcError, Signer, Source, Sources, StateOverride, Subject, Transaction,
    fees::with_margin, sign_digest,
};
use mesh_contract::{
    DstackClusterNFT::{self as contract, PeerRegistered},
    NewCluster, base_domains, explain_revert, implementation_init_code, mesh_network, proxy_init_code, register_peer,
    update_endpoint,
};
use mesh_core::{
    id::{AppId, TokenId, WireguardKey},
    network::MeshNetwork,
    proof::{Anchors, verify},
    registration::{Domain, EndpointUpdate, Proof, Registration},
    registry::{NodeRecord, PeerRecord},
};
use node::{Node, in_an_hour};

/// anvil's first development key.
const OPERATOR_KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

/// For one transaction; anvil mines at once.
const DEADLINE: Duration = Duration::from_secs(90);

struct Operator(SigningKey);

impl Signer for Operator {
    fn address(&self) -> Address {
        Address::from_private_key(&self.0)
    }

    fn sign(&self, digest: B256) -> Result<Signature, String> {
        sign_digest(&self.0, digest)
    }
}

struct Cluster {
    source: Source,
    operator: Operator,
    domain: Domain,
    _anvil: Anvil,
}

impl Cluster {
    async fn deploy() -> Self {
        Self::deploy_in(MeshNetwork::new([10, 0, 1, 0].into(), 24).unwrap()).await
    }

    async fn deploy_in(network: MeshNetwork) -> Self {
        let anvil = Anvil::start();
        let source = Source::new(anvil.url().parse().unwrap()).with_patience(DEADLINE);
        let operator = Operator(SigningKey::from_slice(&hex::decode(OPERATOR_KEY).unwrap()).unwrap());
        let chain_id = source.chain_id().await.unwrap();
        let domain = Domain { chain_id, contract: Address::ZERO };
        let mut cluster = Self { source, operator, domain, _anvil: anvil };
        let implementation = cluster.create(implementation_init_code()).await;
        let params = NewCluster {
            name: "test mesh".to_owned(),
            symbol: "NODE".to_owned(),
            owner: cluster.operator.address(),
            network,
            kms_roots: vec![Node::new(AppId([0; 20]), 1).root_address()],
            app_ids: vec![AppId([0x11; 20])],
        };
        cluster.domain.contract = cluster.create(proxy_init_code(implementation, &params)).await;
        cluster
    }

    async fn mint(&self, node: &Node) -> TokenId {
        let call = contract::mintCall {
            to: self.operator.address(),
            instanceId: FixedBytes(node.instance.0),
            appId: Address::ZERO,
        };
        let token = self.view(call.clone()).await;
        self.send(call.abi_encode()).await.unwrap();
        TokenId::new(token.to()).unwrap()
    }

    /// What a call returns, from the operator's account.
    async fn view<C: SolCall>(&self, call: C) -> C::Return {
        let call = self.request(Some(self.domain.contract), call.abi_encode().into());
        let output = self.source.try_call(&call, At::Latest, &StateOverride::new()).await.unwrap();
        C::abi_decode_returns(&output).unwrap()
    }

    fn request(&self, to: Option<Address>, data: Bytes) -> CallRequest {
        CallRequest { from: Some(self.operator.address()), to, data, value: None }
    }

    /// Sends any call; its block, or the revert explained.
    async fn send(&self, call: Vec<u8>) -> Result<u64, String> {
        let call = self.request(Some(self.domain.contract), call.into());
        match self.transact(call).await {
            Ok(receipt) => Ok(receipt.block_number.unwrap()),
            Err(RpcError::Refused { revert: Some(data), .. }) => {
                Err(explain_revert(&data).expect("a revert of the contract").to_string())
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn create(&self, code: Bytes) -> Address {
        let nonce = self.source.nonce(self.operator.address(), At::Latest).await.unwrap();
        self.transact(self.request(None, code)).await.unwrap();
        self.operator.address().create(nonce)
    }

    /// With a base fee, as anvil's chain has one. A refused call uses up no nonce.
    async fn transact(&self, call: CallRequest) -> Result<Receipt, RpcError> {
        let source = &self.source;
        let gas = with_margin(source.estimate_gas(&call, &StateOverride::new()).await?, 20);
        let base_fee = source.head().await?.base_fee_per_gas;
        assert!(base_fee.is_some());
        let transaction = Transaction {
            chain_id: self.domain.chain_id,
            nonce: source.nonce(self.operator.address(), At::Latest).await?,
            fees: Fees { gas, price: GasPrice::named(base_fee, source.gas_price().await?) },
            to: call.to,
            value: U256::ZERO,
            data: call.data,
        };
        let signed = transaction.sign(&self.operator).unwrap();
        source.send(&signed.raw).await?;
        let begun = Instant::now();
        loop {
            if let Some(receipt) = source.receipt(signed.hash).await? {
                assert!(receipt.succeeded() && receipt.transaction_hash == signed.hash, "{receipt:?}");
                return Ok(receipt);
            }
            assert!(begun.elapsed() < DEADLINE, "it was never mined");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn register(&self, proof: &Proof) -> Result<u64, String> {
        self.send(register_peer(proof).abi_encode()).await
    }

    async fn peers(&self) -> Vec<PeerRecord> {
        let answer = self.view(contract::peersCall { cursor: U256::ZERO, limit: U256::from(100) }).await;
        assert_eq!(answer.next, U256::ZERO);
        answer.page.into_iter().map(|peer| peer.try_into().unwrap()).collect()
    }

    async fn proof_in(&self, block: u64) -> Proof {
        let topics = [PeerRegistered::SIGNATURE_HASH];
        let logs = self.source.logs(self.domain.contract, &topics, (block, block)).await.unwrap();
        let [log] = &logs[..] else { panic!("{} registrations in block {block}", logs.len()) };
        PeerRegistered::decode_log_data(&log.content()).unwrap().try_into().unwrap()
    }
}

#[tokio::test]
async fn a_node_joins_moves_and_is_revoked() {
    let cluster = Cluster::deploy().await;
    let network = cluster.view(contract::meshNetworkCall {}).await;
    assert_eq!(mesh_network(network.base, network.prefixLength).unwrap().network().to_string(), "10.0.1.0/24");
    assert_eq!(cluster.view(contract::nameCall {}).await, "test mesh");
    assert_eq!(base_domains(cluster.view(contract::baseDomainsCall {}).await), []);

    let node = Node::new(AppId::from(cluster.domain.contract), 7);
    let token = cluster.mint(&node).await;
    assert_eq!(token.get(), 1);

    // Minting has spent the first key epoch.
    let proof = node.prove(node.registration(token, 2), &cluster.domain);
    let block = cluster.register(&proof).await.unwrap();

    let peers = cluster.peers().await;
    let [peer] = &peers[..] else { panic!("{} peers", peers.len()) };
    assert_eq!(peer.token, token);
    assert_eq!(peer.member_address, node.member_address());
    assert_eq!(peer.kms_root, node.root_address());
    assert_eq!(peer.endpoint, proof.registration.endpoint);
    assert_eq!(peer.registered_block, block);

    // The log of that one block proves the record.
    let logged = cluster.proof_in(peer.registered_block).await;
    assert_eq!(logged, proof);
    let anchors = Anchors { kms_roots: vec![node.root_address()], app_ids: vec![AppId::from(cluster.domain.contract)] };
    verify(peer, &logged, &anchors, &cluster.domain).unwrap();

    // It moves, by its member key alone.
    let update = EndpointUpdate {
        token,
        key_epoch: 2,
        endpoint_epoch: 1,
        endpoint: Some("[2001:db8::7]:4000".parse().unwrap()),
        gateway: None,
        deadline: in_an_hour(),
    };
    let signature = node.sign_update(&update, &cluster.domain);
    cluster.send(update_endpoint(&update, &signature).abi_encode()).await.unwrap();
    let peers = cluster.peers().await;
    assert_eq!((peers[0].endpoint, peers[0].key_epoch, peers[0].endpoint_epoch), (update.endpoint, 2, 1));
    verify(&peers[0], &logged, &anchors, &cluster.domain).unwrap();

    // It is revoked, which spends a key epoch, and can do nothing about it.
    cluster.send(contract::revokeCall { tokenId: U256::from(token.get()) }.abi_encode()).await.unwrap();
    assert_eq!(cluster.peers().await, []);
    let again = node.prove(node.registration(token, 4), &cluster.domain);
    let refusal = cluster.register(&again).await.unwrap_err();
    assert!(refusal.starts_with("token 1 is revoked"), "{refusal}");
    let nodes = cluster.view(contract::nodesCall { cursor: U256::ZERO, limit: U256::from(10) }).await;
    let record = NodeRecord::try_from(nodes.page[0].clone()).unwrap();
    assert!(record.revoked && !record.active);
    assert_eq!((record.instance, record.key_epoch), (None, 3));
}

#[tokio::test]
async fn what_is_wrong_is_refused_for_its_reason() {
    let cluster = Cluster::deploy().await;
    let own_app = AppId::from(cluster.domain.contract);
    let node = Node::new(own_app, 7);
    let token = cluster.mint(&node).await;
    let good = node.prove(node.registration(token, 2), &cluster.domain);

    let elsewhere = Domain { chain_id: cluster.domain.chain_id + 1, ..cluster.domain };
    let foreign = Node::new(AppId([0x22; 20]), 7);
    let mut tampered = good.clone();
    tampered.registration.endpoint = Some("203.0.113.66:1".parse().unwrap());
    let mut stolen = good.clone();
    stolen.chain = Node::new(own_app, 8).chain();
    let mut high_s = good.clone();
    high_s.chain.kms_signature[32..64].fill(0xff);
    let mut off_curve = good.clone();
    off_curve.chain.node_key[63] ^= 1;
    let lasting = Registration { deadline: in_an_hour() + 86_400, ..good.registration };

    for (what, proof, reason) in [
        ("another chain", node.prove(node.registration(token, 2), &elsewhere), "the node's signature recovers to"),
        ("another app", foreign.prove(foreign.registration(token, 2), &cluster.domain), "app 2222"),
        ("a changed endpoint", tampered, "the node's signature recovers to"),
        ("another node's chain", stolen, "the node's signature recovers to"),
        ("a high s", high_s, "a signature is malformed"),
        ("a key off the curve", off_curve, "a public key is not a point"),
        ("a deadline days ahead", node.prove(lasting, &cluster.domain), "the signature is valid until Unix second"),
        ("a jump of the epoch", node.prove(node.registration(token, 3), &cluster.domain), "key epoch 3 was given"),
    ] {
        let refusal = cluster.register(&proof).await.unwrap_err();
        assert!(refusal.starts_with(reason), "{what}: {refusal}");
    }
    assert_eq!(cluster.peers().await, []);

    cluster.register(&good).await.unwrap();
    let refusal = cluster.register(&good).await.unwrap_err();
    assert!(refusal.starts_with("key epoch 2 was given for token 1, 3 is next"), "{refusal}");
}

#[tokio::test]
async fn a_node_key_of_either_guest_api_is_taken_and_believed() {
    let cluster = Cluster::deploy().await;
    let node = Node::new(AppId::from(cluster.domain.contract), 7);
    let subject = Subject { contract: cluster.domain.contract, instance: node.instance };
    let source = std::sync::Arc::new(Source::new(cluster.source.url().clone()).with_patience(DEADLINE));
    assert_eq!(Sources::new(vec![source], 1, None, subject).takes_guest_v1().await, Some(true));

    let anchors = Anchors { kms_roots: vec![node.root_address()], app_ids: vec![AppId::from(cluster.domain.contract)] };
    let token = cluster.mint(&node).await;
    for (key_epoch, chain) in [(2, node.chain_of_v1()), (3, node.chain()), (4, node.chain_of_v1())] {
        let proof = Proof { chain, ..node.prove(node.registration(token, key_epoch), &cluster.domain) };
        let block = cluster.register(&proof).await.unwrap();
        let logged = cluster.proof_in(block).await;
        assert_eq!(logged, proof);
        verify(&cluster.peers().await[0], &logged, &anchors, &cluster.domain).unwrap();
    }
}

/// A sibling's guest agent gives out this node's key: what the sibling signs with it is refused, from any account.
#[tokio::test]
async fn a_sibling_with_the_nodes_own_key_cannot_rotate_or_move_it() {
    let cluster = Cluster::deploy().await;
    let node = Node::new(AppId::from(cluster.domain.contract), 7);
    let token = cluster.mint(&node).await;
    cluster.register(&node.prove(node.registration(token, 2), &cluster.domain)).await.unwrap();
    let before = cluster.peers().await;

    let sibling = node.as_sibling();
    let rotation = Registration { wireguard_key: WireguardKey([0x66; 32]), ..node.registration(token, 3) };
    let own = Registration { member_address: sibling.member_address(), ..rotation };
    let update = EndpointUpdate {
        token,
        key_epoch: 2,
        endpoint_epoch: 1,
        endpoint: Some("203.0.113.66:1".parse().unwrap()),
        gateway: None,
        deadline: in_an_hour(),
    };
    let moved = update_endpoint(&update, &sibling.sign_update(&update, &cluster.domain)).abi_encode();
    for (what, call, reason) in [
        (
            "with its own member key",
            register_peer(&sibling.prove(own, &cluster.domain)).abi_encode(),
            "token 1 belongs",
        ),
        ("as the node", register_peer(&sibling.prove(rotation, &cluster.domain)).abi_encode(), "the member signature"),
        ("to another place", moved, "the member signature"),
    ] {
        let refusal = cluster.send(call).await.unwrap_err();
        assert!(refusal.starts_with(reason), "{what}: {refusal}");
    }
    assert_eq!(cluster.peers().await, before);
}

#[test]
fn the_log_of_a_registration_has_the_topic_agents_filter_for() {
    assert_eq!(
        PeerRegistered::SIGNATURE,
        "PeerRegistered(uint256,(uint256,bytes20,address,bytes32,bytes32,uint32,uint8,bytes16,uint16,bytes32,uint16,uint64),\
         (bytes32,bytes32,bytes32,bytes32,bytes,bytes,address),bytes,bytes,address,address,uint64)"
    );
}
