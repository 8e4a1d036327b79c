//! What the device tells, until the driver takes it. Nothing waits for the driver, and nobody can fill it: what says the same
//! twice is kept once, of each peer few probes wait, so that one that floods loses its own, and of STUN nothing is kept that
//! nobody was asked for. Nor can anybody keep the driver busy: it takes what there is a few hundred times a second at most.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh_core::{
    id::WireguardKey,
    path::{PathKind, PerPath, rank},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::candidates::canonical;

/// Probes of one peer that wait.
pub(super) const PROBES: usize = 32;
/// Answers of STUN servers that wait: nobody has more servers.
const STUN: usize = 16;
/// Between two times that everything is taken. A probe's round trip looks longer by up to that, under a flood.
const PACE: Duration = Duration::from_millis(2);

/// What happened since the driver looked last.
#[derive(Debug, Default)]
pub(super) struct News {
    /// There is another device, or none any more: nothing that was set on the last one holds.
    pub(super) is_other_device: bool,
    /// The tunnel's MTU.
    pub(super) mtu: Option<u16>,
    /// Of each peer of the device.
    pub(super) peers: BTreeMap<WireguardKey, PeerNews>,
    /// Datagrams that look like STUN's.
    pub(super) stun: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Probes and answers for which there was no room.
    pub(super) dropped: u64,
}

/// What happened to one peer. What it was removed before came first.
#[derive(Debug, Default)]
pub(super) struct PeerNews {
    /// The device has it no more, or had not for a moment.
    pub(super) is_removed: bool,
    /// The device was told of it.
    pub(super) is_set: bool,
    /// Its UDP endpoint.
    pub(super) endpoint: Option<SocketAddr>,
    /// Packets of applications went to it.
    pub(super) sent: bool,
    /// They came from it.
    pub(super) received: PerPath<bool>,
    /// Packets between the probe ports.
    pub(super) probes: VecDeque<(PathKind, Vec<u8>)>,
}

/// Filled by the device's threads, emptied by the driver.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    generation: u64,
    /// Who was asked for an answer by STUN; all others that send any are not heard.
    asked: BTreeSet<SocketAddr>,
    /// When everything was taken last.
    taken: Option<Instant>,
    news: News,
}

impl Inbox {
    /// A device is about to be made: its ear. What earlier ones still say is not heard.
    pub(super) fn ear(self: &Arc<Self>) -> Ear {
        let mut state = self.lock();
        state.generation += 1;
        let mtu = state.news.mtu;
        state.news = News { is_other_device: true, mtu, dropped: state.news.dropped, ..News::default() };
        Ear { inbox: Arc::clone(self), generation: state.generation }
    }

    /// There is another device now, or none.
    pub(super) fn device_changed(&self) {
        self.tell(|news| news.is_other_device = true);
    }

    pub(super) fn mtu(&self, mtu: u16) {
        self.tell(|news| news.mtu = Some(mtu));
    }

    pub(super) fn peer_set(&self, peer: WireguardKey) {
        self.tell(|news| news.peers.entry(peer).or_default().is_set = true);
    }

    pub(super) fn peer_removed(&self, peer: WireguardKey) {
        self.tell(|news| drop(news.peers.insert(peer, PeerNews { is_removed: true, ..PeerNews::default() })));
    }

    /// These STUN servers were asked, or are about to be, and no others.
    pub(super) fn listen_to(&self, asked: BTreeSet<SocketAddr>) {
        self.lock().asked = asked;
    }

    /// Everything since the last time. Waits until there is something, and until [`PACE`] has passed; cancelled, it has taken
    /// nothing. For one task alone.
    pub(super) async fn take(&self) -> News {
        // The pause first: a word that has come must not be lost with whoever waits for it.
        let paced = self.lock().taken.map(|taken| taken + PACE);
        if let Some(paced) = paced.filter(|paced| *paced > Instant::now()) {
            sleep_until(paced).await;
        }
        self.changed.notified().await;
        let mut state = self.lock();
        state.taken = Some(Instant::now());
        std::mem::take(&mut state.news)
    }

    fn tell(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.lock().news);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One device's way to the inbox. Never blocks for more than a moment, never calls anybody.
#[derive(Debug)]
pub(super) struct Ear {
    inbox: Arc<Inbox>,
    generation: u64,
}

impl Ear {
    pub(super) fn probe(&self, peer: WireguardKey, way: PathKind, packet: &[u8]) {
        self.tell(|news| {
            let probes = &mut news.peers.entry(peer).or_default().probes;
            if probes.len() < PROBES {
                probes.push_back((way, packet.to_vec()));
            } else {
                news.dropped += 1;
            }
        });
    }

    pub(super) fn sent(&self, peer: WireguardKey) {
        self.tell(|news| news.peers.entry(peer).or_default().sent = true);
    }

    pub(super) fn received(&self, peer: WireguardKey, way: PathKind) {
        self.tell(|news| news.peers.entry(peer).or_default().received[rank(way)] = true);
    }

