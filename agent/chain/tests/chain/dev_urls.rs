//! Development URLs, which the contract returns by a view of their own.

use mesh_core::dev_url::DevUrls;

use super::{
    rpc::{Rpc, peer},
    sources, token,
};

fn endpoints(endpoints: &[&str]) -> Vec<String> {
    endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn they_are_read_in_devmode_alone_and_nothing_else_is_taken_for_one() {
    let rpc = Rpc::start();
    let sources = sources(&[&rpc], 1);
    {
        let mut chain = rpc.chain();
        // Behind the gateway, and behind a domain that was removed.
        (chain.peers[1].networkType, chain.peers[1].gatewayDomain, chain.peers[1].gatewayPort) = (0, 1, 443);
        chain.peers.push(peer(7));
        (chain.peers[3].networkType, chain.peers[3].gatewayDomain, chain.peers[3].gatewayPort) = (0, 2, 443);
        let behind_gateway = format!("https://{}-443s.gw.example", "03".repeat(20));
        chain.endpoints = endpoints(&["10.0.0.1", &behind_gateway, "10.0.0.3:5432", ""]);
    }
    assert_eq!(sources.read(None).await.0.unwrap().dev_urls, DevUrls::new());
    assert_eq!(rpc.asked("getPeerEndpoints"), 0);

    (rpc.chain().dev_mode, rpc.chain().epoch) = (true, 8);
    let registry = sources.read(None).await.0.unwrap();
    assert_eq!(registry.dev_urls, DevUrls::from([(token(3), "10.0.0.3:5432".parse().unwrap())]));
    (rpc.chain().dev_mode, rpc.chain().epoch) = (false, 9);
    assert_eq!(sources.read(None).await.0.unwrap().dev_urls, DevUrls::new());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_with_invalid_urls_is_not_believed() {
    let rpc = Rpc::start();
    rpc.chain().dev_mode = true;
    let sources = sources(&[&rpc], 1);
    for (endpoints, why) in [
        (endpoints(&["10.0.0.1", "10.0.0.2"]), "2 endpoints of 3 peers"),
        (endpoints(&["10.0.0.1", "10.0.0.2", "http://\u{1b}[2J"]), "token 3 has no URL"),
        (endpoints(&["10.0.0.1", &"x".repeat(257), "10.0.0.3"]), "token 2 has no URL"),
    ] {
        rpc.chain().endpoints = endpoints;
        let error = sources.read(None).await.0.unwrap_err();
        assert!(error.contains("getPeerEndpoints(): ") && error.contains(why), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_liar_of_three_names_no_url() {
    let (one, two, liar) = (Rpc::start(), Rpc::start(), Rpc::start());
    for rpc in [&one, &two, &liar] {
        let mut chain = rpc.chain();
        (chain.dev_mode, chain.endpoints) = (true, endpoints(&["10.0.0.1", "http://two:80", "10.0.0.3"]));
    }
    liar.chain().endpoints = endpoints(&["10.0.0.1", "http://liar:80", "10.0.0.3"]);
    let (registry, report) = sources(&[&liar, &one, &two], 2).read(None).await;
    assert_eq!(registry.unwrap().dev_urls, DevUrls::from([(token(2), "http://two:80".parse().unwrap())]));
    assert!(report.disagree);
}

/// Where one RPC endpoint computes that much and another does not, they would never agree about anything.
#[tokio::test(start_paused = true)]
async fn a_large_mesh_is_not_asked_for_them() {
    let rpc = Rpc::start();
    {
        let mut chain = rpc.chain();
        (chain.dev_mode, chain.peers) = (true, (1..=1001).map(peer).collect());
    }
    let registry = sources(&[&rpc], 1).read(None).await.0.unwrap();
    assert_eq!((registry.peers.len(), registry.dev_urls.len(), rpc.asked("getPeerEndpoints")), (1001, 0, 0));
}
