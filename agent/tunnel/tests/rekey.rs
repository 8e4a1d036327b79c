//! Sessions are renewed every 120 s of traffic, in real time and against `wireguard-go`: two minutes of waiting, so that
//! `cargo test` leaves it out and `make nightly ONLY=rekey` runs it.
#![expect(clippy::unwrap_used, reason = "a test that panics says where")]

#[expect(dead_code, reason = "made for the tests in `device/`; this one needs less of it")]
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

/// The initiator (or one of two) renews; packets go both ways all the time, and none is lost.
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
        // A pace, not a wait: the renewal falls between two probes wherever it falls, and the processor is others' as well.
        std::thread::sleep(Duration::from_millis(20));
        for (from, to) in [(&asks, &answers), (&answers, &asks)] {
            let answered = from.probe(to.inner4()) && from.probe(to.inner6());
            assert!(answered, "lost after {:?}", began.elapsed());
        }
        let now = session(&asks, &answers);
        if renewed.is_none() && now.0 > first.0 && now.1 > first.1 {
            // By the time of the handshakes: a machine that stands still makes the test late, and not the device.
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
fn two_of_us_renew_what_both_asked_for() {
    renews(Kind::Ours, Kind::Ours, true);
}
