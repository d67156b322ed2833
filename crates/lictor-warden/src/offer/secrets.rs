//! The secrets of a job: exactly the documents that it was signed for, opened once policy has allowed it.
//!
//! ```text
//! bytes -> named by the job? -> signed, and for this node? -> (verdict) -> opened -> in memory, redacted from output
//!              |                        |                                    |
//!            Later                Later, Denied                            Denied
//! ```
//!
//! # Invariants
//! - Which document is opened is decided by the digest in the signed job; the hub chooses nothing.
//! - No value is in memory before policy has allowed its use, none is ever written to a disk, and no value is in the
//!   words of any refusal.

use lictor_proto::agent::Wire;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Delivery, DocKind, Job, Secret, SecretUse, Spec};
use lictor_proto::{Code, Envelope, Name, limits};
use lictor_sandbox::SecretFile;
use lictor_trust::Verified;
use lictor_trust::seal;

use crate::core::Core;
use crate::law::Held;
use crate::redact::Redactor;

/// Bytes of the secrets of one schedule, as they are kept in the journal.
const KEPT: usize = 2 * limits::ENVELOPE;

/// The documents of a job's secrets, in its own order.
pub(super) struct Brought(Vec<(SecretUse, Verified<Secret>)>);

/// Why they cannot be used.
pub(super) enum Unusable {
    /// Something that whoever brought them can mend.
    Later(Refusal),
    /// For good.
    Denied(Refusal),
}

/// The values of a job's secrets.
pub(super) struct Opened {
    /// Those that reach the job by a descriptor.
    pub(super) held: Vec<SecretFile>,
    /// The one that is its standard input.
    pub(super) stdin: Option<SecretFile>,
    /// The one that is shown to the host of the repository that a commit is brought from.
    pub(super) git: Option<SecretFile>,
    /// What takes them out of its output.
    pub(super) redactor: Redactor,
}

impl Brought {
    /// Finds each secret of the job among what came with it, and verifies it.
    pub(super) fn verify(core: &Core, held: &Held, job: &Job, wires: &[Wire]) -> Result<Self, Unusable> {
        let mut brought = Vec::new();
        for wire in wires {
            let envelope = Envelope::parse(wire.as_bytes(), DocKind::Secret.limit());
            let envelope = envelope.map_err(|e| Unusable::Later(Refusal::new(e.code(), e.to_string())))?;
            let digest = envelope.digest();
            if !job.secrets.iter().any(|used| used.digest == digest) {
                return Err(Unusable::Later(Code::SecretMismatch.into()));
            }
            brought.push((digest, wire));
        }
        let mut found = Vec::new();
        for used in &job.secrets {
            let Some((_, wire)) = brought.iter().find(|(digest, _)| *digest == used.digest) else {
                let text = format!("secret {} version {} has not arrived", used.name, used.version);
                return Err(Unusable::Later(Refusal::new(Code::SecretMissing, text)));
            };
            let secret = held.trust.verify_secret(wire, core.now()).map_err(|refusal| {
                let refusal = about(&used.name, refusal);
                match refusal.code {
                    // The last is of the payload, and so of the digest in the job: nobody can bring it otherwise.
                    Code::KeyRevoked | Code::OperatorRevoked | Code::KeyExpired | Code::PayloadMalformed => {
                        Unusable::Denied(refusal)
                    }
                    // The signature is no part of the digest: whoever carries it can spoil it, and bring it whole.
                    _ => Unusable::Later(refusal),
                }
            })?;
            if secret.name != used.name || secret.version != used.version {
                let text = format!("secret {}: the digest is of another name or version", used.name);
                return Err(Unusable::Denied(Refusal::new(Code::SecretMismatch, text)));
            }
            if secret.sealed_for(&core.issuer.node_id).is_none() {
                let refusal = about(&used.name, Code::SecretNotForNode.into());
                return Err(Unusable::Denied(refusal));
            }
            found.push((used.clone(), secret));
        }
        Ok(Self(found))
    }

