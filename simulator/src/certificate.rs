//! The app's certificate authority: P-256 certificates for GetTlsKey, DeriveKey and Info's `app_cert`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use p256::SecretKey;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};
use x509_cert::Certificate;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::builder::{Builder as _, CertificateBuilder, Profile};
use x509_cert::der::asn1::{
    GeneralizedTime, Ia5String, ObjectIdentifier, OctetString, SetOfVec, UtcTime, Utf8StringRef,
};
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::oid::db::{rfc4519, rfc5280};
use x509_cert::der::pem::LineEnding;
use x509_cert::der::{Any, DecodePem as _, Encode, EncodePem as _, Length, Writer};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectAltName};
use x509_cert::ext::{AsExtension, Extension};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::SubjectPublicKeyInfoOwned;
use x509_cert::time::{Time, Validity};

/// Arc of dstack's RA-TLS extensions; below it 1 = quote, 2 = event log, 3 = app id, 4 = usage.
const RA_TLS_ARC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.62397.1");
const DAY: Duration = Duration::from_secs(86_400);
/// Lifetime of a certificate whose request names no end, as in dstack.
const LIFETIME: Duration = Duration::from_secs(3650 * 86_400);

/// A certificate could not be made; the text goes to the client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("not_before must be earlier than not_after")]
    Backwards,
    #[error("validity ends after the year 9999")]
    TooFar,
    #[error("alternative name `{0}` is not a DNS name: ASCII only")]
    AltName(String),
    #[error("failed to build the certificate: {0}")]
    Build(#[from] x509_cert::builder::Error),
    #[error("failed to encode the certificate: {0}")]
    Encode(#[from] x509_cert::der::Error),
    #[error("failed to encode the key: {0}")]
    Key(#[from] p256::pkcs8::spki::Error),
}

/// What a leaf certificate says.
#[derive(Default)]
pub(crate) struct Leaf<'a> {
    pub(crate) subject: &'a str,
    pub(crate) alt_names: &'a [String],
    pub(crate) server_auth: bool,
    pub(crate) client_auth: bool,
    /// Unix seconds.
    pub(crate) not_before: Option<u64>,
    /// Unix seconds.
    pub(crate) not_after: Option<u64>,
    pub(crate) app_id: &'a [u8],
    /// Quote over the leaf's key and its event log, for RA-TLS.
    pub(crate) attestation: Option<(Vec<u8>, String)>,
}

/// The key that signs an app's certificates, with its own certificate.
pub(crate) struct Authority {
    key: SigningKey,
    certificate: Certificate,
}

impl Authority {
    /// A self-signed authority for a P-256 key.
    pub(crate) fn self_signed(key: &SecretKey, name: &str) -> Result<Self, CertificateError> {
        let signer = SigningKey::from(key);
        let now = SystemTime::now();
        let certificate = CertificateBuilder::new(
            Profile::Root,
            serial(),
            validity(now - DAY, now + LIFETIME)?,
            common_name(name)?,
            public_key(key)?,
            &signer,
        )?
        .build::<DerSignature>()?;
        Ok(Self { key: signer, certificate })
    }

    /// An authority from PEM: `None` where either part is not what it should be.
    pub(crate) fn from_pem(certificate: &str, key: &str) -> Option<Self> {
        let key = SecretKey::from_pkcs8_pem(key).ok()?;
        let certificate = Certificate::from_pem(certificate).ok()?;
        let matches = public_key(&key).ok()? == certificate.tbs_certificate.subject_public_key_info;
        matches.then(|| Self { key: SigningKey::from(&key), certificate })
    }

    /// DER of the authority's public key: the id of the key provider.
    pub(crate) fn public_key(&self) -> Result<Vec<u8>, CertificateError> {
        Ok(self.certificate.tbs_certificate.subject_public_key_info.to_der()?)
    }

    /// Issues a certificate for `key`: PEM of the leaf, then of the authority.
    pub(crate) fn issue(&self, key: &SecretKey, leaf: &Leaf<'_>) -> Result<Vec<String>, CertificateError> {
        let now = SystemTime::now();
        let not_before = leaf.not_before.map_or(Ok(now - DAY), from_unix)?;
        let not_after = leaf.not_after.map_or(Ok(now + LIFETIME), from_unix)?;
        if not_before >= not_after {
            return Err(CertificateError::Backwards);
        }
        let profile = Profile::Leaf {
            issuer: self.certificate.tbs_certificate.subject.clone(),
            enable_key_agreement: false,
            enable_key_encipherment: false,
        };
        let validity = validity(not_before, not_after)?;
        let subject = common_name(leaf.subject)?;
        let mut builder = CertificateBuilder::new(profile, serial(), validity, subject, public_key(key)?, &self.key)?;

        let usages = [(leaf.server_auth, rfc5280::ID_KP_SERVER_AUTH), (leaf.client_auth, rfc5280::ID_KP_CLIENT_AUTH)];
        let usages: Vec<_> = usages.into_iter().filter_map(|(wanted, oid)| wanted.then_some(oid)).collect();
        if !usages.is_empty() {
            builder.add_extension(&ExtendedKeyUsage(usages))?;
        }
        if !leaf.alt_names.is_empty() {
            let names: Result<Vec<_>, _> = leaf.alt_names.iter().map(|name| dns_name(name)).collect();
            builder.add_extension(&SubjectAltName(names?))?;
        }
        builder.add_extension(&RaTls::<3>::new(leaf.app_id)?)?;
        builder.add_extension(&RaTls::<4>::new(b"app:custom")?)?;
        if let Some((quote, event_log)) = &leaf.attestation {
            builder.add_extension(&RaTls::<1>::new(quote)?)?;
            builder.add_extension(&RaTls::<2>::new(event_log.as_bytes())?)?;
        }
        let issued = builder.build::<DerSignature>()?;
        Ok(vec![issued.to_pem(LineEnding::LF)?, self.certificate.to_pem(LineEnding::LF)?])
    }
}

/// DER of a key's SubjectPublicKeyInfo, over which RA-TLS quotes are made.
pub(crate) fn public_key_der(key: &SecretKey) -> Result<Vec<u8>, CertificateError> {
    Ok(key.public_key().to_public_key_der()?.into_vec())
}

/// A fresh P-256 key.
pub(crate) fn random_key() -> SecretKey {
    SecretKey::random(&mut p256::elliptic_curve::rand_core::OsRng)
}

fn public_key(key: &SecretKey) -> Result<SubjectPublicKeyInfoOwned, CertificateError> {
    Ok(SubjectPublicKeyInfoOwned::from_key(key.public_key())?)
}

fn serial() -> SerialNumber {
    use p256::elliptic_curve::rand_core::RngCore as _;
    SerialNumber::from(p256::elliptic_curve::rand_core::OsRng.next_u64())
}

/// A name of one common name: any text, so nothing is parsed as RFC 4514 syntax.
fn common_name(text: &str) -> Result<Name, CertificateError> {
    let name = AttributeTypeAndValue { oid: rfc4519::CN, value: Any::from(Utf8StringRef::new(text)?) };
    let mut set = SetOfVec::new();
    set.insert(name)?;
    Ok(RdnSequence(vec![RelativeDistinguishedName(set)]))
}

fn dns_name(name: &str) -> Result<GeneralName, CertificateError> {
    Ia5String::new(name).map(GeneralName::DnsName).map_err(|_| CertificateError::AltName(name.to_owned()))
}

fn from_unix(seconds: u64) -> Result<SystemTime, CertificateError> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(CertificateError::TooFar)
}

