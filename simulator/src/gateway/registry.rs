//! The instances behind a gateway. A real one learns them as CVMs register; this one gets them from its caller.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;

use super::connection::Refusal;
use super::instances_file::{InstancesError, InstancesFile};
use super::limits::Limits;
use super::policy::{self, Learned, PortPolicy};

/// Instances one gateway knows at most: a WireGuard subnet's worth.
pub const MAX_INSTANCES: usize = 65_536;

/// One CVM behind the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// The app it runs.
    #[serde(with = "hex::serde")]
    pub app_id: [u8; 20],
    /// The CVM's own id.
    #[serde(with = "hex::serde")]
    pub instance_id: [u8; 20],
    /// Where it listens; the port comes with the server name.
    pub ip: IpAddr,
    /// Ports that its app lets the gateway connect to (app-compose `port_policy`); every port where absent.
    #[serde(default)]
    pub ports: Option<BTreeSet<u16>>,
    /// Its guest, of dstack 0.5.8 or before, says nothing of ports: the gateway has to ask its Worker at this port (8090 in a CVM), and
    /// closes every connection before it knows. `ports` says nothing then.
    #[serde(default)]
    pub worker: Option<u16>,
}

/// The instances behind a gateway, in order of freshness: of an app's instances the first are tried. Clones are one registry,
/// which can change while gateways use it: a connection that is open stays.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    file: Option<InstancesFile>,
    entries: Vec<Entry>,
}

struct Entry {
    instance: Instance,
    policy: Known,
    open: Arc<AtomicU64>,
}

/// What is known of an instance's port policy.
#[derive(Clone)]
enum Known {
    Policy(PortPolicy),
    Nothing,
    /// Its Worker is being asked.
    Asking,
    Unreadable,
}

impl Entry {
    fn allows(&self, port: u16) -> bool {
        matches!(&self.policy, Known::Policy(policy) if policy.allows(port))
    }
}

impl Registry {
    /// The instances in a JSON file, which is read again for every connection: `[{"app_id": HEX, "instance_id": HEX,
    /// "ip": IP, "ports": [PORT, …], "worker": PORT}, …]`. While its content is invalid, the last valid content holds.
    ///
    /// # Errors
    /// When the file cannot be read, or is not what it should be.
    pub fn follow(path: &Path) -> Result<Self, InstancesError> {
        let mut file = InstancesFile::new(path);
        let mut state = State::default();
        if let Some(instances) = file.changed()? {
            state.replace(instances)?;
        }
        state.file = Some(file);
        Ok(Self(Arc::new(Mutex::new(state))))
    }

    /// Puts these instances in place of those known so far, freshest first.
    ///
    /// # Errors
    /// When an instance comes twice, or when there are more than [`MAX_INSTANCES`]; nothing has changed then.
    pub fn replace(&self, instances: Vec<Instance>) -> Result<(), InstancesError> {
        self.lock().replace(instances)
    }

    /// Connections to each instance, those being made included.
    #[must_use]
    pub fn open(&self) -> BTreeMap<[u8; 20], u64> {
        let count = |entry: &Entry| (entry.instance.instance_id, entry.open.load(Ordering::Relaxed));
        self.lock().entries.iter().map(count).collect()
    }

    /// Takes a place at every instance that a connection to `port` of `id` is to try: the instance of that id, or
    /// the freshest of that app.
    pub(super) fn enter(&self, id: &[u8; 20], port: u16, limits: &Limits) -> Result<Vec<Place>, Refusal> {
        let mut state = self.lock();
        state.refresh();
        let one = state.entries.iter_mut().find(|entry| entry.instance.instance_id == *id);
        let mut chosen: Vec<_> = match one {
            Some(entry) => vec![entry],
            None => {
                let of_app = state.entries.iter_mut().filter(|entry| entry.instance.app_id == *id);
                of_app.take(limits.race.get()).collect()
            }
        };
        if chosen.is_empty() {
            return Err(Refusal::Unknown(hex::encode(id)));
        }
        for entry in &mut chosen {
            self.ask_for_policy(entry);
        }
        let is_open = |entry: &Entry| matches!(entry.policy, Known::Policy(_));
        if !chosen.iter().any(|entry| is_open(entry)) {
            return Err(Refusal::NoPolicy);
        }
        let allowed: Vec<&Entry> = chosen.into_iter().map(|entry| &*entry).filter(|entry| entry.allows(port)).collect();
        if allowed.is_empty() {
            return Err(Refusal::PortPolicy(port));
        }
        let open: u64 = allowed.iter().map(|entry| entry.open.load(Ordering::Relaxed)).sum();
        if limits.connections_per_app != 0 && open >= limits.connections_per_app {
            return Err(Refusal::Full { open, limit: limits.connections_per_app });
        }
        Ok(allowed.into_iter().map(|entry| Place::take(entry, port)).collect())
    }

