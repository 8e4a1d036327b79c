//! What a real node proves of the real contract's storage is what the contract's views say, through its whole life.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{Address, FixedBytes, U256};
use mesh_chain::{Source, Sources, Subject};
use mesh_contract::{DstackClusterNFT as contract, base_domains, update_endpoint};
use mesh_core::{
    agent::ProofRequest,
    id::{AppId, TlsKey, TokenId, WireguardKey},
    registration::{EndpointUpdate, NetworkType, Registration, SignedGateway},
    registry::{NodeRecord, PeerRecord, Registry},
    status::Content,
};

use crate::{
    Cluster, DEADLINE,
    node::{Node, in_an_hour},
};

impl Cluster {
    fn reader(&self, node: &Node) -> Sources {
        let source = Source::new(self.source.url().clone()).with_patience(DEADLINE);
        let subject = Subject { contract: self.domain.contract, instance: node.instance };
        Sources::new(vec![Arc::new(source)], 1, None, subject)
    }

    /// Reads, and compares with every view.
    async fn proved(&self, sources: &Sources, own: Option<TokenId>) -> Registry {
        let (registry, report) = sources.read(own).await;
        let registry = registry.unwrap();
        assert_eq!(report.sources[0].content, Some(Content::Proven), "{report:?}");
        assert_eq!(report.other_code, None);
        assert_eq!(registry.epoch, self.view(contract::epochCall {}).await);
        assert_eq!(registry.name, self.view(contract::nameCall {}).await);
        assert_eq!(registry.base_domains, base_domains(self.view(contract::baseDomainsCall {}).await));
        assert_eq!(registry.peers, self.peers().await);
        let nodes = self.view(contract::nodesCall { cursor: U256::ZERO, limit: U256::from(500) }).await.page;
        let nodes: BTreeMap<TokenId, NodeRecord> =
            nodes.into_iter().map(|node| NodeRecord::try_from(node).unwrap()).map(|node| (node.token, node)).collect();
        for node in &registry.own_nodes {
            assert_eq!(Some(node), nodes.get(&node.token));
        }
        registry
    }

    async fn call(&self, call: impl alloy_sol_types::SolCall) -> u64 {
        self.send(call.abi_encode()).await.unwrap()
    }
}

#[tokio::test]
async fn what_is_proved_is_what_the_views_say() {
    let cluster = Cluster::deploy().await;
    let own_app = AppId::from(cluster.domain.contract);
    let node = Node::new(own_app, 7);
    let sources = cluster.reader(&node);
    let read = cluster.proved(&sources, None).await;
    assert_eq!((read.peers.len(), read.own_nodes.len()), (0, 0));

    let long = "a-gateway-with-a-name-of-more-than-thirty-one-characters.example";
    for domain in ["gw.example", long, "x.example"] {
        cluster.call(contract::addBaseDomainCall { domain: domain.to_owned() }).await;
    }
    cluster.call(contract::removeBaseDomainCall { index: 1 }).await;
    let token = cluster.mint(&node).await;
    let read = cluster.proved(&sources, None).await;
    assert_eq!(read.base_domains, [None, Some(long.to_owned()), Some("x.example".to_owned())]);
    assert_eq!(read.own_nodes.iter().map(|node| node.token).collect::<Vec<_>>(), [token]);

    // A node with a gateway, one of another app, and one that never registers but is pinned to an app.
    let gateway = Some(SignedGateway::named(long, 51821));
    let registration = Registration { gateway, ..node.registration(token, 2) };
    cluster.register(&node.prove(registration, &cluster.domain)).await.unwrap();
    let other = Node::new(AppId([0x11; 20]), 9);
    let second = cluster.mint(&other).await;
    cluster.register(&other.prove(other.registration(second, 2), &cluster.domain)).await.unwrap();
    let pinned = contract::mintCall {
        to: cluster.domain.contract,
        instanceId: FixedBytes(node.instance.0),
        appId: Address::repeat_byte(0x11),
    };
    cluster.call(pinned).await;
    let read = cluster.proved(&sources, Some(second)).await;
    assert_eq!(read.peers.len(), 2);
    assert_eq!(read.own_nodes.len(), 3, "two that are bound to this instance, and the one that was asked for");

    // What an app or a KMS root takes with it stays in the table, stale.
    cluster.call(contract::removeAppIdCall { appId: Address::repeat_byte(0x11) }).await;
    assert_eq!(cluster.proved(&sources, None).await.peers.iter().map(|peer| peer.token).collect::<Vec<_>>(), [token]);
    let root = node.root_address();
    cluster.call(contract::removeKmsRootCall { root }).await;
    cluster.call(contract::addKmsRootCall { root }).await;
    assert_eq!(cluster.proved(&sources, None).await.peers, [] as [PeerRecord; 0]);
}

