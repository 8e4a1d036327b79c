//! Sessions are renewed after 120 s of traffic, in real time and with `wireguard-go`. They take two minutes, so `cargo test` leaves
//! them out and `make nightly ONLY=rekey` runs them.
#![expect(clippy::unwrap_used, reason = "a panic in a test shows its position")]

#[expect(dead_code, reason = "made for the tests in `device/`; this one uses a part")]
#[path = "device/lab.rs"]
mod lab;
#[allow(dead_code, reason = "as above")]
#[path = "device/patience.rs"]
mod patience;
#[expect(dead_code, reason = "as above")]
#[path = "device/program.rs"]
mod program;

use std::time::{Duration, Instant};

use lab::{Kind, Node, Switch};

/// The initiator (or one of two) renews the session; packets go in both directions all the time, and none is lost.
#[track_caller]
fn renews(initiator: Kind, responder: Kind, both_ask: bool) {
    let switch = Switch::new();
    let (asks, answers) = (switch.node(1, initiator), switch.node(2, responder));
    answers.add(&asks, Some(asks.outer4()).filter(|_| both_ask).as_deref(), "");
    asks.add(&answers, Some(&answers.outer4()), "");
    asks.reaches(answers.inner4());
    let began = Instant::now();
    let session = |a: &Node, b: &Node| (a.handshake(b), b.handshake(a));
    let first = session(&asks, &answers);
    let passed = |from: u128, to: u128| Duration::from_nanos(u64::try_from(to.saturating_sub(from)).unwrap());
    let mut renewed = None;
    loop {
        // A pace, not a wait: the renewal happens between any two probes, and other tests need the processor too.
        std::thread::sleep(Duration::from_millis(20));
        for (from, to) in [(&asks, &answers), (&answers, &asks)] {
            let answered = from.probe(to.inner4()) && from.probe(to.inner6());
            assert!(answered, "lost after {:?}", began.elapsed());
        }
        let now = session(&asks, &answers);
        if renewed.is_none() && now.0 > first.0 && now.1 > first.1 {
            // By the times of the handshakes: a machine that stalls delays the test, not the handshakes.
            let after = passed(first.0.min(first.1), now.0.max(now.1));
            assert!((Duration::from_secs(115)..Duration::from_secs(135)).contains(&after), "{after:?}");
            renewed = Some(Instant::now());
        }
        match renewed {
            Some(at) if at.elapsed() > Duration::from_secs(8) => return,
            Some(_) => {}
            None => assert!(began.elapsed() < Duration::from_secs(140), "not renewed"),
        }
    }
}

#[test]
fn we_renew_with_wireguard_go() {
    renews(Kind::Ours, Kind::WireguardGo, false);
}

#[test]
fn wireguard_go_renews_with_us() {
    renews(Kind::WireguardGo, Kind::Ours, false);
}

#[test]
fn two_of_our_devices_renew_a_session_that_both_initiated() {
    renews(Kind::Ours, Kind::Ours, true);
}
