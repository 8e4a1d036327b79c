//! One stream: TLS in which datagrams go both ways, from the first bytes to the last. One task reads, another writes.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use mesh_core::id::TokenId;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf, split},
    net::TcpStream,
    sync::mpsc::UnboundedSender,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Device, Inbound, Limits, Trouble,
    frame::{Decoder, KEEPALIVE, MAX_DATAGRAM},
    queue::{Bounds, Queue},
    run::Event,
};

/// The first bytes that each side says: what this is, and its version. Nothing of who speaks: a name here would be a claim, and
/// WireGuard's packets name their sender by what only he can make. The side that listens says it second, so that whoever
/// says something else hears nothing.
pub(super) const HELLO: [u8; 8] = *b"p2pmesh\x01";
/// What the kernel holds unsent. The rest waits where the oldest can be dropped.
const UNSENT: u32 = 128 << 10;
/// BBR sends at the rate that it has seen arrive, and takes the pauses of those who send by the tunnel for that of the path: it was
/// measured to hold data back for 2 to 4 ms that an idle path would have taken at once. And every ten seconds it is all but silent
/// for a fifth of one, to measure again. Whoever sends by the tunnel looks after congestion himself, by BBR if he likes.
const PACED: &[u8] = b"bbr";
/// What Linux takes unless somebody chooses.
const UNPACED: &[u8] = b"cubic";
/// What is read at once below TLS, which by itself would read 4 KiB for each system call.
const READ: usize = 32 << 10;
/// Datagrams that a stream may bring before one of them proves a peer.
const UNPROVED_DATAGRAMS: u64 = 256;

/// Names a stream in this process; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(super) u64);

/// What a packet that came by a stream proves of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// It is the peer's, and no replay. Somebody may have caught it elsewhere and brought it here.
    Data,
    /// It is the peer's answer to something that went by this stream alone: who sends by it reaches the peer.
    RoundTrip,
}

/// One stream, as its users hold it.
#[derive(Debug)]
pub struct Stream {
    id: StreamId,
    /// Whom this side called; `None` where the other side did.
    dialed: Option<TokenId>,
    queue: Queue,
    proof: OnceLock<TokenId>,
    /// That peer has answered on it.
    is_answered: AtomicBool,
    traffic: Traffic,
    events: UnboundedSender<Event>,
}

#[derive(Debug, Default)]
struct Traffic {
    received: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

/// What a stream has carried so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Datagrams that came.
    pub received: u64,
    /// Bytes that came, lengths and keepalives included.
    pub received_bytes: u64,
    /// Bytes given to TLS, lengths and keepalives included.
    pub sent_bytes: u64,
    /// Datagrams that were to be sent and were dropped.
    pub dropped: u64,
}

impl Stream {
    pub(super) fn new(id: StreamId, dialed: Option<TokenId>, limits: &Limits, events: UnboundedSender<Event>) -> Self {
        let bounds = Bounds { bytes: limits.queue.max(2 + MAX_DATAGRAM), age: limits.queue_age };
        let queue = Queue::new(bounds);
        let (proof, is_answered) = (OnceLock::new(), AtomicBool::new(false));
        Self { id, dialed, queue, proof, is_answered, traffic: Traffic::default(), events }
    }

    /// Its name in logs.
    #[must_use]
    pub const fn id(&self) -> StreamId {
        self.id
    }

    /// The peer that this side called on it; `None` where the other side called.
    #[must_use]
    pub const fn dialed(&self) -> Option<TokenId> {
        self.dialed
    }

    /// The peer that proved itself on it.
    #[must_use]
    pub fn peer(&self) -> Option<TokenId> {
        self.proof.get().copied()
    }

    /// Queues a datagram of 1 to 65,535 bytes. Never waits: when more waits than the stream takes, the oldest is dropped. `false`
    /// if it is over: the device was, or is about to be, told of another or of none, and nothing is lost if it looks again.
    #[must_use = "a stream that is over takes nothing"]
    pub fn send(&self, datagram: &[u8]) -> bool {
        self.queue.push(datagram, datagram.len())
    }