#[tokio::test]
async fn development_urls_are_proved_too() {
    let cluster = Cluster::deploy().await;
    let node = Node::new(AppId::from(cluster.domain.contract), 7);
    let token = cluster.mint(&node).await;
    cluster.register(&node.prove(node.registration(token, 2), &cluster.domain)).await.unwrap();
    let sources = cluster.reader(&node);
    let url = "http://a-host-of-a-developer.example:8080/with/a/path";
    cluster.call(contract::setDevModeCall { enabled: true }).await;
    cluster.call(contract::setDevUrlCall { tokenId: U256::from(token.get()), url: url.to_owned() }).await;
    let read = cluster.proved(&sources, None).await;
    assert_eq!(
        read.dev_urls.into_iter().map(|(token, url)| (token, url.to_string())).collect::<Vec<_>>(),
        [(token, url.to_owned())]
    );
    cluster.call(contract::setDevModeCall { enabled: false }).await;
    assert!(cluster.proved(&sources, None).await.dev_urls.is_empty());
}

/// The other endpoint is of another chain: it neither names a block nor proves anything, and holds nothing up.
#[tokio::test]
async fn the_trusted_endpoint_names_the_block_and_others_only_prove() {
    let (cluster, elsewhere) = (Cluster::deploy().await, Cluster::deploy().await);
    let node = Node::new(AppId::from(cluster.domain.contract), 7);
    cluster.mint(&node).await;
    let source = |cluster: &Cluster| Arc::new(Source::new(cluster.source.url().clone()).with_patience(DEADLINE));
    let subject = Subject { contract: cluster.domain.contract, instance: node.instance };
    let sources = Sources::new(vec![source(&elsewhere), source(&cluster)], 1, None, subject).trusting(Some(1));
    for _ in 0..2 {
        let (registry, report) = sources.read(None).await;
        assert_eq!(registry.unwrap().own_nodes.len(), 1);
        let agrees: Vec<_> = report.sources.iter().map(|source| (source.agrees, source.content)).collect();
        assert_eq!(agrees, [(None, None), (Some(true), Some(Content::Proven))], "{report:?}");
        assert!(!report.disagree, "{report:?}");
    }
    let id = elsewhere.source.url().id();
    let asked: Vec<_> =
        sources.requests().into_iter().filter(|count| count.source == id).map(|count| count.method).collect();
    assert!(!asked.contains(&"eth_getBlockByNumber") && asked.contains(&"eth_getProof"), "{asked:?}");
}

/// An idle read costs a block, a chain id, finality, and the totals with their proof.
#[tokio::test]
async fn what_has_not_changed_is_not_proved_again() {
    let cluster = Cluster::deploy().await;
    let node = Node::new(AppId::from(cluster.domain.contract), 7);
    cluster.mint(&node).await;
    let sources = cluster.reader(&node);
    let proofs = || {
        sources.requests().iter().find(|count| count.method == "eth_getProof").map_or(0, |count| count.requests.asked)
    };
    cluster.proved(&sources, None).await;
    let first = proofs();
    for _ in 0..3 {
        cluster.proved(&sources, None).await;
    }
    assert_eq!(proofs() - first, 3);
    assert!(first <= 7, "{first} proofs for the first read");
}

