//! A steady flow of datagrams that are answered.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::lab::{ECHO_PORT, Node};

/// When each was sent, and when its answer came, since the beginning.
pub(crate) struct Pings {
    interval: Duration,
    all: Vec<(Duration, Option<Duration>)>,
}

impl Pings {
    /// Sends one at each interval from `start` for that time, and waits for answers for up to `rest` more.
    pub(crate) fn send(from: &Node, to: &Node, start: Instant, [interval, time, rest]: [Duration; 3]) -> Self {
        let socket = from.host.within(|| UdpSocket::bind((from.inner4(), 0))).unwrap();
        let (mut all, mut unanswered, mut buffer) = (Vec::new(), 0, [0; 64]);
        loop {
            let (now, number) = (start.elapsed(), u32::try_from(all.len()).unwrap());
            let next = interval * number;
            let until = if next < time { next } else { time + rest };
            if now < until && (next < time || unanswered > 0) {
                socket.set_read_timeout(Some(until - now)).unwrap();
                // No answer in this time, or an interruption: the clock decides what follows.
                let Ok(len) = socket.recv(&mut buffer) else { continue };
                let answered = u32::from_be_bytes(buffer[..len].try_into().unwrap());
                let (_, answer): &mut (_, Option<Duration>) = &mut all[answered as usize];
                if answer.is_none() {
                    (*answer, unanswered) = (Some(start.elapsed()), unanswered - 1);
                }
            } else if next < time {
                // One that the device does not take is lost.
                let _ = socket.send_to(&number.to_be_bytes(), (to.inner4(), ECHO_PORT));
                all.push((now, None));
                unanswered += 1;
            } else {
                return Self { interval, all };
            }
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn lost(&self) -> usize {
        self.all.iter().filter(|(_, answered)| answered.is_none()).count()
    }

    /// How long after that moment the first was sent since which none is lost: to the next interval.
    pub(crate) fn flow_again(&self, after: Duration) -> Duration {
        let last_lost = self.all.iter().rev().find(|(_, answered)| answered.is_none());
        last_lost.map_or(Duration::ZERO, |(sent, _)| (*sent + self.interval).saturating_sub(after))
    }

    /// When the first answer came.
    pub(crate) fn first_answer(&self) -> Option<Duration> {
        self.all.iter().filter_map(|(_, answered)| *answered).min()
    }

    /// The longest that an answer took, of those sent since then.
    pub(crate) fn slowest(&self, since: Duration) -> Duration {
        let took = |(sent, answered): &(Duration, Option<Duration>)| Some((*answered)? - *sent);
        self.all.iter().filter(|(sent, _)| *sent >= since).filter_map(took).max().unwrap_or_default()
    }

    /// The longest time without an answer, from the first to the last one.
    pub(crate) fn longest_gap(&self) -> Duration {
        let mut answers: Vec<_> = self.all.iter().filter_map(|(_, answered)| *answered).collect();
        answers.sort_unstable();
        answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}
