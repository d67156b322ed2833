//! Limits that a job met, and what it used, in words.

use lictor_proto::doc::{LimitHit, Outcome, Receipt, Usage};
use lictor_trust::profiles::{duration_in_words, size_in_words};

/// What meeting a limit has meant.
fn meant(hit: LimitHit) -> &'static str {
    match hit {
        LimitHit::WallTime => "wall time: its time was up, and all its processes were ended",
        LimitHit::Output => "output: it wrote more than is kept",
        LimitHit::Memory => "memory: it needed more than it may have, and was ended for that",
        LimitHit::Pids => "processes: it wanted more of them than it may have, and was refused some",
        LimitHit::Cpu => "processor time: a process had used all that it may",
        LimitHit::Disk => "disk: its own places were full, in bytes or in files, at its end",
    }
}

/// The limits that a receipt says were met, each in a sentence.
pub(crate) fn met(receipt: &Receipt) -> Vec<String> {
    let peak = receipt.usage.and_then(|u| u.memory_peak_bytes);
    let sentence = |hit: &LimitHit| match (hit, peak) {
        (LimitHit::Memory, Some(peak)) => {
            format!("{} (it had {} at most)", meant(*hit), size_in_words(peak))
        }
        _ => meant(*hit).to_owned(),
    };
    receipt.limits_hit.iter().map(sentence).collect()
}

/// Those of them that nothing else that is said about the end tells already.
pub(crate) fn worth_a_note(receipt: &Receipt) -> Vec<String> {
    let told_otherwise = |hit: &LimitHit| match hit {
        LimitHit::WallTime => receipt.outcome == Outcome::TimedOut,
        LimitHit::Output => receipt.stdout.truncated() || receipt.stderr.truncated(),
        LimitHit::Memory | LimitHit::Pids | LimitHit::Cpu | LimitHit::Disk => false,
    };
    let hits = receipt.limits_hit.iter().zip(met(receipt));
    hits.filter(|(hit, _)| !told_otherwise(hit))
        .map(|(_, sentence)| sentence)
        .collect()
}

/// What it used.
pub(crate) fn used(usage: &Usage) -> String {
    let time = |us: u64| match us / 1000 {
        0 => format!("{us} us"),
        ms => duration_in_words(std::time::Duration::from_millis(ms)),
    };
    let mut says = vec![
        format!("{} in user mode", time(usage.cpu_user_us)),
        format!("{} in the kernel", time(usage.cpu_system_us)),
        format!("largest process {}", size_in_words(usage.max_rss_bytes)),
    ];
    let more = [
        (usage.memory_peak_bytes, "all processes together"),
        (usage.read_bytes, "read from disks"),
        (usage.written_bytes, "written to disks"),
    ];
    let more = more
        .into_iter()
        .filter_map(|(n, what)| n.map(|n| format!("{what} {}", size_in_words(n))));
    says.extend(more);
    says.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A receipt of a job that met these.
    fn receipt(hits: &[LimitHit]) -> Receipt {
        let vector = include_str!("../../../../docs/protocol/vectors/receipt.json");
        let vector: serde_json::Value = serde_json::from_str(vector).expect("JSON");
        let payload = vector["payload"].as_str().expect("text");
        let mut receipt: Receipt = lictor_proto::json::from_slice(payload.as_bytes()).expect("a receipt");
        receipt.limits_hit = hits.to_vec();
        receipt
    }

    #[test]
    fn every_limit_has_words_of_its_own() {
        let all = [
            LimitHit::WallTime,
            LimitHit::Output,
            LimitHit::Memory,
            LimitHit::Pids,
            LimitHit::Cpu,
        ];
        let words: std::collections::BTreeSet<String> = met(&receipt(&all)).into_iter().collect();
        assert_eq!(words.len(), all.len());
        assert!(met(&receipt(&[])).is_empty());
    }

    #[test]
    fn being_out_of_memory_is_told_with_the_peak() {
        let mut receipt = receipt(&[LimitHit::Memory]);
        receipt.usage = Some(Usage {
            memory_peak_bytes: Some(64 << 20),
            ..Usage::default()
        });
        assert_eq!(
            met(&receipt),
            ["memory: it needed more than it may have, and was ended for that (it had 64 MiB at most)"]
        );
    }

    #[test]
    fn what_the_outcome_says_is_not_said_twice() {
        let mut receipt = receipt(&[LimitHit::WallTime, LimitHit::Pids]);
        receipt.outcome = Outcome::TimedOut;
        let notes = worth_a_note(&receipt);
        assert!(
            notes.len() == 1 && notes[0].starts_with("processes: "),
            "{notes:?}"
        );
    }

    #[test]
    fn usage_names_what_was_measured_and_nothing_else() {
        let usage = Usage {
            cpu_user_us: 1_500_000,
            cpu_system_us: 900,
            max_rss_bytes: 3 << 20,
            ..Usage::default()
        };
        assert_eq!(
            used(&usage),
            "1 second 500 ms in user mode, 900 us in the kernel, largest process 3 MiB"
        );
        let measured = Usage {
            memory_peak_bytes: Some(8 << 20),
            written_bytes: Some(1024),
            ..usage
        };
        assert!(
            used(&measured).ends_with("all processes together 8 MiB, written to disks 1 KiB"),
            "{}",
            used(&measured)
        );
    }
}
