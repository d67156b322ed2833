//! `docs/cli.md`, written from the command tree itself, so that it cannot say anything else.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command, CommandFactory as _};

use crate::args::Cli;

const HEAD: &str = "\
# Command line reference

Written from the program by `LICTOR_BLESS=1 cargo test -p lictor reference`; a test holds that it is current.

`LICTOR_HOME` names the directory with configuration, keys and pinned trust; without it, `~/.lictor`.
`LICTOR_PASSPHRASE_FILE` names a file whose first line is the passphrase of an encrypted key.
`NO_COLOR` turns colour off. Progress and colour appear only on a terminal.

## Exit status

| status | meaning |
|---|---|
| 0 to 123, 127 | `run`, `logs -f`: the remote command's own; other commands: 0 when it worked |
| 124 | the job's wall time was up |
| 125 | Lictor's own error, wrong arguments, or a result that no valid receipt confirms |
| 126 | denied: by policy, or by a rule of the trust documents |
| 128 + n | `run`, `logs -f`: signal n ended the remote command |

A remote command may itself exit with 124 to 126; `--json` tells them apart. `logs` without `-f` exits with 0 when what it
printed is what the node signed, however the command ended. Of a job that has no receipt yet it also exits with 0, says on
standard error that the output is provisional, and its `--json` result has `confirmed` false.

Of a job on several nodes, `run` and `logs -f` exit with 0 when all succeeded and all of it is proven; else with 125 when of
at least one nothing proves how it ended (a node that is away among them); else with 126 when those that did not succeed were
all denied; else with 1. See `docs/fleets.md`.

## JSON

With `--json` every command prints one JSON value; `run`, `logs`, `egress watch`, `receipt verify`, `audit show` and `audit
export` print one object per line, and `completions` prints its script. Of a job on several nodes each
event has `node` and `node_id`, each node ends with a result, and the last line is the `summary` (`nodes`, `counts`, `exit`). Else the last line of
`run`, `logs` and `egress watch` is the result: `status` (`succeeded`, `failed`, `timed_out`, `canceled`, `denied`, `interrupted`,
`expired`, or `unconfirmed`), `exit_code`, `signal`, `stdout_bytes`, `stderr_bytes`, `stdout_truncated`,
`stderr_truncated`, `cpu_user_us`, `cpu_system_us`, `max_rss_bytes`, `memory_peak_bytes`, `read_bytes`, `written_bytes`,
`limits_hit` (`wall_time`, `output`, `memory`, `pids`, `cpu`, `disk`), `artifacts` (of a copy: `path`, `size`, `sha256`), `sandbox`, `engine` (who made a container: `runc`, `podman`, ...), `egress` (`allowed`, `denied`, bytes `up` and `down`, as the
node signed them), `kept_sandbox` (`name`, `made_at`, `new`), `decision`, `rules`, `job_id`,
`started_at`, `finished_at`, `confirmed`, `code`, `message`, `unseen_bytes` (of output that was not shown; where a
result is `unconfirmed`, only those that the node kept), `unproven_bytes` (of output that was shown, and that nothing
the node signed covers; then the result is `unconfirmed`), `receipts_missing` (of this node, before this one, never seen
by this home: other clients' jobs, or withheld). What is unknown is `null`. `decision` is `null`
also where policy decided nothing: a job that was canceled, or expired, while it waited. Errors are one object on standard
error, `{\"error\": {\"code\", \"message\", \"causes\", \"hint\"}}`, wrong arguments included; notes and warnings before it are
`{\"note\": TEXT}` on a line each. Attempts of a job with a way out (docs/egress.md) are `egress_allowed`, `egress_denied`,
`egress_ended` and `egress_left_out` among the events of `run`, `logs` and `egress watch`. What the job itself wrote to its standard error is on standard output, as an event.
";

fn reference() -> String {
    let mut root = Cli::command();
    root.build();
    let mut text = HEAD.to_owned();
    text.push_str("\n## Commands\n");
    section(&root, "lictor", &mut text);
    text
}

fn section(command: &Command, path: &str, text: &mut String) {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = write!(
        text,
        "\n### `{path}`\n\n{about}.\n",
        about = about.trim_end_matches('.')
    );
    let arguments: Vec<&Arg> = command
        .get_arguments()
        .filter(|a| !a.is_hide_set() && !["help", "version"].contains(&a.get_id().as_str()))
        .filter(|a| path == "lictor" || !["home", "json"].contains(&a.get_id().as_str()))
        .collect();
    if !arguments.is_empty() {
        text.push_str("\n| argument | |\n|---|---|\n");
        for argument in arguments {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(
                text,
                "| `{}` | {}{} |",
                spelled(argument),
                help.replace('|', "\\|"),
                default(argument)
            );
        }
    }
    for sub in command
        .get_subcommands()
        .filter(|c| c.get_name() != "help" && !c.is_hide_set())
    {
        section(sub, &format!("{path} {}", sub.get_name()), text);
    }
}

fn spelled(argument: &Arg) -> String {
    let value = argument.get_value_names().map_or_else(String::new, |names| {
        names.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" ")
    });
    let takes = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
    let mut words = Vec::new();
    words.extend(argument.get_short().map(|c| format!("-{c}")));
    words.extend(argument.get_long().map(|l| format!("--{l}")));
    let flags = words.join(", ");
    match (flags.is_empty(), takes) {
        (true, _) if argument.is_last_set() => format!("-- {value}..."),
        (true, _) => value,
        (false, true) => format!("{flags} {value}"),
        (false, false) => flags,
    }
    .replace('|', "\\|")
}

fn default(argument: &Arg) -> String {
    let values: Vec<_> = argument
        .get_default_values()
        .iter()
        .map(|v| v.to_string_lossy().into_owned())
        .filter(|v| !v.is_empty() && v != "false")
        .collect();
    if values.is_empty() {
        String::new()
    } else {
        format!(" [default: {}]", values.join(", "))
    }
}

#[test]
fn the_reference_is_what_the_program_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
    let now = reference();
    if std::env::var_os("LICTOR_BLESS").is_some() {
        std::fs::write(path, &now).expect("docs/cli.md is writable");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == now,
        "docs/cli.md is out of date; run LICTOR_BLESS=1 cargo test -p lictor reference"
    );
}

#[test]
fn every_command_and_argument_has_a_sentence() {
    fn look(command: &Command) {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{} {}",
                command.get_name(),
                argument.get_id()
            );
        }
        command.get_subcommands().for_each(look);
    }
    let mut root = Cli::command();
    root.build();
    root.clone().debug_assert();
    root.get_subcommands()
        .filter(|c| c.get_name() != "help")
        .for_each(look);
}