/// TLS keys of either kind of node: replayed from events, read from storage, and said by the views, they are the same.
#[tokio::test]
async fn tls_keys_are_read_as_they_were_registered() {
    let cluster = Cluster::deploy().await;
    let app = AppId::from(cluster.domain.contract);
    let (own, tls, beside) = (Node::new(app, 7), Node::new(app, 8), Node::new(app, 9));
    cluster.call(contract::addBaseDomainCall { domain: "gw.example".to_owned() }).await;
    let (first, second) = (cluster.mint(&tls).await, cluster.mint(&beside).await);
    let follower = cluster.reader(&own);
    let keys = async || {
        let followed = cluster.proved(&follower, None).await;
        let afresh = cluster.proved(&cluster.reader(&own), None).await;
        assert_eq!(followed.peers, afresh.peers);
        let keys = followed.peers.iter().map(|peer| (peer.token, peer.tls_key, peer.wireguard_key.0 == [0; 32]));
        keys.collect::<Vec<_>>()
    };
    assert_eq!(keys().await, []);

    let [one, two] = [[1; 32], [2; 32]].map(TlsKey);
    let registration = Registration {
        network_type: NetworkType::TlsGateway,
        wireguard_key: WireguardKey([0; 32]),
        tls_key: Some(one),
        gateway: Some(SignedGateway::named("gw.example", 8443)),
        ..tls.registration(first, 2)
    };
    let block = cluster.register(&tls.prove(registration, &cluster.domain)).await.unwrap();
    let with_key = Registration { tls_key: Some(two), ..beside.registration(second, 2) };
    cluster.register(&beside.prove(with_key, &cluster.domain)).await.unwrap();
    assert_eq!(keys().await, [(first, Some(one), true), (second, Some(two), false)]);
    assert_eq!(cluster.proof_in(block).await.registration, registration);

    let taken = Registration { tls_key: Some(one), ..beside.registration(second, 3) };
    let refusal = cluster.register(&beside.prove(taken, &cluster.domain)).await.unwrap_err();
    assert!(refusal.contains("TLS key") && refusal.contains("already used by token"), "{refusal}");
    let without = beside.registration(second, 3);
    cluster.register(&beside.prove(without, &cluster.domain)).await.unwrap();
    assert_eq!(keys().await, [(first, Some(one), true), (second, None, false)]);
    cluster.call(contract::revokeCall { tokenId: U256::from(first.get()) }).await;
    assert_eq!(keys().await, [(second, None, false)]);
}

