//! Clients that count while things happen.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::cluster::{Cluster, PATIENCE};

/// How long one node is given before the next is asked.
const ANOTHER_AFTER: Duration = Duration::from_secs(8);

/// What was acknowledged: client, request, count.
type Acknowledged = Vec<(String, u64, u64)>;

pub(crate) struct Clients {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Acknowledged>>,
}

impl Clients {
    /// `count` clients, each with one increment after the other, at any of `nodes` in turn until one acknowledges it.
    pub(crate) fn start(cluster: &Cluster, count: usize, nodes: &[u8]) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let urls: Arc<[String]> = nodes.iter().map(|&token| cluster.url(token, "/increment")).collect();
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let (http, stop, urls) = (cluster.client(), Arc::clone(&stop), Arc::clone(&urls));
            let acknowledged = Arc::clone(&acknowledged);
            tasks.spawn(async move {
                let name = format!("client-{number}");
                let mut turn = number;
                for request in 1.. {
                    loop {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        turn += 1;
                        let body = json!({ "client": name, "request": request }).to_string();
                        let answer = http.post(&urls[turn % urls.len()]).timeout(ANOTHER_AFTER).body(body).send().await;
                        let Ok(answer) = answer else { continue };
                        let ok = answer.status().is_success();
                        assert_ne!(answer.status().as_u16(), 409, "an increment is older than itself");
                        let Ok(body) = answer.bytes().await else { continue };
                        if ok {
                            let value = serde_json::from_slice::<Value>(&body).unwrap()["value"].as_u64().unwrap();
                            acknowledged.lock().unwrap().push((name.clone(), request, value));
                            break;
                        }
                        sleep(Duration::from_millis(50)).await;
                    }
                }
            });
        }
        Self { tasks, stop, acknowledged }
    }

    pub(crate) fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Until so many more were acknowledged; how long it took.
    pub(crate) async fn until_more(&self, more: usize, cluster: &Cluster) -> Duration {
        let (start, target) = (Instant::now(), self.count() + more);
        while self.count() < target {
            assert!(start.elapsed() < PATIENCE, "waited in vain for acknowledgements\n{}", cluster.logs());
            sleep(Duration::from_millis(20)).await;
        }
        start.elapsed()
    }

    /// Ends them, and holds what they were told against the log of each of these nodes.
    pub(crate) async fn check(mut self, cluster: &Cluster, nodes: &[u8]) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let values: BTreeSet<u64> = acknowledged.iter().map(|(_, _, value)| *value).collect();
        assert_eq!(values.len(), acknowledged.len(), "two increments made one count");
        for &token in nodes {
            let most = *values.last().unwrap();
            cluster.until("all that counts", token, "/counter", |now| now["value"].as_u64() >= Some(most)).await;
            let mut order: Vec<(String, u64)> = Vec::new();
            for entry in cluster.log(token).await {
                let increment = &entry["operation"]["increment"];
                if let (Some(client), Some(request)) = (increment["client"].as_str(), increment["request"].as_u64()) {
                    let key = (client.to_owned(), request);
                    if !order.contains(&key) {
                        order.push(key);
                    }
                }
            }
            for (client, request, value) in &acknowledged {
                let at = order.iter().position(|(c, r)| c == client && r == request);
                assert_eq!(at.map(|at| at as u64 + 1), Some(*value), "node {token}: {client} {request}");
            }
            let (_, now) = cluster.get(token, "/counter").await.unwrap();
            assert!(now["value"].as_u64() >= Some(order.len() as u64), "node {token}: {now}");
        }
    }
}
