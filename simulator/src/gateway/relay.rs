//! Bytes between a client and an instance, in both directions, with little held and an end to waiting.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep, timeout};

use super::connection::End;
use super::limits::Limits;

/// What has moved on one connection, and when something last did.
pub(super) struct Traffic {
    began: Instant,
    /// Microseconds after `began`.
    moved: AtomicU64,
    to_instance: AtomicU64,
    to_client: AtomicU64,
}

impl Default for Traffic {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self { began: Instant::now(), moved: zero(), to_instance: zero(), to_client: zero() }
    }
}

impl Traffic {
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn to_instance(&self) -> u64 {
        self.to_instance.load(Ordering::Relaxed)
    }

    pub(super) fn to_client(&self) -> u64 {
        self.to_client.load(Ordering::Relaxed)
    }

    fn touch(&self) {
        let micros = u64::try_from(self.age().as_micros()).unwrap_or(u64::MAX);
        self.moved.store(micros, Ordering::Relaxed);
    }

    /// Returns once nothing has moved for so long.
    async fn quiet_for(&self, limit: Duration) {
        loop {
            let moved = Duration::from_micros(self.moved.load(Ordering::Relaxed));
            let left = (moved + limit).saturating_sub(self.age());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

/// Carries bytes both ways, `hello` first, until both sides have ended their direction: each one's FIN is passed on, and
/// the other direction goes on.
pub(super) async fn relay(
    mut client: TcpStream,
    mut instance: TcpStream,
    hello: Vec<u8>,
    limits: &Limits,
    traffic: &Traffic,
) -> Result<(), End> {
    let (from_client, to_client) = client.split();
    let (from_instance, to_instance) = instance.split();
    let lane = |to, moved| Lane { to, moved, traffic, stall: limits.write_stall, buffer: limits.buffer };
    let (up, down) = (lane(to_instance, &traffic.to_instance), lane(to_client, &traffic.to_client));
    traffic.touch();
    let both = async {
        tokio::try_join!(up.carry(hello, from_client), down.carry(Vec::new(), from_instance))?;
        Ok(())
    };
    tokio::select! {
        ended = both => ended,
        () = traffic.quiet_for(limits.idle) => Err(End::Idle),
    }
}

/// One direction.
struct Lane<'a> {
    to: WriteHalf<'a>,
    moved: &'a AtomicU64,
    traffic: &'a Traffic,
    stall: Duration,
    buffer: NonZeroUsize,
}

impl Lane<'_> {
    /// Nothing is read while the last that was read is not written: a receiver slows its sender.
    async fn carry(mut self, first: Vec<u8>, mut from: ReadHalf<'_>) -> Result<(), End> {
        self.write(&first).await?;
        let mut buffer = vec![0; self.buffer.get()];
        loop {
            let read = from.read(&mut buffer).await?;
            self.traffic.touch();
            if read == 0 {
                return Ok(self.to.shutdown().await?);
            }
            self.write(&buffer[..read]).await?;
        }
    }

    async fn write(&self, mut bytes: &[u8]) -> Result<(), End> {
        while !bytes.is_empty() {
            match self.to.try_write(bytes) {
                Ok(written) => {
                    self.moved.fetch_add(written as u64, Ordering::Relaxed);
                    self.traffic.touch();
                    bytes = &bytes[written..];
                }
                // A timer is made only where there is something to wait for.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    timeout(self.stall, self.to.writable()).await.map_err(|_| End::Stalled)??;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