    /// The documents as this node writes them: around what was signed there may be any amount of white space.
    ///
    /// # Errors
    /// [`Code::LimitExceeded`] for more than is kept of one schedule.
    pub(super) fn kept(&self) -> Result<Vec<Wire>, Refusal> {
        let mut bytes = 0;
        let mut kept = Vec::with_capacity(self.0.len());
        for (used, secret) in &self.0 {
            let envelope = Envelope::parse(secret.wire().as_bytes(), DocKind::Secret.limit());
            let envelope = envelope.map_err(|e| about(&used.name, Refusal::new(e.code(), e.to_string())))?;
            let wire = String::from_utf8_lossy(&envelope.to_bytes()).into_owned();
            bytes += wire.len();
            kept.push(wire);
        }
        if bytes > KEPT {
            let text = format!(
                "its secrets are documents of {bytes} bytes, and a node keeps {KEPT} of one schedule; seal them to fewer nodes"
            );
            return Err(Refusal::new(Code::LimitExceeded, text));
        }
        Ok(kept)
    }

    /// Each use, and who has set the secret.
    pub(super) fn uses(&self) -> impl Iterator<Item = (&SecretUse, &Name)> {
        self.0.iter().map(|(used, secret)| (used, &secret.operator))
    }

    /// Opens them all. Only for a job that policy has allowed.
    pub(super) fn open(&self, core: &Core, job: &Job) -> Result<Opened, Refusal> {
        let mut opened = Opened {
            held: Vec::new(),
            stdin: None,
            git: None,
            redactor: Redactor::default(),
        };
        for (used, secret) in &self.0 {
            let value = seal::open(secret, &core.issuer.node_id, &core.seal);
            let value = value.map_err(|refusal| about(&used.name, refusal))?;
            if is_exposed(job, &value) {
                return Err(about(&used.name, Code::SecretExposed.into()));
            }
            let file = SecretFile::new(&value);
            let failed = |e| {
                Refusal::new(
                    Code::StartFailed,
                    format!("cannot keep secret {}: {e}", used.name),
                )
            };
            let file = file.map_err(failed)?;
            match used.delivery {
                Delivery::Memfd | Delivery::File => opened.held.push(file),
                Delivery::Stdin => opened.stdin = Some(file),
                Delivery::Git => opened.git = Some(file),
            }
            opened.redactor.add(&used.name, &value);
            let is_shown = used.delivery == Delivery::Git || matches!(job.spec, Spec::Workspace(_));
            if let Some(password) = password(&value).filter(|_| is_shown) {
                opened.redactor.add(&used.name, password);
            }
        }
        Ok(opened)
    }
}

/// Of `USER:PASSWORD`, what a host of repositories might say by itself; nothing of what is too short to be looked for.
fn password(value: &[u8]) -> Option<&[u8]> {
    let at = memchr::memchr(b':', value)?;
    let password = value[at + 1..].trim_ascii();
    (password.len() >= limits::SECRET_LEAST).then_some(password)
}

fn about(name: &Name, refusal: Refusal) -> Refusal {
    Refusal::new(refusal.code, format!("secret {name}: {}", refusal.message))
}

/// Whether the job says the value itself: then it is in everybody's lists of processes, in the journal and at the hub.
fn is_exposed(job: &Job, value: &[u8]) -> bool {
    let value = value.trim_ascii();
    let holds = |text: &String| {
        let bytes = text.as_bytes();
        bytes.len() >= value.len() && memchr::memmem::find(bytes, value).is_some()
    };
    let in_work = match &job.spec {
        Spec::Exec(exec) => exec.argv.iter().any(holds),
        Spec::Script(script) => script.args.iter().chain(&script.content).any(holds),
        Spec::Fetch(_) | Spec::Collect(_) | Spec::Workspace(_) => job.spec.words().iter().any(holds),
    };
    in_work || job.process().env.values().any(holds) || holds(&job.reason)
}
