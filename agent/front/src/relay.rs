//! Bytes from one end to the other, both ways: each direction ends for itself, and neither is read faster than the other end takes it.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{rule::Target, stream::MemberStream};

/// What is on its way in one direction: one record of TLS.
const BUFFER: usize = 16 << 10;

/// The application's end.
pub(crate) enum Local {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Local {
    pub(crate) async fn connect(target: &Target, limit: Duration) -> io::Result<Self> {
        let connect = async {
            match target {
                Target::Tcp(address) => {
                    let tcp = TcpStream::connect(address).await?;
                    tcp.set_nodelay(true)?;
                    Ok(Self::Tcp(tcp))
                }
                Target::Unix(path) => UnixStream::connect(path).await.map(Self::Unix),
            }
        };
        timeout(limit, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Passes bytes until both ends have said that they are done.
    ///
    /// # Errors
    /// One end broke: neither has everything.
    pub(crate) async fn relay(&mut self, member: &mut MemberStream) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => both_ways(member, tcp).await,
            Self::Unix(unix) => both_ways(member, unix).await,
        }
    }

    /// Closes it in a way that the application cannot take for an end that was meant. A unix socket has no such way.
    pub(crate) fn reset(self) {
        if let Self::Tcp(tcp) = self {
            drop(socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)));
        }
    }
}

async fn both_ways<L: AsyncRead + AsyncWrite + Unpin>(member: &mut MemberStream, local: &mut L) -> io::Result<()> {
    copy_bidirectional_with_sizes(member, local, BUFFER, BUFFER).await.map(drop)
}
