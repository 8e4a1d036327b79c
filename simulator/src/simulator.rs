//! The running simulator: every instance's two sockets, for the binary and for other crates' tests.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p256::SecretKey;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::certificate::Authority;
use crate::compose::Compose;
use crate::dispatch::Listener;
use crate::fault::{FaultSwitch, Faults};
use crate::fixture::{Fixture, FixtureError};
use crate::guest_api::GuestApi;
use crate::http;
use crate::instance::{App, Instance, InstanceId};
use crate::keys::{Address, AppId, InvalidKey, KmsRoot, checksummed, derive};
use crate::socket::{self, SocketError, SocketFile};

/// Instances one simulator serves at most: each has two sockets and a certificate made at the start.
pub const MAX_INSTANCES: u32 = 1000;

/// The keys of the public simulator fixture, with a certificate authority of our own.
const FIXTURE_B: &str = include_str!("../fixture/appkeys.json");
const FIXTURE_B_APP_ID: AppId = [
    0x5b, 0xb4, 0xff, 0x9a, 0x38, 0x37, 0x35, 0x7f, 0x19, 0xdc, 0x17, 0x64, 0x07, 0xa5, 0x70, 0x9c, 0x62, 0xeb, 0x6c,
    0x56,
];
const FIXTURE_B_INSTANCE_ID: InstanceId = [
    0x16, 0x91, 0xed, 0x1b, 0x47, 0x50, 0x6c, 0xad, 0x7d, 0x08, 0x83, 0x46, 0x68, 0x69, 0x1d, 0x88, 0x24, 0x6f, 0x5b,
    0x1f,
];

