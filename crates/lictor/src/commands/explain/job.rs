//! The job that a prediction is about, as it would be signed.

use lictor_policy::facts::{Facts, ProgramFacts};
use lictor_proto::doc::{
    Collect, DiffTerms, Document as _, Fetch, GitCommit, Job, Operation, Origin, SecretUse, Spec, Stdin,
    StdinBytes, Workspace,
};
use lictor_proto::{Digest, Name, NodeId, Timestamp};
use lictor_trust::LawFiles;
use lictor_trust::profiles::Profile;

use crate::args::{Explain, UsedSecret};
use crate::commands::work;
use crate::failure::{Failure, Result};
use crate::session::Session;

/// What is not known before there is a job.
pub(super) const PREDICTION: &[u8] = b"prediction";

pub(super) fn job(
    session: &Session,
    args: &Explain,
    operator: &Name,
    (node, law): (&NodeId, &LawFiles),
) -> Result<Job> {
    let now = Timestamp::now();
    let spec = spec(args, law)?;
    let stdin = match args.more.stdin {
        true => Stdin::Bytes(StdinBytes {
            sha256: Digest::of(PREDICTION),
            size: args.size,
        }),
        false => Stdin::NONE,
    };
    let job = Job {
        tag: Default::default(),
        org: session.config.org.clone(),
        operator: operator.clone(),
        nonce: vec![0; 16],
        nodes: nodes(session, node, args.more.nodes),
        kind: spec.kind(),
        spec,
        profile: args.profile.clone(),
        stdin,
        secrets: assumed(&args.secrets),
        after: Default::default(),
        expect: Default::default(),
        output_to: Default::default(),
        reason: String::new(),
        retry_of: None,
        min_bundle: 1,
        issued_at: now,
        not_before: now,
        expires_at: now.plus(std::time::Duration::from_secs(300)),
        origin: Origin::assumed(args.scheduled),
    };
    let holds = job.validate();
    holds.map_err(|e| {
        Failure::new("such a job cannot be signed")
            .because(&e)
            .code(e.code)
    })?;
    Ok(job)
}

/// The node, and as many besides as it takes: policy sees how many there are, and of the others nothing.
fn nodes(session: &Session, node: &NodeId, wanted: u32) -> Vec<NodeId> {
    let other = |n: u32| {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        NodeId::derive(&session.config.org, &key)
    };
    let mut nodes: Vec<NodeId> = (1..wanted).map(other).chain([node.clone()]).collect();
    nodes.sort();
    nodes
}

fn spec(args: &Explain, law: &LawFiles) -> Result<Spec> {
    let more = &args.more;
    if let Some(operation) = more.workspace {
        return Ok(Spec::Workspace(workspace(args, operation)));
    }
    let terms = args.terms.of_job();
    if terms.is_some() && (args.fetch.is_some() || args.collect.is_some()) {
        return Err(Failure::new(
            "such a job cannot be signed: no file is put or brought under terms of its own",
        )
        .hint("Leave out --user, --group, --umask and --limit."));
    }
    Ok(match (&args.fetch, &args.collect) {
        (Some(to), _) => Spec::Fetch(Fetch {
            to: to.clone(),
            url: args.url.clone(),
            sha256: Digest::of(PREDICTION),
            size: args.size,
            mode: args.mode.clone(),
            owner: None,
            group: None,
            replace: more.replace,
            timeout_ms: None,
            sandbox: more.sandbox.clone(),
        }),
        (None, Some(from)) => Spec::Collect(Collect {
            sandbox: more.sandbox.clone(),
            ..Collect::new(from.clone(), args.size)
        }),
        (None, None) => {
            let said = work::ProcessTerms {
                env: &args.env,
                cwd: more.cwd.as_ref(),
                sandbox: more.sandbox.as_ref(),
                timeout: None,
                terms,
                git: args.git.as_ref(),
            };
            work::under(work::of(&args.what(), || Ok(law.clone()))?, &said)
        }
    })
}

fn workspace(args: &Explain, operation: Operation) -> Workspace {
    let more = &args.more;
    let git = more.git_url.clone().zip(more.git_commit.clone());
    let diff = DiffTerms {
        max_bytes: args.size,
        ignored: false,
        against: None,
    };
    Workspace {
        snapshot: more.snapshot.clone(),
        git: git.map(|(url, commit)| GitCommit { url, commit }),
        diff: (operation == Operation::Diff).then_some(diff),
        terms: args.terms.of_job(),
        ..Workspace::new(operation, more.sandbox.clone())
    }
}

/// The secrets of a job, as far as a prediction goes: no version and no value of any.
fn assumed(named: &[UsedSecret]) -> Vec<SecretUse> {
    let mut uses: Vec<SecretUse> = named
        .iter()
        .map(|used| SecretUse {
            name: used.name.clone(),
            version: 1,
            digest: Digest::of(PREDICTION),
            delivery: used.delivery,
        })
        .collect();
    uses.sort_by(|a, b| a.name.cmp(&b.name));
    uses
}

/// What a node would find out, as far as that can be guessed here.
pub(super) fn assume(name: &Name, profile: &Profile, spec: &Spec) -> Facts {
    let program = match spec {
        Spec::Exec(exec) => exec.argv.first().cloned().unwrap_or_default(),
        Spec::Script(script) => script.interpreter.to_string(),
        Spec::Fetch(_) | Spec::Collect(_) | Spec::Workspace(_) => "lictor".to_owned(),
    };
    let path = if program.contains('/') {
        program
    } else {
        let here = profile.path.iter().map(|d| format!("{d}/{program}"));
        here.into_iter()
            .find(|p| std::path::Path::new(p).exists())
            .unwrap_or_else(|| format!("/usr/bin/{program}"))
    };
    let cwd = spec
        .process()
        .cwd
        .map(str::to_owned)
        .or_else(|| profile.cwd.clone());
    let canonical = std::fs::canonicalize(&path)
        .ok()
        .and_then(|p| p.to_str().map(str::to_owned));
    let content = std::fs::read(&path).unwrap_or_default();
    let names = profile
        .variables()
        .chain(spec.process().env.keys().map(String::as_str));
    let mut env_names: Vec<String> = names.map(str::to_owned).collect();
    env_names.sort();
    env_names.dedup();
    Facts {
        program: ProgramFacts {
            path: canonical.unwrap_or(path),
            sha256: Digest::of(&content),
            writable: false,
        },
        interpreters: Vec::new(),
        env_names,
        network: profile.network_word().to_owned(),
        profile: name.clone(),
        profile_digest: profile.digest(),
        backend: profile.backend.preferred().as_str().to_owned(),
        namespaced: profile.backend.preferred().is_namespaced(),
        rootfs: profile.rootfs,
        rootfs_index: None,
        run_as_uid: 0,
        run_as_gid: None,
        run_as_groups: Vec::new(),
        cwd: cwd.unwrap_or_else(|| "/workspace".to_owned()),
        secrets: Vec::new(),
    }
}
