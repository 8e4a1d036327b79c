//! Bytes both ways, until both ends have said all.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional_with_sizes},
    time::timeout,
};

/// What waits on its way, each direction: when it is full, the sender is read no further. A record of TLS, and few enough system calls
/// for a fast network; 4,096 connections that are busy both ways take 128 MiB.
const BUFFER: usize = 16 << 10;
/// How long, and how much, is still read from an application that was refused, so that it sees the answer and no reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 << 10;

/// Copies both ways. The end of one direction is passed on, and the other goes on; a connection on which nothing is said stays open.
pub(crate) async fn relay(
    application: &mut (impl AsyncRead + AsyncWrite + Unpin + ?Sized),
    member: &mut (impl AsyncRead + AsyncWrite + Unpin + ?Sized),
) -> io::Result<()> {
    copy_bidirectional_with_sizes(application, member, BUFFER, BUFFER).await.map(drop)
}

/// Ends a connection after an answer that refuses.
pub(crate) async fn part(mut application: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    application.shutdown().await?;
    let (mut rest, mut sink) = (application.take(LINGER_BYTES), tokio::io::sink());
    // It had its time: what it still says is of no use.
    let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut sink)).await;
    Ok(())
}
