//! One agent per CVM and contract: two with one identity would take the membership from each other in turn.
//!
//! The claim is an abstract Unix socket (unix(7)), which any directories, interfaces and ports of a second agent lead to as well, and
//! which the kernel frees when the process ends, however it ends. It is one per network namespace.

use std::{
    convert::Infallible,
    fs,
    future::pending,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{self, SocketAddr},
    },
    time::Duration,
};

use mesh_core::id::{Address, InstanceId};
use tokio::{
    net::{UnixListener, UnixStream},
    time::sleep,
};

use crate::state::dir::effective_user;

/// How long a process that has no descriptor left waits before it takes the next connection.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// This process is the agent of an instance, as long as this is held.
#[derive(Debug)]
pub struct InstanceClaim {
    listener: Option<UnixListener>,
}

/// Why this process may not be the agent of its instance.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It has one.
    #[error("another p2p-agent{} runs for instance {instance} and contract {contract}\nhint: a node has one agent. `meshctl status` shows that one; to start it with other options, stop it first", process.map(|id| format!(" (process {id})")).unwrap_or_default())]
    Held {
        /// The CVM's instance.
        instance: InstanceId,
        /// The cluster contract.
        contract: Address,
        /// The other agent, where the kernel says.
        process: Option<i32>,
    },
    /// The system refused.
    #[error(
        "cannot claim instance {instance} for this agent: {source}\nhint: abstract Unix sockets must be allowed (the sandbox of a service manager may deny them)"
    )]
    Io {
        /// The CVM's instance.
        instance: InstanceId,
        /// What it said.
        source: io::Error,
    },
}

impl InstanceClaim {
    /// Claims the instance for this process, inside a tokio runtime. A program of another unprivileged user that holds the name keeps no agent from starting.
    ///
    /// # Errors
    /// See [`ClaimError`].
    pub fn take(instance: InstanceId, contract: Address) -> Result<Self, ClaimError> {
        let io = |source| ClaimError::Io { instance, source };
        let name = SocketAddr::from_abstract_name(format!("p2p-agent/{contract}/{instance}")).map_err(io)?;
        match net::UnixListener::bind_addr(&name) {
            Ok(listener) => {
                listener.set_nonblocking(true).map_err(io)?;
                Ok(Self { listener: Some(UnixListener::from_std(listener).map_err(io)?) })
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let holder = net::UnixStream::connect_addr(&name).and_then(|stream| {
                    stream.set_nonblocking(true)?;
                    UnixStream::from_std(stream)?.peer_cred()
                });
                let (user, process) = holder.map_or((0, None), |holder| (holder.uid(), holder.pid()));
                if user != 0 && user != effective_user() {
                    tracing::warn!(user, process, "a program of another user uses the name of this agent's instance");
                    return Ok(Self { listener: None });
                }
                Err(ClaimError::Held { instance, contract, process })
            }
            Err(error) => Err(io(error)),
        }
    }

    /// Holds the claim, and takes the connections of those that ask who holds it.
    ///
    /// # Errors
    /// None.
    pub async fn hold(self) -> io::Result<Infallible> {
        let Some(listener) = self.listener else { return pending().await };
        loop {
            // Connecting has answered already. Where one cannot be taken for want of descriptors, a later one may be.
            if let Err(error) = listener.accept().await {
                tracing::debug!(%error, "a connection that asks for this agent's instance was not taken");
                sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// Whether some agent has claimed an instance in this network namespace. Any program can claim so: it is for a hint alone.
#[must_use]
pub fn is_any_claimed() -> bool {
    fs::read_to_string("/proc/net/unix").is_ok_and(|sockets| has_claim(&sockets))
}

/// In the table of `/proc/net/unix` (proc(5)) an abstract name begins with `@`, and is the last column.
fn has_claim(sockets: &str) -> bool {
    sockets.lines().any(|socket| socket.rsplit(' ').next().is_some_and(|name| name.starts_with("@p2p-agent/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_that_runs_is_seen() {
        let held = InstanceClaim::take(InstanceId([0xa9; 20]), Address::repeat_byte(7)).unwrap();
        assert!(is_any_claimed());
        drop(held);
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                     00000000: 00000002 00000000 00010000 0001 01 21371 ";
        assert!(has_claim(&format!("{table}@p2p-agent/0x07/a9\n")));
        assert!(!has_claim(&format!("{table}/run/p2p-agent/mesh0.sock\n")) && !has_claim(""));
    }

    #[tokio::test]
    async fn a_second_agent_for_an_instance_is_refused_and_says_what_to_do() {
        let (instance, contract) = (InstanceId([0xa5; 20]), Address::repeat_byte(7));
        let held = InstanceClaim::take(instance, contract).unwrap();
        let refused = InstanceClaim::take(instance, contract).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
        assert!(text.contains(&instance.to_string()) && text.contains("`meshctl status`"), "{text}");
        // Another node, and the same in another mesh, are none of its business.
        InstanceClaim::take(InstanceId([0xa6; 20]), contract).unwrap();
        InstanceClaim::take(instance, Address::repeat_byte(8)).unwrap();
        drop(held);
        InstanceClaim::take(instance, contract).unwrap();
    }

    #[tokio::test]
    async fn many_attempts_do_not_fill_the_holder() {
        let (instance, contract) = (InstanceId([0xa7; 20]), Address::repeat_byte(7));
        let held = tokio::spawn(InstanceClaim::take(instance, contract).unwrap().hold());
        // More than any backlog.
        for _ in 0..5000 {
            assert!(matches!(InstanceClaim::take(instance, contract), Err(ClaimError::Held { .. })));
            tokio::task::yield_now().await;
        }
        held.abort();
    }
}
