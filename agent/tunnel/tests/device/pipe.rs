//! Streams between nodes, within the test.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use mesh_tunnel::{Carrier, Proof, PublicKey, StreamInbound, StreamOrigin};

use crate::lab::Node;

/// One direction of a stream: the other end receives all messages, in order.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    pub(crate) waiting: Mutex<Vec<Vec<u8>>>,
    arrived: Condvar,
    is_over: AtomicBool,
}

impl Carrier for Pipe {
    fn send(&self, datagrams: &[u8], segment: usize) -> bool {
        if self.is_over.load(Ordering::Relaxed) {
            return false;
        }
        let mut waiting = self.waiting.lock().unwrap();
        waiting.extend(datagrams.chunks(segment).map(<[u8]>::to_vec));
        self.arrived.notify_one();
        true
    }
}

impl Pipe {
    /// The messages that have arrived, once there are some; `None` when the stream has ended.
    fn take(&self) -> Option<Vec<Vec<u8>>> {
        let mut waiting = self.waiting.lock().unwrap();
        loop {
            if self.is_over.load(Ordering::Relaxed) {
                return None;
            }
            if !waiting.is_empty() {
                // As many as one read of a connection gives.
                let count = waiting.len().min(80);
                return Some(waiting.drain(..count).collect());
            }
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The messages that have arrived by now, without waiting.
    pub(crate) fn taken(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.waiting.lock().unwrap())
    }

    pub(crate) fn end(&self) {
        let waiting = self.waiting.lock();
        self.is_over.store(true, Ordering::Relaxed);
        drop(waiting);
        self.arrived.notify_all();
    }
}

/// Puts datagrams into one buffer with room for their lengths between them, as a stream delivers them, and passes them to the
/// device.
pub(crate) fn receive(
    inbound: &mut StreamInbound,
    datagrams: &[impl AsRef<[u8]>],
    proved: impl FnMut(PublicKey, Proof),
) {
    let (mut buffer, mut ranges) = (Vec::new(), Vec::new());
    for datagram in datagrams.iter().map(AsRef::as_ref) {
        buffer.extend((datagram.len() as u16).to_be_bytes());
        ranges.push(buffer.len()..buffer.len() + datagram.len());
        buffer.extend(datagram);
    }
    inbound.receive(&mut buffer, &ranges, proved);
}

/// The peers that proved to be at the other end of a stream, and how.
type Proofs = Mutex<BTreeSet<(PublicKey, Proof)>>;

/// A stream between two nodes, read by two threads; the first dialed.
pub(crate) struct Stream {
    /// The direction into which each node sends.
    pub(crate) pipes: [Arc<Pipe>; 2],
    /// The stream as each node's device has it.
    proved: [Arc<Proofs>; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    pub(crate) fn between(a: &Node, b: &Node) -> Self {
        let pipes: [Arc<Pipe>; 2] = Default::default();
        let proved: [Arc<Proofs>; 2] = Default::default();
        let read = |(here, node): (usize, &Node)| {
            let (pipe, proved) = (Arc::clone(&pipes[1 - here]), Arc::clone(&proved[here]));
            let origin = if here == 0 { StreamOrigin::Dialed } else { StreamOrigin::Accepted };
            let mut inbound = node.device().handle().stream_inbound(Arc::<Pipe>::clone(&pipes[here]), origin);
            thread::spawn(move || {
                while let Some(datagrams) = pipe.take() {
                    receive(&mut inbound, &datagrams, |key, proof| _ = proved.lock().unwrap().insert((key, proof)));
                }
            })
        };
        let threads = [a, b].into_iter().enumerate().map(read).collect();
        for ((from, to), pipe) in [(a, b), (b, a)].into_iter().zip(&pipes) {
            from.device().handle().set_stream(&to.public_key(), Some(Arc::<Pipe>::clone(pipe)));
        }
        Self { pipes, proved, threads }
    }

    /// Whether no message waits in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.pipes.iter().all(|pipe| pipe.waiting.lock().unwrap().is_empty())
    }

    pub(crate) fn proved(&self) -> [Vec<(PublicKey, Proof)>; 2] {
        [0, 1].map(|node| self.proved[node].lock().unwrap().iter().copied().collect())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.pipes.iter().for_each(|pipe| pipe.end());
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "a thread that read a stream panicked");
        }
    }
}
