//! The private keys on the CVM's encrypted disk, WireGuard's, the TLS key and the member key: drawn once, never overwritten.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mesh_core::id::WireguardKey;
use mesh_tunnel::{PrivateKey, Secret, leave_no_trace};
use zeroize::Zeroizing;

use crate::identity::{member::MemberSecret, tls::TlsSecret};

/// File name inside the state directory; the content is what `wg genkey` prints.
const WIREGUARD_FILE: &str = "wireguard.key";
/// The same for the member key: 32 bytes in base64.
const MEMBER_FILE: &str = "member.key";
/// The same for the TLS key.
const TLS_FILE: &str = "tls.key";
/// 32 bytes in base64.
const TEXT_LENGTH: usize = 44;

/// A WireGuard private key. Cannot be printed. A clone is another handle to it.
#[derive(Clone)]
pub struct WireguardSecret(PrivateKey);

/// Why the key file cannot be used. The file is never changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The system refused.
    #[error("cannot {what} `{}`: {source}\nhint: the state directory must be writable by this user and on a disk that lasts (`--state-dir`)", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could have read it.
    #[error("key file `{}` has mode {mode:04o}: others may read it\nhint: if none did, `chmod 600 {}`; otherwise move it away, and a new key is drawn and registered", path.display(), path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not ours.
    #[error("key file `{}` belongs to user {owner}, not to user {user} as whom this runs\nhint: run as the same user as before, or `chown` the file", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Effective user id.
        user: u32,
    },
    /// Not what says which node key this is.
    #[error("`{}` holds neither `v0` nor `v1`\nhint: write the one that `meshctl status` showed beside the KMS chain; without the file this node registers with its key of v0", path.display())]
    NoGuestApi {
        /// The file.
        path: PathBuf,
    },
    /// Not a key.
    #[error("key file `{}` is corrupt: {reason}\nhint: restore it from a backup, or move it away, and a new key is drawn and registered; it is never overwritten", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No randomness.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

impl WireguardSecret {
    /// Clamps as RFC 7748 section 5 says; all zeros are not a key.
    #[must_use]
    pub fn new(bytes: impl Into<Secret>) -> Option<Self> {
        let bytes = bytes.into();
        (*bytes.bytes() != [0; 32]).then(|| Self(PrivateKey::from_bytes(bytes)))
    }

    /// The public key that belongs to it.
    #[must_use]
    pub fn public_key(&self) -> WireguardKey {
        WireguardKey(*self.0.public_key().as_bytes())
    }

    /// The key, for a device.
    #[must_use]
    pub const fn private_key(&self) -> &PrivateKey {
        &self.0
    }
}

impl fmt::Debug for WireguardSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Reads the WireGuard key of a state directory, or draws one where there is none yet.
///
/// # Errors
/// See [`KeyFileError`]; a file that is there is left as it is.
pub fn load_or_create(state_dir: &Path, user: u32) -> Result<WireguardSecret, KeyFileError> {
    KeyFile { state_dir, name: WIREGUARD_FILE, user }.load_or_create(WireguardSecret::new)
}

/// Whether a state directory has a member key, or anything in its place.
pub(super) fn has_member_key(state_dir: &Path) -> bool {
    fs::symlink_metadata(state_dir.join(MEMBER_FILE)).is_ok()
}

/// Reads the member key of a state directory, or draws one where there is none yet. It is on the disk, and in its directory, when
/// this returns: before anything can name it to the contract, which would not take another in its place.
///
/// # Errors
/// See [`KeyFileError`]; a file that is there is left as it is.
pub fn load_or_create_member(state_dir: &Path, user: u32) -> Result<MemberSecret, KeyFileError> {
    KeyFile { state_dir, name: MEMBER_FILE, user }.load_or_create(MemberSecret::new)
}

