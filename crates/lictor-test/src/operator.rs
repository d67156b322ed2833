//! An operator with a warm connection: signs jobs, submits them, and believes nothing but verified receipts.
//!
//! The same steps as `lictor run`, without the cost of a new process; for benchmarks and for tests that look at
//! documents rather than at a terminal.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lictor_client::{Compared, Config, Follower, Home, Hub, Item};
use lictor_proto::api::StreamEvent;
use lictor_proto::doc::{Exec, Job, JobKind, Receipt, Spec, Stdin};
use lictor_proto::{Digest, Envelope, Name, Timestamp, limits};
use lictor_trust::{NodeDirectory, OrgTrust, SecretKey, Verified, keyfile, sign, sign as signing};

/// Somebody who may run things, as a home directory describes them.
pub struct Operator {
    hub: Hub,
    trust: OrgTrust,
    nodes: NodeDirectory,
    key: SecretKey,
    config: Config,
}

/// A job that has ended, with a receipt that holds.
#[derive(Debug)]
pub struct Ran {
    /// What the node signed.
    pub receipt: Verified<Receipt>,
    /// Bytes of output that came live.
    pub output_bytes: u64,
}

impl Operator {
    /// Opens a home, fetches law and nodes from the hub, and checks them from the pinned org id down.
    ///
    /// # Errors
    /// When the home isn't complete, the hub doesn't answer, or what it says doesn't hold.
    pub async fn at(home: &Path) -> Result<Self> {
        let home = Home::at(home);
        let config = home.config()?;
        let address = config.hub.clone().context("the home is not connected to a hub")?;
        let hub = Hub::new(&address, home.token()?.as_deref())?;
        let key = keyfile::load(&home.key_path(&config.key), None)?;
        let law = hub.trust().await?;
        let root = law.docs.roots.first().context("the hub has no root")?;
        let mut trust = OrgTrust::pin(&config.org, root)?;
        let report = trust.accept(&law.docs, Timestamp::now());
        if let Some((kind, refusal)) = report.refused.first() {
            bail!("the hub's {kind:?} was refused: {refusal}");
        }
        let views = hub.nodes().await?;
        let pairs = views.iter().map(|v| (v.grant.as_str(), v.record.as_str()));
        let nodes = NodeDirectory::build(&trust, pairs);
        Ok(Self {
            hub,
            trust,
            nodes,
            key,
            config,
        })
    }

    /// The hub's API with this operator's token.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// What this operator believes about the org.
    #[must_use]
    pub fn trust(&self) -> &OrgTrust {
        &self.trust
    }

    /// The nodes whose documents hold.
    #[must_use]
    pub fn nodes(&self) -> &NodeDirectory {
        &self.nodes
    }

    /// The signing key.
    #[must_use]
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    /// A job as it would be signed now.
    ///
    /// # Errors
    /// When the node or the profile has no such name.
    pub fn job(&self, node: &str, profile: &str, argv: &[&str]) -> Result<Job> {
        let name: Name = node.parse().context("node name")?;
        let mut nonce = vec![0; 16];
        getrandom::fill(&mut nonce).context("random bytes")?;
        let now = Timestamp::now();
        Ok(Job {
            tag: Default::default(),
            org: self.config.org.clone(),
            operator: self.config.operator.clone(),
            nonce,
            nodes: vec![self.nodes.resolve(&name)?.id().clone()],
            kind: JobKind::Exec,
            spec: Spec::Exec(Exec::new(argv.iter().map(|a| (*a).to_owned()).collect())),
            profile: profile.parse().context("profile name")?,
            stdin: Stdin::NONE,
            secrets: Default::default(),
            after: Default::default(),
            expect: Default::default(),
            output_to: Default::default(),
            reason: String::new(),
            retry_of: None,
            min_bundle: self.trust.bundle().map_or(0, |b| b.version),
            issued_at: now,
            not_before: now,
            expires_at: now.plus(Duration::from_secs(300)),
            origin: Default::default(),
        })
    }

    /// Signs a job: the bytes to submit, and its digest.
    #[must_use]
    pub fn sign(&self, job: &Job) -> (String, Digest) {
        let envelope = sign(job, &[&self.key]);
        let digest = envelope.digest();
        (signing::to_wire(&envelope), digest)
    }

    /// Submits a signed job and follows it until its receipt has been verified, output included.
    ///
    /// # Errors
    /// When the hub refuses it, the connection breaks, or the receipt doesn't hold.
    pub async fn run(&self, job: &str) -> Result<Ran> {
        let digest = Envelope::parse(job.as_bytes(), limits::ENVELOPE)?.digest();
        let mut stream = self.hub.submit_attached(job).await?;
        let mut follower = Follower::new();
        let mut output_bytes = 0;
        while let Some(item) = follower.next(&mut stream).await? {
            match item {
                Item::Output { bytes, .. } => output_bytes += bytes.len() as u64,
                Item::Event(StreamEvent::Receipt { receipt }) => {
                    let receipt = self.verify(&receipt, &digest)?;
                    if let Compared::Partly(doubt) = follower.compare(&receipt)? {
                        bail!("not all output is proven: {doubt:?}");
                    }
                    return Ok(Ran {
                        receipt,
                        output_bytes,
                    });
                }
                Item::Event(_) | Item::Missing { .. } | Item::Egress(_) => {}
            }
        }
        bail!("the stream ended without a receipt");
    }

    fn verify(&self, wire: &str, job: &Digest) -> Result<Verified<Receipt>> {
        let claimed = Envelope::parse(wire.as_bytes(), limits::ENVELOPE)?;
        let unverified: Receipt = lictor_proto::json::from_slice(&claimed.payload)?;
        let node = self.nodes.get(&unverified.node_id)?;
        let receipt = self.trust.verify_receipt(&node.keys, wire)?;
        receipt.check_for(job)?;
        Ok(receipt)
    }
}
