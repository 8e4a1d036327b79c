//! Starts that cannot work: each ends with an error that says what is wrong and what to do, never with a panic.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use mesh_core::status::{MembershipState, Status};
use netns_tests::{Finished, Launch, OPERATOR, Process, Simulator, World};

use crate::PATIENCE;

/// A start that fails has to say so soon; the guest agent alone is given 10 s for an answer.
const SOON: Duration = Duration::from_secs(40);

/// The command line of node 1's agent with some flags replaced or added, and its own state directory.
fn arguments(world: &World, case: &str, changes: &[(&str, &str)]) -> Vec<String> {
    let mut words = world.node(1).agent_arguments();
    let state = world.dir().join(case).display().to_string();
    let mut set = |flag: &str, value: &str| match words.iter().position(|word| word == flag) {
        Some(at) => value.clone_into(&mut words[at + 1]),
        None => words.extend([flag.to_owned(), value.to_owned()]),
    };
    set("--state-dir", &state);
    for (flag, value) in changes {
        set(flag, value);
    }
    words
}

fn launch(world: &World, case: &str, changes: &[(&str, &str)]) -> Launch {
    world.node(1).namespace.launch(&world.binaries().agent).args(arguments(world, case, changes))
}

/// It must fail with `expected` in what it says, and a hint.
fn fails(case: &str, launch: &Launch, expected: &[&str]) -> Result<()> {
    let Finished { status, stdout, stderr, .. } = launch.finish(SOON).with_context(|| format!("case `{case}`"))?;
    let said = format!("{stdout}{stderr}");
    ensure!(!status.success(), "case `{case}`: it ended as if all were well\n{said}");
    ensure!(status.code().is_some(), "case `{case}`: it was killed ({status})\n{said}");
    ensure!(!said.contains("panicked at"), "case `{case}`: it panicked\n{said}");
    ensure!(said.contains("error: "), "case `{case}`: no `error: ` line\n{said}");
    ensure!(said.contains("hint: "), "case `{case}`: no `hint: ` line\n{said}");
    for words in expected {
        ensure!(
            said.to_lowercase().contains(&words.to_lowercase()),
            "case `{case}`: it does not say `{words}`\n{said}"
        );
    }
    Ok(())
}

#[test]
fn bad_configuration_chain_and_guest_agent_end_with_an_error_and_a_hint() -> Result<()> {
    let world = World::new(1)?;
    let run =
        |case: &str, changes: &[(&str, &str)], expected: &[&str]| fails(case, &launch(&world, case, changes), expected);
    let no_contract = "0x00000000000000000000000000000000000000aa";
    run("no-code", &[("--contract", no_contract)], &["no contract", no_contract])?;
    run("wrong-chain", &[("--chain-id", "1")], &["chain", "31337"])?;
    run("dstack-port", &[("--listen-port", "9182")], &["9182"])?;
    run("dstack-interface", &[("--interface", "dstack-wg0")], &["dstack-wg0"])?;
    run("no-guest-agent", &[("--dstack-socket", "/nowhere/dstack.sock")], &["/nowhere/dstack.sock"])?;

    let mut nowhere = arguments(&world, "no-guest-agent-anywhere", &[]);
    let at = nowhere.iter().position(|word| word == "--dstack-socket").context("no --dstack-socket")?;
    nowhere.drain(at..at + 2);
    let nowhere = world.node(1).namespace.launch(&world.binaries().agent).args(nowhere);
    fails("no-guest-agent-anywhere", &nowhere, &["/var/run/dstack.sock", "--dstack-socket"])?;

    let mut of_production = arguments(&world, "published-root", &[]);
    of_production.retain(|word| word != "--development");
    let of_production = world.node(1).namespace.launch(&world.binaries().agent).args(of_production);
    fails("published-root", &of_production, &[&world.simulator().announcement.kms_root, "published", "--development"])?;

    let app_id = world.simulator().announcement.app_id.clone();
    let faulty = |kind: &str| -> Result<(Simulator, String)> {
        let simulator = world.faulty_simulator(kind, &app_id)?;
        let socket = simulator.instance(1)?.dstack_sock.display().to_string();
        Ok((simulator, socket))
    };
    let (_answers_400, socket) = faulty("error400")?;
    run("guest-agent-400", &[("--dstack-socket", &socket)], &[&socket, "refused Info"])?;
    let (_slow, socket) = faulty("slow=60000")?;
    run("guest-agent-slow", &[("--dstack-socket", &socket)], &[&socket, "within"])?;
    let (_no_kms, socket) = faulty("no-kms")?;
    run("guest-agent-without-kms", &[("--dstack-socket", &socket)], &["kms"])?;
    let (_wrong_root, socket) = faulty("wrong-root")?;
    let root = world.simulator().announcement.kms_root.clone();
    run("guest-agent-wrong-root", &[("--dstack-socket", &socket), ("--kms-root", &root)], &["root", &root])?;
    Ok(())
}

