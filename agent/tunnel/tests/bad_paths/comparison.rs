//! The same case with our device in one role or both, and with wireguard-go alone.

use std::fmt::Display;
use std::panic::resume_unwind;
use std::thread;

use crate::lab::Kind;
use crate::patience::Watch;

/// Where our device is. The other end is wireguard-go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Client,
    Both,
}

impl Role {
    const ALL: [Self; 3] = [Self::Server, Self::Client, Self::Both];

    fn kinds(self) -> [Kind; 2] {
        match self {
            Self::Server => [Kind::Ours, Kind::WireguardGo],
            Self::Client => [Kind::WireguardGo, Kind::Ours],
            Self::Both => [Kind::Ours; 2],
        }
    }
}

/// What a case showed with our device in each role, and with wireguard-go at both ends.
pub(crate) struct Comparison<T> {
    pub(crate) ours: [(Role, T); 3],
    pub(crate) wireguard_go: T,
}

impl<T: Send> Comparison<T> {
    /// Runs a case with these servers and clients at the same time, so that what else the machine does is the same for all.
    pub(crate) fn of(case: impl Fn([Kind; 2]) -> T + Sync) -> Self {
        thread::scope(|scope| {
            let case = &case;
            let start = |kinds| scope.spawn(move || case(kinds));
            let ours = Role::ALL.map(|role| (role, start(role.kinds())));
            let wireguard_go = start([Kind::WireguardGo; 2]);
            let ours = ours.map(|(role, running)| (role, running.join().unwrap_or_else(|panic| resume_unwind(panic))));
            Self { ours, wireguard_go: wireguard_go.join().unwrap_or_else(|panic| resume_unwind(panic)) }
        })
    }

    /// The same where a stall of the machine would be taken for the device's: runs it up to three times, until there is none.
    pub(crate) fn undisturbed(case: impl Fn([Kind; 2]) -> T + Sync) -> Self {
        for _ in 0..2 {
            let (watch, comparison) = (Watch::begin(), Self::of(&case));
            if watch.end().1.is_zero() {
                return comparison;
            }
        }
        Self::of(case)
    }

    /// Prints a line for each role, which `.ci/nightly` shows in the end.
    #[expect(clippy::print_stdout, reason = "the table of results")]
    pub(crate) fn show<S: Display>(&self, case: impl Display, show: impl Fn(&T) -> S) {
        let theirs = show(&self.wireguard_go).to_string();
        for (role, ours) in &self.ours {
            let (case, role, ours) = (case.to_string(), format!("{role:?}").to_lowercase(), show(ours).to_string());
            println!("measured: {case:<38} {role:<7} ours: {ours:<32} wireguard-go: {theirs}");
        }
    }
}
