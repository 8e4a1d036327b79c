//! Sockets of the kernel through the tunnel: TCP in both directions, and UDP with one and with many datagrams in a call.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU8;
use std::thread;

use mesh_tunnel::Offloads;

use testkit::{Namespace, Rng};

use crate::lab::{Kind, Node, Switch, join};
use crate::patience::{DEADLINE, eventually, uninterrupted};
use crate::tap::set_option;
use crate::traffic::MTU;

/// Bytes of each TCP stream: an odd number.
pub(crate) const STREAM: usize = (8 << 20) + 4321;

/// Random bytes that repeat with a period that is no multiple of any packet's length.
struct Text {
    page: Vec<u8>,
    at: usize,
}

impl Text {
    fn new(seed: u64) -> Self {
        Self { page: Rng::new(seed).bytes(65_521), at: 0 }
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let (page, at) = (&self.page, self.at);
        self.at += len;
        (at..at + len).map(|at| page[at % page.len()] ^ (at / page.len()) as u8).collect()
    }
}

/// Sends one text and receives another, both to the end, and checks every byte that arrives.
fn converse(mut stream: TcpStream, [to_send, to_receive]: [usize; 2], sends: u64, receives: u64) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut text, mut left, mut rng) = (Text::new(sends), to_send, Rng::new(sends));
            while left > 0 {
                let piece = left.min(1 + rng.below(100_000));
                writer.write_all(&text.take(piece)).unwrap();
                left -= piece;
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let (mut text, mut buffer, mut left) = (Text::new(receives), vec![0; 1 << 16], to_receive);
        loop {
            let got = uninterrupted(|| stream.read(&mut buffer)).unwrap();
            if got == 0 {
                break;
            }
            assert!(
                got <= left && text.take(got) == buffer[..got],
                "bytes differ from those sent, {left} before the end"
            );
            left -= got;
        }
        assert_eq!(left, 0, "the stream ended early");
    });
}

/// A TCP connection from one address to the other that carries so many bytes in both directions at once.
#[track_caller]
pub(crate) fn transfer(a: &Namespace, from: IpAddr, b: &Namespace, to: IpAddr, len: usize) {
    exchange(a, from, b, to, [len, len]);
}

/// The same with different numbers of bytes in the two directions.
#[track_caller]
pub(crate) fn exchange(a: &Namespace, from: IpAddr, b: &Namespace, to: IpAddr, [there, back]: [usize; 2]) {
    let listener = b.within(|| TcpListener::bind((to, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    // The test does not wait for ever for a connection that does not come.
    listener.set_nonblocking(true).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let stream = eventually("a connection comes", || listener.accept().ok()).0;
            stream.set_nonblocking(false).unwrap();
            converse(stream, [back, there], 1, 2);
        });
        let stream = a.within(|| TcpStream::connect_timeout(&address, DEADLINE)).unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), from);
        converse(stream, [there, back], 2, 1);
    });
}

fn families(a: &Node, b: &Node) -> [(IpAddr, IpAddr); 2] {
    [(a.inner4(), b.inner4()), (a.inner6(), b.inner6())]
}

#[track_caller]
fn streams_are_whole(a: &Node, b: &Node) {
    join(a, b);
    for (here, there) in families(a, b) {
        transfer(&a.host, here, &b.host, there, STREAM);
    }
}

#[test]
fn streams_are_whole_in_both_directions() {
    let switch = Switch::new();
    streams_are_whole(&switch.node(1, Kind::Ours), &switch.node(2, Kind::Ours));
}

#[test]
fn streams_are_whole_without_offloads_and_over_two_threads() {
    let switch = Switch::new();
    let bare = switch.node_with(1, |options| options.offloads = Offloads::NONE);
    let two = switch.node_with(2, |options| options.threads = NonZeroU8::new(2).unwrap());
    streams_are_whole(&bare, &two);
}

