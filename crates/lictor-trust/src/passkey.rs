//! Passkeys that the roster lists, and whether an assertion is one of theirs for a document (TRUST.md section 6).
//!
//! A passkey signs `authenticator data || SHA-256(client data)`; the client data names the document by its digest, which is
//! the challenge, and the page that asked by its origin. The steps are those of WebAuthn level 2, section 7.2, without what
//! needs a server that remembers: nothing here is random, and nothing is counted.
//!
//! # Invariants
//! - A [`Passkey`] has a point of P-256 other than the identity, one origin, and an rp id that this origin may use.
//! - An assertion holds for one document, one origin and one rp id, with somebody there whom the authenticator knows.

use std::fmt;

use lictor_proto::code::Refusal;
use lictor_proto::webauthn::{Assertion, AuthenticatorData, ClientData};
use lictor_proto::{Code, Digest, KeyId};
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};

/// What stands before the key in the roster: ECDSA on P-256 with SHA-256 (COSE -7), a compressed point (SEC 1).
const LINE_PREFIX: &str = "lictor-es256";
/// Bytes of a compressed point.
const POINT: usize = 33;
/// Longest origin: a domain name of 253, and what stands around it.
const ORIGIN: usize = 270;

/// A passkey of an operator: its public key, and where it may be used.
#[derive(Clone, PartialEq, Eq)]
pub struct Passkey {
    id: KeyId,
    key: VerifyingKey,
    origin: String,
    rp_id_hash: [u8; 32],
}

/// Why a roster's passkey is none.
#[derive(Debug, thiserror::Error)]
pub enum PasskeyError {
    /// Not the line that a passkey is written as.
    #[error(
        "a passkey is written `lictor-es256 BASE64 [NAME]`, BASE64 of the 33 bytes of a compressed point of P-256"
    )]
    Line,
    /// Not `https://HOST[:PORT]`, or `http://` with a host that is this machine.
    #[error(
        "the origin {0:?} is not one that a browser names: https://HOST[:PORT], or http://localhost[:PORT]"
    )]
    Origin(String),
    /// The origin may not use this rp id.
    #[error("the rp id {0:?} is neither the host of the origin nor a domain above it")]
    RpId(String),
}

impl Passkey {
    /// Looks at a line of the roster, with the origin and the rp id that stand beside it. Gives the comment, too.
    ///
    /// # Errors
    /// [`PasskeyError`].
    pub fn parse(line: &str, origin: &str, rp_id: &str) -> Result<(Self, Option<String>), PasskeyError> {
        let mut words = line.trim().split(' ');
        let (prefix, base64, comment) = (words.next(), words.next(), words.next());
        let printable = comment.is_none_or(|c| !c.is_empty() && c.len() <= 63 && c.is_ascii());
        if prefix != Some(LINE_PREFIX) || words.next().is_some() || !printable {
            return Err(PasskeyError::Line);
        }
        let point = base64.and_then(lictor_proto::json::decode_base64);
        let point = point.filter(|p| p.len() == POINT).ok_or(PasskeyError::Line)?;
        let key = VerifyingKey::from_sec1_bytes(&point).map_err(|_| PasskeyError::Line)?;
        let host = host_of(origin).ok_or_else(|| PasskeyError::Origin(origin.to_owned()))?;
        if !may_use(host, rp_id) {
            return Err(PasskeyError::RpId(rp_id.to_owned()));
        }
        let passkey = Self {
            id: KeyId::of("es256", &point),
            key,
            origin: origin.to_owned(),
            rp_id_hash: Digest::of(rp_id.as_bytes()).0,
        };
        Ok((passkey, comment.map(str::to_owned)))
    }

    /// Whether this is a line that speaks of a passkey.
    #[must_use]
    pub fn is_line(line: &str) -> bool {
        line.trim_start().starts_with(LINE_PREFIX)
    }

    /// Its id, computed here.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The page that it may be used by.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether that page comes from the machine that shows it, so that no hub can change it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        host_of(&self.origin).is_some_and(is_this_machine)
    }

    /// Whether `signature` and `assertion` are this passkey's word for the document with that digest.
    ///
    /// # Errors
    /// [`Code::AssertionInvalid`] with what is wrong, [`Code::SignatureInvalid`].
    pub fn check(&self, document: &Digest, assertion: &Assertion, signature: &[u8]) -> Result<(), Refusal> {
        let wrong = |why: String| Refusal::new(Code::AssertionInvalid, why);
        let client = ClientData::parse(&assertion.client_data).map_err(|e| wrong(e.to_string()))?;
        let authenticator =
            AuthenticatorData::parse(&assertion.authenticator_data).map_err(|e| wrong(e.to_string()))?;
        let demands = [
            (
                client.kind == "webauthn.get",
                "it is not the answer to a question for an assertion",
            ),
            (client.challenge == *document, "its challenge is another document"),
            (
                client.origin == self.origin,
                "another page than the one in the roster asked for it",
            ),
            (
                !client.cross_origin,
                "a page within one of another origin asked for it",
            ),
            (
                authenticator.rp_id_hash == self.rp_id_hash,
                "it is for another rp id than the one in the roster",
            ),
            (authenticator.user_present, "nobody was there"),
            (
                authenticator.user_verified,
                "the authenticator did not make sure who was there",
            ),
        ];
        if let Some((_, why)) = demands.iter().find(|(met, _)| !met) {
            return Err(wrong((*why).to_owned()));
        }
        let signature = Signature::from_der(signature).map_err(|_| Code::SignatureInvalid)?;
        let client_hash = Digest::of(&assertion.client_data).0;
        let signed = [assertion.authenticator_data.as_slice(), &client_hash].concat();
        let holds = self.key.verify(&signed, &signature);
        holds.map_err(|_| Code::SignatureInvalid.into())
    }
}

impl fmt::Debug for Passkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passkey({} at {})", self.id, self.origin)
    }
}

/// The host of an origin as browsers write it: lower case, no default port, nothing behind it.
fn host_of(origin: &str) -> Option<&str> {
    let (secure, rest) = match origin.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, origin.strip_prefix("http://")?),
    };
    let (host, port) = match rest.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    };
    let default = if secure { "443" } else { "80" };
    let good_port = port.is_none_or(|p| {
        let plain = !p.starts_with('0') && p.bytes().all(|b| b.is_ascii_digit());
        plain && p != default && p.parse::<u16>().is_ok()
    });
    let good = origin.len() <= ORIGIN && is_domain(host) && good_port && (secure || is_this_machine(host));
    good.then_some(host)
}

/// Whether a browser takes a page of this host, over plain HTTP, for one of this machine.
fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// A domain in lower case; an address is none.
fn is_domain(host: &str) -> bool {
    let label = |l: &str| {
        let plain = l
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        !l.is_empty() && l.len() <= 63 && plain && !l.starts_with('-') && !l.ends_with('-')
    };
    let numeric = |l: &str| l.bytes().all(|b| b.is_ascii_digit());
    host.split('.').all(label) && !host.rsplit('.').next().is_some_and(numeric)
}

/// Whether a page of this host may ask for an assertion for this rp id (WebAuthn level 2, section 5.1.4.1): it is the
/// host, or a domain above it, but not a top-level one.
fn may_use(host: &str, rp_id: &str) -> bool {
    let above = || host.strip_suffix(rp_id).is_some_and(|rest| rest.ends_with('.'));
    is_domain(rp_id) && (host == rp_id || (rp_id.contains('.') && above()))
}
