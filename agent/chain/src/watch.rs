//! Hints that the contract changed. Every visible change raises its epoch, so that is what each endpoint is asked for now and then, with
//! the hash of the contract's history where that is known; where the URL is a WebSocket, it also announces the contract's events, which may end without a word. Blocks are of no interest: some chains make five in a second.
//! What is true is read afterwards; a hint that is lost or invented costs a read or two.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use alloy_primitives::FixedBytes;
use mesh_core::id::Address;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{RpcError, Source};

/// How often an endpoint is asked for the epoch. Several are asked in turn.
pub(crate) const POLL_EVERY: Duration = Duration::from_millis(1500);
/// After an event it is asked at these times, until it answers from the block that it announced.
const AFTER_EVENT: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(300), Duration::from_secs(1)];
/// An event so soon after it has named another epoch is taken for that of the same change: it is asked once.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// Events that follow each other within this time are one.
const EVENT_PAUSE: Duration = Duration::from_millis(100);
/// Where all see a change at once, their hints are apart by this part of the time between their turns.
const TURNS: u32 = 5;
/// An epoch that has been read by then needs no other hint: the first read may have come before enough endpoints had the block.
const HINT_AGAIN: [Duration; 3] = [Duration::from_millis(400), Duration::from_secs(1), Duration::from_secs(2)];
/// An endpoint whose epochs are never read, so many in a row, is heard no more often than the contract is read anyway.
const INVENTED: u32 = 3;
const HEAR_AGAIN: Duration = Duration::from_secs(15);
/// An endpoint that left so many questions in a row unanswered may have held up reads.
const OUTAGE: u32 = 2;
/// First wait after a subscription broke; doubled up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(60);
/// A subscription that left out so many changes in a row is made anew.
const MISSED: u32 = 2;

/// One endpoint that is watched.
pub(crate) struct Watch {
    pub(crate) source: Arc<Source>,
    pub(crate) contract: Address,
    /// How far the contract was at the last read on which enough endpoints agreed.
    pub(crate) read: watch::Receiver<Reached>,
    pub(crate) hint: Arc<Notify>,
    /// Its turn among several.
    pub(crate) offset: Duration,
}

/// How far the contract is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// 0 before the first read.
    pub(crate) epoch: u64,
    /// Two forks may have the same epoch. Unknown where it was not proved.
    pub(crate) history: Option<FixedBytes<20>>,
}

/// What an endpoint said so far.
#[derive(Default)]
struct Said {
    epoch: Option<u64>,
    /// When it last said another one than before, with no event yet.
    other_at: Option<Instant>,
    /// Where it was, on another fork or behind what was read, when that was hinted at; and what was read.
    elsewhere: Option<(Reached, Reached)>,
    /// Such hints after which nothing else was read, in a row, and until when there is no other.
    strayed: u32,
    not_astray_before: Option<Instant>,
    /// It does not give words of storage.
    is_without_words: bool,
    /// Epochs that were never read, in a row.
    invented: u32,
    /// Questions without an answer, in a row.
    failed: u32,
    not_before: Option<Instant>,
}

impl Said {
    /// It was asked without an event.
    fn note_unasked(&mut self, is_other: bool) {
        if is_other {
            self.other_at = Some(Instant::now());
        }
    }

    /// It is on another fork than what was read, or behind. Whether that is worth a look: an endpoint that always says so is not.
    fn stray(&mut self, found: Reached, read: Reached, now: Instant) -> bool {
        if self.not_astray_before.is_some_and(|at| now < at) {
            return false;
        }
        if self.elsewhere.is_some_and(|(_, then)| then != read) {
            self.strayed = 0;
        }
        self.elsewhere = Some((found, read));
        self.strayed = self.strayed.saturating_add(1);
        self.not_astray_before = (self.strayed >= INVENTED).then(|| now + HEAR_AGAIN);
        true
    }
}

impl Watch {
    /// Hints whenever there may be something to read, for ever. Several hints before one is taken are one.
    pub(crate) async fn run(self) -> std::convert::Infallible {
        let mut said = Said::default();
        sleep(self.offset).await;
        let mut retry = FIRST_RETRY;
        loop {
            if self.source.url().is_websocket() {
                match self.follow(&mut said, &mut retry).await {
                    Ok(why) => tracing::debug!(source = self.source.id(), why, "event subscription ended"),
                    Err(error) => tracing::debug!(source = self.source.id(), %error, "event subscription failed"),
                }
                self.source.disconnect();
            }
            // An endpoint may know no subscriptions: until the next try it is asked.
            self.poll(&mut said, self.source.url().is_websocket().then_some(retry)).await;
            retry = (retry * 2).min(MAX_RETRY);
        }
    }

    /// Asks again and again, for so long or for ever.
    async fn poll(&self, said: &mut Said, time: Option<Duration>) {
        let mut next = Instant::now();
        let until = time.map(|time| next + time);
        while until.is_none_or(|until| next < until) {
            let asked = self.ask(said).await;
            said.note_unasked(asked.is_ok_and(|is_other| is_other));
            next = Instant::now().max(next + POLL_EVERY);
            sleep_until(next).await;
        }
    }

