//! Much data over one connection, and a connection that is kept for later.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use netns_tests::Rng;

use super::connect;

const CHUNK: usize = 64 * 1024;
const MIB: u64 = 1 << 20;

/// Sends so many MiB, evenly over `lasting` or as fast as it goes, and wants the same bytes back.
pub(crate) fn transfer(address: SocketAddr, mebibytes: u64, lasting: Duration) -> Result<()> {
    exchange(connect(address)?, mebibytes * MIB, lasting)?;
    println!("transferred {mebibytes}");
    Ok(())
}

/// Connects and says nothing more until there is a line on standard input; then as [`transfer`].
pub(crate) fn idle(address: SocketAddr) -> Result<()> {
    let connection = connect(address)?;
    println!("idle");
    io::stdin().lock().read_line(&mut String::new())?;
    exchange(connection, MIB, Duration::ZERO)?;
    println!("transferred 1");
    Ok(())
}

/// Rng bytes go out and have to come back as they were.
fn exchange(mut connection: TcpStream, length: u64, lasting: Duration) -> Result<()> {
    let mut writer = connection.try_clone()?;
    let writing = thread::spawn(move || -> io::Result<()> {
        let (mut bytes, start) = (Rng::new(1), Instant::now());
        for sent in (0..length).step_by(CHUNK) {
            writer.write_all(&chunk(&mut bytes))?;
            // Behind its time it does not wait.
            let due = lasting.mul_f64(sent as f64 / length as f64);
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
        Ok(())
    });
    let (mut bytes, mut got) = (Rng::new(1), vec![0; CHUNK]);
    for at in (0..length).step_by(CHUNK) {
        connection.read_exact(&mut got).with_context(|| format!("the connection broke after {at} bytes"))?;
        ensure!(got == chunk(&mut bytes), "other bytes came back after {at}");
    }
    writing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?.context("write")
}

/// The next bytes of what is the same at both ends.
fn chunk(random: &mut Rng) -> Vec<u8> {
    (0..CHUNK / 8).flat_map(|_| random.number().to_le_bytes()).collect()
}