/// The simulator could not start; the text says what to change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The seed is no private key.
    #[error("the seed is {0}")]
    Seed(#[from] InvalidKey),
    /// The fixture cannot be served.
    #[error(transparent)]
    Fixture(#[from] FixtureError),
    /// Zero instances, or too many.
    #[error("{0} instances asked for; between 1 and {MAX_INSTANCES} can be served")]
    Instances(u32),
    /// A `--fail` names an instance that does not exist.
    #[error("--fail names instance {index}, but there are only {count}")]
    NoSuchInstance {
        /// As given.
        index: u32,
        /// Instances served.
        count: u32,
    },
    /// A socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A directory cannot be made.
    #[error("cannot make the directory `{path}`: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The Worker's port cannot be opened.
    #[error("cannot serve the Worker at {address}: {source}")]
    Worker {
        /// Where.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The app's document is no app-compose.json.
    #[error("the app-compose document cannot be read: {0}")]
    Compose(serde_json::Error),
    /// An instance cannot be set up.
    #[error("cannot set up an instance: {0}")]
    Boot(String),
}

/// Where keys and instance ids come from.
pub struct Identity {
    app: App,
    root: Option<Address>,
    /// What instance ids are hashed from.
    instance_seed: Zeroizing<[u8; 32]>,
    /// The id of instance 1 where it is given.
    first: Option<InstanceId>,
}

impl Identity {
    /// An app of a KMS whose root key is `seed`: anyone who reads the command line has every key.
    ///
    /// # Errors
    /// When the seed is no secp256k1 private key.
    pub fn seeded(seed: &[u8; 32], app_id: AppId) -> Result<Self, StartError> {
        let root = KmsRoot::from_scalar(seed)?;
        let scalar = derive(seed, &[&app_id, b"SIMULATED app CA"]);
        let authority_key = SecretKey::from_slice(scalar.as_ref()).map_err(|_| InvalidKey)?;
        let authority = Authority::self_signed(&authority_key, "SIMULATED app CA").map_err(FixtureError::from)?;
        Ok(Self {
            app: App::new(app_id, root.issue(&app_id)?, authority)?,
            root: Some(root.address()),
            instance_seed: Zeroizing::new(*seed),
            first: None,
        })
    }

    /// The keys of an `appkeys.json`; `root` is needed where its KMS root is not one of the published fixtures'.
    ///
    /// # Errors
    /// When the file is malformed, or when its KMS signature does not fit the app id.
    pub fn fixture(path: &Path, app_id: AppId, root: Option<Address>) -> Result<Self, StartError> {
        Self::from_fixture(Fixture::read(path)?, app_id, root)
    }

    /// The public simulator fixture, which SDK examples expect.
    ///
    /// # Errors
    /// Never with the fixture built in.
    pub fn public_fixture() -> Result<Self, StartError> {
        let identity = Self::from_fixture(Fixture::parse(FIXTURE_B)?, FIXTURE_B_APP_ID, None)?;
        Ok(Self { first: Some(FIXTURE_B_INSTANCE_ID), ..identity })
    }

    /// The same, deployed with another app-compose.json: its text is measured as it is.
    ///
    /// # Errors
    /// When it is no JSON object.
    pub fn with_app_compose(mut self, text: String) -> Result<Self, StartError> {
        self.app.compose = Compose::parse(text).map_err(StartError::Compose)?;
        Ok(self)
    }

    fn from_fixture(fixture: Fixture, app_id: AppId, root: Option<Address>) -> Result<Self, StartError> {
        let root = fixture.check(&app_id, root)?;
        // No seed comes with a fixture: instance ids hang on the app's public key.
        let public_key = fixture.key.verifying_key().to_encoded_point(true);
        let instance_seed = Zeroizing::new(Sha256::digest(public_key.as_bytes()).into());
        Ok(Self { app: App::new(app_id, fixture.key, fixture.authority)?, root, instance_seed, first: None })
    }

    /// SHA-256(seed ‖ app id ‖ u32be index)[..20]: stable over restarts.
    fn instance_id(&self, index: u32) -> InstanceId {
        if let Some(first) = self.first.filter(|_| index == 1) {
            return first;
        }
        let hash = Sha256::new()
            .chain_update(*self.instance_seed)
            .chain_update(self.app.id)
            .chain_update(index.to_be_bytes())
            .finalize();
        let mut id = [0; 20];
        id.copy_from_slice(&hash[..20]);
        id
    }
}

/// Where the sockets go.
#[derive(Clone, Debug)]
pub enum Layout {
    /// One instance: `dstack.sock` and `tappd.sock` in this directory.
    Flat(PathBuf),
    /// `<index>/dstack.sock` and `<index>/tappd.sock` below this directory, for this many instances.
    Numbered(PathBuf, u32),
}

/// How instances are served; the default is without faults and without a Worker.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Which guest agent this is.
    pub guest_api: GuestApi,
    /// How instances misbehave.
    pub faults: Vec<FaultSwitch>,
    /// Where the Worker of instance 1 is served by TCP, if at all: that of instance N is at the Nth address from this one on, at the
    /// same port. Real ones are at port 8090 of each CVM. Port 0 takes a free one for each.
    pub worker: Option<SocketAddr>,
}

/// One instance, as the ready line and tests name it.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceInfo {
    /// 1-based.
    pub index: u32,
    /// Lower-case hex of 20 bytes.
    pub instance_id: String,
    /// Absolute path of the current API's socket.
    pub dstack_sock: PathBuf,
    /// Absolute path of the legacy API's socket.
    pub tappd_sock: PathBuf,
    /// Where its Worker is, if it is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<SocketAddr>,
}

/// The ready line: what is being served, printed once the sockets answer.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Always true.
    pub simulated: bool,
    /// The root every chain recovers to, EIP-55; null for a fixture without a KMS.
    pub kms_root: Option<String>,
    /// Lower-case hex of 20 bytes.
    pub app_id: String,
    /// In order of index.
    pub instances: Vec<InstanceInfo>,
}

/// Guest agents of one app on unix sockets; dropping it closes and removes every socket.
pub struct Simulator {
    summary: Summary,
    root: Option<Address>,
    instances: Vec<Arc<Instance>>,
    // Dropped in this order: servers end, files go, then the directories that are empty.
    _servers: JoinSet<()>,
    _files: Vec<SocketFile>,
    _directories: MadeDirectories,
}

impl Simulator {
    /// As [`Simulator::start_with`], with these faults and otherwise as by default.
    ///
    /// # Errors
    /// As there.
    pub async fn start(identity: Identity, layout: &Layout, faults: &[FaultSwitch]) -> Result<Self, StartError> {
        let settings = Settings { faults: faults.to_vec(), ..Settings::default() };
        Self::start_with(identity, layout, &settings).await
    }

