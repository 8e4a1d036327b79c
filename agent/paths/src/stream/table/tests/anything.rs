//! Whatever happens, in whatever order.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Answer(usize, u8),
    Accept,
    Prove(usize, u32, bool),
    Greet(usize),
    End(usize),
    Peers(u8, u8),
    Retry,
    Redial(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..400_000).prop_map(Step::Wait),
        4 => (0u64..2000).prop_map(Step::Wait),
        8 => (any::<usize>(), 0u8..6).prop_map(|(which, how)| Step::Answer(which, how)),
        4 => Just(Step::Accept),
        8 => (any::<usize>(), 1u32..8, any::<bool>()).prop_map(|(which, who, how)| Step::Prove(which, who, how)),
        2 => any::<usize>().prop_map(Step::Greet),
        4 => any::<usize>().prop_map(Step::End),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(who, called)| Step::Peers(who, called)),
        1 => Just(Step::Retry),
        2 => (1u32..8).prop_map(Step::Redial),
    ]
}

proptest! {
    /// Whatever happens, in whatever order: `Lab` finds what is lost, leaked, said twice or asked for too often. In the end,
    /// when all goes well, every peer that is called is reached.
    #[test]
    fn no_stream_is_lost_or_leaked(seed: u64, steps in prop::collection::vec(step(), 0..200)) {
        let mut lab = Lab::with_peers(seed, 3, 6);
        let mut proved = BTreeMap::new();
        let pick = |set: Vec<StreamId>, which: usize| (!set.is_empty()).then(|| set[which % set.len()]);
        for step in steps {
            match step {
                Step::Wait(millis) => lab.wait(Duration::from_millis(millis)),
                Step::Answer(which, how) => {
                    if let Some(stream) = pick(lab.dialing.keys().copied().collect(), which) {
                        match how {
                            0 => lab.failed(stream, false),
                            1 => lab.failed(stream, true),
                            _ => lab.opened(stream),
                        }
                    }
                }
                Step::Accept => drop(lab.accepted()),
                Step::Prove(which, who, answers) => {
                    // As the shell: once for each stream and kind of proof, always the same peer, and not for one that is closed.
                    if let Some(stream) = pick(lab.open.iter().copied().collect(), which) {
                        match proved.get(&stream).copied() {
                            None if answers => lab.answered(stream, token(who)),
                            None => lab.proved(stream, token(who)),
                            Some((who, false)) => lab.answered(stream, token(who)),
                            Some((_, true)) => continue,
                        }
                        let is_second = proved.contains_key(&stream);
                        proved.entry(stream).or_insert((who, false)).1 |= answers || is_second;
                    }
                }
                Step::Greet(which) => {
                    if let Some(stream) = pick(lab.open.iter().copied().collect(), which) {
                        lab.table.hello_received(stream);
                    }
                }
                Step::End(which) => {
                    if let Some(stream) = pick(lab.open.iter().copied().collect(), which) {
                        lab.ended(stream);
                    }
                }
                Step::Peers(who, called) => {
                    let peers = (1..8).filter(|n| who & (1 << n) != 0);
                    let peers = peers.map(|n| (token(n), place(n).filter(|_| called & (1 << n) != 0))).collect();
                    lab.table.set_own(token(9), place(9).filter(|_| called & 1 != 0));
                    lab.table.set_peers(peers, lab.now);
                    lab.act();
                }
                Step::Retry => {
                    lab.table.retry(lab.now);
                    lab.act();
                }
                Step::Redial(who) => {
                    lab.table.redial(token(who), lab.now);
                    lab.act();
                }
            }
        }
        let until = lab.now + 40 * SECOND;
        while lab.now < until {
            for (stream, peer) in lab.dialing.clone() {
                // Another's proof may have ended it.
                if !lab.dialing.contains_key(&stream) {
                    continue;
                }
                lab.opened(stream);
                if lab.open.contains(&stream) {
                    lab.proved(stream, peer);
                }
            }
            lab.wait(SECOND / 10);
        }
        for (peer, how) in lab.table.report(lab.now) {
            prop_assert!(lab.table.peers[&peer].place.is_none() || how.stream.is_some(), "{peer}: {how:?}");
        }
    }
}
