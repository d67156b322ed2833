//! System tests: the real `lictor` as hub, agent and client, as processes of their own.
//!
//! | module | what it holds Lictor to |
//! |---|---|
//! | `contract` | `lictor up`, and what scripts may rely on |
//! | `exact` | how a command runs and ends, and what its result says |
//! | `fleet` | one job on several nodes, and on those that are away |
//! | `rollouts` | batches, stop rules, releases, retry, cancels of some nodes |
//! | `retries` | the same work again |
//! | `spread_files` | files to several nodes as jobs go to them |
//! | `follow` | detached jobs, followers, cancel, clients that go away |
//! | `files` | files to nodes and from them, links in their way, full disks and kills in the middle |
//! | `downloads` | files that nodes fetch from URLs: from where, how they go on, and servers that lie |
//! | `gathered` | files of several nodes by one command, each in a place of its own |
//! | `scripts` | scripts by their interpreters, what policy sees of them, and that nothing of them stays |
//! | `terms` | user, group, umask and limits of a job's own |
//! | `secret_ways` | how secrets reach jobs in each backend, by polling, after approvals, as files |
//! | `secrets` | how they reach a job, and that no output and no disk has them |
//! | `schedules` | added, fired, shown, removed; without a hub; killed |
//! | `schedules_missed` | nodes that were away for a week; scripts and nodes that law and facts name |
//! | `schedules_more` | their secrets, firings that run, scripts, several nodes, changed keys |
//! | `workspaces` | what jobs leave for the next, seen and changed from afar |
//! | `clones` | commits of repositories in workspaces, and what jobs make of them |
//! | `brought` | commits that are brought before one job, and go with it |
//! | `fetches` | other commits in the same clones, whoever is asked and wherever they are |
//! | `spaces` | how much a workspace holds, whose it is, other backends, and kills in the middle of copies |
//! | `approvals` | rejections, reviews, cancels wherever a job is, and questions at a terminal |
//! | `queue` | what waits for a node: its place, what is in its way, and how it is taken back |
//! | `quorum` | who counts among those who approve, when, and what they are shown of each kind of job |
//! | `cancels` | cancels in time, of whole trees, before a start and in the middle of a copy |
//! | `asks` | what approvers of wide jobs are shown, and whom nobody has heard |
//! | `newer` | approvals under law that a home has not yet; predictions for a named user |
//! | `retired` | machines that were revoked, and the others of their jobs |
//! | `law` | policy, approvals, revocation, a second node, receipts and audit logs |
//! | `commands` | grants, tokens, a hub by hand, audit logs, predictions, progress |
//! | `egress` | the only way out of a sandbox, and its records |
//! | `roots` | the org's own keys change hands |
//! | `apart` | hub and agent as processes that stop, crash and come back |
//! | `limits` | limits that a job met, and those of org and token |
//! | `notify` | webhooks and e-mail |
//! | `notify_tls` | the same over TLS and with a login, and what happens where those are not as they should be |
//! | `archive` | results that no hub took for a week |
//! | `network` | a cable that is cut, half open, or long |
//! | `demo` | the demo, ended in the middle |
//! | `kills_people` | the same, for approvals and rollouts |
//! | `kills_rollouts` | SIGKILL where a rollout has stopped, goes on, or waits for releases |
//! | `kills` | SIGKILL at random moments (`LICTOR_KILLS=200` for the nightly size) |
//!
//! No test sleeps: each waits for what it needs, with a deadline.

// Tests start processes, and say what they skip.
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

mod apart;
mod approvals;
mod archive;
mod asks;
mod brought;
mod cancels;
mod clones;
mod commands;
mod contract;
mod demo;
mod downloads;
mod egress;
mod exact;
mod fetches;
mod files;
mod fleet;
mod follow;
mod gathered;
mod git_host;
mod kills;
mod kills_people;
mod kills_rollouts;
mod law;
mod limits;
mod network;
mod newer;
mod notify;
mod notify_tls;
mod objects;
mod origin;
mod plain;
mod pull;
mod queue;
mod quorum;
mod receivers;
mod registry;
mod retired;
mod retries;
mod rollouts;
mod rootfs;
mod roots;
mod sandbox;
mod schedules;
mod schedules_missed;
mod schedules_more;
mod scripts;
mod secret_ways;
mod secrets;
mod spaces;
mod spread_files;
mod steps;
mod terms;
mod transfers;
mod workspaces;