    /// Has the instance's Worker asked, if its policy is not known. What comes of it counts for later connections.
    fn ask_for_policy(&self, entry: &mut Entry) {
        let Some(port) = entry.instance.worker.filter(|_| matches!(entry.policy, Known::Nothing)) else { return };
        entry.policy = Known::Asking;
        let (instance, registry) = (entry.instance.clone(), Arc::downgrade(&self.0));
        tokio::spawn(async move {
            let worker = SocketAddr::new(instance.ip, port);
            let learned = policy::learn(|| policy::ask(worker)).await;
            if let Some(state) = registry.upgrade() {
                Self(state).lock().learned(&instance, learned);
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No thread panics while holding it, and no change is seen half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Reads the file, if there is one, and takes over what changed. It blocks, for as long as a small file takes.
    fn refresh(&mut self) {
        let Some(file) = &mut self.file else { return };
        let replaced = file.changed().and_then(|changed| match changed {
            Some(instances) => {
                tracing::info!(instances = instances.len(), "the file of instances has changed");
                self.replace(instances)
            }
            None => Ok(()),
        });
        if let Err(error) = replaced {
            tracing::warn!(%error, "the instances stay as they were");
        }
    }

    fn replace(&mut self, instances: Vec<Instance>) -> Result<(), InstancesError> {
        if instances.len() > MAX_INSTANCES {
            return Err(InstancesError::TooMany(instances.len()));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = instances.iter().find(|instance| !seen.insert(instance.instance_id)) {
            return Err(InstancesError::Twice(hex::encode(twice.instance_id)));
        }
        // An instance that stays keeps its count; one that stays as it is, what is known of it.
        let before: BTreeMap<_, _> =
            std::mem::take(&mut self.entries).into_iter().map(|entry| (entry.instance.instance_id, entry)).collect();
        let entry = |instance: Instance| {
            let before = before.get(&instance.instance_id);
            let policy = match (before.filter(|before| before.instance == instance), instance.worker) {
                (Some(before), _) => before.policy.clone(),
                (None, None) => Known::Policy(PortPolicy(instance.ports.clone())),
                (None, Some(_)) => Known::Nothing,
            };
            Entry { open: before.map(|before| Arc::clone(&before.open)).unwrap_or_default(), policy, instance }
        };
        self.entries = instances.into_iter().map(entry).collect();
        Ok(())
    }

    /// Takes what came of asking, unless the instance has changed meanwhile.
    fn learned(&mut self, instance: &Instance, learned: Learned) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.instance == *instance) {
            entry.policy = match learned {
                Learned::Policy(policy) => Known::Policy(policy),
                Learned::GaveUp => Known::Nothing,
                Learned::Unreadable => Known::Unreadable,
            };
        }
    }
}

/// One connection's place at an instance, free again when dropped.
pub(super) struct Place {
    pub(super) instance_id: [u8; 20],
    pub(super) address: SocketAddr,
    open: Arc<AtomicU64>,
}

impl Place {
    fn take(entry: &Entry, port: u16) -> Self {
        entry.open.fetch_add(1, Ordering::Relaxed);
        let Instance { instance_id, ip, .. } = entry.instance;
        Self { instance_id, address: SocketAddr::new(ip, port), open: Arc::clone(&entry.open) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(app: u8, id: u8, ports: Option<&[u16]>) -> Instance {
        Instance {
            app_id: [app; 20],
            instance_id: [id; 20],
            ip: IpAddr::from([127, 0, 0, id]),
            ports: ports.map(|ports| ports.iter().copied().collect()),
            worker: None,
        }
    }

    fn registry(instances: &[Instance]) -> Registry {
        let registry = Registry::default();
        registry.replace(instances.to_vec()).unwrap();
        registry
    }

    /// Last bytes of the addresses tried.
    fn tried(registry: &Registry, id: u8, port: u16) -> Result<Vec<u8>, String> {
        let places = registry.enter(&[id; 20], port, &Limits::default()).map_err(|refusal| refusal.to_string())?;
        assert!(places.iter().all(|place| place.address.port() == port));
        Ok(places.iter().map(|place| place.instance_id[0]).collect())
    }

    #[test]
    fn an_instance_is_itself_and_an_app_is_its_three_freshest() {
        let app: Vec<_> = [5, 6, 7, 8].map(|id| instance(1, id, None)).into();
        let registry = registry(&[&[instance(2, 9, None)], &app[..]].concat());
        assert_eq!(tried(&registry, 8, 443), Ok(vec![8]));
        assert_eq!(tried(&registry, 1, 443), Ok(vec![5, 6, 7]));
        assert_eq!(tried(&registry, 2, 443), Ok(vec![9]));
        assert!(tried(&registry, 3, 443).unwrap_err().contains("0303"));
        assert_eq!(registry.open().values().sum::<u64>(), 0, "places are free again");
    }

    #[test]
    fn an_instance_is_found_before_an_app_of_the_same_id() {
        let registry = registry(&[instance(4, 5, None), instance(6, 4, None)]);
        assert_eq!(tried(&registry, 4, 443), Ok(vec![4]));
    }

    #[test]
    fn a_port_policy_is_obeyed_by_each_instance() {
        let registry = registry(&[instance(1, 5, Some(&[51822])), instance(1, 6, Some(&[])), instance(1, 7, None)]);
        assert_eq!(tried(&registry, 1, 51822), Ok(vec![5, 7]));
        assert_eq!(tried(&registry, 1, 443), Ok(vec![7]));
        assert!(tried(&registry, 5, 443).unwrap_err().contains("443"));
        assert!(tried(&registry, 6, 51822).is_err());
    }

    #[test]
    fn a_full_instance_refuses_and_counts_survive_a_change() {
        let registry = registry(&[instance(1, 5, None), instance(1, 6, None)]);
        let limits = Limits { connections_per_app: 2, ..Limits::default() };
        let first = registry.enter(&[5; 20], 443, &limits).unwrap();
        let second = registry.enter(&[5; 20], 443, &limits).unwrap();
        registry.replace(vec![instance(1, 6, None), instance(1, 5, None)]).unwrap();
        assert_eq!(registry.open(), BTreeMap::from([([5; 20], 2), ([6; 20], 0)]));
        let full = registry.enter(&[5; 20], 443, &limits).err().unwrap();
        assert!(matches!(full, Refusal::Full { open: 2, limit: 2 }), "{full}");
        assert!(registry.enter(&[1; 20], 443, &limits).is_err(), "as many as the instances tried have together");
        assert!(registry.enter(&[6; 20], 443, &limits).is_ok(), "another instance has places of its own");
        drop(first);
        assert!(registry.enter(&[5; 20], 443, &limits).is_ok());
        let any = Limits { connections_per_app: 0, ..Limits::default() };
        let many: Vec<_> = (0..100).map(|_| registry.enter(&[5; 20], 443, &any).unwrap()).collect();
        drop((second, many));
        assert_eq!(registry.open().values().sum::<u64>(), 0);
    }

    #[test]
    fn what_is_wrong_changes_nothing() {
        let registry = registry(&[instance(1, 5, None)]);
        let twice = registry.replace(vec![instance(1, 6, None), instance(2, 6, None)]);
        assert!(matches!(twice, Err(InstancesError::Twice(id)) if id == "06".repeat(20)));
        let many = vec![instance(1, 6, None); MAX_INSTANCES + 1];
        assert!(matches!(registry.replace(many), Err(InstancesError::TooMany(_))));
        assert_eq!(tried(&registry, 1, 443), Ok(vec![5]));
    }
}
