//! Asking several endpoints and waiting for as few as needed.

use std::{future::Future, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

/// What stragglers get after enough have answered.
const GRACE: Duration = Duration::from_millis(200);

/// Runs `tasks` side by side and collects their results by index. Once `enough` is content with what came in, the others
/// get a short grace and are then given up (`None`): one hanging endpoint must not hold back a revocation.
pub(super) async fn gather<T, F: Future<Output = T>>(
    tasks: impl IntoIterator<Item = F>,
    mut enough: impl FnMut(&[Option<T>]) -> bool,
) -> Vec<Option<T>> {
    let mut running: FuturesUnordered<_> =
        tasks.into_iter().enumerate().map(|(index, task)| async move { (index, task.await) }).collect();
    let mut results: Vec<Option<T>> = std::iter::repeat_with(|| None).take(running.len()).collect();
    let mut grace_ends: Option<Instant> = None;
    while !running.is_empty() {
        let next = match grace_ends {
            None => running.next().await,
            Some(end) => tokio::select! {
                next = running.next() => next,
                () = sleep_until(end) => None,
            },
        };
        let Some((index, result)) = next else { break };
        results[index] = Some(result);
        if grace_ends.is_none() && enough(&results) {
            grace_ends = Some(Instant::now() + GRACE);
        }
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stragglers_are_given_up_once_enough_have_answered() {
        let started = Instant::now();
        let task = |seconds: u64| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            seconds
        };
        let count = |results: &[Option<u64>]| results.iter().flatten().count() >= 2;
        let results = gather([task(1), task(60), task(2)], count).await;
        assert_eq!(results, [Some(1), None, Some(2)]);
        assert!(started.elapsed() < Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn everyone_is_awaited_while_it_is_not_enough() {
        let task = |seconds: u64| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            seconds
        };
        let results = gather([task(1), task(60)], |_| false).await;
        assert_eq!(results, [Some(1), Some(60)]);
    }
}
