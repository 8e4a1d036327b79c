//! The thread that owns the configuration and the timers. It alone changes what the others read.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::clock;
use crate::config::DeviceUpdate;
use crate::device::{Machine, Shared};
use crate::error::Error;
use crate::key::PublicKey;
use crate::memory;
use crate::mtu::{Fit, Mtu};
use crate::output::{Output, Wake};
use crate::schedule::Schedule;
use crate::table::Applied;
use crate::udp::Sockets;

/// What the control thread is asked for.
pub(crate) enum Request {
    /// Change the device.
    Apply { update: DeviceUpdate, reply: Sender<Result<(), Error>> },
    /// Call the `tick` of the peer with that slot at that time.
    Wake(Wake),
    /// Speak to that peer: there is a new path to it.
    Initiate { peer: PublicKey },
    /// A link outside turned out to be too narrow for a datagram: look at the MTU.
    Fit,
    /// The machine was suspended: something may be due that this thread sleeps for.
    Resumed,
    /// End.
    Stop,
}

/// Peers worked on before looking for requests again: however many are due, no request waits long.
const BATCH: usize = 32;

/// Peers that fell silent, went, or came at once, before the memory they needed is given back. It takes longer the more
/// peers there are, so that these have to be a quarter of all as well.
const MANY: usize = 256;

pub(crate) fn run(shared: &Shared, requests: &Receiver<Request>, mut mtu: Mtu) {
    let (mut schedule, mut output) = (Schedule::new(clock::now()), Output::default());
    loop {
        let now = clock::now();
        let wait = schedule.next(now).map(|next| next.saturating_duration_since(now));
        tidy(&mut schedule, shared, wait);
        let mut request = match wait {
            Some(wait) => requests.recv_timeout(wait),
            None => requests.recv().map_err(RecvTimeoutError::from),
        };
        while let Ok(asked) = request {
            match asked {
                Request::Wake(wake) => schedule.wake(wake),
                Request::Initiate { peer } => schedule.initiate(shared.table().by_key(&peer).cloned()),
                // The caller may be gone before it hears the answer.
                Request::Apply { update, reply } => {
                    let applied = apply(shared, update, &mut schedule);
                    drop(reply.send(applied.map(|fit| mtu.fit(shared, &fit))));
                }
                Request::Fit => mtu.fit(shared, &Fit::All),
                // The next pass does what is due.
                Request::Resumed => {}
                Request::Stop => return,
            }
            request = requests.recv_timeout(Duration::ZERO);
        }
        if matches!(request, Err(RecvTimeoutError::Disconnected)) {
            return;
        }
        schedule.retry();
        for _ in 0..BATCH {
            if !work_on_next(shared, &mut schedule, &mut output) {
                break;
            }
        }
    }
}

/// Gives memory back where there may be much of it, and no peer is due.
fn tidy(schedule: &mut Schedule, shared: &Shared, wait: Option<Duration>) {
    let silent = schedule.silent;
    if silent >= MANY && wait.is_none_or(|wait| !wait.is_zero()) && silent >= shared.table().len() / 4 {
        schedule.silent = 0;
        memory::give_back();
    }
}

/// Works on one peer; false where none is due. The table is let go of after each: others wait for it.
fn work_on_next(shared: &Shared, schedule: &mut Schedule, output: &mut Output) -> bool {
    let table = shared.table();
    let mut context = table.identity.as_ref().map(|identity| shared.context(identity, output));
    let now = context.as_ref().map_or_else(clock::now, |context| context.now);
    let worked = schedule.work_on_next(&table, context.as_mut(), now);
    shared.carry_out(output);
    worked
}

/// Carries out an update. What can fail comes first, so that a failure changes nothing. Returns what may change how large a packet
/// can be.
fn apply(shared: &Shared, update: DeviceUpdate, schedule: &mut Schedule) -> Result<Fit, Error> {
    let (old, fwmark) = (shared.sockets(), update.fwmark.unwrap_or_else(|| shared.table().fwmark));
    let port = update.listen_port.filter(|port| *port != old.port());
    let mut sockets = port.map(|port| Sockets::bind(port, fwmark, shared.threads, shared.offloads)).transpose()?;
    sockets.iter_mut().for_each(Sockets::take_handshakes_apart);
    if fwmark != shared.table().fwmark && sockets.is_none() {
        old.set_mark(fwmark)?;
    }
    drop(old);

    let mut table = shared.table_mut();
    if let Some(sockets) = sockets {
        shared.replace_sockets(sockets);
    }
    table.fwmark = fwmark;
    if update.peers.len() >= MANY {
        schedule.silent += update.peers.len();
    }
    let Applied { to_initiate, freed, endpoints } = table.apply(update, &Machine, clock::now());
    schedule.forget(&freed);
    schedule.initiate(to_initiate);
    if let Some(watch) = &shared.watch {
        endpoints.iter().for_each(|(peer, endpoint)| watch.watcher.endpoint(*peer, *endpoint));
    }
    Ok(Fit::Endpoints(endpoints.into_iter().map(|(_, endpoint)| endpoint).collect()))
}
