//! The port policy of a guest that does not say it by itself: its Worker has to.

use dstack_simulator::gateway::{Instance, Limits};
use dstack_simulator::{Identity, Layout, Settings, Simulator};
use testkit::Scratch;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, sleep};

use super::world::{World, exchange, hex, id, instance, ip, silent_end, within};

/// The agent of instance 1, with its Worker at the instance's address.
async fn agent(directory: &Scratch, compose: String) -> Simulator {
    let identity = Identity::seeded(&[1; 32], [0x11; 20]).unwrap().with_app_compose(compose).unwrap();
    let settings = Settings { worker: Some((ip(1), 0).into()), ..Settings::default() };
    Simulator::start_with(identity, &Layout::Flat(directory.path().to_owned()), &settings).await.unwrap()
}

fn worker(simulator: &Simulator) -> Option<u16> {
    simulator.instances()[0].worker.map(|worker| worker.port())
}

/// Dials until the gateway lets a connection through.
async fn until_reached(world: &World, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let reached = async {
        loop {
            let (mut client, _) = world.dial(&world.name(id(1))).await;
            tokio::select! {
                accepted = listener.accept() => break (client, accepted.unwrap().0),
                _ = client.read_u8() => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    within("a connection that is let through", reached).await
}

#[tokio::test]
async fn a_guest_that_says_nothing_is_closed_until_its_worker_has_answered() {
    let (world, [listener]) = World::start::<1>(Limits::default()).await;
    let directory = Scratch::new();
    let agent = agent(&directory, "{}".to_owned()).await;
    world.registry.replace(vec![Instance { worker: worker(&agent), ..instance(1) }]).unwrap();
    let (client, _) = world.dial(&world.name(id(1))).await;
    world.refused(client).await;
    let (mut client, mut server) = until_reached(&world, &listener).await;
    let mut hello = vec![0; 4096];
    assert!(server.read(&mut hello).await.unwrap() > 0);
    exchange(&mut client, &mut server).await;

    // Registered anew, it is as unknown as before; as it was, it is not.
    let known = Instance { worker: worker(&agent), ..instance(1) };
    world.registry.replace(vec![known.clone()]).unwrap();
    world.pair(id(1), &listener).await;
    world.registry.replace(vec![Instance { app_id: [0x22; 20], ..known }]).unwrap();
    let refused = world.gateway.counts().refused;
    let (_client, _) = world.dial(&world.name(id(1))).await;
    world.until("a refusal", |counts| counts.refused > refused).await;
}

#[tokio::test]
async fn the_workers_policy_is_obeyed() {
    let (world, [listener]) = World::start::<1>(Limits::default()).await;
    let directory = Scratch::new();
    let listed = world.port;
    let compose = format!(r#"{{"port_policy": {{"restrict_mode": true, "ports": [{{"port": {listed}}}]}}}}"#);
    let agent = agent(&directory, compose).await;
    world.registry.replace(vec![Instance { worker: worker(&agent), ..instance(1) }]).unwrap();
    until_reached(&world, &listener).await;
    let unlisted = TcpListener::bind((ip(1), 0)).await.unwrap();
    let (mut client, _) =
        world.dial(&format!("{}-{}s.gw.test", hex(id(1)), unlisted.local_addr().unwrap().port())).await;
    silent_end(&mut client).await;
}

#[tokio::test]
async fn without_an_answer_an_instance_stays_closed() {
    let (world, [listener]) = World::start::<1>(Limits::default()).await;
    // Its Worker's port is one at which nothing listens.
    let nothing = TcpListener::bind((ip(1), 0)).await.unwrap().local_addr().unwrap().port();
    world.registry.replace(vec![Instance { worker: Some(nothing), ..instance(1) }]).unwrap();
    for _ in 0..3 {
        let (client, _) = world.dial(&world.name(id(1))).await;
        world.refused(client).await;
    }
    // Another instance is none the worse for it.
    world.registry.replace(vec![instance(1)]).unwrap();
    world.pair(id(1), &listener).await;
}
