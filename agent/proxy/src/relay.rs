//! Bytes both ways, until both ends have said all.
//!
//! A connection on which nothing is said takes no buffer: what can be read is read into one that the thread's connections share, and
//! only what the other end does not take at once is kept.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    time::timeout,
};

/// How much is read at once, and what of a connection waits at most, each way: as long as it does, nothing more is read. Large, so
/// that a fast connection needs few system calls.
const CHUNK: usize = 32 << 10;
/// Chunks of one connection before others get their turn.
const TURN: usize = 16;
/// How long, and how much, is still read from an application that was refused, so that it sees the answer and no reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 << 10;

thread_local! {
    static SHARED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Copies both ways. The end of one direction is passed on, and the other goes on; a connection on which nothing is said stays open.
pub(crate) async fn relay(
    application: &mut (impl AsyncRead + AsyncWrite + Unpin + ?Sized),
    member: &mut (impl AsyncRead + AsyncWrite + Unpin + ?Sized),
) -> io::Result<()> {
    let (mut out, mut back) = (Direction::default(), Direction::default());
    poll_fn(|cx| {
        let out = out.poll(cx, application, member)?;
        let back = back.poll(cx, member, application)?;
        if out.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

#[derive(Default)]
struct Direction {
    /// What was read and is not written yet, from `written` on.
    kept: Vec<u8>,
    written: usize,
    needs_flush: bool,
    stage: Stage,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Copying,
    /// All was read.
    Ending,
    Ended,
}

impl Direction {
    /// Ready when the end was passed on, and again after that.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin + ?Sized),
        to: &mut (impl AsyncWrite + Unpin + ?Sized),
    ) -> Poll<io::Result<()>> {
        for _ in 0..TURN {
            if self.stage == Stage::Ended {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_kept(cx, to))?;
            if self.stage == Stage::Ending {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.stage = Stage::Ended;
            } else if self.poll_chunk(cx, from, to)?.is_pending() {
                if self.needs_flush {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    self.needs_flush = false;
                }
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_kept(&mut self, cx: &mut Context<'_>, to: &mut (impl AsyncWrite + Unpin + ?Sized)) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.kept.get(self.written..) {
            self.written += some(ready!(Pin::new(&mut *to).poll_write(cx, rest))?)?;
            self.needs_flush = true;
        }
        (self.kept, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Pending when there is nothing to read. Nothing is kept when this is called.
    fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin + ?Sized),
        to: &mut (impl AsyncWrite + Unpin + ?Sized),
    ) -> Poll<io::Result<()>> {
        // Taken out meanwhile: a stream may be one that is relayed itself.
        let mut shared = SHARED.take();
        shared.resize(CHUNK, 0);
        let mut chunk = ReadBuf::new(&mut shared);
        let read = Pin::new(from).poll_read(cx, &mut chunk);
        let written = match read {
            Poll::Ready(Ok(())) if chunk.filled().is_empty() => {
                self.stage = Stage::Ending;
                Ok(())
            }
            Poll::Ready(Ok(())) => self.write(cx, chunk.filled(), to),
            Poll::Ready(Err(_)) | Poll::Pending => Ok(()),
        };
        SHARED.set(shared);
        ready!(read)?;
        Poll::Ready(written)
    }

    /// Writes what is taken at once, and keeps the rest.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &[u8],
        to: &mut (impl AsyncWrite + Unpin + ?Sized),
    ) -> io::Result<()> {
        let mut rest = chunk;
        while !rest.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, rest)? {
                Poll::Ready(count) => rest = rest.get(some(count)?..).unwrap_or_default(),
                Poll::Pending => break,
            }
            self.needs_flush = true;
        }
        self.kept = rest.to_vec();
        Ok(())
    }
}

/// A writer that takes nothing would be asked for ever.
fn some(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
}

/// Ends a connection after an answer that refuses.
pub(crate) async fn part(mut application: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    application.shutdown().await?;
    let (mut rest, mut sink) = (application.take(LINGER_BYTES), tokio::io::sink());
    // It had its time: what it still says is of no use.
    let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut sink)).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{BufWriter, duplex, split};

    use super::*;

    /// Not of the size of any buffer here.
    fn said(seed: u8) -> Vec<u8> {
        (0..1_000_003u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
    }

    #[tokio::test]
    async fn all_bytes_come_in_order_both_ways() {
        for room in [1, 700, CHUNK, 1 << 20] {
            let ((application, mut near), (far, member)) = (duplex(room), duplex(2 * room + 1));
            // A stream may keep what it is told until it is flushed.
            let mut far = BufWriter::new(far);
            let relaying = tokio::spawn(async move { relay(&mut near, &mut far).await });
            let length = if room == 1 { 10_000 } else { usize::MAX };
            let mut ends = Vec::new();
            for (stream, own, other) in [(application, 1, 2), (member, 2, 1)] {
                let (mut reader, mut writer) = split(stream);
                let cut = move |seed| said(seed).into_iter().take(length).collect::<Vec<_>>();
                ends.push(tokio::spawn(async move {
                    writer.write_all(&cut(own)).await.unwrap();
                    writer.shutdown().await.unwrap();
                    true
                }));
                ends.push(tokio::spawn(async move {
                    let mut heard = Vec::new();
                    reader.read_to_end(&mut heard).await.unwrap();
                    heard == cut(other)
                }));
            }
            for end in ends {
                assert!(end.await.unwrap(), "room {room}");
            }
            relaying.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn an_idle_connection_keeps_nothing_and_a_stalled_one_a_chunk() {
        let ((mut application, near), (far, mut member)) = (duplex(1 << 20), duplex(16));
        let ((mut from, _), (_, mut to)) = (split(near), split(far));
        let mut direction = Direction::default();
        application.write_all(&vec![7; 3 * CHUNK]).await.unwrap();
        poll_fn(|cx| {
            assert!(direction.poll(cx, &mut from, &mut to).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(direction.kept.len(), CHUNK - 16);
        let (mut heard, mut room) = (0, [0; 4096]);
        poll_fn(|cx| {
            while heard < 3 * CHUNK {
                assert!(direction.poll(cx, &mut from, &mut to).is_pending());
                let mut read = ReadBuf::new(&mut room);
                ready!(Pin::new(&mut member).poll_read(cx, &mut read)).unwrap();
                heard += read.filled().len();
            }
            Poll::Ready(())
        })
        .await;
        assert_eq!(direction.kept.capacity(), 0);
    }
}
