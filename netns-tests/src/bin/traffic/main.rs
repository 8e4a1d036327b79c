//! Applications in a node: echo servers, and clients that never pause.
#![expect(clippy::print_stdout, reason = "its output is what the tests read")]

mod flow;
mod transfer;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use netns_tests::uninterrupted;

/// Time between two messages of a stream.
const BEAT: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);
/// Without an echo until then a datagram was lost, however slow the machine.
const LOST: Duration = Duration::from_secs(10);

#[derive(Parser)]
enum Command {
    /// Echoes TCP and UDP.
    Serve { address: SocketAddr },
    /// Sends 64 KiB and wants them back.
    TcpOnce { address: SocketAddr },
    /// Sends 20 datagrams one after the other and wants each back.
    UdpOnce { address: SocketAddr },
    /// Sends a number every 20 ms over one connection and prints `echo <unix ms> <number>` when it comes back.
    TcpStream { address: SocketAddr },
    /// The same with datagrams, which may be lost.
    UdpStream { address: SocketAddr },
    /// Sends datagrams for ever whatever the system says, and prints how many it sent and how many were refused.
    UdpFlood { address: SocketAddr },
    /// Sends datagrams every 10 ms, short and long by turns, and prints `echo <unix ms> <number>` when one comes back.
    UdpFlow { address: SocketAddr },
    /// The same over one connection.
    TcpFlow { address: SocketAddr },
    /// Sends so much in about so long and wants it back.
    Transfer { address: SocketAddr, mebibytes: u64, seconds: u64 },
    /// Connects, waits for a line on standard input, and then sends 1 MiB and wants it back.
    Idle { address: SocketAddr },
    /// A STUN server, which tells each client its address.
    Stun { address: SocketAddr },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Serve { address } => serve(address),
        Command::TcpOnce { address } => tcp_once(address),
        Command::UdpOnce { address } => udp_once(address),
        Command::TcpStream { address } => tcp_messages::<8>(address, BEAT),
        Command::UdpStream { address } => udp_stream(address),
        Command::UdpFlood { address } => udp_flood(address),
        Command::UdpFlow { address } => flow::udp(address),
        Command::TcpFlow { address } => tcp_messages::<{ flow::MESSAGE }>(address, flow::BEAT),
        Command::Transfer { address, mebibytes, seconds } => {
            transfer::transfer(address, mebibytes, Duration::from_secs(seconds))
        }
        Command::Idle { address } => transfer::idle(address),
        Command::Stun { address } => netns_tests::serve_stun(address, || println!("serving")),
    }
}

fn serve(address: SocketAddr) -> Result<()> {
    let udp = UdpSocket::bind(address).with_context(|| format!("bind udp {address}"))?;
    let tcp = TcpListener::bind(address).with_context(|| format!("bind tcp {address}"))?;
    println!("serving");
    thread::spawn(move || {
        let mut datagram = [0; 65536];
        loop {
            // Errors are about one sender (its port is closed, its route is gone): the others go on.
            if let Ok((length, from)) = udp.recv_from(&mut datagram) {
                let _ = udp.send_to(&datagram[..length], from);
            }
        }
    });
    for connection in tcp.incoming() {
        let mut connection = connection?;
        thread::spawn(move || {
            connection.set_nodelay(true)?;
            let mut reader = connection.try_clone()?;
            std::io::copy(&mut reader, &mut connection)
        });
    }
    Ok(())
}

fn tcp_once(address: SocketAddr) -> Result<()> {
    let mut connection = connect(address)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let sent: Vec<u8> = (0..65536_u32).map(|i| i.to_le_bytes()[i as usize % 2]).collect();
    let mut writer = connection.try_clone()?;
    let copy = sent.clone();
    let writing = thread::spawn(move || writer.write_all(&copy));
    let mut got = vec![0; sent.len()];
    connection.read_exact(&mut got).context("read the echo")?;
    ensure!(got == sent, "the echo differs");
    writing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?.context("write")
}

fn udp_once(address: SocketAddr) -> Result<()> {
    let socket = connected(address)?;
    for number in 0..20_u64 {
        // Datagrams may be lost: three tries each.
        let mut tries = (0..3).map(|_| socket.send(&number.to_le_bytes()).is_ok() && is_echoed(&socket, number));
        ensure!(tries.any(|echoed| echoed), "datagram {number} was not echoed");
    }
    Ok(())
}

/// Whether this number comes back. What was sent twice may come twice, and late.
fn is_echoed(socket: &UdpSocket, number: u64) -> bool {
    let mut got = [0; 8];
    while uninterrupted(|| socket.recv(&mut got)).is_ok_and(|length| length == got.len()) {
        if u64::from_le_bytes(got) == number {
            return true;
        }
    }
    false
}

/// Numbered messages of `LENGTH` bytes over one connection, one in every `beat`; prints each that comes back.
fn tcp_messages<const LENGTH: usize>(address: SocketAddr, beat: Duration) -> Result<()> {
    let mut reader = connect(address)?;
    reader.set_nodelay(true)?;
    let mut writer = reader.try_clone()?;
    thread::spawn(move || {
        for number in 0_u64.. {
            let mut message = [0; LENGTH];
            message[..8].copy_from_slice(&number.to_le_bytes());
            if writer.write_all(&message).is_err() {
                break;
            }
            thread::sleep(beat);
        }
    });
    for expected in 0_u64.. {
        let mut got = [0; LENGTH];
        reader.read_exact(&mut got).context("the connection broke")?;
        ensure!(got[..8] == expected.to_le_bytes(), "the stream is corrupt");
        echo(expected);
    }
    bail!("the numbers are used up")
}

fn udp_stream(address: SocketAddr) -> Result<()> {
    let socket = connected(address)?;
    let sender = socket.try_clone()?;
    thread::spawn(move || {
        for number in 0_u64.. {
            // The route may be gone for a while: that is what is being measured.
            let _ = sender.send(&number.to_le_bytes());
            thread::sleep(BEAT);
        }
    });
    loop {
        let mut got = [0; 8];
        if socket.recv(&mut got).is_ok_and(|length| length == 8) {
            echo(u64::from_le_bytes(got));
        }
    }
}

fn udp_flood(address: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let (mut sent, mut refused, mut reported) = (0_u64, 0_u64, Instant::now());
    loop {
        match socket.send_to(b"in clear", address) {
            Ok(_) => sent += 1,
            Err(_) => refused += 1,
        }
        if reported.elapsed() >= Duration::from_millis(200) {
            reported = Instant::now();
            println!("flood {} {sent} {refused}", unix_millis());
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))
}

fn connected(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address).with_context(|| format!("no route to {address}"))?;
    socket.set_read_timeout(Some(LOST))?;
    Ok(socket)
}

fn echo(number: u64) {
    println!("echo {} {number}", unix_millis());
}

fn unix_millis() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis())
}