    /// The same for a run of datagrams that lie behind each other, each `segment` bytes long but the last, which may be shorter.
    #[must_use = "a stream that is over takes nothing"]
    pub fn send_run(&self, datagrams: &[u8], segment: usize) -> bool {
        self.queue.push(datagrams, segment)
    }

    /// Queues one datagram that is written before all others, and dropped only for its like: one on which it hangs whether the
    /// stream is taken for any good. There is room for a few.
    #[must_use = "a stream that is over takes nothing"]
    pub fn send_first(&self, datagram: &[u8]) -> bool {
        self.queue.push_first(datagram)
    }

    /// A packet that came by it was authenticated as that peer's, and is no replay. The device may say so for each such packet: the
    /// first one counts and the first answer of the same peer, and the others cost a look at memory.
    pub fn prove(&self, peer: TokenId, proof: Proof) {
        let is_first = self.proof.get().is_none() && self.proof.set(peer).is_ok();
        let is_answer = proof == Proof::RoundTrip
            && self.proof.get() == Some(&peer)
            && !self.is_answered.swap(true, Ordering::Relaxed);
        if is_first || is_answer {
            // Nobody is there to hear it when everything stops.
            drop(self.events.send(Event::Proved(self.id, peer, proof)));
        }
    }

    /// What it has carried.
    #[must_use]
    pub fn carried(&self) -> Carried {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Carried {
            received: count(&self.traffic.received),
            received_bytes: count(&self.traffic.received_bytes),
            sent_bytes: count(&self.traffic.sent_bytes),
            dropped: self.queue.dropped(),
        }
    }

    /// Writes what waits, then closes its direction; the other one stays open until the other side closes it.
    pub(super) fn finish(&self) {
        self.queue.finish();
    }
}

/// A TCP connection made ready: small packets at once, little unsent in the kernel, dead ones found out, and none paced.
pub(super) fn prepare(tcp: TcpStream, limits: &Limits) -> io::Result<BufReader<TcpStream>> {
    tcp.set_nodelay(true)?;
    let socket = socket2::SockRef::from(&tcp);
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_tcp_user_timeout(Some(limits.stall))?;
    if socket.tcp_congestion().is_ok_and(|name| name.starts_with(PACED)) {
        // A machine that does not let us choose is slower, no more.
        drop(socket.set_tcp_congestion(UNPACED));
    }
    Ok(BufReader::with_capacity(READ, tcp))
}

/// Says hello as the side that called, and hears it.
pub(super) async fn greet_first<T: AsyncRead + AsyncWrite + Unpin>(tls: &mut T) -> Result<(), Trouble> {
    say_hello(tls).await?;
    hear_hello(tls).await
}

/// Hears hello as the side that was called, and says it.
pub(super) async fn greet_second<T: AsyncRead + AsyncWrite + Unpin>(tls: &mut T) -> Result<(), Trouble> {
    hear_hello(tls).await?;
    say_hello(tls).await
}

async fn say_hello<T: AsyncWrite + Unpin>(tls: &mut T) -> Result<(), Trouble> {
    tls.write_all(&HELLO).await.map_err(broken)?;
    tls.flush().await.map_err(broken)
}

async fn hear_hello<T: AsyncRead + Unpin>(tls: &mut T) -> Result<(), Trouble> {
    let mut heard = [0; HELLO.len()];
    match tls.read_exact(&mut heard).await {
        Ok(_) if heard == HELLO => Ok(()),
        Ok(_) => Err(Trouble::NoHello),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Trouble::NoHello),
        Err(error) => Err(broken(error)),
    }
}

