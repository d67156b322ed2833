//! Hard limits of every external input (TRUST.md section 1), in bytes unless the name says otherwise.

use std::time::Duration;

/// Largest envelope of any document but bundle and job.
pub const ENVELOPE: usize = 1024 * 1024;
/// Largest bundle envelope.
pub const BUNDLE_ENVELOPE: usize = 8 * 1024 * 1024;
/// Largest envelope of a job: a script, as base64 of JSON, and then some.
pub const JOB_ENVELOPE: usize = 2 * 1024 * 1024;
/// A schedule's envelope with a nominal time beside it.
pub const FIRED_WIRE: usize = 2 * JOB_ENVELOPE;
/// A script, in a job or in a bundle that jobs name it of.
pub const SCRIPT: usize = 1024 * 1024;
/// Most signatures on one envelope.
pub const SIGNATURES: usize = 16;
/// Deepest JSON nesting; a scalar document has depth 1.
pub const JSON_DEPTH: usize = 16;
/// Largest integer in any document: what a double can hold exactly.
pub const MAX_INTEGER: u64 = 1 << 53;
/// argv and environment of one job together.
pub const ARGV_ENV: usize = 128 * 1024;
/// Environment variables of one job.
pub const ENV_VARS: usize = 1024;
/// Nodes named by one job.
pub const NODES: usize = 10_000;
/// Revocations that one bundle vouches for.
pub const REVOCATIONS: usize = 10_000;
/// Authenticator data of a passkey's assertion: exactly its fixed head.
pub const AUTHENTICATOR_DATA: usize = 37;
/// Client data of a passkey's assertion.
pub const CLIENT_DATA: usize = 4096;
/// Records of nodes and grants that a client keeps; beyond them it takes no new ones from a hub.
pub const RECORDS_KEPT: usize = 2 * NODES;
/// Free text that says why.
pub const REASON: usize = 1024;
/// Longest validity of a job, approval or grant.
pub const VALIDITY: Duration = Duration::from_secs(30 * 24 * 3600);
/// A cron expression.
pub const CRON: usize = 256;
/// How far the firings of a schedule may be spread over its nodes.
pub const JITTER: Duration = Duration::from_secs(6 * 3600);
/// How long a firing of a schedule may wait to begin.
pub const START_WITHIN: Duration = Duration::from_secs(7 * 24 * 3600);
/// How far ahead of a node's clock a document may be dated.
pub const CLOCK_AHEAD: Duration = Duration::from_secs(60);
/// An input of a job that people are shown before they sign.
pub const INPUT_SHOWN: u64 = 1024 * 1024;
/// Jobs that one job comes after.
pub const AFTER: usize = 16;
/// A rollout as it is handed in: its job, and which of ten thousand nodes begins when.
pub const ROLLOUT: usize = 4 * 1024 * 1024;
/// Standard input sent along with a job.
pub const STDIN: u64 = 256 * 1024 * 1024;
/// The value of a secret.
pub const SECRET: usize = 16 * 1024;
/// The shortest value of a secret: a shorter one cannot be told from other output, and so not be taken out of it.
pub const SECRET_LEAST: usize = 8;
/// Secrets that one job uses.
pub const SECRETS: usize = 8;
/// A file that a job carries, or all files of one that brings several.
pub const ARTIFACT: u64 = 4 * 1024 * 1024 * 1024;
/// What is said about the files that a job brings, besides their content.
pub const MANIFEST: u64 = 64 * 1024 * 1024;
/// A piece of a file that has a digest of its own.
pub const CHUNK: usize = 5 * 1024 * 1024;
/// Where a file is fetched from.
pub const URL: usize = 2048;
/// A path on a node.
pub const PATH: usize = 4095;
/// One output frame's payload.
pub const FRAME: usize = 256 * 1024;
/// One message on the agent's event stream.
pub const EVENT: usize = 4 * 1024 * 1024;
/// A JSON request body of the hub's API that is not an envelope.
pub const API_BODY: usize = 1024 * 1024;
/// One [`crate::agent::Request`] or [`crate::agent::Reply`] as JSON: a bundle as a JSON string, and then some.
pub const ASK: usize = 16 * 1024 * 1024;
/// The umask of a job that names none: its files can be read by all and written by its user.
pub const UMASK: &str = "0022";
