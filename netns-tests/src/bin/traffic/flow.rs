//! Flows that show how long nothing got through.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Result, ensure};

use super::{connected, echo};

/// Time between two messages.
pub(crate) const BEAT: Duration = Duration::from_millis(10);
/// Lengths of datagrams with even and with odd numbers: one passes wherever anything does, one needs a whole path.
const DATAGRAMS: [usize; 2] = [64, 1200];
/// Bytes of a message of the TCP flow.
pub(crate) const MESSAGE: usize = 1000;

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
