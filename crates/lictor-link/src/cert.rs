//! Certificates that carry a key and nothing else: names and dates in them are not believed by anybody.
//!
//! Nodes and hub know each other by the SHA-256 of the public key (SPKI, RFC 7469's form of a pin), so a
//! certificate is only the envelope that TLS wants around a key. Browsers take no Ed25519, hence the second
//! kind, ECDSA P-256, which an operator may also replace by one from a CA.

use lictor_proto::Digest;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ParsedCertificate;

use crate::LinkError;

/// PKCS#8 v1 of an Ed25519 key, up to the 32 bytes of its seed (RFC 8410 section 7).
const ED25519_PKCS8: [u8; 16] = [
    0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
];
/// SubjectPublicKeyInfo of an Ed25519 key, up to its 32 bytes (RFC 8410 section 4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// A certificate chain with its private key.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// An ECDSA identity as it is stored: two PEM texts.
#[derive(Clone)]
pub struct WebPem {
    /// The certificate chain.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: String,
}

impl Identity {
    /// A self-signed certificate around the link key with this Ed25519 seed.
    ///
    /// # Errors
    /// [`LinkError::Certificate`] when it cannot be made.
    pub fn link(seed: &[u8; 32]) -> Result<Self, LinkError> {
        let der = [ED25519_PKCS8.as_slice(), seed].concat();
        let key = PrivatePkcs8KeyDer::from(der);
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519).map_err(certificate)?;
        let cert = CertificateParams::new(vec!["lictor.invalid".to_owned()])
            .and_then(|p| p.self_signed(&pair))
            .map_err(certificate)?;
        Ok(Self {
            chain: vec![cert.der().clone()],
            key: PrivateKeyDer::Pkcs8(key),
        })
    }

    /// Reads an identity for browsers and API clients.
    ///
    /// # Errors
    /// [`LinkError::Certificate`] when either text is not what it should be.
    pub fn from_pem(pem: &WebPem) -> Result<Self, LinkError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(certificate)?;
        if chain.is_empty() {
            return Err(LinkError::Certificate("no certificate in the PEM text".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).map_err(certificate)?;
        Ok(Self { chain, key })
    }

    /// The SPKI digest that others pin.
    ///
    /// # Errors
    /// [`LinkError::Certificate`] when the certificate is malformed.
    pub fn spki(&self) -> Result<Digest, LinkError> {
        spki_digest(&self.chain[0])
    }

    pub(crate) fn into_parts(self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain, self.key)
    }
}

/// Makes a fresh ECDSA P-256 key and a self-signed certificate for these DNS names and IP addresses.
///
/// # Errors
/// [`LinkError::Certificate`] when a name is none.
pub fn generate_web(names: &[String]) -> Result<WebPem, LinkError> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(certificate)?;
    let cert = CertificateParams::new(names.to_vec())
        .and_then(|p| p.self_signed(&pair))
        .map_err(certificate)?;
    Ok(WebPem {
        certificate: cert.pem(),
        key: pair.serialize_pem(),
    })
}

/// SHA-256 of the SubjectPublicKeyInfo in a DER certificate.
///
/// # Errors
/// [`LinkError::Certificate`] when it is malformed.
pub fn spki_digest(cert: &CertificateDer<'_>) -> Result<Digest, LinkError> {
    Ok(Digest::of(&spki(cert)?))
}

/// The SPKI digest of an Ed25519 public key.
#[must_use]
pub fn ed25519_spki_digest(key: &[u8; 32]) -> Digest {
    Digest::of(&[ED25519_SPKI.as_slice(), key].concat())
}

/// The Ed25519 public key in a DER certificate; `None` when its key is of another kind.
///
/// # Errors
/// [`LinkError::Certificate`] when it is malformed.
pub fn ed25519_key(cert: &CertificateDer<'_>) -> Result<Option<[u8; 32]>, LinkError> {
    Ok(spki(cert)?
        .strip_prefix(&ED25519_SPKI)
        .and_then(|raw| raw.try_into().ok()))
}

fn spki(cert: &CertificateDer<'_>) -> Result<Vec<u8>, LinkError> {
    let parsed = ParsedCertificate::try_from(cert).map_err(certificate)?;
    Ok(parsed.subject_public_key_info().to_vec())
}

fn certificate(e: impl std::fmt::Display) -> LinkError {
    LinkError::Certificate(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_certificate_carries_the_key_of_its_seed() {
        crate::install_crypto_provider();
        let id = Identity::link(&[7; 32]).unwrap();
        let key = ed25519_key(&id.chain[0]).unwrap().unwrap();
        assert_eq!(id.spki().unwrap(), ed25519_spki_digest(&key));
        // The key is a function of the seed, the certificate around it need not be.
        assert_eq!(
            id.spki().unwrap(),
            Identity::link(&[7; 32]).unwrap().spki().unwrap()
        );
    }

    #[test]
    fn a_web_identity_survives_pem_and_is_no_ed25519() {
        let pem = generate_web(&["hub.example".into(), "127.0.0.1".into()]).unwrap();
        let id = Identity::from_pem(&pem).unwrap();
        assert_eq!(ed25519_key(&id.chain[0]).unwrap(), None);
        let broken = WebPem {
            certificate: "no".into(),
            ..pem
        };
        assert!(Identity::from_pem(&broken).is_err());
    }
}
