//! Everything about one job that signatures prove; what does not hold is named, never shown as fact.

mod proof;

use lictor_client::{Hub, TrustStore};
use lictor_proto::agent::Wire;
use lictor_proto::api::JobDocuments;
use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc::{
    Approval, Ask, Collect, Fetch, Job, Receipt, Release, Remark, Says, Script, Spec, Stdin, StdinWord,
    Terms, Workspace,
};
use lictor_proto::{JobId, Name, Timestamp};
use lictor_trust::directory::Node;
use lictor_trust::{Historic, Verified};

pub(crate) use self::proof::Unproven;
use self::proof::its_node;
use crate::escape::{command_line, escape};
use crate::failure::{Failure, Result};
use crate::session::{Session, failed};

/// A job and what belongs to it, all verified.
pub(crate) struct Dossier {
    pub(crate) job: Historic<Job>,
    pub(crate) wire: Wire,
    pub(crate) nodes: Vec<Node>,
    /// Those of its nodes that nothing proves.
    pub(crate) unproven: Vec<Unproven>,
    pub(crate) asks: Vec<Verified<Ask>>,
    pub(crate) receipts: Vec<Verified<Receipt>>,
    pub(crate) approvals: Vec<Verified<Approval>>,
    pub(crate) releases: Vec<Verified<Release>>,
    /// What people say about it; nothing acts on that.
    pub(crate) remarks: Vec<Verified<Remark>>,
    /// The text of the script of the law that it names, if it is the one that was signed.
    of_bundle: Option<String>,
    /// What the hub handed over and does not hold.
    pub(crate) refused: Vec<Refusal>,
}

impl Dossier {
    /// Fetches a job's documents and verifies them.
    pub(crate) async fn fetch(
        session: &Session,
        hub: &Hub,
        store: &mut TrustStore,
        id: &JobId,
    ) -> Result<Self> {
        let docs = hub
            .documents(id)
            .await
            .map_err(|e| failed(&format!("fetch job {id}"), &e))?;
        Self::of(session, hub, store, (id, docs)).await
    }

    /// Fetches a job that can still run. Where its requester holds newer law than this home, all of it is fetched and verified
    /// again under that: nothing of it stays as the older law had it.
    pub(crate) async fn current(
        session: &Session,
        hub: &Hub,
        store: &mut TrustStore,
        id: &JobId,
    ) -> Result<Self> {
        let mut dossier = Self::fetch(session, hub, store, id).await?;
        let checked = store.trust().verify_job(&dossier.wire, Timestamp::now());
        if checked.is_err_and(|r| r.code == Code::StaleBundle) {
            session.refresh(store, hub).await?;
            dossier = Self::fetch(session, hub, store, id).await?;
        }
        store
            .trust()
            .verify_job(&dossier.wire, Timestamp::now())
            .map_err(|r| Failure::refused(format!("job {id} cannot run any more"), &r))?;
        Ok(dossier)
    }

    /// Verifies what a hub says is a job's documents.
    pub(crate) async fn of(
        session: &Session,
        hub: &Hub,
        store: &mut TrustStore,
        (id, docs): (&JobId, JobDocuments),
    ) -> Result<Self> {
        let mut job = store.trust().historic_job(&docs.job);
        // Its requester may be new, and the law that names them not here yet.
        if job.as_ref().is_err_and(|r| r.code == Code::SignerUnknown) {
            session.refresh(store, hub).await?;
            job = store.trust().historic_job(&docs.job);
        }
        let job = job.map_err(|r| {
            Failure::refused(format!("the hub's job {id} is not one that this org signed"), &r)
        })?;
        if job.id() != *id {
            let refusal = Refusal::new(Code::WrongJob, format!("it is {}", job.id()));
            return Err(Failure::refused("the hub answered with another job", &refusal));
        }
        let nodes = proof::of_job(session, hub, store, &job.nodes).await?;
        Ok(Self::verify(store, docs, job, nodes))
    }