    pub(super) fn endpoint(&self, peer: WireguardKey, endpoint: SocketAddr) {
        self.tell(|news| news.peers.entry(peer).or_default().endpoint = Some(endpoint));
    }

    /// Anybody may send these, as many as he likes: of those that nobody was asked for none costs more than a look.
    pub(super) fn stun(&self, from: SocketAddr, datagram: &[u8]) {
        let from = canonical(from);
        self.tell_if(|state| {
            let is_asked = state.asked.contains(&from);
            if is_asked && state.news.stun.len() < STUN {
                state.news.stun.push_back((from, datagram.to_vec()));
            } else if is_asked {
                state.news.dropped += 1;
            }
            is_asked
        });
    }

    fn tell(&self, change: impl FnOnce(&mut News)) {
        self.tell_if(|state| {
            change(&mut state.news);
            true
        });
    }

    /// `change` says whether it is worth to be looked at.
    fn tell_if(&self, change: impl FnOnce(&mut State) -> bool) {
        let is_news = {
            let mut state = self.inbox.lock();
            state.generation == self.generation && change(&mut state)
        };
        if is_news {
            self.inbox.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: WireguardKey = WireguardKey([7; 32]);
    const OTHER: WireguardKey = WireguardKey([8; 32]);

    #[tokio::test]
    async fn one_that_floods_loses_its_own_probes_and_nobody_elses() {
        let inbox = Arc::new(Inbox::default());
        inbox.listen_to(BTreeSet::from(["192.0.2.1:3478".parse().unwrap()]));
        let ear = inbox.ear();
        for _ in 0..1000 {
            ear.probe(PEER, PathKind::Direct, b"flood");
            ear.received(PEER, PathKind::Gateway);
            ear.stun("192.0.2.1:3478".parse().unwrap(), b"flood");
        }
        ear.probe(OTHER, PathKind::Gateway, b"probe");
        let news = inbox.take().await;
        assert_eq!((news.peers[&PEER].probes.len(), news.peers[&OTHER].probes.len()), (PROBES, 1));
        assert_eq!((news.stun.len(), news.dropped), (STUN, 2000 - (PROBES + STUN) as u64));
        assert_eq!(news.peers[&PEER].received, [false, true]);
    }

    #[tokio::test]
    async fn of_stun_only_those_are_heard_who_were_asked() {
        let inbox = Arc::new(Inbox::default());
        let ear = inbox.ear();
        let [asked, other]: [SocketAddr; 2] = ["192.0.2.1:3478", "192.0.2.1:3479"].map(|at| at.parse().unwrap());
        ear.stun(asked, b"nobody was asked");
        assert!(futures_util::FutureExt::now_or_never(inbox.changed.notified()).is_none(), "nobody is woken");
        inbox.listen_to(BTreeSet::from([asked]));
        ear.stun(other, b"flood");
        ear.stun("[::ffff:192.0.2.1]:3478".parse().unwrap(), b"answer");
        let news = inbox.take().await;
        assert_eq!((news.stun, news.dropped), (VecDeque::from([(asked, b"answer".to_vec())]), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_emptied_at_a_pace_and_at_once_after_a_rest() {
        let inbox = Arc::new(Inbox::default());
        let ear = inbox.ear();
        let begun = Instant::now();
        for taken in 0..50 {
            ear.sent(PEER);
            // Others are served meanwhile, and nothing is lost by that.
            assert!(taken == 0 || tokio::time::timeout(PACE / 2, inbox.take()).await.is_err());
            assert!(inbox.take().await.peers[&PEER].sent);
        }
        assert!(begun.elapsed() >= PACE * 49, "{:?}", begun.elapsed());
        tokio::time::sleep(PACE).await;
        let rested = Instant::now();
        ear.sent(PEER);
        inbox.take().await;
        assert_eq!(rested.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_device_that_is_no_more_is_not_heard() {
        let inbox = Arc::new(Inbox::default());
        let old = inbox.ear();
        let at = "192.0.2.1:51821".parse().unwrap();
        old.endpoint(PEER, at);
        let new = inbox.ear();
        old.endpoint(PEER, at);
        new.sent(OTHER);
        let news = inbox.take().await;
        assert!(news.is_other_device);
        assert_eq!(news.peers.keys().collect::<Vec<_>>(), [&OTHER]);
    }

    #[tokio::test]
    async fn what_was_before_a_removal_is_forgotten() {
        let inbox = Arc::new(Inbox::default());
        let ear = inbox.ear();
        ear.endpoint(PEER, "192.0.2.1:51821".parse().unwrap());
        ear.probe(PEER, PathKind::Direct, b"probe");
        inbox.peer_removed(PEER);
        inbox.peer_set(PEER);
        let news = inbox.take().await;
        let peer = &news.peers[&PEER];
        assert!(peer.is_removed && peer.is_set && peer.endpoint.is_none() && peer.probes.is_empty());
    }
}