    /// Asks for the epoch, and hints if it is news; whether it is another than it said before.
    async fn ask(&self, said: &mut Said) -> Result<bool, RpcError> {
        let asked = self.reached(said).await;
        let failed = said.failed;
        said.failed = if asked.is_err() { failed.saturating_add(1) } else { 0 };
        let found = asked?;
        if failed >= OUTAGE {
            // Reads that have failed meanwhile are apart by now.
            self.hint.notify_one();
        }
        let is_other = said.epoch.replace(found.epoch).is_some_and(|before| before != found.epoch);
        let read = *self.read.borrow();
        let is_fork = found.history.zip(read.history).is_some_and(|(found, read)| found != read);
        match found.epoch.cmp(&read.epoch) {
            Ordering::Equal if !is_fork => (said.invented, said.not_before) = (0, None),
            // A fork without the latest change or with another one, or another machine behind the same URL, which is worth one look.
            Ordering::Equal | Ordering::Less if said.elsewhere != Some((found, read)) => {
                if said.stray(found, read, Instant::now()) {
                    self.hint.notify_one();
                }
            }
            Ordering::Equal | Ordering::Less => {}
            Ordering::Greater if said.not_before.is_none_or(|at| at <= Instant::now()) => {
                self.hint_until_read(found.epoch, said).await;
            }
            Ordering::Greater => {}
        }
        Ok(is_other)
    }

    /// How far the contract is, as the endpoint says.
    async fn reached(&self, said: &mut Said) -> Result<Reached, RpcError> {
        let has_history = self.read.borrow().history.is_some();
        if has_history && !said.is_without_words {
            match self.source.history(self.contract).await {
                Err(RpcError::Refused { .. } | RpcError::InvalidResponse { .. }) => said.is_without_words = true,
                reached => return reached,
            }
        }
        self.source.epoch(self.contract).await.map(|epoch| Reached { epoch, history: None })
    }

    /// Hints until the epoch was read, a few times.
    async fn hint_until_read(&self, epoch: u64, said: &mut Said) {
        let mut reads = self.read.clone();
        // Another endpoint whose turn is before may have it read by then.
        let pauses = [self.offset / TURNS].into_iter().chain(HINT_AGAIN);
        for (hinted, pause) in (0..).zip(pauses) {
            if timeout(pause, reads.wait_for(|read| read.epoch >= epoch)).await.is_ok() {
                said.invented = 0;
                return;
            }
            if hinted > 0 && said.invented > 0 {
                break;
            }
            self.hint.notify_one();
        }
        said.invented = said.invented.saturating_add(1);
        said.not_before = (said.invented >= INVENTED).then(|| Instant::now() + HEAR_AGAIN);
    }

    /// Follows one subscription until it ends, and says why it ended. One that is alive and says nothing is found by asking.
    async fn follow(&self, said: &mut Said, retry: &mut Duration) -> Result<&'static str, RpcError> {
        let mut events = self.source.subscribe(self.contract).await?;
        // Events between the last connection and this one were missed.
        self.ask(said).await?;
        let mut missed = 0;
        loop {
            match timeout(POLL_EVERY, events.changed()).await {
                Ok(Err(_)) => return Ok("closed"),
                Ok(Ok(())) => {
                    (*retry, missed) = (FIRST_RETRY, 0);
                    let began = Instant::now();
                    // What it was asked about a moment ago may be what it announces now.
                    let is_known = said.other_at.is_some_and(|at| began.saturating_duration_since(at) < KNOWN_FOR);
                    for after in &AFTER_EVENT[..if is_known { 1 } else { AFTER_EVENT.len() }] {
                        sleep_until(began + *after).await;
                        if self.ask(said).await? {
                            break;
                        }
                    }
                    sleep(EVENT_PAUSE).await;
                }
                Err(_) => match self.ask(said).await {
                    Ok(is_other) => {
                        said.note_unasked(is_other);
                        missed = if is_other { missed + 1 } else { missed };
                        if missed >= MISSED {
                            return Ok("silent while the contract changed");
                        }
                    }
                    // Busy, and not dead.
                    Err(RpcError::Refused { .. } | RpcError::Busy { .. }) => {}
                    Err(error) => return Err(error),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each look costs all endpoints a read.
    #[test]
    fn an_endpoint_that_is_always_elsewhere_is_heard_seldom() {
        let (begun, mut said) = (Instant::now(), Said::default());
        let at = |tick: u64| begun + Duration::from_millis(100 * tick);
        let fork = |tick: u64| Reached { epoch: 7, history: Some(FixedBytes::repeat_byte(tick as u8)) };
        let read = Reached { epoch: 7, history: Some(FixedBytes::ZERO) };
        let looks = (0..600).filter(|tick| said.stray(fork(*tick), read, at(*tick))).count();
        assert!((5..=8).contains(&looks), "{looks} looks in a minute");
        // One that was right is believed again.
        let other = Reached { epoch: 7, history: Some(FixedBytes::repeat_byte(9)) };
        assert!(said.stray(read, other, at(800)) && said.strayed == 1);
    }
}