    fn verify(
        store: &TrustStore,
        docs: JobDocuments,
        job: Historic<Job>,
        (nodes, mut unproven): (Vec<Node>, Vec<Unproven>),
    ) -> Self {
        let trust = store.trust();
        let digest = job.digest();
        let mut refused = Vec::new();
        let mut keep = |result: std::result::Result<_, Refusal>| result.map_err(|r| refused.push(r)).ok();
        let asks = proof::of_proven(&docs.asks, &mut unproven)
            .into_iter()
            .filter_map(|wire| {
                keep(its_node(&nodes, wire, |n| {
                    let ask = trust.verify_ask(&n.keys, wire)?;
                    ask.check_for(&digest)?;
                    Ok(ask)
                }))
            });
        let asks: Vec<_> = asks.collect();
        let mut keep = |result: std::result::Result<_, Refusal>| result.map_err(|r| refused.push(r)).ok();
        let receipts = proof::of_proven(&docs.receipts, &mut unproven);
        let receipts = receipts.into_iter().filter_map(|wire| {
            keep(its_node(&nodes, wire, |n| {
                let receipt = trust.verify_receipt(&n.keys, wire)?;
                receipt.check_for(&digest)?;
                if receipt.fired != job.fired() {
                    let why = "it names another firing than the one that was asked about";
                    return Err(Refusal::new(Code::WrongJob, why));
                }
                Ok(receipt)
            }))
        });
        let receipts: Vec<_> = receipts.collect();
        let now = Timestamp::now();
        let approvals = docs.approvals.iter().filter_map(|wire| {
            let approval = trust.verify_approval(wire, now).ok()?;
            (approval.job_digest == digest).then_some(approval)
        });
        let releases = docs.releases.iter().filter_map(|wire| {
            let release = trust.verify_release(wire, now).ok()?;
            (release.job_digest == digest).then_some(release)
        });
        let mut keep = |result: std::result::Result<_, Refusal>| result.map_err(|r| refused.push(r)).ok();
        let remarks = docs.remarks.iter().filter_map(|wire| {
            keep(trust.verify_remark(wire, now).and_then(|remark| {
                remark.check_for(&digest)?;
                Ok(remark)
            }))
        });
        let remarks: Vec<_> = remarks.collect();
        let of_bundle = match (&job.spec, trust.law(now)) {
            (Spec::Script(script), Ok(law)) => law.script(script).ok().map(str::to_owned),
            (_, _) => None,
        };
        Self {
            of_bundle,
            approvals: approvals.collect(),
            releases: releases.collect(),
            remarks,
            wire: docs.job,
            job,
            nodes,
            unproven,
            asks,
            receipts,
            refused,
        }
    }

    /// Nothing that the hub handed over was refused.
    pub(crate) fn all_hold(&self) -> Result<()> {
        match self.refused.first() {
            Some(refusal) => {
                let what = format!("a document about job {} does not hold", self.job.id());
                Err(Failure::refused(what, refusal))
            }
            None => Ok(()),
        }
    }