/// Carries datagrams until the stream ends, and says why it did.
pub(super) async fn carry<T: AsyncRead + AsyncWrite + Send + 'static>(
    stream: &Arc<Stream>,
    tls: T,
    limits: &Limits,
    device: &dyn Device,
) -> Trouble {
    let (from, to) = split(tls);
    let mut writer = Writer { task: tokio::spawn(write(Arc::clone(stream), to, *limits)), is_through: false };
    let trouble = tokio::select! {
        trouble = read(stream, from, limits, device.inbound(stream)) => trouble,
        trouble = writer.failed() => trouble,
    };
    stream.finish();
    if trouble == Trouble::Closed {
        // The other side may still take what waits.
        drop(timeout(limits.stall, writer.ended()).await);
    }
    trouble
}

async fn read<T: AsyncRead>(
    stream: &Arc<Stream>,
    mut from: ReadHalf<T>,
    limits: &Limits,
    mut inbound: Box<dyn Inbound>,
) -> Trouble {
    let prove_by = Instant::now() + limits.proof;
    let mut decoder = Decoder::new();
    let mut unproved = 0;
    loop {
        let is_unproved = stream.dialed.is_none() && stream.proof.get().is_none();
        let quiet_by = Instant::now() + limits.silence;
        let until = if is_unproved { prove_by.min(quiet_by) } else { quiet_by };
        let bytes = match timeout_at(until, from.read(decoder.space())).await {
            Err(_) if is_unproved => return Trouble::Unproved,
            Err(_) => return Trouble::Silent(limits.silence),
            Ok(Ok(0)) => return Trouble::Closed,
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return broken(error),
        };
        decoder.filled(bytes);
        stream.traffic.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        loop {
            let mut datagrams = decoder.datagrams();
            let count = datagrams.count() as u64;
            if count == 0 {
                break;
            }
            inbound.receive(&mut datagrams);
            stream.traffic.received.fetch_add(count, Ordering::Relaxed);
            if is_unproved {
                unproved += count;
                if stream.proof.get().is_none() && unproved > UNPROVED_DATAGRAMS {
                    return Trouble::Unproved;
                }
            }
        }
        // One that drips keepalives is never quiet.
        if is_unproved && stream.proof.get().is_none() && Instant::now() >= prove_by {
            return Trouble::Unproved;
        }
    }
}

async fn write<T: AsyncWrite>(stream: Arc<Stream>, mut to: WriteHalf<T>, limits: Limits) -> Result<(), Trouble> {
    let mut batch = Vec::new();
    loop {
        let is_open = match timeout(limits.keepalive, stream.queue.take(&mut batch)).await {
            Ok(is_open) => is_open,
            Err(_) => {
                stream.queue.rest();
                batch = KEEPALIVE.to_vec();
                true
            }
        };
        let written = timeout(limits.stall, async {
            if !is_open {
                return to.shutdown().await;
            }
            to.write_all(&batch).await?;
            // TLS holds what the socket does not take.
            to.flush().await
        });
        match written.await {
            Err(_) => return Err(Trouble::Stalled(limits.stall)),
            Ok(Err(error)) => return Err(broken(error)),
            Ok(Ok(())) if !is_open => return Ok(()),
            Ok(Ok(())) => {}
        }
        stream.traffic.sent_bytes.fetch_add(batch.len() as u64, Ordering::Relaxed);
    }
}

/// The task that writes, gone with this.
struct Writer {
    task: JoinHandle<Result<(), Trouble>>,
    is_through: bool,
}

impl Writer {
    /// Returns when it failed; not when it did what it should and is through.
    async fn failed(&mut self) -> Trouble {
        match self.ended().await {
            Ok(()) => std::future::pending().await,
            Err(trouble) => trouble,
        }
    }

    async fn ended(&mut self) -> Result<(), Trouble> {
        if self.is_through {
            return Ok(());
        }
        let ended = (&mut self.task).await;
        self.is_through = true;
        ended.unwrap_or_else(|error| Err(Trouble::Broken(format!("its writer ended: {error}"))))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn broken(error: io::Error) -> Trouble {
    Trouble::Broken(error.to_string())
}

#[cfg(test)]
mod tests;
