//! One stream: TLS in which datagrams go both ways, from the first bytes to the last. One task reads, another writes.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Limits, Stream, StreamError,
    frame::{Datagrams, Decoder, KEEPALIVE},
};

/// The first bytes that each side says: what this is, and its version. Nothing of the sender's identity: a name here would be a claim,
/// and WireGuard's packets name their sender by what only it can make. The side that listens says it second, so that what says
/// something else gets no answer.
pub(super) const HELLO: [u8; 8] = *b"p2pmesh\x01";
/// Datagrams that a stream may bring before one of them proves a peer.
const UNPROVED_DATAGRAMS: u64 = 256;

/// Says hello as the side that dialed, and waits for the other's.
pub(super) async fn hello_first<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T) -> Result<(), StreamError> {
    send_hello(io).await?;
    expect_hello(io).await
}

/// Waits for the hello of the side that dialed, and says it.
pub(super) async fn hello_second<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T) -> Result<(), StreamError> {
    expect_hello(io).await?;
    send_hello(io).await
}

async fn send_hello<T: AsyncWrite + Unpin>(io: &mut T) -> Result<(), StreamError> {
    io.write_all(&HELLO).await.map_err(broken)?;
    io.flush().await.map_err(broken)
}

async fn expect_hello<T: AsyncRead + Unpin>(io: &mut T) -> Result<(), StreamError> {
    let mut said = [0; HELLO.len()];
    match io.read_exact(&mut said).await {
        Ok(_) if said == HELLO => Ok(()),
        Ok(_) => Err(StreamError::NoHello),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(StreamError::NoHello),
        Err(error) => Err(broken(error)),
    }
}

/// Carries datagrams until the stream ends, and says why it did. What comes is given to `receive`, which must not block, and says
/// by [`Stream::prove`] what it proves.
pub(crate) async fn carry<T: AsyncRead + AsyncWrite + Send + 'static>(
    stream: &Arc<Stream>,
    io: T,
    limits: &Limits,
    receive: impl FnMut(&mut Datagrams<'_>) + Send,
) -> StreamError {
    let (from, to) = split(io);
    let mut writer = Writer { task: tokio::spawn(write(Arc::clone(stream), to, *limits)), is_through: false };
    let trouble = tokio::select! {
        trouble = read(stream, from, limits, receive) => trouble,
        trouble = writer.failed() => trouble,
    };
    stream.finish();
    if trouble == StreamError::Closed {
        // The other side may still take what waits.
        drop(timeout(limits.stall, writer.ended()).await);
    }
    trouble
}

async fn read<T: AsyncRead>(
    stream: &Arc<Stream>,
    mut from: ReadHalf<T>,
    limits: &Limits,
    mut receive: impl FnMut(&mut Datagrams<'_>) + Send,
) -> StreamError {
    let prove_by = Instant::now() + limits.proof;
    let mut decoder = Decoder::new();
    let mut unproved = 0;
    loop {
        let is_unproved = !stream.is_dialed() && stream.peer().is_none();
        let quiet_by = Instant::now() + limits.silence;
        let until = if is_unproved { prove_by.min(quiet_by) } else { quiet_by };
        let bytes = match timeout_at(until, from.read(decoder.space())).await {
            Err(_) if is_unproved => return StreamError::Unproved,
            Err(_) => return StreamError::Silent(limits.silence),
            Ok(Ok(0)) => return StreamError::Closed,
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
            receive(&mut datagrams);
            stream.traffic.received.fetch_add(count, Ordering::Relaxed);
            if is_unproved {
                unproved += count;
                if stream.peer().is_none() && unproved > UNPROVED_DATAGRAMS {
                    return StreamError::Unproved;
                }
            }
        }
        // One that drips keepalives is never quiet.
        if is_unproved && stream.peer().is_none() && Instant::now() >= prove_by {
            return StreamError::Unproved;
        }
    }
}

async fn write<T: AsyncWrite>(stream: Arc<Stream>, mut to: WriteHalf<T>, limits: Limits) -> Result<(), StreamError> {
    let mut batch = Vec::new();
    loop {
        let is_open = match timeout(limits.keepalive, stream.queue.take(&mut batch)).await {
            Ok(is_open) => is_open,
            Err(_) => {
                stream.queue.shrink();
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
            Err(_) => return Err(StreamError::Stalled(limits.stall)),
            Ok(Err(error)) => return Err(broken(error)),
            Ok(Ok(())) if !is_open => return Ok(()),
            Ok(Ok(())) => {}
        }
        stream.traffic.sent_bytes.fetch_add(batch.len() as u64, Ordering::Relaxed);
    }
}

/// The task that writes, gone with this.
struct Writer {
    task: JoinHandle<Result<(), StreamError>>,
    is_through: bool,
}

impl Writer {
    /// Returns when it failed; not when it did what it should and is through.
    async fn failed(&mut self) -> StreamError {
        match self.ended().await {
            Ok(()) => std::future::pending().await,
            Err(trouble) => trouble,
        }
    }

    async fn ended(&mut self) -> Result<(), StreamError> {
        if self.is_through {
            return Ok(());
        }
        let ended = (&mut self.task).await;
        self.is_through = true;
        ended.unwrap_or_else(|error| Err(StreamError::Broken(format!("its writer ended: {error}"))))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn broken(error: io::Error) -> StreamError {
    StreamError::Broken(error.to_string())
}

#[cfg(test)]
mod tests;