    /// The signed request in words, nothing of it from the hub's mouth.
    pub(crate) fn describe(&self) -> String {
        let job = &self.job;
        let names: Vec<_> = self
            .nodes
            .iter()
            .map(|n| format!("{} ({})", n.name(), n.id()))
            .chain(self.unproven.iter().map(|u| u.id.to_string()))
            .collect();
        let stdin = match &job.stdin {
            Stdin::Word(StdinWord::None) => "none".to_owned(),
            Stdin::Word(StdinWord::E2e) => "over an end-to-end stream".to_owned(),
            Stdin::Bytes(b) => format!("{} bytes, {}", b.size, b.sha256),
        };
        let mut lines = vec![
            format!("job        {}", job.id()),
            format!("digest     {}", job.digest()),
            format!("operator   {}", job.operator),
            format!("nodes      {}", names.join(", ")),
            format!("profile    {}", job.profile),
            format!("stdin      {stdin}"),
        ];
        match &job.spec {
            Spec::Exec(exec) => lines.insert(4, format!("command    {}", command_line(&exec.argv))),
            Spec::Script(script) => {
                lines.splice(4..4, about(script));
            }
            Spec::Fetch(fetch) => {
                lines.splice(4..4, about_fetch(fetch));
            }
            Spec::Collect(collect) => {
                lines.splice(4..4, about_collect(collect));
            }
            Spec::Workspace(workspace) => {
                lines.splice(4..4, about_workspace(workspace));
            }
        }
        lines.extend(self.unproven.iter().map(|u| format!("unproven   {}", u.text())));
        lines.extend(self.about_process());
        for (fact, value) in job.expect.each() {
            lines.push(format!("expects    {fact}={}", escape(value)));
        }
        if let Some(fired) = job.fired() {
            let id = JobId::from_digest(&fired.schedule);
            lines.push(format!("fired      for {} by the schedule {id}", fired.nominal));
        }
        for former in &job.after {
            lines.push(format!("after      {}", JobId::from_digest(former)));
        }
        if let Some(former) = job.retry_of {
            lines.push(format!("retry of   {former}"));
        }
        if !job.reason.is_empty() {
            lines.push(format!("reason     {}", escape(&job.reason)));
        }
        lines.push(format!("valid      {} to {}", job.not_before, job.expires_at));
        lines.push(format!("law        {} or newer", job.min_bundle));
        lines.extend(self.text().map(|text| shown(&text)).unwrap_or_default());
        lines.join("\n")
    }

    /// What it says about its process, besides what is run.
    fn about_process(&self) -> Vec<String> {
        let (job, process) = (&self.job, self.job.process());
        let mut lines = Vec::new();
        if let Some(git) = job.spec.git() {
            lines.push(format!("brings     {}, before it begins", escape(&git.url)));
            lines.push(format!("commit     {}", escape(&git.commit)));
        }
        if let Some(cwd) = process.cwd {
            lines.push(format!("directory  {}", escape(cwd)));
        }
        if let Some(sandbox) = process.sandbox {
            lines.push(format!("sandbox    {sandbox}, which is kept for other jobs"));
        }
        lines.extend(process.terms.map(about_terms).unwrap_or_default());
        for (name, value) in process.env {
            lines.push(format!("env        {}={}", escape(name), escape(value)));
        }
        for used in &job.secrets {
            let how = used.delivery.as_str();
            lines.push(format!(
                "secret     {} version {} as {how}, {}",
                used.name, used.version, used.digest
            ));
        }
        if let Some(timeout) = process.timeout {
            lines.push(format!("timeout    {timeout:?}"));
        }
        if let Some(grace) = process.grace_ms {
            lines.push(format!("grace      {grace} ms between SIGTERM and SIGKILL"));
        }
        if let Some(keep) = process.keep_bytes {
            lines.push(format!("keeps      {keep} bytes of output"));
        }
        lines
    }

    /// What people say about it, a line each.
    pub(crate) fn said_about_it(&self) -> Vec<String> {
        let says = |remark: &Verified<Remark>| {
            let (word, more) = match remark.says {
                Says::Rejected => ("rejected   by", ", which stops nothing"),
                Says::Reviewed => ("reviewed   by", ""),
            };
            let why = match remark.reason.as_str() {
                "" => String::new(),
                reason => format!(": {}", escape(reason)),
            };
            format!("{word} {} at {}{more}{why}", remark.operator, remark.issued_at)
        };
        self.remarks.iter().map(says).collect()
    }

    /// The text of the script that it runs; of one of the bundle only if the law held here has the one that was signed.
    pub(crate) fn text(&self) -> Option<String> {
        match &self.job.spec {
            Spec::Exec(_) | Spec::Fetch(_) | Spec::Collect(_) | Spec::Workspace(_) => None,
            Spec::Script(script) => script.content.clone().or_else(|| self.of_bundle.clone()),
        }
    }

