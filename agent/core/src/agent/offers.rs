//! What this node wants on chain, offered until the chain has it.

use std::time::Duration;

use super::{Command, Intent, NotSubmitted, Now, backoff::Backoff};
use crate::{id::B256, status::RegistrationOffer, wei::Wei};

/// How long a signature may be submitted.
const VALIDITY: Duration = Duration::from_secs(3600);
/// An offer with less time left is signed again.
const RENEW_BEFORE: Duration = Duration::from_secs(600);
/// An offer that was not paid for is tried again after this, where its member address is not seen to be funded before.
const RETRY_UNPAID: Duration = Duration::from_secs(30);
/// A transaction that has had no effect after this is sent again.
const RETRY_SENT: Duration = Duration::from_secs(60);

/// The offer's life: wanted, signed, waiting for its transaction, gone.
#[derive(Debug)]
pub(super) struct Offers {
    /// With a deadline of 0.
    wish: Option<Intent>,
    in_flight: Option<Intent>,
    made: Option<Made>,
    retry_at: Duration,
    backoff: Backoff,
    error: Option<String>,
    /// What the member address had when the offer was last tried again because of it.
    tried_with: Option<Wei>,
}

#[derive(Debug)]
pub(super) struct Made {
    intent: Intent,
    pub(super) offer: RegistrationOffer,
    pub(super) submitted: Result<B256, NotSubmitted>,
}

impl Offers {
    pub(super) const fn new() -> Self {
        Self {
            wish: None,
            in_flight: None,
            made: None,
            retry_at: Duration::ZERO,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            error: None,
            tried_with: None,
        }
    }

    /// The current offer, if there is one.
    pub(super) const fn made(&self) -> Option<&Made> {
        self.made.as_ref()
    }

    /// What to do about an offer that the contract would refuse from any sender.
    pub(super) fn remedy(&self) -> Option<&str> {
        self.made.as_ref()?.submitted.as_ref().err()?.remedy.as_deref()
    }

    /// The offer may be submitted by this node once it has funds.
    pub(super) fn await_funds(&self) -> bool {
        let submitted = self.made.as_ref().map(|made| &made.submitted);
        matches!(submitted, Some(Err(NotSubmitted { remedy: None, is_unheard: false, .. })))
    }

    /// Why the last signing failed.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Sets what is wanted as of this read; its deadline is ignored. An offer for anything else is dropped.
    pub(super) fn want(&mut self, wish: Option<Intent>, now: Now) {
        let wish = wish.map(|wish| wish.with_deadline(0));
        if wish == self.wish {
            return;
        }
        self.made = None;
        self.wish = wish;
        self.error = None;
        self.tried_with = None;
        self.backoff.reset();
        self.retry_at = now.since_start;
    }

    /// The answer to [`Command::Offer`].
    pub(super) fn handle_offered(&mut self, offer: RegistrationOffer, submitted: Result<B256, NotSubmitted>, now: Now) {
        let Some(intent) = self.in_flight.take() else { return };
        if self.wish != Some(intent.with_deadline(0)) {
            return;
        }
        self.error = None;
        let pause = match &submitted {
            Err(NotSubmitted { is_unheard: true, .. }) => self.backoff.fail(),
            other => {
                self.backoff.reset();
                if other.is_ok() { RETRY_SENT } else { RETRY_UNPAID }
            }
        };
        self.retry_at = now.since_start + pause;
        self.made = Some(Made { intent, offer, submitted });
    }

    /// What the member address had when that was too little.
    pub(super) fn shortage(&self) -> Option<Wei> {
        self.made.as_ref()?.submitted.as_ref().err()?.balance
    }

    /// The member address has so much now. With more than when it was too little, the offer is tried again at once; but once only for
    /// each amount, because one endpoint that lags or lies can say that it is too little as often as it is asked.
    pub(super) fn handle_balance(&mut self, balance: Option<Wei>, now: Now) {
        let Some(had) = self.shortage() else { return };
        let is_more = |has: &Wei| *has > had && self.tried_with.is_none_or(|tried| *has > tried);
        if let Some(has) = balance.filter(is_more)
            && self.retry_at > now.since_start
        {
            tracing::info!("the member address was funded: trying again");
            self.retry_at = now.since_start;
            self.tried_with = Some(has);
        }
    }

    /// The answer to [`Command::Offer`] when signing failed.
    pub(super) fn handle_failure(&mut self, error: String, now: Now) {
        if self.in_flight.take().is_some() && self.wish.is_some() {
            self.error = Some(error);
            self.retry_at = now.since_start + self.backoff.fail();
        }
    }

    /// What to do now, if anything.
    pub(super) fn poll(&mut self, now: Now) -> Option<Command> {
        if self.in_flight.is_some() {
            return None;
        }
        let wish = self.wish.filter(|_| self.retry_at <= now.since_start)?;
        let standing = self.made.as_ref().map(|made| made.intent.deadline());
        let deadline = match standing {
            Some(deadline) if deadline > (now.unix + RENEW_BEFORE).as_secs() => deadline,
            _ => (now.unix + VALIDITY).as_secs(),
        };
        let intent = wish.with_deadline(deadline);
        self.in_flight = Some(intent);
        Some(Command::Offer(intent))
    }

    /// When [`Offers::poll`] will want something.
    pub(super) fn timeout(&self) -> Option<Duration> {
        (self.in_flight.is_none() && self.wish.is_some()).then_some(self.retry_at)
    }
}

impl Intent {
    /// Last Unix second at which it may be submitted.
    #[must_use]
    pub const fn deadline(&self) -> u64 {
        match self {
            Self::Register(registration) => registration.deadline,
            Self::UpdateEndpoint(update) => update.deadline,
        }
    }

    const fn with_deadline(mut self, deadline: u64) -> Self {
        match &mut self {
            Self::Register(registration) => registration.deadline = deadline,
            Self::UpdateEndpoint(update) => update.deadline = deadline,
        }
        self
    }
}
