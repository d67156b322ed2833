//! Every stable code: what happened, in one word for programs and one sentence for people, and what to do.
//!
//! Codes are part of the interface. One is never renamed or given another meaning; new ones are added.
//! They appear in refusals, receipts, API problems, audit events and `--json` output alike.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! codes {
    ($($variant:ident = $text:literal, $sentence:literal, $hint:literal;)*) => {
        /// A stable code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $sentence] $variant,)*
        }

        impl Code {
            /// All codes there are, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word that programs compare.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// One sentence for people: what happened.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// What to do about it.
            #[must_use]
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint,)* }
            }
        }

        impl FromStr for Code {
            type Err = UnknownCode;
            fn from_str(s: &str) -> Result<Self, UnknownCode> {
                match s { $($text => Ok(Self::$variant),)* _ => Err(UnknownCode) }
            }
        }
    };
}

/// A word that is no code of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown code")]
pub struct UnknownCode;

codes! {
    // Reading documents
    EnvelopeMalformed = "envelope_malformed", "The bytes are not a DSSE envelope.", "Send the signed envelope unchanged, as JSON.";
    PayloadMalformed = "payload_malformed", "The payload is not strict JSON of its document's shape.", "Sign with a client of a version that this side knows.";
    WrongType = "wrong_type", "The document is of another kind than this place takes.", "A signature of one kind never serves as another; sign the right document.";
    DocumentInvalid = "document_invalid", "A field of the document breaks a rule.", "The message names the field; correct it and sign again.";
    LimitExceeded = "limit_exceeded", "A size or count is over its limit.", "The message names the limit; make it smaller.";
    // Signatures and identity
    SignatureInvalid = "signature_invalid", "No signature of an accepted key holds over these bytes.", "The document was changed after signing, or the wrong key signed it. Do not run it; look at the hub.";
    SignerUnknown = "signer_unknown", "The signing key is not in the roster.", "Add the key to roster.toml and push the bundle, or sign with a key that is there.";
    SignerMismatch = "signer_mismatch", "The signing key is not one of the operator's that the document names.", "Sign with a key of the named operator.";
    SignatureCount = "signature_count", "The document must carry exactly one signature.", "Send it as it was signed.";
    WeakKey = "weak_key", "The public key is of small order or not on the curve.", "Make a new key with `lictor keys new`.";
    DuplicateKey = "duplicate_key", "A public key occurs more than once in root, roster and node records.", "Give each holder a key of its own.";
    ThresholdNotMet = "threshold_not_met", "Too few distinct keys of the role have signed.", "Have more holders of the role sign.";
    KeyClass = "key_class", "The key is one that a page of the hub could use, and such keys sign nothing.", "Sign with a key that is kept outside the browser, or let the roster say that its approvals count.";
    AssertionUnsupported = "assertion_unsupported", "A passkey signed this, and passkeys sign approvals only.", "Sign with a key of `lictor keys`.";
    AssertionInvalid = "assertion_invalid", "What the passkey signed is not for this document, this page, or a person who was there.", "Approve again on the page that the roster names for this passkey.";
    KeyExpired = "key_expired", "The key's time in the roster is over.", "Renew the key in roster.toml.";
    KeyRevoked = "key_revoked", "The key has been revoked.", "Sign with another key; if nobody revoked it on purpose, find out who did.";
    OperatorRevoked = "operator_revoked", "The operator has been revoked.", "Ask whoever keeps the roster.";
    NodeRevoked = "node_revoked", "The node has been revoked.", "Enrol the machine anew if it should be trusted again.";
    GrantRevoked = "grant_revoked", "The grant has been revoked.", "Make a new grant.";
    JobRevoked = "job_revoked", "The job has been revoked.", "Nothing; it will never start.";
    ScheduleRevoked = "schedule_revoked", "The schedule has been revoked.", "Nothing; it never fires again.";
    RightMissing = "right_missing", "The operator lacks the right that this document needs.", "Give the right in roster.toml or fleet.toml, or have somebody with it sign.";
    // Binding
    WrongOrg = "wrong_org", "The document is bound to another org.", "Check which org you are acting for.";
    WrongNode = "wrong_node", "The document does not name this node.", "Sign it for the node it should run on.";
    WrongJob = "wrong_job", "The document belongs to another job.", "Send it with the job that it was signed for.";
    // Time
    IssuedInFuture = "issued_in_future", "The document is dated more than 60 seconds ahead of this node's clock.", "Set the clocks of both machines.";
    NotYetValid = "not_yet_valid", "The document is not valid yet.", "Wait until its not_before.";
    Expired = "expired", "The document's validity is over.", "Sign it again.";
    ValidityTooLong = "validity_too_long", "The document is valid for longer than allowed.", "Sign it with a shorter --valid.";
    // Law
    RootVersion = "root_version", "The root is not the next version after the one held.", "Send every root version in order.";
    RootOlder = "root_older", "The root is older than the one held.", "Somebody serves old documents; look at the hub.";
    RootExpired = "root_expired", "The root's validity is over.", "Sign a new root version.";
    BundleOlder = "bundle_older", "The bundle is older than the one held.", "Somebody serves old law; look at the hub.";
    BundleConflict = "bundle_conflict", "Two different bundles carry the same version.", "Sign a bundle with a higher version, and find out who signed two.";
    BundleUnloadable = "bundle_unloadable", "The newest authentic bundle cannot be loaded; everything is denied.", "Run `lictor org check`, correct the bundle, sign and push a higher version.";
    BundleExpired = "bundle_expired", "The bundle's validity is over; no new work.", "Sign and push a new bundle: `lictor org sign`, `lictor org push`.";
    NoLaw = "no_law", "This node holds no bundle yet.", "Push the bundle: `lictor org push`.";
    StaleBundle = "stale_bundle", "The document asks for a newer bundle than this node holds.", "Push the newest bundle; it is tried again by itself.";
    MinRoot = "min_root", "The bundle asks for a newer root than is held.", "Send the newer root first.";
    SchemaUnsupported = "schema_unsupported", "The bundle is written against a policy schema that this version does not know.", "Update the agent, or sign for the older schema.";
    AgentTooOld = "agent_too_old", "The bundle demands a newer agent.", "Update the agent.";
    Stale = "stale", "No fresh statement of the newest law has been seen for longer than max_staleness.", "Run `lictor org freshness` and push; if that was done, the hub is withholding it.";
    FreshnessMismatch = "freshness_mismatch", "The freshness statement names law or revocations that are not held.", "Push the newest bundle and all revocations.";
    ClockBack = "clock_back", "The system clock is behind time that signed documents prove has passed.", "Set the clock.";
    // Nodes
    GrantExpired = "grant_expired", "The grant's time to enrol is over.", "Make a new one: `lictor nodes grant`.";
    GrantUsed = "grant_used", "The grant has been used as often as it may be.", "Make a new one: `lictor nodes grant`.";
    GrantNotAllowed = "grant_not_allowed", "fleet.toml does not let this operator enrol with these labels and this name.", "Add the labels, or the name, under [enrollers] in fleet.toml.";
    JoinSignature = "join_signature", "The node record is not signed by the grant's join key.", "Enrol with the token that belongs to the grant.";
    NodeRecordInvalid = "node_record_invalid", "The node's keys do not stand on a valid grant.", "Enrol the machine anew.";
    NodeUnknown = "node_unknown", "No accepted record names this node.", "Check the name with `lictor nodes`.";
    AmbiguousName = "ambiguous_name", "Two live node records claim this name.", "Revoke one, or enrol with --replaces.";
    ClonedIdentity = "cloned_identity", "This machine is not the one that the identity was made on.", "Enrol it anew; it will get an identity of its own.";
    HubPin = "hub_pin", "The hub's key is not the pinned one.", "Do not go on: somebody is between, or the hub was reinstalled.";
    // Jobs
    Replayed = "replayed", "This job has been seen before; a job starts at most once.", "Sign a new job to run it again.";
    ReplayWindow = "replay_window", "The job's validity ended at or before the point up to which seen jobs have been forgotten.", "Sign a new job.";
    KindUnsupported = "kind_unsupported", "This version does not run jobs of this kind.", "Update the agent.";
    ExpectationFailed = "expectation_failed", "The node is not what the job was signed for.", "It was chosen by what it, or the hub, said before; choose again with `lictor run --fact`.";
    StdinMissing = "stdin_missing", "The job's standard input has not arrived.", "Send it before or with the job.";
    StdinMismatch = "stdin_mismatch", "Standard input does not match its signed digest and size.", "It was changed on the way; look at the hub.";
    SecretMissing = "secret_missing", "A secret that the job uses has not arrived, or there is none of this name.", "`lictor secret ls` shows what the hub has; set it: `lictor secret set NAME --nodes TARGET`.";
    SecretMismatch = "secret_mismatch", "A secret that came with the job is not one that it was signed for.", "It was changed or swapped on the way; look at the hub.";
    SecretNotForNode = "secret_not_for_node", "The secret was not sealed to this node.", "Set it again for all nodes that use it: `lictor secret set NAME --nodes TARGET`.";
    SecretUnreadable = "secret_unreadable", "What was sealed to this node does not open with its key.", "It was sealed for something else; set it again: `lictor secret set`.";
    SecretOlder = "secret_older", "The hub serves an older version of a secret than this home has seen.", "Somebody serves old secrets; look at the hub, or set the secret again.";
    SecretConflict = "secret_conflict", "Two secrets carry the same name and version.", "Set it again, which takes the next version, and find out who set two.";
    SecretExposed = "secret_exposed", "The job's own words or variables hold the value of a secret that it uses.", "Read the value where the node puts it, in place of writing it into the job.";
    AfterWaiting = "after_waiting", "The job comes after another one, which has not ended on this node.", "It begins by itself when that has ended; `lictor job ID` names the other.";
    ScheduleOverlap = "schedule_overlap", "The firing before it still ran, and the schedule says that such times are left out.", "Have it fire less often, give the work a shorter --timeout, or sign the schedule with --overlap wait.";
    ScheduleMissed = "schedule_missed", "A time of the schedule passed while it could not be fired.", "Sign the schedule with --missed once if the last missed time is to be made up for.";
    FiringUnjudged = "firing_unjudged", "The hub's time zones know no such time of the schedule, so it cannot tell whether the node fired at one of its times.", "Hold it against the schedule with `lictor schedule show`; bring hub, nodes and clients to one version.";
    ScheduleGated = "schedule_gated", "Policy wants approvals or a release for this, and a schedule can have none.", "Run it with `lictor run`, which people can approve; or change the policy for what is scheduled.";
    TooManyJobs = "too_many_jobs", "The node runs as many jobs as it may.", "It is tried again by itself.";
    SandboxBusy = "sandbox_busy", "Another job works in the kept sandbox that this one names.", "It is tried again by itself.";
    SandboxLimit = "sandbox_limit", "The node keeps as many sandboxes, or as much in them, as it may.", "Remove some on the node: `lictor agent sandbox ls` and `rm NAME`; or raise persist.most or persist.bytes in the profile, or the agent's `[sandbox]` settings kept_most and kept_gib.";
    SandboxUnknown = "sandbox_unknown", "This node keeps no such sandbox, or no such snapshot of it.", "`lictor agent sandbox ls` lists what there is.";
    RootfsPulling = "rootfs_pulling", "The node is fetching the profile's root filesystem.", "It is tried again by itself; the message says what went wrong so far.";
    Downloading = "downloading", "The node is downloading the file that the job puts there.", "The job starts by itself when the file has come; `lictor cancel ID` ends it.";
    Draining = "draining", "The agent is shutting down and takes no new work.", "It is tried again by itself once the agent is back.";
    // Policy
    NoMatch = "no_match", "No policy allows this.", "`lictor explain` shows what was asked; add a permit and push the bundle.";
    Forbidden = "forbidden", "A policy forbids this.", "The rules that decided are named; `lictor explain` shows them.";
    PolicyError = "policy_error", "A policy could not be evaluated; an error is a denial.", "Correct the policy named; `lictor org test` finds such errors.";
    ApprovalNeeded = "approval_needed", "Policy allows this once enough people have approved.", "`lictor approvals` and `lictor approve ID`.";
    ReleaseNeeded = "release_needed", "Policy lets this job begin on this node once it has been released there.", "`lictor release ID --batch N`, or `--node NAME`.";
    ReleaseIneligible = "release_ineligible", "Who signed the release is not in the group that the law names.", "Ask a member of the group.";
    ProfileUnknown = "profile_unknown", "The bundle has no profile of this name.", "Add it to profiles.toml, or name another with --profile.";
    FactsChanged = "facts_changed", "What was approved is not what would run now.", "Look at the difference and have it approved again.";
    VariableRefused = "variable_refused", "The environment sets a loader or interpreter variable outside a namespaced profile.", "Run it in a sandbox profile, or leave the variable out.";
    InterpreterRefused = "interpreter_refused", "What the profile's root has under the interpreter's name is not an interpreter of that name.", "The message has the path; if it may be one, list it in the profile's `interpreters`.";
    RunAsRefused = "run_as_refused", "The profile does not let jobs choose this user or group.", "Name one that the profile lists in `run_as_users` or `run_as_groups`, or leave --user and --group out.";
    ScriptUnknown = "script_unknown", "The bundle has no script of this name.", "Add it under scripts/ and push the bundle, or send the script itself.";
    ScriptMismatch = "script_mismatch", "The bundle's script of this name is not the one that the job was signed for.", "Look at what changed, then sign the job again.";
    SelfApproval = "self_approval", "Nobody approves a job of their own.", "Ask somebody else.";
    ApprovalIneligible = "approval_ineligible", "The approver is not in the group that must approve, or not a person.", "Ask a member of the group.";
    // Execution
    Unenforceable = "unenforceable", "This host cannot enforce something that the profile promises.", "`lictor doctor` says what is missing; or choose another profile.";
    RootfsMissing = "rootfs_missing", "This node has no root filesystem of this digest.", "Add it on the node: `lictor agent rootfs add FILE`.";
    RootfsPullFailed = "rootfs_pull_failed", "An image could not be fetched from its registry.", "The message has what the registry or skopeo said; `lictor agent rootfs pull IMAGE` tries it by hand.";
    RootfsInUse = "rootfs_in_use", "A job uses this root filesystem.", "Wait until the job has ended, or end it.";
    RootfsMismatch = "rootfs_mismatch", "The archive or a part of it does not match its digest.", "Get it again from where it was made; do not use it as it is.";
    RootfsInvalid = "rootfs_invalid", "This is no archive or image that can be unpacked, or one that must not be.", "The message says what is wrong with it; make it again without that.";
    RootfsUnusable = "rootfs_unusable", "The store of root filesystems could not be read or written.", "The message has the system's reason.";
    ProgramNotFound = "program_not_found", "The program does not exist in the profile's root, or may not be executed.", "Check the path; a program without `/` is looked up in the profile's PATH.";
    ProgramChanged = "program_changed", "The program was changed between the decision and the start.", "Find out who writes to it; then run again.";
    StartFailed = "start_failed", "The process could not be started.", "The message has the system's reason.";
    ContentMismatch = "content_mismatch", "The file's content does not match its signed digest and size.", "It was changed on the way, or where it comes from; look at the hub, or at what the URL gives.";
    DestinationRefused = "destination_refused", "The file cannot be put there: a link or a special file is on the way, a directory is missing, or it is the agent's own.", "Standard error has the path; name the real one.";
    DestinationExists = "destination_exists", "There is a file already.", "`--replace` puts the new one in its place.";
    DestinationFull = "destination_full", "There is not enough room for the file.", "Free space there.";
    OwnerRefused = "owner_refused", "The file cannot be given to that owner or group.", "Only root can, outside a sandbox; leave the owner out, or choose a profile whose jobs run as that user.";
    SourceRefused = "source_refused", "The path cannot be collected: a link or a special file is on the way, or it is the agent's own.", "Standard error has the path; name the real one.";
    SourceMissing = "source_missing", "There is nothing at the path, or the profile's jobs may not read it.", "Check the path, and as whom the profile's jobs run.";
    SourceTooLarge = "source_too_large", "There is more than the job may bring.", "Raise --max-bytes, or name less.";
    GitFailed = "git_failed", "git could not do its part.", "Standard error has what git says: whether it is installed, what it could not reach, what is missing.";
    UrlRefused = "url_refused", "The law does not let this profile's files come from there.", "List host and port in the profile's `fetch_from`; an address that is not public has to be in its `private` ranges, too.";
    DownloadFailed = "download_failed", "The file could not be downloaded.", "The message has what went wrong; the node has what came so far for ten minutes, and a retry goes on from there.";
    TransferFailed = "transfer_failed", "The file could not be carried.", "Standard error has the system's reason.";
    TimedOut = "timed_out", "The wall time limit was reached and the process tree was ended.", "Raise --timeout if it needs longer.";
    Canceled = "canceled", "A signed cancel ended the job.", "Nothing.";
    Interrupted = "interrupted", "The agent or the machine went down while the job ran.", "Look at what it had done; sign a new job to run it again.";
    DiskFull = "disk_full", "The agent's disk is full; nothing new is started.", "Free space under the agent's directory.";
    JournalFailed = "journal_failed", "The agent could not write its journal; nothing is started that is not recorded.", "Look at the disk and the agent's log.";
    // Receipts, as clients see them
    Unconfirmed = "unconfirmed", "The result could not be confirmed by a valid receipt.", "Treat the outcome as unknown; ask the node again, and look at the hub.";
    ReceiptForged = "receipt_forged", "The receipt is not signed by the node.", "Do not believe the result; look at the hub.";
    ReceiptConflict = "receipt_conflict", "Two different receipts exist for one execution.", "Do not believe either; look at the node.";
    ReceiptGap = "receipt_gap", "A receipt has a lower number than another one of its node that ended well before it.", "The node was put back to an older state, its clock jumped, or somebody else uses its key; on the node, run `lictor audit --agent DIR verify`.";
    OutputMismatch = "output_mismatch", "The output shown is not the output that the node signed.", "Do not believe the output; look at the hub.";
    // Hub and API
    Unauthenticated = "unauthenticated", "The request carries no valid API token or client certificate.", "Set LICTOR_HOME, or send `Authorization: Bearer ...`.";
    ScopeMissing = "scope_missing", "The API token's scope does not allow this.", "Use a token with the scope that the message names: `lictor tokens`.";
    NotFound = "not_found", "There is no such thing, or it is not yours to see.", "Check the id and the org.";
    BadRequest = "bad_request", "The request is malformed.", "The message says what was expected.";
    TooLarge = "too_large", "The request body is over its limit.", "Send less.";
    MethodNotAllowed = "method_not_allowed", "The path exists, but not with this method.", "See /api/v1/openapi.json.";
    ResultConflict = "result_conflict", "A different result was already recorded for this execution.", "Nothing is overwritten; look at the node.";
    AlreadyExists = "already_exists", "There is already one of that name with other content.", "Choose another name.";
    NodeOffline = "node_offline", "The node is not connected.", "The job waits until it is, or until it expires.";
    RolloutWaits = "rollout_waits", "The node's batch has not begun.", "Nothing: it begins when the batch before has ended well enough. `lictor rollout show ID` says how it stands.";
    RolloutStopped = "rollout_stopped", "The rollout stopped before this node began.", "Look at what failed; then `lictor rollout continue ID`, or end it with `lictor cancel ID`.";
    Busy = "busy", "The hub has more work queued than it takes.", "Try again after a while.";
    RateLimited = "rate_limited", "The API token asks more often than it may.", "Wait as long as `Retry-After` says, or spread the requests; `lictor tokens new --rate` and the hub's `requests_per_second` set how often.";
    QueueFull = "queue_full", "As much waits on the hub as may, for the org or for the node.", "Nothing was queued. Wait until some of it has begun (`lictor jobs --queued`), or have the hub's `max_queued_per_org` or `max_queued_per_node` raised.";
    JobsFull = "jobs_full", "The hub stores as many jobs of the org as it may.", "Nothing was queued. Have the hub's `max_jobs_per_org` raised, or ended jobs forgotten sooner (`keep_jobs_days`).";
    TooManyRunning = "too_many_running", "As many jobs of the org are at work as the hub lets be at once.", "It begins by itself when others have ended; `max_running_per_org` of the hub sets how many.";
    Internal = "internal", "Something failed inside; the log has the details under the request id.", "Report it with the request id.";
    Unavailable = "unavailable", "The hub cannot be reached.", "Check the address and that it runs: `lictor doctor`.";
    Timeout = "timeout", "No answer in time.", "Try again; what was submitted may have been taken, so look first.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A refusal: a code and what exactly was wrong this time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// What was wrong, for people, without control characters.
    pub message: String,
}

impl Refusal {
    /// A refusal with its own words.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// A refusal whose code says it all.
    #[must_use]
    pub fn plain(code: Code) -> Self {
        Self::new(code, code.sentence())
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self::plain(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_words_with_sentences() {
        let mut words: Vec<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
        for c in Code::ALL {
            assert!(
                c.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{c}"
            );
            assert!(c.sentence().ends_with('.') && c.hint().ends_with('.'), "{c}");
            assert_eq!(c.as_str().parse(), Ok(*c));
        }
    }
}