/// Reads the TLS key of a state directory, or draws one where there is none yet: also where a former version of the agent, which had no
/// TLS keys, left the other files.
///
/// # Errors
/// See [`KeyFileError`]; a file that is there is left as it is.
pub fn load_or_create_tls(state_dir: &Path, user: u32) -> Result<TlsSecret, KeyFileError> {
    KeyFile { state_dir, name: TLS_FILE, user }.load_or_create(TlsSecret::new)
}

/// One key file.
struct KeyFile<'a> {
    state_dir: &'a Path,
    name: &'static str,
    /// Effective user id.
    user: u32,
}

impl KeyFile<'_> {
    /// `parse` says which 32 bytes are a key: all but a few.
    fn load_or_create<K>(&self, parse: impl Fn(Secret) -> Option<K>) -> Result<K, KeyFileError> {
        let path = self.state_dir.join(self.name);
        match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path) {
            Ok(file) => {
                let corrupt =
                    || KeyFileError::Corrupt { path: path.clone(), reason: "it holds 32 bytes that are no key" };
                parse(read(file, &path, self.user)?).ok_or_else(corrupt)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let bytes = draw()?;
                let key =
                    parse(bytes.clone()).ok_or_else(|| KeyFileError::Random("bytes that are no key".to_owned()))?;
                create(self.state_dir, self.name, &path, bytes.bytes())?;
                Ok(key)
            }
            Err(source) => Err(KeyFileError::Io { what: "read key file", path, source }),
        }
    }
}