/// What others do is replayed from its events, at the price of one proof and one question for logs; what this node's own tokens go
/// through, and what is trusted, is read from storage.
#[tokio::test]
async fn changes_of_others_are_replayed() {
    let cluster = Cluster::deploy().await;
    let app = AppId::from(cluster.domain.contract);
    let (own, other) = (Node::new(app, 7), Node::new(app, 9));
    let sources = cluster.reader(&own);
    let asked = |method: &str| {
        sources.requests().iter().find(|count| count.method == method).map_or(0, |count| count.requests.asked)
    };
    cluster.proved(&sources, None).await;
    let mut before = (asked("eth_getProof"), asked("eth_getLogs"));
    let mut spent = || {
        let now = (asked("eth_getProof"), asked("eth_getLogs"));
        let spent = (now.0 - before.0, now.1 - before.1);
        before = now;
        spent
    };
    let token = cluster.mint(&other).await;
    let registration = other.registration(token, 2);
    cluster.register(&other.prove(registration, &cluster.domain)).await.unwrap();
    let read = cluster.proved(&sources, None).await;
    assert_eq!((read.peers.len(), spent()), (1, (1, 1)), "a mint and a join");
    // The event had the signatures, too.
    let request = ProofRequest { token, block: read.peers[0].registered_block };
    let proofs = sources.proofs(vec![request]).await;
    let proof = proofs[0].1.as_ref().unwrap();
    assert_eq!((&proof.registration, spent()), (&registration, (0, 0)));
    // Asked for again, it is fetched: it was not what was wanted.
    assert_eq!(sources.proofs(vec![request]).await, proofs);
    assert_eq!(spent(), (0, 1));

    let update = EndpointUpdate {
        token,
        key_epoch: 2,
        endpoint_epoch: 1,
        endpoint: Some("192.0.2.8:4242".parse().unwrap()),
        gateway: None,
        deadline: in_an_hour(),
    };
    let signature = other.sign_update(&update, &cluster.domain);
    cluster.call(update_endpoint(&update, &signature)).await;
    let rotation = other.registration(token, 3);
    let rotation = Registration { wireguard_key: WireguardKey([5; 32]), ..rotation };
    cluster.register(&other.prove(rotation, &cluster.domain)).await.unwrap();
    cluster.call(contract::electLeaderCall {}).await;
    let read = cluster.proved(&sources, None).await;
    assert_eq!((read.peers[0].key_epoch, spent()), (3, (1, 1)), "a move, a rotation and an election");

    cluster.call(contract::revokeCall { tokenId: U256::from(token.get()) }).await;
    cluster.call(contract::reinstateCall { tokenId: U256::from(token.get()) }).await;
    assert_eq!((cluster.proved(&sources, None).await.peers.len(), spent()), (0, (1, 1)), "a revocation");
    assert_eq!((cluster.proved(&sources, None).await.peers.len(), spent()), (0, (1, 0)), "nothing");

    let token = cluster.mint(&own).await;
    let read = cluster.proved(&sources, None).await;
    let (proofs, logs) = spent();
    assert!(read.own_nodes.len() == 1 && proofs > 1 && logs == 1, "its own token: {proofs} proofs, {logs} logs");
    cluster.register(&own.prove(own.registration(token, 2), &cluster.domain)).await.unwrap();
    let read = cluster.proved(&sources, Some(token)).await;
    assert!(read.own_nodes[0].active && spent().0 > 1);
    cluster.call(contract::removeKmsRootCall { root: own.root_address() }).await;
    assert_eq!(cluster.proved(&sources, Some(token)).await.peers, [] as [PeerRecord; 0]);
    assert!(spent().0 > 1, "what is trusted");
}

/// Every change of the contract's own, in any order: what is replayed is what the views say.
#[tokio::test]
async fn whatever_happens_is_read_as_it_is() {
    let cluster = Cluster::deploy().await;
    let app = AppId::from(cluster.domain.contract);
    let nodes: Vec<Node> = (1..=6).map(|number| Node::numbered(app, number)).collect();
    let sources = cluster.reader(&nodes[0]);
    let mut epochs: BTreeMap<usize, (TokenId, u32)> = BTreeMap::new();
    let mut random = 7_u32;
    let mut below = |end: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 8) % end
    };
    for _ in 0..40 {
        for _ in 0..below(4) {
            let at = below(6) as usize;
            match (epochs.get(&at).copied(), below(4)) {
                (None, _) => {
                    let token = cluster.mint(&nodes[at]).await;
                    let epoch = cluster.view(contract::getNodeCall { tokenId: U256::from(token.get()) }).await.keyEpoch;
                    epochs.insert(at, (token, epoch));
                }
                (Some((token, _)), 0) => {
                    cluster.call(contract::burnCall { tokenId: U256::from(token.get()) }).await;
                    epochs.remove(&at);
                }
                (Some((token, epoch)), _) => {
                    let registration = nodes[at].registration(token, epoch + 1);
                    cluster.register(&nodes[at].prove(registration, &cluster.domain)).await.unwrap();
                    epochs.insert(at, (token, epoch + 1));
                }
            }
        }
        cluster.proved(&sources, epochs.get(&0).map(|(token, _)| *token)).await;
    }
    let logs = sources.requests().iter().find(|count| count.method == "eth_getLogs").unwrap().requests.asked;
    assert!(logs > 15, "{logs} reads were asked for by events");
}
