//! Asking several endpoints and waiting for as few as needed.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, sleep_until};

/// What stragglers get after enough have answered.
const GRACE: Duration = Duration::from_millis(200);

/// One of the tasks.
pub(super) struct Task<'a, T> {
    pub(super) index: usize,
    pub(super) running: BoxFuture<'a, T>,
}

/// Runs `tasks` side by side and collects their results by index. Once `enough` is content with what came in, the others
/// get a short grace and are then given up (`None`): one hanging endpoint must not hold back a revocation. They are handed
/// back as they are, for callers that want to know how they end; dropped, they end at once.
pub(super) async fn gather<'a, T, F: Future<Output = T> + Send + 'a>(
    tasks: impl IntoIterator<Item = F>,
    mut enough: impl FnMut(&[Option<T>]) -> bool,
) -> (Vec<Option<T>>, Vec<Task<'a, T>>) {
    let tasks = tasks.into_iter().enumerate().map(|(index, task)| Task { index, running: task.boxed() });
    let mut running: FuturesUnordered<Task<'a, T>> = tasks.collect();
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
    (results, running.into_iter().collect())
}

/// As [`gather`], for callers that do not want to know how the others end.
pub(super) async fn gather_in_time<'a, T, F: Future<Output = T> + Send + 'a>(
    tasks: impl IntoIterator<Item = F>,
    enough: impl FnMut(&[Option<T>]) -> bool,
) -> Vec<Option<T>> {
    gather(tasks, enough).await.0
}

/// Tries one after the other until one gives something, and the next one beside it when that takes longer than `after`: one that hangs
/// must not hold back what another has.
pub(super) async fn first_of<T, F: Future<Output = Option<T>>>(
    tasks: impl IntoIterator<Item = F>,
    after: Duration,
) -> Option<T> {
    let mut waiting = tasks.into_iter();
    let mut running = FuturesUnordered::from_iter(waiting.next());
    while !running.is_empty() {
        let ended = tokio::select! {
            ended = running.next() => ended,
            () = sleep(after) => Some(None),
        };
        if let Some(Some(found)) = ended {
            return Some(found);
        }
        running.extend(waiting.next());
    }
    None
}

/// How many answered, and not with an error.
pub(super) fn answered<T, E>(results: &[Option<Result<T, E>>]) -> usize {
    results.iter().filter(|result| matches!(result, Some(Ok(_)))).count()
}

impl<T> Future for Task<'_, T> {
    type Output = (usize, T);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<(usize, T)> {
        let index = self.index;
        self.running.as_mut().poll(context).map(|result| (index, result))
    }
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
        let (results, late) = gather([task(1), task(60), task(2)], count).await;
        assert_eq!(results, [Some(1), None, Some(2)]);
        assert!(started.elapsed() < Duration::from_secs(3));
        let [late] = late.try_into().ok().unwrap();
        assert_eq!((late.index, late.running.await), (1, 60), "a caller that waits for it gets it");
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_is_tried_when_one_fails_or_takes_long() {
        let begun = Instant::now();
        let task = |(seconds, found): (u64, Option<u64>)| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            found
        };
        let after = Duration::from_secs(2);
        let first = async |tasks: &[(u64, Option<u64>)]| first_of(tasks.iter().copied().map(task), after).await;
        assert_eq!(first(&[(1, Some(1)), (0, Some(2))]).await, Some(1), "the next is not even begun");
        assert_eq!((begun.elapsed().as_secs(), first(&[(1, None), (1, Some(2))]).await), (1, Some(2)));
        assert_eq!((begun.elapsed().as_secs(), first(&[(60, Some(1)), (1, Some(2))]).await), (3, Some(2)));
        assert_eq!((begun.elapsed().as_secs(), first(&[(4, Some(1)), (60, Some(2)), (60, None)]).await), (6, Some(1)));
        assert_eq!((begun.elapsed().as_secs(), first(&[(1, None), (1, None)]).await), (10, None));
        assert_eq!((begun.elapsed().as_secs(), first(&[]).await), (12, None));
    }

    #[tokio::test(start_paused = true)]
    async fn every_one_is_awaited_while_it_is_not_enough() {
        let task = |seconds: u64| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            seconds
        };
        let results = gather_in_time([task(1), task(60)], |_| false).await;
        assert_eq!(results, [Some(1), Some(60)]);
    }
}