    /// Nobody signs what could not be shown.
    pub(crate) fn shows_all(&self) -> Result<()> {
        match &self.job.spec {
            Spec::Script(script) if self.text().is_none() => {
                let why = format!(
                    "the law held here has no script whose digest is {}",
                    script.sha256
                );
                Err(Failure::new("nothing was signed: the script cannot be shown")
                    .code(Code::ScriptMismatch)
                    .why(why))
            }
            _ => Ok(()),
        }
    }
}

fn about_terms(terms: &Terms) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(
        terms
            .user
            .iter()
            .map(|user| format!("user       {user}, with its groups")),
    );
    lines.extend(terms.group.iter().map(|group| format!("group      {group}")));
    lines.extend(
        terms
            .umask
            .iter()
            .map(|umask| format!("umask      {}", escape(umask))),
    );
    let limits = terms.limits.iter();
    lines.extend(limits.map(|(name, most)| format!("limit      {} {most}", name.as_str())));
    lines
}

fn about_fetch(fetch: &Fetch) -> Vec<String> {
    let or_own = |who: &Option<String>| who.as_deref().map_or("the profile's user".to_owned(), escape);
    let from = match &fetch.url {
        Some(url) => format!("from       {}", escape(url.as_str())),
        None => "from       the hub".to_owned(),
    };
    vec![
        format!("puts       {}", escape(&fetch.to)),
        from,
        format!("content    {} bytes, {}", fetch.size, fetch.sha256),
        format!("mode       {}", escape(&fetch.mode)),
        format!("owner      {}", or_own(&fetch.owner)),
        format!("group      {}", or_own(&fetch.group)),
        match fetch.replace {
            true => "replaces   a file that is there".to_owned(),
            false => "replaces   nothing".to_owned(),
        },
    ]
}

fn about_collect(collect: &Collect) -> Vec<String> {
    vec![
        format!("brings     {}, and all below it", escape(&collect.from)),
        format!("at most    {} bytes", collect.max_bytes),
    ]
}

fn about_workspace(workspace: &Workspace) -> Vec<String> {
    let name = workspace.sandbox.as_ref().map_or("", Name::as_str);
    let snapshot = workspace.snapshot.as_ref();
    let mut lines = vec![format!("workspace  {} {name}", workspace.operation.as_str())];
    lines.extend(snapshot.map(|name| format!("snapshot   {name}")));
    if let Some(git) = &workspace.git {
        lines.push(format!("brings     {}", escape(&git.url)));
        lines.push(format!("commit     {}", escape(&git.commit)));
    }
    if let Some(diff) = &workspace.diff {
        let against = diff.against.as_deref().unwrap_or("the commit that was cloned");
        let ignored = if diff.ignored {
            ", ignored files included"
        } else {
            ""
        };
        lines.push(format!("against    {}{ignored}", escape(against)));
        lines.push(format!("at most    {} bytes", diff.max_bytes));
    }
    lines
}

fn about(script: &Script) -> Vec<String> {
    let mut lines = vec![
        format!("script     {}", script.sha256),
        format!("read by    {}", script.interpreter),
    ];
    lines.extend(
        script
            .name
            .iter()
            .map(|n| format!("named      scripts/{n} of the law")),
    );
    if !script.args.is_empty() {
        lines.push(format!("arguments  {}", command_line(&script.args)));
    }
    lines
}

/// A whole script, line by line, in a way that nothing in it can pass for anything else.
pub(crate) fn shown(text: &str) -> Vec<String> {
    let mut lines = vec![format!("text       {} bytes:", text.len())];
    lines.extend(text.split_inclusive('\n').map(|line| {
        let (line, end) = line
            .strip_suffix('\n')
            .map_or((line, " (no new line at the end)"), |l| (l, ""));
        format!("  | {}{end}", escape(line))
    }));
    lines
}