fn read(file: File, path: &Path, user: u32) -> Result<Secret, KeyFileError> {
    let io = |source| KeyFileError::Io { what: "read key file", path: path.to_owned(), source };
    let corrupt = |reason| KeyFileError::Corrupt { path: path.to_owned(), reason };
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(corrupt("it is not a regular file"));
    }
    if metadata.uid() != user {
        return Err(KeyFileError::Owner { path: path.to_owned(), owner: metadata.uid(), user });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Mode { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(Vec::with_capacity(TEXT_LENGTH + 8));
    file.take(TEXT_LENGTH as u64 + 2).read_to_end(&mut text).map_err(io)?;
    let key = text.strip_suffix(b"\n").unwrap_or(&text);
    if key.len() != TEXT_LENGTH {
        return Err(corrupt("it does not hold 32 bytes in base64"));
    }
    leave_no_trace(|| {
        // decode_slice wants room for whole groups; the padding says that the last byte is not used.
        let mut bytes = [0; 33];
        match STANDARD.decode_slice(key, &mut bytes) {
            Ok(32) => Ok(Secret::write(|secret| secret.copy_from_slice(&bytes[..32]))),
            Ok(_) | Err(_) => Err(corrupt("it does not hold 32 bytes in base64")),
        }
    })
}

fn draw() -> Result<Secret, KeyFileError> {
    Secret::fill(|bytes| getrandom::fill(bytes).map_err(|error| KeyFileError::Random(error.to_string())))
}

/// Writes a new key beside its place, then links it there: the name appears with the whole key behind it, or not at all, and
/// a file that appeared meanwhile is not replaced.
fn create(state_dir: &Path, name: &str, path: &Path, key: &[u8; 32]) -> Result<(), KeyFileError> {
    let draft = state_dir.join(format!(".{name}.{}", std::process::id()));
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |source| KeyFileError::Io { what, path, source }
    };
    let mut text = Zeroizing::new([b'\n'; TEXT_LENGTH + 1]);
    STANDARD
        .encode_slice(key, &mut text[..TEXT_LENGTH])
        .map_err(|_| KeyFileError::Random("a key that does not encode".to_owned()))?;
    // A draft of an earlier process of our id that died half-way.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io("remove", &draft)(error)),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(io("create key file", &draft))?;
    let written = file.write_all(text.as_slice()).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| fs::hard_link(&draft, path));
    let removed = fs::remove_file(&draft);
    linked.map_err(io("create key file", path))?;
    removed.map_err(io("remove", &draft))?;
    File::open(state_dir).and_then(|dir| dir.sync_all()).map_err(io("sync", state_dir))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::scratch::Scratch;

    fn user() -> u32 {
        fs::metadata("/proc/self").unwrap().uid()
    }

    #[test]
    fn a_new_key_is_kept_and_private() {
        let dir = Scratch::new();
        let made = load_or_create(dir.path(), user()).unwrap();
        let mode = fs::metadata(dir.path().join(WIREGUARD_FILE)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let read = load_or_create(dir.path(), user()).unwrap();
        assert_eq!(made.public_key(), read.public_key());
        let other = Scratch::new();
        assert_ne!(load_or_create(other.path(), user()).unwrap().public_key(), made.public_key());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn the_member_key_is_kept_beside_it_in_a_file_of_its_own() {
        let dir = Scratch::new();
        let wireguard = load_or_create(dir.path(), user()).unwrap();
        let member = load_or_create_member(dir.path(), user()).unwrap();
        assert_eq!(load_or_create_member(dir.path(), user()).unwrap().address(), member.address());
        assert_eq!(load_or_create(dir.path(), user()).unwrap().public_key(), wireguard.public_key());
        let mode = fs::metadata(dir.path().join(MEMBER_FILE)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no draft is left");
        let other = Scratch::new();
        assert_ne!(load_or_create_member(other.path(), user()).unwrap().address(), member.address());
    }

    /// A state directory from before TLS keys gets one beside the keys that it has.
    #[test]
    fn the_tls_key_is_kept_in_a_file_of_its_own() {
        let dir = Scratch::new();
        let wireguard = load_or_create(dir.path(), user()).unwrap();
        let tls = load_or_create_tls(dir.path(), user()).unwrap();
        assert_eq!(load_or_create_tls(dir.path(), user()).unwrap().key(), tls.key());
        assert_eq!(load_or_create(dir.path(), user()).unwrap().public_key(), wireguard.public_key());
        assert_eq!(fs::metadata(dir.path().join(TLS_FILE)).unwrap().mode() & 0o7777, 0o600);
        let other = Scratch::new();
        assert_ne!(load_or_create_tls(other.path(), user()).unwrap().key(), tls.key());
    }

    #[test]
    fn bad_files_are_named_and_left_alone() {
        let (zeros, ones) = (STANDARD.encode([0; 32]), STANDARD.encode([0xff; 32]));
        let dir = Scratch::new();
        // Above the order of secp256k1: no member key.
        fs::write(dir.path().join(MEMBER_FILE), &ones).unwrap();
        fs::set_permissions(dir.path().join(MEMBER_FILE), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(load_or_create_member(dir.path(), user()), Err(KeyFileError::Corrupt { .. })));
        for (content, part) in
            [("", "32 bytes"), ("not a key\n", "32 bytes"), (&zeros, "no key"), (&"A".repeat(44), "32 bytes")]
        {
            let dir = Scratch::new();
            let path = dir.path().join(WIREGUARD_FILE);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = load_or_create(dir.path(), user()).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("wireguard.key") && error.contains("hint:"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn files_of_others_and_for_others_are_refused() {
        let dir = Scratch::new();
        load_or_create(dir.path(), user()).unwrap();
        let path = dir.path().join(WIREGUARD_FILE);
        assert!(matches!(load_or_create(dir.path(), user() + 1), Err(KeyFileError::Owner { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load_or_create(dir.path(), user()), Err(KeyFileError::Mode { mode: 0o640, .. })));
        let link = Scratch::new();
        std::os::unix::fs::symlink(&path, link.path().join(WIREGUARD_FILE)).unwrap();
        assert!(matches!(load_or_create(link.path(), user()), Err(KeyFileError::Io { .. })));
        let missing = dir.path().join("missing");
        assert!(matches!(load_or_create(&missing, user()), Err(KeyFileError::Io { .. })));
    }

    #[test]
    fn the_public_key_is_that_of_rfc_7748() {
        let private = hex::decode("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a").unwrap();
        let secret = WireguardSecret::new(Zeroizing::new(private.try_into().unwrap())).unwrap();
        assert_eq!(secret.public_key().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
        assert_eq!(format!("{secret:?}"), "[redacted]");
    }
}
