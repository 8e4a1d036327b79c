//! Certificates from the guest agent, and without it.

use std::path::PathBuf;

use dstack_simulator::{Identity, Layout, Simulator, gateway::Limits as GatewayLimits};
use p2p_agent::{
    gateway::{Certificate, Limits},
    identity::dstack::{GuestAgent, find},
};

use super::world::{World, talk};

/// A directory that is gone with the test.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_agents_certificate_is_as_good_as_our_own() {
    let directory = Directory(std::env::temp_dir().join(format!("p2p-agent-gateway-{}", std::process::id())));
    // A test that was killed may have left one, and its process id is ours now.
    drop(std::fs::remove_dir_all(&directory.0));
    std::fs::create_dir(&directory.0).unwrap();
    let identity = Identity::seeded(&[1; 32], [0x11; 20]).unwrap();
    let simulator = Simulator::start(identity, &Layout::Numbered(directory.0.clone(), 1), &[]).await.unwrap();
    let path = simulator.instances()[0].dstack_sock.display().to_string();
    let agent = GuestAgent::new(find(Some(&path)).unwrap());

    let world = World::start(GatewayLimits::default()).await;
    world.register(&[1, 2]);
    let given = agent.get_tls_key(&world.place(2).to_string()).await.unwrap();
    assert_eq!((given.certificate_chain.len() >= 2, format!("{given:?}").as_str()), (true, "[redacted]"));
    let certificate = Certificate::from_pem(&given.certificate_chain, given.secret()).unwrap();
    let (a, b) = (world.node(1, Limits::default()).await, world.node_with(2, Limits::default(), certificate).await);
    for node in [&a, &b] {
        world.acquaint(node, &[1, 2]);
    }
    talk(&a, &b).await;
    b.transport.stop().await;

    // The same by the one call that an agent makes, and by the same call without a guest agent.
    for round in 0..2 {
        let certificate = Certificate::obtain(&agent, &world.place(2)).await.unwrap();
        assert_eq!(format!("{certificate:?}").contains("chain: 1"), round == 1, "{certificate:?}");
        let b = world.node_with(2, Limits::default(), certificate).await;
        world.acquaint(&b, &[1, 2]);
        talk(&a, &b).await;
        b.transport.stop().await;
        drop(std::fs::remove_file(&path));
    }
}