    /// Opens every socket; they answer when this returns. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// When a socket is in use or cannot be made, and for impossible arguments. Nothing is left behind then.
    pub async fn start_with(identity: Identity, layout: &Layout, settings: &Settings) -> Result<Self, StartError> {
        let Settings { guest_api, faults, worker } = settings;
        let (directory, count, flat) = match layout {
            Layout::Flat(directory) => (directory, 1, true),
            Layout::Numbered(directory, count) => (directory, *count, false),
        };
        if !(1..=MAX_INSTANCES).contains(&count) {
            return Err(StartError::Instances(count));
        }
        if let Some(index) = faults.iter().filter_map(|switch| switch.index).find(|index| *index > count) {
            return Err(StartError::NoSuchInstance { index, count });
        }
        let directory = std::path::absolute(directory)
            .map_err(|source| StartError::Directory { path: directory.clone(), source })?;
        let ids: Vec<_> = (1..=count).map(|index| (index, identity.instance_id(index))).collect();
        let app = Arc::new(identity.app);

        let mut summary = Summary {
            simulated: true,
            kms_root: identity.root.as_ref().map(checksummed),
            app_id: hex::encode(app.id),
            instances: Vec::new(),
        };
        let mut servers = JoinSet::new();
        // Before the files, so that on an early return it is dropped after them.
        let mut directories = MadeDirectories::default();
        let (mut files, mut instances) = (Vec::new(), Vec::new());
        for (index, id) in ids {
            let home = if flat { directory.clone() } else { directory.join(index.to_string()) };
            directories.make(&home)?;
            let faults = faults
                .iter()
                .filter(|switch| switch.index.is_none_or(|only| only == index))
                .fold(Faults::default(), |all, switch| all.and(switch.faults));
            let instance = Instance::boot(Arc::clone(&app), id, *guest_api, faults);
            let instance = Arc::new(instance.map_err(|error| StartError::Boot(error.to_string()))?);
            let paths = [(Listener::Guest, "dstack.sock"), (Listener::Tappd, "tappd.sock")];
            for (listener, name) in paths {
                let (sockets, file) = socket::listen(&home.join(name)).await?;
                files.push(file);
                servers.spawn(http::serve(sockets, Arc::clone(&instance), listener));
            }
            let worker = match worker {
                Some(first) => {
                    let (sockets, address) = listen(nth_address(*first, index)).await?;
                    servers.spawn(http::serve(sockets, Arc::clone(&instance), Listener::Worker));
                    Some(address)
                }
                None => None,
            };
            summary.instances.push(InstanceInfo {
                index,
                instance_id: hex::encode(id),
                dstack_sock: home.join("dstack.sock"),
                tappd_sock: home.join("tappd.sock"),
                worker,
            });
            instances.push(instance);
        }
        Ok(Self {
            summary,
            root: identity.root,
            instances,
            _servers: servers,
            _files: files,
            _directories: directories,
        })
    }

    /// What is being served.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The root address every chain recovers to; `None` for a fixture without a KMS.
    #[must_use]
    pub fn kms_root(&self) -> Option<Address> {
        self.root
    }

    /// The instances, in order of index.
    #[must_use]
    pub fn instances(&self) -> &[InstanceInfo] {
        &self.summary.instances
    }

    /// Changes how one instance (1-based) misbehaves, from its next request on; false when there is no such instance.
    #[must_use]
    pub fn set_faults(&self, index: u32, faults: Faults) -> bool {
        let instance = (index as usize).checked_sub(1).and_then(|i| self.instances.get(i));
        instance.inspect(|instance| instance.set_faults(faults)).is_some()
    }
}

/// The address of instance `index`, 1-based, where the first one's is `first`.
fn nth_address(first: SocketAddr, index: u32) -> SocketAddr {
    let further = index - 1;
    let ip = match first.ip() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().wrapping_add(further)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits().wrapping_add(further.into())).into(),
    };
    SocketAddr::new(ip, first.port())
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Worker { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Directories we made, removed on drop where they are empty by then.
#[derive(Default)]
struct MadeDirectories(Vec<PathBuf>);

impl MadeDirectories {
    fn make(&mut self, path: &Path) -> Result<(), StartError> {
        let missing: Vec<_> = path.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
        fs::create_dir_all(path).map_err(|source| StartError::Directory { path: path.to_owned(), source })?;
        self.0.extend(missing.into_iter().rev());
        Ok(())
    }
}

impl Drop for MadeDirectories {
    fn drop(&mut self) {
        // Innermost first.
        for path in self.0.iter().rev() {
            let _ = fs::remove_dir(path);
        }
    }
}
