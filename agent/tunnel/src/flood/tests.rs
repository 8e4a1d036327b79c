//! Floods from one source and from many, by UDP and by streams, beside newcomers with a cookie and without.

use super::*;
use crate::noise::INITIATION_LEN;
use crate::path::StreamOrigin;
use crate::sessions::end::End;
use crate::stream_source::StreamSource;

const MS: Duration = Duration::from_millis(1);

/// What a garbled initiation costs: a multiplication, and the look-ups around it.
const GARBLED: Duration = Duration::from_micros(50);

struct Victim {
    flood: Flood,
    end: End,
    now: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Did {
    Worked,
    Cookie([u8; COOKIE_LEN]),
    Refused,
}

impl Victim {
    fn new() -> Self {
        Self { flood: Flood::default(), end: End::new(1, 2, None), now: Instant::now() }
    }

    fn take(&mut self, message: &[u8], from: &str) -> Did {
        self.take_from(message, from.parse().unwrap())
    }

    fn take_from(&mut self, message: &[u8], from: SocketAddr) -> Did {
        self.take_of(message, Source::Host(from))
    }

    fn take_of(&mut self, message: &[u8], from: Source) -> Did {
        match self.flood.admit(&self.end.identity, message, from, self.now) {
            Admission::Work(why) => {
                self.flood.worked(why, GARBLED);
                Did::Worked
            }
            Admission::Cookie(reply) => Did::Cookie(reply),
            Admission::Refuse => Did::Refused,
        }
    }

