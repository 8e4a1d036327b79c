//! Reading the contract from endpoints that are slow, behind, broken or lying.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod budget;
mod dev_urls;
mod guest_api;
mod leader;
mod network;
mod rpc;
mod submit;
mod websocket;

use std::{sync::Arc, time::Duration};

use alloy_primitives::U256;
use mesh_chain::{Requests, RpcUrl, Source, Sources, Subject, WrongChain};
use mesh_core::{
    agent::ProofRequest,
    id::{InstanceId, TokenId},
    status::SourceStatus,
    wei::Wei,
};
use rpc::{CONTRACT, INSTANCE, Manner, Rpc, node, peer, registration_log};
use tokio::time::Instant;

fn sources(rpcs: &[&Rpc], need: usize) -> Sources {
    sources_of(rpcs.iter().map(|rpc| rpc.source()).collect(), need)
}

fn sources_of(sources: Vec<Arc<Source>>, need: usize) -> Sources {
    Sources::new(sources, need, None, Subject { contract: CONTRACT, instance: InstanceId(INSTANCE) })
}

fn token(id: u32) -> TokenId {
    TokenId::new(id).unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_read_is_the_whole_contract_at_one_block() {
    let rpc = Rpc::start();
    rpc.chain().peers = (1..=1203).map(peer).collect();
    let (registry, report) = sources(&[&rpc], 1).read(None).await;
    let registry = registry.unwrap();
    assert_eq!((registry.epoch, registry.block.number, registry.finalized), (7, 100, Some(36)));
    assert_eq!(registry.peers.len(), 1203);
    assert_eq!(rpc.asked("peers"), 3, "pages of 500");
    assert_eq!(registry.name, "test", "control characters are left out");
    assert_eq!(registry.base_domains, [Some("gw.example".to_owned()), None]);
    assert_eq!(registry.own_nodes.iter().map(|node| node.token).collect::<Vec<_>>(), [token(2)]);
    assert!(report.sources[0].ok && report.sources[0].agrees == Some(true) && report.quorum.have == 1, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_epoch_is_not_read_again_unless_the_chain_was_rewritten() {
    let rpc = Rpc::start();
    let sources = sources(&[&rpc], 1);
    sources.read(None).await.0.unwrap();
    rpc.chain().head = 101;
    let registry = sources.read(None).await.0.unwrap();
    assert_eq!((registry.block.number, rpc.asked("peers")), (101, 1));
    // A reorg that keeps the epoch: another peer may be behind it.
    {
        let mut chain = rpc.chain();
        (chain.fork, chain.fork_at, chain.peers[0].keyEpoch) = (1, 90, 9);
    }
    let registry = sources.read(None).await.0.unwrap();
    assert_eq!((rpc.asked("peers"), registry.peers[0].key_epoch), (2, 9));
    rpc.chain().epoch = 8;
    sources.read(None).await.0.unwrap();
    assert_eq!(rpc.asked("peers"), 3);
}

#[tokio::test(start_paused = true)]
async fn two_that_claim_a_later_head_do_not_outvote_one_unheard() {
    let (honest, one, other) = (Rpc::start(), Rpc::start(), Rpc::start());
    let sources = sources(&[&honest, &one, &other], 2);
    for liar in [&one, &other] {
        liar.chain().head = 101;
    }
    let (registry, report) = sources.read(None).await;
    let agrees =
        |report: &mesh_core::agent::SourceReport| report.sources.iter().map(|source| source.agrees).collect::<Vec<_>>();
    assert_eq!((registry.unwrap().block.number, report.disagree), (101, false), "an honest laggard: {report:?}");
    assert_eq!(agrees(&report), [None, Some(true), Some(true)]);
    // They hide what the chain has known for long, below heads that they make up.
    honest.chain().epoch = 8;
    for liar in [&one, &other] {
        liar.chain().head = 102;
    }
    let (registry, report) = sources.read(None).await;
    assert!(registry.is_ok() && report.disagree, "{report:?}");
    assert_eq!(agrees(&report), [Some(false), Some(true), Some(true)]);
}

/// A reorg is another matter: then the block with the higher epoch is gone.
#[tokio::test(start_paused = true)]
async fn an_old_state_under_the_blocks_of_a_newer_one_is_no_read() {
    let rpc = Rpc::start();
    let sources = sources(&[&rpc], 1);
    sources.read(None).await.0.unwrap();
    {
        let mut chain = rpc.chain();
        (chain.head, chain.epoch) = (101, 5);
    }
    let error = sources.read(None).await.0.unwrap_err();
    assert!(error.contains("epoch() at block 101 is 5, and was 7 at block 100"), "{error}");
    (rpc.chain().fork, rpc.chain().fork_at) = (1, 90);
    assert_eq!(sources.read(None).await.0.unwrap().epoch, 5);
}

/// Or its peers would be taken for those of the epoch that follows, and never be read again.
#[tokio::test(start_paused = true)]
async fn an_epoch_of_one_block_over_peers_of_another_is_no_read() {
    let rpc = Rpc::start();
    rpc.chain().manner = Manner::MixesBlocks;
    let sources = sources(&[&rpc], 1);
    let error = sources.read(None).await.0.unwrap_err();
    assert!(error.contains("mixes two blocks"), "{error}");
    {
        let mut chain = rpc.chain();
        chain.head += 1;
        chain.epoch += 1;
        chain.peers.push(peer(4));
    }
    let registry = sources.read(None).await.0.unwrap();
    assert_eq!((registry.epoch, registry.peers.len()), (8, 4));
}

#[tokio::test(start_paused = true)]
async fn the_own_token_is_read_even_when_it_is_bound_to_no_instance() {
    let rpc = Rpc::start();
    let sources = sources(&[&rpc], 1);
    let tokens = |registry: mesh_core::registry::Registry| registry.own_nodes.into_iter().map(|node| node.token.get());
    let own: Vec<_> = tokens(sources.read(Some(token(3))).await.0.unwrap()).collect();
    assert_eq!(own, [2, 3]);
    let registry = sources.read(Some(token(77))).await.0.unwrap();
    let unminted = registry.own_nodes.iter().find(|node| node.token == token(77)).unwrap();
    assert_eq!(unminted.owner, None);
}

#[tokio::test(start_paused = true)]
async fn one_liar_of_three_is_outvoted_and_named() {
    let (one, two, liar) = (Rpc::start(), Rpc::start(), Rpc::start());
    liar.chain().peers.push(peer(66));
    let (registry, report) = sources(&[&liar, &one, &two], 2).read(None).await;
    assert!(registry.unwrap().peers.iter().all(|peer| peer.token != token(66)));
    assert!(report.disagree);
    assert_eq!(
        report.sources.iter().map(|source| source.agrees).collect::<Vec<_>>(),
        [Some(false), Some(true), Some(true)]
    );
    assert_eq!((report.quorum.need, report.quorum.have), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn two_that_contradict_each_other_are_no_majority() {
    let (one, other) = (Rpc::start(), Rpc::start());
    other.chain().nodes.push(node(9, INSTANCE));
    let (registry, report) = sources(&[&one, &other], 2).read(None).await;
    assert!(registry.unwrap_err().contains("contradict"));
    assert!(report.disagree && report.quorum.have < report.quorum.need);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_endpoint_holds_no_read_back_and_is_reported() {
    let reported = async |manner| {
        let (one, two, hanging) = (Rpc::start(), Rpc::start(), Rpc::start());
        hanging.chain().manner = manner;
        let sources = sources(&[&hanging, &one, &two], 2);
        // Any one read could find it merely slow.
        let status = read_until(&sources, |hanging| !hanging.ok).await;
        assert!(status.error.as_deref().unwrap().contains("no answer within 3 s"), "{manner:?}: {status:?}");
        hanging.chain().manner = Manner::Slow;
        read_until(&sources, |slow| slow.ok && slow.agrees.is_none()).await;
    };
    tokio::join!(reported(Manner::Hang), reported(Manner::HangCalls));
}

/// Reads again and again until it is said of the first endpoint; no read may wait for it.
async fn read_until(sources: &Sources, holds: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let started = Instant::now();
        let (registry, report) = sources.read(None).await;
        registry.unwrap();
        assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
        assert!(report.sources[1].ok && report.sources[2].ok && report.quorum.have == 2, "{report:?}");
        if holds(&report.sources[0]) {
            return report.sources[0].clone();
        }
        assert!(Instant::now() < deadline, "still reported otherwise: {report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_merely_slow_is_not_down() {
    let (one, two, slow) = (Rpc::start(), Rpc::start(), Rpc::start());
    slow.chain().manner = Manner::Slow;
    let sources = sources(&[&slow, &one, &two], 2);
    let begun = Instant::now();
    // Longer than any answer is waited for.
    while begun.elapsed() < Duration::from_secs(4) {
        let (registry, report) = sources.read(None).await;
        registry.unwrap();
        let slow = &report.sources[0];
        assert_eq!((slow.ok, slow.agrees, slow.error.as_deref()), (true, None, None), "after {:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_is_waited_for_when_a_fast_one_lies() {
    let (liar, one, slow) = (Rpc::start(), Rpc::start(), Rpc::start());
    liar.chain().peers.push(peer(66));
    slow.chain().manner = Manner::Slow;
    let (registry, report) = sources(&[&liar, &one, &slow], 2).read(None).await;
    assert!(registry.unwrap().peers.iter().all(|peer| peer.token != token(66)));
    assert!(report.disagree);
    let agrees: Vec<_> = report.sources.iter().map(|source| source.agrees).collect();
    assert_eq!(agrees, [Some(false), Some(true), Some(true)]);
}

#[tokio::test(start_paused = true)]
async fn the_block_read_is_one_that_enough_endpoints_have() {
    let (ahead, one, behind) = (Rpc::start(), Rpc::start(), Rpc::start());
    ahead.chain().head = 110;
    behind.chain().head = 95;
    let (registry, report) = sources(&[&ahead, &one, &behind], 2).read(None).await;
    assert_eq!(registry.unwrap().block.number, 100);
    assert_eq!(
        report.sources.iter().map(|source| source.lag_blocks).collect::<Vec<_>>(),
        [Some(0), Some(10), Some(15)]
    );
    assert_eq!(report.sources[2].agrees, None, "it has not said anything about block 100");
}

#[tokio::test(start_paused = true)]
async fn a_liar_with_a_far_off_head_cannot_spoil_what_two_others_agree_on() {
    let (liar, one, behind) = (Rpc::start(), Rpc::start(), Rpc::start());
    {
        let mut chain = liar.chain();
        (chain.head, chain.epoch) = (9000, 99);
    }
    behind.chain().head = 95;
    // At block 100 it contradicts the only other one that has it; at block 95 there are two against it.
    let (registry, report) = sources(&[&liar, &one, &behind], 2).read(None).await;
    let registry = registry.unwrap();
    assert_eq!((registry.block.number, registry.epoch), (95, 7));
    assert!(report.disagree && report.quorum.have == 2, "{report:?}");
    assert_eq!(
        report.sources.iter().map(|source| source.agrees).collect::<Vec<_>>(),
        [Some(false), Some(true), Some(true)]
    );
    assert_eq!(report.sources[2].lag_blocks, Some(5), "a head that no other endpoint has is no measure");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_silent_about_finality_delays_little_and_keeps_its_connection() {
    let rpc = Rpc::start();
    rpc.chain().manner = Manner::HangFinalized;
    let sources = sources(&[&rpc], 1);
    let started = Instant::now();
    assert_eq!(sources.read(None).await.0.unwrap().finalized, None);
    assert!(started.elapsed() < Duration::from_millis(2500), "{:?}", started.elapsed());
    let again = Instant::now();
    sources.read(None).await.0.unwrap();
    assert!(again.elapsed() < Duration::from_millis(900), "asked again at once: {:?}", again.elapsed());
}

#[tokio::test(start_paused = true)]
async fn tokens_outside_the_mesh_network_are_refused_before_they_cost_anything() {
    let rpc = Rpc::start();
    rpc.chain().peers.push(peer(65535));
    let error = sources(&[&rpc], 1).read(None).await.0.unwrap_err();
    assert!(error.contains("peers(): token 65535 does not fit into 10.0.0.0/16"), "{error}");
    let rpc = Rpc::start();
    rpc.chain().nodes.push(node(70_000, INSTANCE));
    let error = sources(&[&rpc], 1).read(None).await.0.unwrap_err();
    assert!(error.contains("nodesOf(): token 70000"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn broken_answers_are_errors_in_words_without_the_api_key() {
    for manner in [Manner::Html, Manner::Huge, Manner::EndlessPages, Manner::NoCode, Manner::Hang] {
        let rpc = Rpc::start();
        rpc.chain().manner = manner;
        let (registry, report) = sources(&[&rpc], 1).read(None).await;
        let error = registry.unwrap_err();
        let said = format!("{error} {:?}", report.sources);
        assert!(!said.contains("s3cretkey"), "{said}");
        assert!(!report.sources[0].ok && report.sources[0].error.is_some(), "{said}");
        if manner == Manner::NoCode {
            assert!(said.contains("no contract"), "{said}");
        }
    }
}

#[tokio::test]
async fn a_port_on_which_nothing_listens_is_an_error_without_the_api_key() {
    let closed: RpcUrl = "http://127.0.0.1:1/v3/s3cretkey".parse().unwrap();
    let subject = Subject { contract: CONTRACT, instance: InstanceId(INSTANCE) };
    let (registry, report) = Sources::new(vec![Arc::new(Source::new(closed))], 1, None, subject).read(None).await;
    let said = format!("{} {:?}", registry.unwrap_err(), report.sources);
    assert!(said.contains("127.0.0.1:1") && !said.contains("s3cretkey"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_another_request_is_refused() {
    let rpc = Rpc::start();
    rpc.chain().manner = Manner::Replays;
    let error = rpc.source().head().await.unwrap_err().to_string();
    assert!(error.contains("another request"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn of_many_long_answers_one_is_read_at_a_time() {
    let rpc = Rpc::start();
    rpc.chain().manner = Manner::Stalls;
    let source = rpc.source();
    let asked = (0..8).map(|_| source.head());
    for failed in futures_util::future::join_all(asked).await {
        assert!(failed.unwrap_err().to_string().contains("no answer within 3 s"));
    }
    // All of one, and of the others the beginning, with what waits on the connection.
    let taken = rpc.asked("pieces") as usize * rpc::PIECE;
    assert!((4 << 20..12 << 20).contains(&taken), "{taken} bytes");
}

/// It would be asked with what the URL or its header holds.
#[tokio::test(start_paused = true)]
async fn a_redirect_is_an_error_and_is_not_followed() {
    let rpc = Rpc::start();
    rpc.chain().manner = Manner::Redirects;
    let error = rpc.source().head().await.unwrap_err().to_string();
    assert!(error.contains("HTTP status 307"), "{error}");
    assert_eq!(rpc.asked("redirected"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_output_that_overlaps_itself_is_refused_before_it_takes_memory() {
    let rpc = Rpc::start();
    rpc.chain().manner = Manner::Overlaps(1);
    let domains = sources(&[&rpc], 1).read(None).await.0.unwrap().base_domains;
    assert_eq!(domains, [Some("a".repeat(100_000))], "one overlaps nothing");
    rpc.chain().manner = Manner::Overlaps(20_000);
    let error = sources(&[&rpc], 1).read(None).await.0.unwrap_err();
    assert!(error.contains("does not decode as that of baseDomains()"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn another_block_than_asked_for_is_refused() {
    let (ahead, one) = (Rpc::start(), Rpc::start());
    {
        let mut chain = ahead.chain();
        (chain.head, chain.manner) = (400, Manner::OtherBlock);
    }
    // Its head is 200 by its own words, so that block 100 is asked for by number, and 50 is what comes.
    let (registry, report) = sources(&[&ahead, &one], 2).read(None).await;
    assert!(registry.is_err());
    let error = report.sources[0].error.as_deref().unwrap();
    assert!(error.contains("another block"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn tokens_out_of_order_or_range_are_refused() {
    for change in [
        (|peers: &mut Vec<_>| peers.reverse()) as fn(&mut Vec<mesh_contract::IDstackClusterNFT::Peer>),
        |peers| peers.push(peers[2].clone()),
        |peers| peers[1].instanceId = Default::default(),
        |peers| peers[2].tokenId = U256::MAX,
        |peers| peers[1].networkType = 2,
    ] {
        let rpc = Rpc::start();
        change(&mut rpc.chain().peers);
        let error = sources(&[&rpc], 1).read(None).await.0.unwrap_err();
        assert!(error.contains("peers()"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_proof_comes_from_its_one_block_and_from_most_endpoints() {
    let (one, two, liar) = (Rpc::start(), Rpc::start(), Rpc::start());
    for rpc in [&one, &two] {
        // The last one of the block counts.
        rpc.chain().logs = vec![registration_log(2, 10), registration_log(2, 11)];
    }
    liar.chain().logs = vec![registration_log(2, 12)];
    let sources = sources(&[&liar, &one, &two], 2);
    let proofs = sources.proofs(vec![ProofRequest { token: token(2), block: 5 }]).await;
    let deadlines: Vec<_> = proofs.iter().map(|(_, proof)| proof.as_ref().unwrap().registration.deadline).collect();
    assert_eq!(deadlines, [11, 12], "what most endpoints say comes first, and no answer is lost: signatures decide");

    // Logs of another token, another block, another contract, or taken back, are none.
    for (key, value) in [
        ("blockNumber", serde_json::json!("0x6")),
        ("blockNumber", serde_json::Value::Null),
        ("address", serde_json::json!(alloy_primitives::Address::ZERO)),
        ("removed", serde_json::json!(true)),
        ("data", serde_json::json!("0x00")),
    ] {
        for rpc in [&one, &two, &liar] {
            let mut log = registration_log(2, 10);
            log[key] = value.clone();
            rpc.chain().logs = vec![log, registration_log(3, 10)];
        }
        let proofs = sources.proofs(vec![ProofRequest { token: token(2), block: 5 }]).await;
        assert!(proofs[0].1.is_err(), "{key} {value}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_wrong_chain_is_known_at_once_and_silence_is_not_the_wrong_chain() {
    let (one, other) = (Rpc::start(), Rpc::start());
    sources(&[&one], 1).preflight().await.unwrap();
    one.chain().manner = Manner::NoCode;
    assert!(matches!(sources(&[&one], 1).preflight().await, Err(WrongChain::NoCode { chain_id: 31337, .. })));
    // One of two may be wrong where one is enough.
    sources(&[&one, &other], 1).preflight().await.unwrap();
    assert!(sources(&[&one, &other], 2).preflight().await.is_err());
    let subject = Subject { contract: CONTRACT, instance: InstanceId(INSTANCE) };
    let elsewhere = Sources::new(vec![other.source()], 1, Some(1), subject);
    assert!(matches!(elsewhere.preflight().await, Err(WrongChain::ChainId { found: 31337, wanted: 1, .. })));
    assert!(elsewhere.read(None).await.0.unwrap_err().contains("31337"));
    assert!(elsewhere.leader().await.unwrap_err().contains("it is of chain 31337, not of chain 1"));
    other.chain().manner = Manner::Html;
    elsewhere.preflight().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn requests_are_counted_by_endpoint_and_method_without_api_keys() {
    let (one, hanging) = (Rpc::start(), Rpc::start());
    let sources = sources(&[&one, &hanging], 1);
    hanging.chain().manner = Manner::Hang;
    sources.read(None).await.0.unwrap();
    assert_eq!(sources.balance(CONTRACT).await, Some(Wei(U256::from(1_000_000_000_000_000_000_u64))));
    let counts = sources.requests();
    let (answers, silent): (Vec<_>, Vec<_>) = counts.iter().partition(|count| !count.source.ends_with("#2"));
    for method in ["eth_call", "eth_getBlockByNumber", "eth_getBalance"] {
        let found = answers.iter().find(|count| count.method == method).unwrap();
        assert_eq!((found.requests.asked, found.requests.failed), (one.asked(method).into(), 0), "{method}");
        assert!(found.requests.received > 0, "{method}");
    }
    assert!(
        silent.iter().any(|count| count.method == "eth_getBlockByNumber" && count.requests.asked > 0),
        "{counts:?}"
    );
    assert!(!format!("{counts:?}").to_lowercase().contains("s3cretkey"), "{counts:?}");
    let failed = hanging.source();
    failed.head().await.unwrap_err();
    assert_eq!(failed.counts()["eth_getBlockByNumber"], Requests { asked: 1, failed: 1, received: 0 });
}
