//! Flows that show how long nothing got through.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{PATIENCE, connected, echo};

/// Time between two messages.
const BEAT: Duration = Duration::from_millis(10);
/// Lengths of datagrams with even and with odd numbers: one passes wherever anything does, one needs a whole path.
const DATAGRAMS: [usize; 2] = [64, 1200];
/// As long as a message of the TCP flow is.
const MESSAGE: usize = 1000;

/// Datagrams every 10 ms, short and long by turns, whatever the system says; prints each that comes back.
pub(crate) fn udp(address: SocketAddr) -> Result<()> {
    let socket = connected(address)?;
    let sender = socket.try_clone()?;
    thread::spawn(move || {
        for number in 0_u64.. {
            let mut datagram = [0; DATAGRAMS[1]];
            datagram[..8].copy_from_slice(&number.to_le_bytes());
            // The route may be gone for a while: that is what is being measured.
            let _ = sender.send(&datagram[..DATAGRAMS[(number % 2) as usize]]);
            thread::sleep(BEAT);
        }
    });
    let mut got = [0; 2048];
    loop {
        if let Ok(length) = socket.recv(&mut got)
            && let Some(number) = got.first_chunk().copied().map(u64::from_le_bytes)
        {
            ensure!(length == DATAGRAMS[(number % 2) as usize], "datagram {number} came back with {length} bytes");
            echo(number);
        }
    }
}

/// Messages every 10 ms over one connection; prints each that comes back.
pub(crate) fn tcp(address: SocketAddr) -> Result<()> {
    let connection = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))?;
    connection.set_nodelay(true)?;
    let mut reader = connection.try_clone()?;
    let mut writer = connection;
    thread::spawn(move || {
        for number in 0_u64.. {
            let mut message = [0; MESSAGE];
            message[..8].copy_from_slice(&number.to_le_bytes());
            if writer.write_all(&message).is_err() {
                break;
            }
            thread::sleep(BEAT);
        }
    });
    for expected in 0_u64.. {
        let mut got = [0; MESSAGE];
        reader.read_exact(&mut got).context("the connection broke")?;
        ensure!(got[..8] == expected.to_le_bytes(), "the stream is corrupt");
        echo(expected);
    }
    Ok(())
}
