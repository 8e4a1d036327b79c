//! The account that sends: the operator's key, read from a file or a keystore, never from the command line or a variable; a dry run
//! keeps no key.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use alloy_primitives::{Address, B256, Signature};
use anyhow::Context as _;
use k256::ecdsa::SigningKey;
use mesh_chain::{Signer, sign_digest};
use zeroize::Zeroizing;

use crate::{address::parse_address, failure::Failure};

/// Wei in a gwei.
const GWEI: u128 = 1_000_000_000;
/// Longest key or password file read, bytes.
pub(crate) const MAX_SECRET: u64 = 4096;

/// Flags of every command that sends a transaction.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Transaction options")]
pub(crate) struct SignerArgs {
    /// File with the private key that pays and signs: 64 hex digits, mode 0600; `-` reads it from stdin
    #[arg(long, value_name = "PATH", env = "MESHCTL_PRIVATE_KEY_FILE", hide_env_values = true)]
    private_key_file: Option<PathBuf>,

    /// Encrypted key file (Web3 Secret Storage) instead
    #[arg(long, value_name = "PATH")]
    keystore: Option<PathBuf>,

    /// File with the keystore's password, mode 0600; without it the terminal is asked
    #[arg(long, value_name = "PATH", requires = "keystore")]
    password_file: Option<PathBuf>,

    /// Show the decoded call, what the contract would answer and what it would cost; send nothing. Exits 1 if it would be refused
    #[arg(long)]
    dry_run: bool,

    /// With --dry-run: as if this account sent it; no key is needed
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address, requires = "dry_run")]
    from: Option<Address>,

    /// Refuse to pay more than this for one unit of gas
    #[arg(long, value_name = "GWEI", default_value = "300")]
    max_gas_price: u64,

    /// Give up waiting for a transaction's block after this long
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds())]
    receipt_timeout: u64,
}

/// The account that sends.
pub(crate) enum Sender {
    /// That of this key.
    Signs(OperatorKey),
    /// In a dry run this one, without its key.
    DryRun(Address),
}

/// The operator's private key, which is wiped when it is dropped.
pub(crate) struct OperatorKey(SigningKey);

impl OperatorKey {
    /// `None` for bytes that are no private key.
    fn new(bytes: &[u8]) -> Option<Self> {
        SigningKey::from_slice(bytes).ok().map(Self)
    }
}

impl Signer for OperatorKey {
    fn address(&self) -> Address {
        Address::from_private_key(&self.0)
    }

    fn sign(&self, digest: B256) -> Result<Signature, String> {
        sign_digest(&self.0, digest)
    }
}

impl SignerArgs {
    pub(crate) const fn receipt_timeout(&self) -> Duration {
        Duration::from_secs(self.receipt_timeout)
    }

    /// Wei.
    pub(crate) fn max_gas_price(&self) -> u128 {
        u128::from(self.max_gas_price) * GWEI
    }

    /// Reads the key where one is needed. A dry run only keeps its address.
    pub(crate) fn sender(&self) -> anyhow::Result<Sender> {
        match (self.dry_run, self.from) {
            (true, Some(address)) => Ok(Sender::DryRun(address)),
            (true, None) => Ok(Sender::DryRun(self.signer()?.address())),
            (false, _) => Ok(Sender::Signs(self.signer()?)),
        }
    }

    /// Reads the key; the copies made meanwhile are wiped.
    fn signer(&self) -> anyhow::Result<OperatorKey> {
        match (&self.private_key_file, &self.keystore) {
            // A keystore on the command line wins over a key file from the environment.
            (_, Some(path)) => self.open_keystore(path),
            (Some(path), None) => {
                let text = if path == Path::new("-") {
                    read_secret(io::stdin(), MAX_SECRET)?
                } else {
                    read_secret_file(path, MAX_SECRET)?
                };
                parse_key(&text, path)
            }
            (None, None) if self.dry_run => {
                Err(Failure::usage("no account given whose call to try").hint("add `--from ADDRESS`, or a key").into())
            }
            (None, None) => Err(Failure::usage("no key given to sign the transaction with")
                .hint("add `--private-key-file PATH` or `--keystore PATH`, or set MESHCTL_PRIVATE_KEY_FILE to a path")
                .into()),
        }
    }

    fn open_keystore(&self, path: &Path) -> anyhow::Result<OperatorKey> {
        // Looked at first: no password is asked for when the file is not there.
        read_secret_file(path, MAX_SECRET)?;
        let password = match &self.password_file {
            Some(file) => read_secret_file(file, MAX_SECRET)?,
            None => {
                let prompt = format!("password of {}: ", path.display());
                Zeroizing::new(rpassword::prompt_password(prompt).context(
                    Failure::new("cannot ask for the keystore's password").hint("give it with `--password-file PATH`"),
                )?)
            }
        };
        let password = password.trim_end_matches(['\r', '\n']);
        let failed =
            || Failure::new(format!("cannot open the keystore `{}`", path.display())).hint("check the password");
        let key = Zeroizing::new(eth_keystore::decrypt_key(path, password).with_context(failed)?);
        OperatorKey::new(&key).with_context(failed)
    }
}

/// Durations on the command line: at most a year, which the clock can be asked for.
pub(crate) fn seconds() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(0..=31_536_000)
}