#[test]
fn a_bad_machine_ends_with_an_error_and_a_hint() -> Result<()> {
    let mut world = World::new(1)?;
    // A member, so that the agent gets as far as its device.
    world.join(1)?;
    world.wait("node 1 to be ready", PATIENCE, || {
        ensure!(world.node(1).status()?.verdict.ready, "not ready");
        Ok(())
    })?;
    world.node_mut(1).stop()?;
    let (interface, namespace) = (world.node(1).interface().to_owned(), &world.node(1).namespace);
    let state = world.node(1).state_dir().display().to_string();
    let same_node = [("--state-dir", state.as_str())];
    let words = arguments(&world, "machine", &same_node);
    let agent = &world.binaries().agent;

    let powerless = ["--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"];
    let without_net_admin = namespace.launch("setpriv").args(powerless).arg(agent).args(&words);
    fails("no NET_ADMIN", &without_net_admin, &["NET_ADMIN"])?;

    let hide_tun = "mount -t tmpfs none /dev/net && exec \"$0\" \"$@\"";
    let without_tun = namespace.launch("unshare").args(["--mount", "sh", "-c", hide_tun]).arg(agent).args(&words);
    fails("no /dev/net/tun", &without_tun, &["/dev/net/tun"])?;

    let occupant = occupy_port(&world)?;
    fails("UDP port taken", &launch(&world, "port", &same_node), &["51821"])?;
    drop(occupant);

    namespace.ip(&format!("link add {interface} type bridge"))?;
    fails("interface name taken", &launch(&world, "name", &same_node), &[&interface])?;
    namespace.ip(&format!("link del {interface}"))?;

    namespace.ip("route add 10.0.1.128/25 via 192.0.2.1")?;
    fails("overlapping route", &launch(&world, "route", &same_node), &["10.0.1.128/25", "10.0.1.0/24"])?;
    namespace.ip("route del 10.0.1.128/25 via 192.0.2.1")?;

    // Nothing of all that harmed the node: it starts as before.
    world.node_mut(1).start()?;
    world.wait("node 1 to be ready again", PATIENCE, || {
        ensure!(world.node(1).status()?.verdict.ready, "not ready");
        Ok(())
    })?;
    fails("already running", &launch(&world, "twice", &same_node), &[&state])?;
    Ok(())
}

/// Two agents for one instance would take the membership from each other in turn, whatever each has for itself.
#[test]
fn a_second_agent_for_an_instance_is_refused_and_the_first_stays_a_member() -> Result<()> {
    let mut world = World::new(1)?;
    world.join(1)?;
    let epoch = || -> Result<Option<u32>> {
        let status = world.node(1).status()?;
        ensure!(status.verdict.ready, "not ready: {:?}", status.verdict);
        Ok(status.own.key_epoch)
    };
    world.wait("node 1 to be ready", PATIENCE, || epoch().map(drop))?;
    let before = epoch()?;
    let socket = world.dir().join("second.sock").display().to_string();
    let own = [("--interface", "second0"), ("--listen-port", "51999"), ("--socket", &socket)];
    let expected = ["another p2p-agent", "`meshctl status`", "stop it first"];
    fails("second agent", &launch(&world, "second", &own), &expected)?;
    // Nor where the way of that hint is not taken, but another network given.
    let elsewhere = [&own[..], &[("--mesh-network", "10.0.77.0/24")]].concat();
    fails(
        "second agent elsewhere",
        &launch(&world, "elsewhere", &elsewhere),
        &[&expected[..], &["(process "]].concat(),
    )?;
    ensure!(epoch()? == before, "node 1 registered again");
    Ok(())
}

#[test]
fn a_key_file_that_cannot_be_used_is_never_overwritten() -> Result<()> {
    let world = World::new(1)?;
    let key_file = |case: &str| -> Result<std::path::PathBuf> {
        // A good one first, from a start that has nothing to do but to make it.
        let state = world.dir().join(case);
        let log = world.dir().join(format!("{case}.log"));
        let _agent: Process = launch(&world, case, &[]).start(&log)?;
        let (path, _) = world.wait("the key file", PATIENCE, || {
            let entries = fs::read_dir(&state)?.filter_map(|entry| Some(entry.ok()?.path()));
            let is_key = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "key");
            entries.into_iter().find(is_key).context("no *.key file in the state directory")
        })?;
        Ok(path)
    };
    let unharmed = |case: &str, path: &Path, content: &[u8]| -> Result<()> {
        let name = path.display().to_string();
        fails(case, &launch(&world, case, &[]), &[&name])?;
        ensure!(fs::read(path)? == content, "case `{case}`: the key file was changed");
        Ok(())
    };

    let path = key_file("corrupt")?;
    fs::write(&path, b"not a key\n")?;
    unharmed("corrupt", &path, b"not a key\n")?;

    let path = key_file("empty")?;
    fs::write(&path, b"")?;
    unharmed("empty", &path, b"")?;

    let path = key_file("readable-by-all")?;
    let content = fs::read(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    unharmed("readable-by-all", &path, &content)?;

    let path = key_file("unreadable")?;
    fs::remove_file(&path)?;
    fs::create_dir(&path)?;
    let name = path.display().to_string();
    fails("unreadable", &launch(&world, "unreadable", &[]), &[&name])?;
    ensure!(path.is_dir(), "what was in the key file's place was replaced");
    Ok(())
}

