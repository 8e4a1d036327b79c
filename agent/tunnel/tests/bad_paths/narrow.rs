//! A path that is narrower than the links of the nodes, and says nothing of it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{Kind, Node};
use crate::network::Network;
use crate::patience::{DEADLINE, eventually, uninterrupted};
use crate::relay::Onward;

/// The longest datagram that passes: of a tunnel, or an access line, whose IPv4 packets have 1400 bytes.
const LONGEST: usize = 1400 - 28;

/// Bytes of each stream.
const STREAM: usize = 4 << 20;

/// Sends a stream through the tunnel, and returns how long it took.
#[track_caller]
fn transfer(from: &Node, to: &Node, address: IpAddr) -> Duration {
    let listener = to.host.within(|| TcpListener::bind((address, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    // The test does not wait for ever for a connection that does not come.
    listener.set_nonblocking(true).unwrap();
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = eventually("a connection comes", || listener.accept().ok()).0;
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let (mut buffer, mut received) = (vec![0; 1 << 16], 0);
            loop {
                match uninterrupted(|| stream.read(&mut buffer)).expect("the stream stands still") {
                    0 => break,
                    len => received += len,
                }
            }
            assert_eq!(received, STREAM);
        });
        let mut stream = from.host.within(|| TcpStream::connect_timeout(&address, DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(&vec![7; STREAM]).expect("the stream stands still");
        stream.shutdown(Shutdown::Write).unwrap();
    });
    began.elapsed()
}

/// Longer datagrams are lost without a word, so that only the nodes can find out.
#[test]
fn streams_get_through_a_path_that_loses_long_datagrams() {
    let network = Network::new([Kind::Ours; 2]);
    let narrow = Onward { by: 0, after: Duration::from_millis(10) };
    network.carrying(
        |passing| (passing.bytes.len() <= LONGEST).then_some(narrow),
        || {
            let [server, client] = &network.nodes;
            client.reaches(server.inner4());
            for (from, to) in [(client, server), (server, client)] {
                let took = [to.inner4(), to.inner6()].map(|address| transfer(from, to, address));
                println!("measured: at most {LONGEST} bytes pass, 4 MiB to node {}: {took:.2?}", to.number);
            }
        },
    );
}