/// Reads a file of at most `most` bytes that only its owner may read.
pub(crate) fn read_secret_file(path: &Path, most: u64) -> anyhow::Result<Zeroizing<String>> {
    let file = File::open(path).with_context(|| Failure::new(format!("cannot read `{}`", path.display())))?;
    let metadata = file.metadata().with_context(|| format!("cannot read `{}`", path.display()))?;
    let mode = metadata.permissions().mode();
    // A pipe (`<(pass show key)`) has no lasting copy that others could read.
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(Failure::new(format!("others may read `{}` (mode {:04o})", path.display(), mode & 0o7777))
            .hint(format!("chmod 600 {}", path.display()))
            .into());
    }
    read_secret(file, most).with_context(|| format!("cannot read `{}`", path.display()))
}

fn read_secret(source: impl io::Read, most: u64) -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(most as usize + 1));
    source.take(most + 1).read_to_string(&mut text)?;
    anyhow::ensure!(text.len() as u64 <= most, "longer than {most} bytes");
    Ok(text)
}

fn parse_key(text: &str, path: &Path) -> anyhow::Result<OperatorKey> {
    let digits = text.trim();
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    let mut key = Zeroizing::new([0; 32]);
    let decoded = hex::decode_to_slice(digits, key.as_mut());
    // The decoder's error would quote a digit of the key.
    let signer = decoded.ok().and_then(|()| OperatorKey::new(key.as_ref()));
    signer.ok_or_else(|| {
        Failure::new(format!("`{}` does not hold a private key", path.display()))
            .hint("it must be 64 hex digits, below the order of secp256k1 and not zero")
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first key of every development chain, and its address.
    const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
    const ADDRESS: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

    /// A directory of one test, removed with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("meshctl-{test}-{}", std::process::id()));
            // A test that was killed may have left one, and its process id is ours now.
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn arguments(key: Option<PathBuf>, keystore: Option<PathBuf>, password: Option<PathBuf>) -> SignerArgs {
        SignerArgs {
            private_key_file: key,
            keystore,
            password_file: password,
            dry_run: false,
            from: None,
            max_gas_price: 300,
            receipt_timeout: 1,
        }
    }

    fn sign_with(key: Option<PathBuf>, keystore: Option<PathBuf>, password: Option<PathBuf>) -> anyhow::Result<String> {
        arguments(key, keystore, password).signer().map(|signer| signer.address().to_string())
    }

    #[test]
    fn keys_with_and_without_prefix_and_line_end() {
        let scratch = Scratch::new("plain");
        for (name, text) in [("a", KEY.to_owned()), ("b", format!("0x{KEY}\r\n")), ("c", format!(" {KEY}\n"))] {
            assert_eq!(sign_with(Some(scratch.file(name, &text, 0o600)), None, None).unwrap(), ADDRESS);
        }
    }

    #[test]
    fn a_key_others_may_read_is_refused() {
        let scratch = Scratch::new("open");
        for mode in [0o640, 0o604, 0o660] {
            let error = sign_with(Some(scratch.file("open", KEY, mode)), None, None).unwrap_err();
            assert!(error.to_string().contains("others may read"), "{error:#}");
        }
    }

    #[test]
    fn errors_do_not_quote_the_key() {
        let scratch = Scratch::new("wrong");
        let secret = "deadbeefdeadbeefX";
        let zero = "0".repeat(64);
        for (name, text) in [("short", secret), ("zero", zero.as_str()), ("empty", "")] {
            let error = format!("{:?}", sign_with(Some(scratch.file(name, text, 0o600)), None, None).unwrap_err());
            assert!(error.contains("does not hold a private key"), "{error}");
            assert!(!error.contains("dead") && !error.contains("X"), "{error}");
        }
    }

    #[test]
    fn a_missing_key_is_a_usage_error_and_a_missing_file_names_it() {
        assert!(sign_with(None, None, None).unwrap_err().to_string().starts_with("no key given"));
        let error = sign_with(Some("/nonexistent/key".into()), None, None).unwrap_err();
        assert_eq!(error.to_string(), "cannot read `/nonexistent/key`");
    }

    #[test]
    fn a_dry_run_holds_no_key() {
        let scratch = Scratch::new("dry");
        let key = scratch.file("key", KEY, 0o600);
        let dry = |key, from| SignerArgs { dry_run: true, from, ..arguments(key, None, None) };
        for (args, address) in [
            (dry(Some(key), None), ADDRESS),
            (dry(None, Some(Address::repeat_byte(0xaa))), "0xaAaAaAaaAaAaAaaAaAAAAAAAAaaaAaAaAaaAaaAa"),
        ] {
            match args.sender().unwrap() {
                Sender::DryRun(sender) => assert_eq!(sender.to_string(), address),
                Sender::Signs(_) => panic!("a dry run has a key"),
            }
        }
        assert_eq!(dry(None, None).sender().err().unwrap().to_string(), "no account given whose call to try");
        assert!(matches!(arguments(Some(scratch.0.join("key")), None, None).sender().unwrap(), Sender::Signs(_)));
    }

    #[test]
    fn keystores_open_with_their_password_only() {
        let scratch = Scratch::new("keystore");
        let name = "keystore.json";
        let mut rng = k256::elliptic_curve::rand_core::OsRng;
        let secret = hex::decode(KEY).unwrap();
        eth_keystore::encrypt_key(&scratch.0, &mut rng, secret, "right", Some(name)).unwrap();
        let keystore = scratch.0.join(name);
        std::fs::set_permissions(&keystore, std::fs::Permissions::from_mode(0o600)).unwrap();
        let open = |name, password| sign_with(None, Some(keystore.clone()), Some(scratch.file(name, password, 0o600)));
        assert_eq!(open("right", "right\n").unwrap(), ADDRESS);
        let error = format!("{:#}", open("wrong", "wrong").unwrap_err());
        assert!(error.contains("cannot open the keystore") && !error.contains("wrong\n"), "{error}");
    }
}
