//! An endpoint that is asked too often says so, and is left alone for as long as it says: HTTP 429, HTTP 503 with `Retry-After`
//! (RFC 9110, section 10.2.3), or JSON-RPC's usual code for it. What is not asked costs nothing of what its operator allows.

use std::time::Duration;

use tokio::time::Instant;

use crate::{EndpointMessage, RpcUrl, transport::Failure};

/// Where it does not say for how long: at first, and doubled each time that it is busy again, at most this.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Until when an endpoint is not asked.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// Until when, and what it said.
    until: Option<(Instant, EndpointMessage)>,
    /// How often in a row it was busy.
    times: u32,
}

impl Rest {
    /// How long it is still to be left alone, and what it said.
    pub(crate) fn left(&self) -> Option<(Duration, EndpointMessage)> {
        let (until, message) = self.until.as_ref()?;
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        Some((left, message.clone()))
    }

    /// What became of a request; of one that was not answered nothing follows.
    pub(crate) fn note<T, E>(&mut self, outcome: &Result<Result<T, Failure>, E>, url: &RpcUrl) {
        match outcome {
            // Of requests side by side, one refusal counts.
            Ok(Err(Failure::Busy { wait: None, .. })) if self.left().is_some() => {}
            Ok(Err(Failure::Busy { wait: asked, reason })) => {
                let doubled = FIRST.saturating_mul(1 << self.times.min(6));
                let time = asked.unwrap_or(doubled).clamp(FIRST, LONGEST);
                self.times = self.times.saturating_add(1);
                let before = self.until.as_ref().map(|(until, _)| *until);
                let until = before.map_or(Instant::now() + time, |before| before.max(Instant::now() + time));
                self.until = Some((until, EndpointMessage::new(url, reason)));
            }
            Ok(Ok(_) | Err(Failure::Refused(_))) => self.times = 0,
            Ok(Err(Failure::Transport(_))) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<Result<(), Failure>, ()>;

    #[tokio::test(start_paused = true)]
    async fn it_lasts_as_long_as_was_asked_for_and_else_longer_each_time() {
        let url: RpcUrl = "http://rpc.test/s3cretkey".parse().unwrap();
        let busy = |seconds: Option<u64>| {
            let wait = seconds.map(Duration::from_secs);
            Outcome::Ok(Err(Failure::Busy { wait, reason: "s3cretkey is over its quota".to_owned() }))
        };
        let left = |rest: &Rest| rest.left().map(|(left, _)| left.as_secs());
        let mut rest = Rest::default();
        assert_eq!(left(&rest), None);
        rest.note(&busy(Some(7)), &url);
        assert_eq!(left(&rest), Some(7));
        let said = rest.left().unwrap().1.to_string();
        assert!(said.contains("over its quota") && !said.contains("s3cretkey"), "{said}");
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert_eq!(left(&rest), None);
        // A day would be a way to be asked no more; nothing, one to be asked at once.
        for (asked, lasts) in [(Some(86_400), 60), (Some(0), 1), (None, 8), (None, 16), (None, 32), (None, 60)] {
            rest.until = None;
            rest.note(&busy(asked), &url);
            assert_eq!(left(&rest), Some(lasts), "{asked:?}");
        }
        let mut answered = Rest { times: 5, ..Rest::default() };
        answered.note(&Outcome::Ok(Ok(())), &url);
        answered.note(&busy(None), &url);
        assert_eq!(left(&answered), Some(FIRST.as_secs()));
    }
}