/// These do not end: the agent waits, and says what it waits for.
#[test]
fn without_a_token_or_with_two_the_agent_says_what_the_operator_must_do() -> Result<()> {
    let mut world = World::new(2)?;
    world.node_mut(1).start()?;
    let status = waiting(&world, 1, MembershipState::NoToken)?;
    let hint = status.own.membership_hint.context("no hint")?;
    let (instance, contract) = (world.instance(1)?, world.contract());
    ensure!(hint.starts_with("meshctl mint --instance ") && hint.contains(&instance), "the hint is no command: {hint}");
    ensure!(hint.to_lowercase().contains(&contract.to_lowercase()), "the hint does not name the contract: {hint}");
    world.wait("the log to name the command", PATIENCE, || {
        ensure!(world.node(1).log().contains("meshctl mint"), "it does not");
        Ok(())
    })?;
    ensure!(!status.verdict.ready, "without membership a node is not ready");

    // A second token for an instance is not minted for it: it is bound to it later.
    let unbound = world.operate(&["mint", "--to", OPERATOR])?;
    let unbound = u32::try_from(unbound["token_id"].as_u64().context("`meshctl mint` printed no token_id")?)?;
    let two = [world.mint(2)?, unbound];
    world.operate(&["bind", &unbound.to_string(), "--instance", &world.instance(2)?])?;
    world.fund(2)?;
    world.node_mut(2).start()?;
    let hint = waiting(&world, 2, MembershipState::Ambiguous)?.own.membership_hint.context("no hint")?;
    for token in &two {
        ensure!(hint.contains(&format!("--token {token}")), "the hint does not list token {token}: {hint}");
    }
    let payer = world.member_address(2)?;
    ensure!(world.chain.transaction_count(&payer)? == 0, "it registered although the token was ambiguous");

    // The hint is right: with the token it joins, and the first one joins as soon as it has one.
    world.node_mut(2).stop()?;
    world.node_mut(2).settings.extra = vec!["--token".to_owned(), two[1].to_string()];
    world.node_mut(2).start()?;
    world.fund(1)?;
    world.operate(&["mint", "--to", OPERATOR, "--instance", &instance])?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    ensure!(world.node(2).token()? == two[1], "it took the other token");
    Ok(())
}

fn waiting(world: &World, node: usize, state: MembershipState) -> Result<Status> {
    let (status, _) = world.wait(&format!("node {node} to say {state:?}"), PATIENCE, || {
        let status = world.node(node).status()?;
        ensure!(status.own.membership == state, "it says {:?}", status.own.membership);
        Ok(status)
    })?;
    Ok(status)
}

/// A guest agent whose KMS root the contract does not know: the agent cannot tell before it asks the contract, and waits.
#[test]
fn under_a_kms_root_that_the_contract_does_not_trust_the_agent_says_so() -> Result<()> {
    let mut world = World::new(1)?;
    let app_id = world.simulator().announcement.app_id.clone();
    let stranger = world.faulty_simulator("wrong-root", &app_id)?;
    world.node_mut(1).settings.dstack_socket = stranger.instance(1)?.dstack_sock.clone();
    world.join(1)?;
    let (root, _) = world.wait("node 1 to say that its root is not trusted", PATIENCE, || {
        let status = world.node(1).status()?;
        ensure!(status.own.membership == MembershipState::Registering, "it says {:?}", status.own.membership);
        let root = status.own.identity.kms_root.to_string();
        let said = format!("{:?}", status.warnings);
        ensure!(said.contains(&root), "no warning names {root}: {said}");
        Ok(root)
    })?;
    ensure!(root != world.simulator().announcement.kms_root, "the guest agent has the right root after all");
    ensure!(!world.node(1).has_interface()?, "a node that is no peer has an interface");
    let payer = world.member_address(1)?;
    ensure!(world.chain.transaction_count(&payer)? == 0, "it paid for a transaction that had to fail");
    Ok(())
}

/// Another program on the agent's UDP port.
fn occupy_port(world: &World) -> Result<Process> {
    let log = world.dir().join("occupant.log");
    let launch = world.node(1).namespace.launch(&world.binaries().traffic).args(["serve", "0.0.0.0:51821"]);
    let occupant = launch.start(&log)?;
    world.wait("the port to be taken", PATIENCE, || {
        ensure!(occupant.log().contains("serving"), "not yet");
        Ok(())
    })?;
    Ok(occupant)
}
