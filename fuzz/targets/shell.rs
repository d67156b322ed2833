//! Shell code is classified whatever it is; what counts as read has nothing in it that the reader must refuse.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lictor_policy::{Action, classify};
use lictor_proto::doc::Exec;

// A panic of the parser is an answer, so the hook that would end the process at any panic goes. One that nobody
// catches still ends it.
fuzz_target!(init: drop(std::panic::take_hook()), |code: &str| {
    let exec = Exec::new(vec!["sh".into(), "-c".into(), code.into()]);
    let Action::Shell(read) = classify(&exec, "/usr/bin/dash") else {
        return;
    };
    assert_eq!(read.code, code);
    for hidden in ["$(", "`", "<(", ">(", "<<", "\\\n", "$'", "&>", "((", "[["] {
        assert!(!code.contains(hidden), "{hidden:?} counts as read");
    }
    for word in &read.commands {
        assert!(!word.is_empty() && !word.contains(|c: char| c.is_whitespace() || "$;|&<>()'\"\\*?~".contains(c)));
    }
});