    /// How many of so many, evenly over that time and each from the next of the sources, are worked on.
    fn flood(&mut self, count: u32, time: Duration, mut from: impl FnMut(u32) -> SocketAddr) -> u32 {
        let mut worked = 0;
        for number in 0..count {
            worked += u32::from(self.take_from(&[0; INITIATION_LEN], from(number)) == Did::Worked);
            self.now += time / count;
        }
        worked
    }
}

fn one(number: u32) -> SocketAddr {
    // A new port each time makes no other source.
    SocketAddr::from(([192, 0, 2, 66], 1000 + (number % 60_000) as u16))
}

fn many(number: u32) -> SocketAddr {
    SocketAddr::from(((0x0a00_0000 + number % 0x00ff_ffff).to_be_bytes(), 7))
}

/// A thousand nodes that start at once are no flood, nor are a thousand handshakes a second.
#[test]
fn there_is_no_load_before_much_work_was_done() {
    let mut victim = Victim::new();
    assert_eq!(victim.flood(5_000, MS, one), 5_000);
    let mut victim = Victim::new();
    // A thousand full handshakes a second, in the long run.
    for _ in 0..20_000 {
        let message = [0; INITIATION_LEN];
        assert!(matches!(
            victim.flood.admit(&victim.end.identity, &message, Source::Host(one(0)), victim.now),
            Admission::Work(Why::Calm)
        ));
        victim.flood.worked(Why::Calm, Duration::from_micros(240));
        victim.now += MS;
    }
}

#[test]
fn a_flood_from_one_source_keeps_no_other_waiting() {
    let mut victim = Victim::new();
    victim.flood(20_000, 1000 * MS, one);
    for newcomer in ["192.0.2.1:7", "[2001:db8::1]:7"] {
        assert_eq!(victim.take(&[0; INITIATION_LEN], newcomer), Did::Worked, "without a cookie");
        victim.flood(2_000, 100 * MS, one);
    }
}

/// And load lasts as long as the flood.
#[test]
fn a_flood_costs_little() {
    for (from, most) in [(one as fn(u32) -> SocketAddr, 3 * MS), (many, 150 * MS)] {
        let mut victim = Victim::new();
        let worked = victim.flood(20_000, 1000 * MS, from) * GARBLED;
        assert!(worked < 500 * MS, "{worked:?}");
        let worked = victim.flood(20_000, 2000 * MS, from) * GARBLED;
        assert!(worked <= most + MS, "{worked:?} in 2 s");
        victim.now += 4000 * MS;
        assert_eq!(victim.flood(1000, MS, from), 1000, "the flood is over");
    }
}

/// Where the flood comes from more sources than can be told apart, who shows a cookie is still worked on.
#[test]
fn a_cookie_opens_the_door_in_any_flood_and_to_its_owner_alone() {
    for (from, newcomer) in [(one as fn(u32) -> SocketAddr, "192.0.2.66:9"), (many, "192.0.2.1:9")] {
        let (mut victim, mut client) = (Victim::new(), End::new(2, 1, None));
        victim.flood(30_000, 1000 * MS, from);
        // One that asks often, so that it has to show a cookie.
        let reply = (0..10).find_map(|_| match victim.take(&client.initiate(), newcomer) {
            Did::Cookie(reply) => Some(reply),
            Did::Worked | Did::Refused => None,
        });
        assert!(client.take(&reply.expect("no cookie")).is_some());
        let shown = client.initiate();
        victim.flood(5_000, 250 * MS, from);
        assert_eq!(victim.take(&shown, newcomer), Did::Worked);
        let others = [newcomer.replace(":9", ":8"), "198.51.100.7:9".into()];
        for other in others {
            victim.flood(100, MS, from);
            while victim.take(&[0; INITIATION_LEN], &other) == Did::Worked {}
            assert!(matches!(victim.take(&shown, &other), Did::Cookie(_)), "{other} shows the cookie of {newcomer}");
        }
    }
}

#[test]
fn one_that_shows_a_cookie_cannot_use_up_what_others_need() {
    let (mut victim, mut client) = (Victim::new(), End::new(2, 1, None));
    victim.flood(30_000, 1000 * MS, many);
    let Did::Cookie(reply) = victim.take(&client.initiate(), "192.0.2.1:9") else { panic!("no cookie") };
    client.take(&reply);
    let shown = client.initiate();
    let mut worked = 0;
    for _ in 0..100 {
        worked += (0..10).filter(|_| victim.take(&shown, "192.0.2.1:9") == Did::Worked).count();
        victim.flood(200, 10 * MS, many);
    }
    assert!((20..=25).contains(&worked), "{worked} in a second");
}

#[test]
fn cookies_have_a_limit_and_some_are_kept_for_the_quiet() {
    let mut victim = Victim::new();
    for why in [Why::Claimed, Why::Calm] {
        victim.flood.worked(why, 500 * MS);
    }
    let cookies = |victim: &mut Victim, count, from: SocketAddr| {
        (0..count).filter(|_| matches!(victim.take_from(&[0; INITIATION_LEN], from), Did::Cookie(_))).count()
    };
    let noisy = cookies(&mut victim, 20_000, one(0));
    assert!(noisy < 8_100, "{noisy}");
    assert_eq!(cookies(&mut victim, 10, one(0)), 0);
    let asked: usize = (0..100).map(|number| cookies(&mut victim, 6, many(number))).sum();
    assert!(asked >= 100, "{asked}");
}

#[test]
fn an_ipv6_network_is_one_source_and_memory_is_bounded() {
    let (mut sources, start) = (Sources::default(), Instant::now());
    let from_one_network = (0..100_u32).filter(|n| sources.take(format!("2001:db8::{n:x}").parse().unwrap(), start));
    assert_eq!(from_one_network.count(), 5);
    let from_many = (0..10_000_u32).filter(|n| sources.take(IpAddr::from(n.to_be_bytes()), start)).count();
    assert_eq!((from_many, sources.buckets.len()), (SOURCES - 1, SOURCES));
    assert!(sources.take("192.0.2.1".parse().unwrap(), start + 1000 * MS), "they are forgotten");
    assert_eq!(sources.buckets.len(), 1);
}

/// The stream of that number, which was accepted.
fn accepted(number: u64) -> Source {
    StreamSource::new(number, StreamOrigin::Accepted).get()
}

/// A stranger that opens streams, and shows the cookie of each as often as it can, keeps no other stream and no host waiting.
#[test]
fn a_stranger_with_cookies_on_many_streams_keeps_no_other_waiting() {
    let mut victim = Victim::new();
    victim.flood(30_000, 1000 * MS, many);
    let mut shown: Vec<(Source, Vec<u8>)> = Vec::new();
    for number in 1..64 {
        let (mut stranger, stream) = (End::new(3, 1, None), accepted(number));
        let reply = (0..10).find_map(|_| match victim.take_of(&stranger.initiate(), stream) {
            Did::Cookie(reply) => Some(reply),
            Did::Worked | Did::Refused => None,
        });
        stranger.take(&reply.expect("no cookie"));
        shown.push((stream, stranger.initiate()));
    }
    let mut worked = 0;
    for _ in 0..1000 {
        for (stream, message) in &shown {
            worked += u32::from(victim.take_of(message, *stream) == Did::Worked);
        }
        victim.take_of(&[0; INITIATION_LEN], accepted(1));
        victim.flood(20, MS, many);
    }
    assert!((500..=2_100).contains(&worked), "{worked} in a second: what there is, and not more");

    // A cookie of one stream is none on another.
    assert!(matches!(victim.take_of(&shown[0].1, accepted(64)), Did::Cookie(_)));
    for (newcomer, what) in [(accepted(65), "another stream"), (Source::Host(many(9)), "a host")] {
        let mut client = End::new(2, 1, None);
        let did = (0..10).find_map(|_| {
            for (stream, message) in &shown {
                victim.take_of(message, *stream);
            }
            victim.take_of(&[0; INITIATION_LEN], accepted(1));
            victim.flood(20, MS, many);
            match victim.take_of(&client.initiate(), newcomer) {
                Did::Cookie(reply) => client.take(&reply).map(|_| None),
                Did::Worked => Some(Some(())),
                Did::Refused => None,
            }
        });
        assert!(did.is_some(), "{what}");
    }
}

/// However many have been opened: their number is no address of a host's limit, and what we dialed is no stranger's.
#[test]
fn a_stream_that_we_dialed_or_that_is_proved_counts_as_a_host() {
    let mut victim = Victim::new();
    victim.flood(30_000, 1000 * MS, one);
    for number in 1..100 {
        victim.take_of(&[0; INITIATION_LEN], accepted(number));
    }
    assert!(matches!(victim.take_of(&[0; INITIATION_LEN], accepted(100)), Did::Cookie(_)), "strangers share one limit");
    let mut proved = StreamSource::new(101, StreamOrigin::Accepted);
    proved.prove();
    for source in [StreamSource::new(102, StreamOrigin::Dialed).get(), proved.get()] {
        victim.flood(100, MS, one);
        assert_eq!(victim.take_of(&[0; INITIATION_LEN], source), Did::Worked);
    }
}
