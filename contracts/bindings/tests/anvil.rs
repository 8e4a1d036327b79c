//! Calls built in Rust against the real contract in a real node: what Rust signs the contract accepts, what the contract says
//! Rust reads back and proves, and what is wrong is refused for the reason it is wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "support/anvil.rs"]
mod anvil;
#[path = "support/node.rs"]
mod node;

use std::time::Duration;

use alloy::{
    network::TransactionBuilder as _,
    primitives::{Address, FixedBytes, U256},
    providers::{DynProvider, Provider as _, ProviderBuilder},
    rpc::types::TransactionRequest,
    signers::local::PrivateKeySigner,
    sol_types::{SolCall as _, SolEvent as _},
};
use anvil::Anvil;
use mesh_contract::{
    DstackClusterNFT::{self, DstackClusterNFTInstance, PeerRegistered},
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
const OPERATOR_KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

/// For one transaction; anvil mines at once.
const DEADLINE: Duration = Duration::from_secs(90);

struct Cluster {
    contract: DstackClusterNFTInstance<DynProvider>,
    provider: DynProvider,
    operator: Address,
    domain: Domain,
    _anvil: Anvil,
}

impl Cluster {
    async fn deploy() -> Self {
        let anvil = Anvil::start();
        let signer: PrivateKeySigner = OPERATOR_KEY.parse().unwrap();
        let operator = signer.address();
        // A refused call must not use up a nonce, as the default (cached) nonces do.
        let builder = ProviderBuilder::default().with_gas_estimation().with_simple_nonce_management().fetch_chain_id();
        let provider = builder.wallet(signer).connect_http(anvil.url().parse().unwrap()).erased();
        let implementation = create(&provider, implementation_init_code()).await;
        let cluster = NewCluster {
            name: "test mesh".to_owned(),
            symbol: "NODE".to_owned(),
            owner: operator,
            network: MeshNetwork::new([10, 0, 1, 0].into(), 24).unwrap(),
            kms_roots: vec![Node::new(AppId([0; 20]), 1).root_address()],
            app_ids: vec![AppId([0x11; 20])],
        };
        let proxy = create(&provider, proxy_init_code(implementation, &cluster)).await;
        let chain_id = provider.get_chain_id().await.unwrap();
        let contract = DstackClusterNFT::new(proxy, provider.clone());
        Self { contract, provider, operator, domain: Domain { chain_id, contract: proxy }, _anvil: anvil }
    }

    async fn mint(&self, node: &Node) -> TokenId {
        let call = self.contract.mint(self.operator, FixedBytes(node.instance.0), Address::ZERO);
        let token = call.call().await.unwrap();
        call.send().await.unwrap().get_receipt().await.unwrap();
        TokenId::new(token.to()).unwrap()
    }

    /// Sends any call; `Err` explains the revert.
    async fn send(&self, call: Vec<u8>) -> Result<u64, String> {
        let request = TransactionRequest::default().with_to(self.domain.contract).with_input(call);
        match self.provider.send_transaction(request).await {
            Ok(pending) => {
                let receipt = pending.with_timeout(Some(DEADLINE)).get_receipt().await.unwrap();
                assert!(receipt.status());
                Ok(receipt.block_number.unwrap())
            }
            Err(error) => {
                let data = error.as_error_resp().and_then(|answer| answer.as_revert_data()).expect("a revert");
                Err(explain_revert(&data).expect("a revert of the contract").to_string())
            }
        }
    }

    async fn register(&self, proof: &Proof) -> Result<u64, String> {
        self.send(register_peer(proof).abi_encode()).await
    }

    async fn peers(&self) -> Vec<PeerRecord> {
        let answer = self.contract.peers(U256::ZERO, U256::from(100)).call().await.unwrap();
        assert_eq!(answer.next, U256::ZERO);
        answer.page.into_iter().map(|peer| peer.try_into().unwrap()).collect()
    }

    async fn proof_in(&self, block: u64) -> Proof {
        let logs = self.contract.PeerRegistered_filter().from_block(block).to_block(block).query().await.unwrap();
        let [(log, _)] = &logs[..] else { panic!("{} registrations in block {block}", logs.len()) };
        log.clone().try_into().unwrap()
    }
}

async fn create(provider: &DynProvider, code: alloy::primitives::Bytes) -> Address {
    let request = TransactionRequest::default().with_deploy_code(code);
    let receipt = provider.send_transaction(request).await.unwrap().get_receipt().await.unwrap();
    assert!(receipt.status());
    receipt.contract_address.unwrap()
}

#[tokio::test]
async fn a_node_joins_moves_and_is_revoked() {
    let cluster = Cluster::deploy().await;
    let network = cluster.contract.meshNetwork().call().await.unwrap();
    assert_eq!(mesh_network(network.base, network.prefixLength).unwrap().network().to_string(), "10.0.1.0/24");
    assert_eq!(cluster.contract.name().call().await.unwrap(), "test mesh");
    assert_eq!(base_domains(cluster.contract.baseDomains().call().await.unwrap()), []);

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
    cluster.contract.revoke(U256::from(token.get())).send().await.unwrap().get_receipt().await.unwrap();
    assert_eq!(cluster.peers().await, []);
    let again = node.prove(node.registration(token, 4), &cluster.domain);
    let refusal = cluster.register(&again).await.unwrap_err();
    assert!(refusal.starts_with("token 1 is revoked"), "{refusal}");
    let nodes = cluster.contract.nodes(U256::ZERO, U256::from(10)).call().await.unwrap();
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

/// From a sibling's guest-agent socket anybody's node key comes: what it signs with it is refused, from any account.
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
        "PeerRegistered(uint256,(uint256,bytes20,address,bytes32,uint32,uint8,bytes16,uint16,uint16,uint16,uint64),\
         (bytes32,bytes32,bytes32,bytes32,bytes,bytes,address),bytes,bytes,address,address,uint64)"
    );
}
