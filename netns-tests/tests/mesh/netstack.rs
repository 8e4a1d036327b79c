//! A WireGuard node without privileges and without an interface, in one mesh with a node that has one.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_core::status::VerdictState;
use netns_tests::{NetstackAgent, Node, World, has_only_capabilities};

use crate::PATIENCE;

const PROXY: &str = "127.0.0.1:1080";
const FORWARD: &str = "127.0.0.1:7000";
const EXPOSED: u16 = 9000;
const HIDDEN: u16 = 9001;
const BYTES: usize = 4 << 20;

/// Sends back what comes, until the end of that, and then ends too.
fn echo(node: &Node, at: SocketAddr) -> Result<()> {
    let listener = node.namespace.within(|| TcpListener::bind(at)).with_context(|| format!("listen at {at}"))?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut back = stream.try_clone()?;
                std::io::copy(&mut stream, &mut back)?;
                back.shutdown(Shutdown::Write)
            });
        }
    });
    Ok(())
}

fn connect(node: &Node, to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = node.namespace.within(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Both halves at once, each to its end.
fn exchange(stream: TcpStream) -> Result<()> {
    let sent: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
    let (mut writer, mut reader) = (stream.try_clone()?, stream);
    let mut received = Vec::new();
    thread::scope(|scope| {
        let written = scope.spawn(|| writer.write_all(&sent).and_then(|()| writer.shutdown(Shutdown::Write)));
        reader.read_to_end(&mut received)?;
        written.join().unwrap_or_else(|_| Err(ErrorKind::Other.into()))
    })?;
    ensure!(received == sent, "{} of {BYTES} bytes came back, or others", received.len());
    Ok(())
}

/// A SOCKS5 client (RFC 1928); the reply's code where the proxy refuses.
fn by_socks(node: &Node, to: Ipv4Addr, port: u16) -> Result<Result<TcpStream, u8>> {
    let mut stream = connect(node, PROXY.parse()?)?;
    let [high, low] = port.to_be_bytes();
    let [a, b, c, d] = to.octets();
    stream.write_all(&[5, 1, 0])?;
    let mut method = [0; 2];
    stream.read_exact(&mut method)?;
    ensure!(method == [5, 0], "{method:?}");
    stream.write_all(&[5, 1, 0, 1, a, b, c, d, high, low])?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    Ok(if reply[1] == 0 { Ok(stream) } else { Err(reply[1]) })
}

#[test]
fn a_node_without_privileges_is_a_member_like_the_others() -> Result<()> {
    let mut world = World::new(2)?;
    world.join(1)?;
    world.mint(2)?;
    world.fund(2)?;
    let exposed = EXPOSED.to_string();
    // No tunnel is named: it has to find out by itself that it may have no TUN device.
    let agent = NetstackAgent::start(
        &world,
        2,
        &["--proxy", PROXY, "--forward", &format!("{FORWARD}=node-1"), "--expose", &exposed],
    )?;
    world.wait_ready(1, PATIENCE)?;
    let status = world.wait_ready(2, PATIENCE)?;
    ensure!(status.agent.dataplane.starts_with("netstack: "), "{}", status.agent.dataplane);
    has_only_capabilities(agent.pid(), 0)?;
    ensure!(!world.node(2).has_interface()?, "it made an interface");
    let [near, far] = [1, 2].map(|node| world.node(node));
    let (near_address, far_address) = (near.address()?, far.address()?);
    // An echo, which the stack answers.
    world.wait_echo(1, far_address, PATIENCE)?;

    echo(near, SocketAddr::from((near_address, 7000)))?;
    exchange(connect(far, FORWARD.parse()?)?).context("by the forward")?;
    match by_socks(far, near_address, 7000)? {
        Ok(stream) => exchange(stream).context("by SOCKS5")?,
        Err(code) => bail!("the proxy refused with {code}"),
    }
    let refused = by_socks(far, near_address, 7001)?.err();
    ensure!(refused == Some(5), "a port where nothing listens is refused, not {refused:?}");
    let outside = by_socks(far, Ipv4Addr::new(192, 0, 2, 1), 80)?.err();
    ensure!(outside.is_some(), "what is outside of the mesh was reached by the proxy");

    for port in [EXPOSED, HIDDEN] {
        echo(far, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    }
    exchange(connect(near, (far_address, EXPOSED).into())?).context("to the exposed port")?;
    let hidden = connect(near, (far_address, HIDDEN).into()).map_err(|error| error.kind());
    ensure!(matches!(hidden, Err(ErrorKind::ConnectionRefused)), "what was not named is exposed: {hidden:?}");

    // What is open when it is revoked carries nothing any more.
    let mut open = connect(near, (far_address, EXPOSED).into())?;
    open.write_all(b"before")?;
    open.read_exact(&mut [0; 6])?;
    world.operate(&["revoke", "2"])?;
    world.wait("node 2 to be fenced", PATIENCE, || {
        let status = far.status()?;
        ensure!(status.verdict.state == VerdictState::Fenced, "{:?}", status.verdict);
        ensure!(near.device_peers()?.is_empty(), "node 1 still has it as a peer");
        Ok(())
    })?;
    open.set_read_timeout(Some(Duration::from_secs(1)))?;
    // It may be reset, or have no answer.
    let _ = open.write_all(b"after");
    ensure!(!matches!(open.read(&mut [0; 5]), Ok(1..)), "a revoked node answers");
    ensure!(by_socks(far, near_address, 7000)?.is_err(), "a revoked node reaches a member");
    agent.stop()?;
    world.close()
}