fn validity(not_before: SystemTime, not_after: SystemTime) -> Result<Validity, CertificateError> {
    Ok(Validity { not_before: time(not_before)?, not_after: time(not_after)? })
}

/// RFC 5280 section 4.1.2.5: UTCTime through 2049, GeneralizedTime after.
fn time(at: SystemTime) -> Result<Time, CertificateError> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    if let Ok(time) = UtcTime::from_unix_duration(since) {
        return Ok(Time::UtcTime(time));
    }
    GeneralizedTime::from_unix_duration(since).map(Time::GeneralTime).map_err(|_| CertificateError::TooFar)
}

/// One of dstack's RA-TLS extensions: bytes in an OCTET STRING.
struct RaTls<const LEAF: u32>(OctetString);

impl<const LEAF: u32> RaTls<LEAF> {
    fn new(bytes: &[u8]) -> Result<Self, CertificateError> {
        Ok(Self(OctetString::new(bytes)?))
    }
}

impl<const LEAF: u32> AssociatedOid for RaTls<LEAF> {
    const OID: ObjectIdentifier = match RA_TLS_ARC.push_arc(LEAF) {
        Ok(oid) => oid,
        Err(_) => panic!("the arc and one leaf fit an object identifier"),
    };
}

impl<const LEAF: u32> Encode for RaTls<LEAF> {
    fn encoded_len(&self) -> x509_cert::der::Result<Length> {
        self.0.encoded_len()
    }

    fn encode(&self, encoder: &mut impl Writer) -> x509_cert::der::Result<()> {
        self.0.encode(encoder)
    }
}

impl<const LEAF: u32> AsExtension for RaTls<LEAF> {
    fn critical(&self, _subject: &Name, _extensions: &[Extension]) -> bool {
        false
    }
}
