//! Which instance is reached by which name.

use std::path::Path;

use dstack_simulator::gateway::{Instance, Limits, Registry};
use testkit::Scratch;
use tokio::io::AsyncWriteExt as _;

use super::world::{
    APP, World, client_hello, exchange, hanging, hex, id, instance, read, silent_end, start_gateway, within,
};

#[tokio::test]
async fn an_instance_id_leads_to_that_instance() {
    let (world, listeners) = World::start::<3>(Limits::default()).await;
    for (n, listener) in (1..).zip(&listeners) {
        let (mut client, mut server) = world.pair(id(n), listener).await;
        exchange(&mut client, &mut server).await;
        let counts = world.gateway.counts();
        assert_eq!(counts.instances[&hex(id(n))], 1, "{counts:?}");
    }
}

#[tokio::test]
async fn an_app_id_leads_to_one_of_its_instances() {
    let (world, listeners) = World::start::<3>(Limits::default()).await;
    let (_client, hello) = world.dial(&world.name(APP)).await;
    let [one, two, three] = &listeners;
    let winner = async {
        // Connections that lost the race are closed without a byte.
        loop {
            let accepted = tokio::select! {
                accepted = one.accept() => accepted,
                accepted = two.accept() => accepted,
                accepted = three.accept() => accepted,
            };
            let (mut stream, _) = accepted.unwrap();
            if stream.readable().await.is_ok() && stream.peek(&mut [0]).await.is_ok_and(|length| length > 0) {
                break read(&mut stream, hello.len()).await;
            }
        }
    };
    assert_eq!(within("the hello at one of them", winner).await, hello);
    world.until("the losers' places", |counts| counts.instances.values().sum::<u64>() == 1).await;
}

#[tokio::test]
async fn an_instance_that_is_gone_or_hangs_does_not_hold_up_its_app() {
    let (world, [gone, hung, alive]) = World::start::<3>(Limits::default()).await;
    drop((gone, hung));
    let _hanging = hanging(2, world.port).await;
    let (mut client, mut server) = world.pair(APP, &alive).await;
    exchange(&mut client, &mut server).await;
}

#[tokio::test]
async fn the_fourth_freshest_is_not_tried() {
    let (world, [one, two, three, _alive]) = World::start::<4>(Limits::default()).await;
    drop((one, two, three));
    let (client, _) = world.dial(&world.name(APP)).await;
    world.refused(client).await;

    let four = Limits { race: 4.try_into().unwrap(), ..Limits::default() };
    let (world, [one, two, three, alive]) = World::start::<4>(four).await;
    drop((one, two, three));
    world.pair(APP, &alive).await;
}

#[tokio::test]
async fn names_that_lead_nowhere_are_refused() {
    let (world, [listener]) = World::start::<1>(Limits::default()).await;
    let (known, unknown, port) = (hex(id(1)), hex([9; 20]), world.port);
    for name in [
        format!("{unknown}-{port}s.gw.test"),
        format!("{known}-{port}s.gw.other"),
        format!("{known}-{port}s.x.gw.test"),
        format!("{known}-{port}s"),
        // TLS would end at the gateway.
        format!("{known}-{port}.gw.test"),
        format!("{known}-{port}g.gw.test"),
        format!("{known}.gw.test"),
        format!("{known}-{port}-s.gw.test"),
        format!("{known}-99999s.gw.test"),
        "health.gw.test".to_owned(),
        "gateway.gw.test".to_owned(),
    ] {
        let (client, _) = world.dial(&name).await;
        world.refused(client).await;
    }
    assert_eq!(world.until("all ended", |counts| counts.open == 0).await.refused, 11);
    // The instance has seen none of them: what comes first is the one that follows.
    world.pair(id(1), &listener).await;
}

#[tokio::test]
async fn a_port_that_the_app_does_not_allow_is_refused() {
    let (world, [listener]) = World::start::<1>(Limits::default()).await;
    let ports = |port: u16| Some([port].into());
    world.registry.replace(vec![Instance { ports: ports(world.port.wrapping_add(1)), ..instance(1) }]).unwrap();
    let (client, _) = world.dial(&world.name(id(1))).await;
    world.refused(client).await;
    world.registry.replace(vec![Instance { ports: ports(world.port), ..instance(1) }]).unwrap();
    world.pair(id(1), &listener).await;
}

#[tokio::test]
async fn instances_come_and_go_while_connections_stay() {
    let (world, [one, two]) = World::start::<2>(Limits::default()).await;
    world.registry.replace(vec![instance(1)]).unwrap();
    let (mut client, mut server) = world.pair(id(1), &one).await;
    let (early, _) = world.dial(&world.name(id(2))).await;
    world.refused(early).await;

    world.registry.replace(vec![instance(2)]).unwrap();
    world.pair(id(2), &two).await;
    let (late, _) = world.dial(&world.name(id(1))).await;
    silent_end(&mut { late }).await;
    exchange(&mut client, &mut server).await;
}

fn listed(instances: &[u8]) -> String {
    let one = |n: &u8| {
        let Instance { app_id, instance_id, ip, .. } = instance(*n);
        format!(r#"{{"app_id": "{}", "instance_id": "{}", "ip": "{ip}"}}"#, hex(app_id), hex(instance_id))
    };
    format!("[{}]", instances.iter().map(one).collect::<Vec<_>>().join(",\n"))
}

#[tokio::test]
async fn a_file_of_instances_is_read_again_for_every_connection() {
    let (mut world, [one, two]) = World::start::<2>(Limits::default()).await;
    let scratch = Scratch::new();
    let path = scratch.join("instances.json");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    let missing = Registry::follow(Path::new("missing.json")).err().unwrap().to_string();
    assert!(missing.contains("missing.json") && missing.contains("[]"), "{missing}");
    for bad in ["", "{}", r#"[{"app_id": "00"}]"#, &listed(&[1, 1]), &listed(&[1]).replace("127", "x")] {
        write(bad);
        assert!(Registry::follow(&path).is_err(), "{bad}");
    }

    write(&listed(&[1]));
    world.registry = Registry::follow(&path).unwrap();
    world.gateway = start_gateway("127.0.0.1:0".parse().unwrap(), Limits::default(), &world.registry).await;
    world.pair(id(1), &one).await;
    let (client, _) = world.dial(&world.name(id(2))).await;
    world.refused(client).await;
    write(&listed(&[2]));
    world.pair(id(2), &two).await;

    // What cannot be read changes nothing.
    write("[{\"app_id\"");
    world.pair(id(2), &two).await;
    std::fs::remove_file(&path).unwrap();
    world.pair(id(2), &two).await;
    write(&listed(&[2, 1]));
    world.pair(id(1), &one).await;
}

/// However the first bytes are cut, they arrive whole.
#[tokio::test]
async fn a_hello_may_come_byte_by_byte() {
    let (world, [listener]) = World::start::<1>(Limits::default()).await;
    let hello = client_hello(&world.name(id(1)));
    let mut client = world.connect().await;
    for byte in &hello {
        client.write_all(std::slice::from_ref(byte)).await.unwrap();
    }
    let (mut server, _) = within("the gateway's connection", listener.accept()).await.unwrap();
    assert_eq!(read(&mut server, hello.len()).await, hello);
    exchange(&mut client, &mut server).await;
}