#[test]
fn streams_are_whole_to_and_from_wireguard_go() {
    let switch = Switch::new();
    streams_are_whole(&switch.node(1, Kind::Ours), &switch.node(2, Kind::WireguardGo));
}

/// A pair of UDP sockets; the second has room for everything that the first may send before it is read.
fn sockets(a: &Node, from: IpAddr, b: &Node, to: IpAddr) -> (UdpSocket, UdpSocket) {
    let sender = a.host.within(|| UdpSocket::bind((from, 0))).unwrap();
    let receiver = b.host.within(|| UdpSocket::bind((to, 0))).unwrap();
    receiver.set_read_timeout(Some(DEADLINE)).unwrap();
    set_option(&receiver, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 8 << 20);
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    (sender, receiver)
}

#[track_caller]
fn expect(receiver: &UdpSocket, from: SocketAddr, datagram: &[u8]) {
    let mut buffer = [0; 2048];
    let (len, source) = uninterrupted(|| receiver.recv_from(&mut buffer)).expect("a datagram did not arrive");
    assert_eq!(source, from);
    assert!(buffer[..len] == *datagram, "{len} bytes arrived, {} were sent, or they differ", datagram.len());
}

fn longest(from: IpAddr) -> usize {
    MTU - if from.is_ipv4() { 28 } else { 48 }
}

/// `UDP_SEGMENT`: one call sends many datagrams, which arrive one by one.
#[test]
fn datagrams_sent_many_in_a_call_arrive() {
    let switch = Switch::new();
    let whole = switch.node(1, Kind::Ours);
    let others = [
        switch.node(2, Kind::Ours),
        switch.node(3, Kind::WireguardGo),
        switch.node_with(4, |options| options.offloads = Offloads::ALL.without("tun_uso").unwrap()),
        switch.node_with(5, |options| options.offloads = Offloads::NONE),
    ];
    for other in &others {
        join(&whole, other);
        for (a, b) in [(&whole, other), (other, &whole)] {
            for (from, to) in families(a, b) {
                let (sender, receiver) = sockets(a, from, b, to);
                let mut rng = Rng::new(u64::from(b.number));
                for (size, count) in [(1, 60), (100, 60), (longest(from) - 1, 45), (longest(from), 45), (777, 2)] {
                    set_option(&sender, libc::SOL_UDP, libc::UDP_SEGMENT, size as libc::c_int);
                    // The last one is shorter, a single byte, or as long as the others.
                    for last in [size.div_ceil(2), 1, size] {
                        let all = rng.bytes(size * (count - 1) + last);
                        assert_eq!(sender.send(&all).unwrap(), all.len());
                        for datagram in all.chunks(size) {
                            expect(&receiver, sender.local_addr().unwrap(), datagram);
                        }
                    }
                }
            }
        }
    }
}

/// Datagrams of all lengths, also empty ones, each sent by its own call.
#[test]
fn bursts_of_datagrams_arrive() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    for (number, kind) in [(2, Kind::WireguardGo), (3, Kind::Ours)] {
        let them = switch.node(number, kind);
        join(&us, &them);
        for (a, b) in [(&us, &them), (&them, &us)] {
            for (from, to) in families(a, b) {
                let (sender, receiver) = sockets(a, from, b, to);
                let mut rng = Rng::new(7);
                for burst in 0..5 {
                    let of_one_length = rng.below(longest(from) + 1);
                    let mut datagram = || {
                        let len = if burst % 2 == 0 { of_one_length } else { rng.below(longest(from) + 1) };
                        rng.bytes(len)
                    };
                    let datagrams: Vec<_> = (0..40).map(|_| datagram()).collect();
                    for datagram in &datagrams {
                        sender.send(datagram).unwrap();
                    }
                    for datagram in &datagrams {
                        expect(&receiver, sender.local_addr().unwrap(), datagram);
                    }
                }
            }
        }
    }
}
