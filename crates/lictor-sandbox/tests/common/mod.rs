//! What the suites share: a host, a job in one line, everything it printed and how it ended.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_methods
)]

pub mod docker;
pub mod machine;
pub mod secrets;
pub mod somebody;

use lictor_sandbox::conformance::Case;
pub use lictor_sandbox::conformance::bench::{Bench, KeptWarm, Outcome, command, outcome, read_all};
pub use lictor_sandbox::conformance::looks::{children, eventually, own_kib, processes, processes_with};
use lictor_sandbox::{Config, ContainerEngine};
use lictor_trust::profiles::Backend as BackendName;

/// A bench, or a skipped test with the reason.
pub trait OnThisMachine: Sized {
    /// `None` where this machine cannot run it: then the test is skipped.
    fn on(name: BackendName) -> impl Future<Output = Option<Self>>;
    fn on_with(name: BackendName, config: Config) -> impl Future<Output = Option<Self>>;
}

impl OnThisMachine for Bench {
    async fn on(name: BackendName) -> Option<Self> {
        Self::on_with(name, Config::default()).await
    }

    async fn on_with(name: BackendName, config: Config) -> Option<Self> {
        let listed_as = match config.container_engine {
            ContainerEngine::Auto => name.as_str(),
            engine => engine.as_str(),
        };
        match Self::probed(name, config).await {
            Ok(bench) => Some(bench),
            Err(why) => {
                machine::skip_what_cannot_run(listed_as, &why);
                None
            }
        }
    }
}

/// Holds that a file of tests has one for each case of a list: what is only in the list runs nowhere by its name.
pub fn is_a_test_of_each(list: &[Case], source: &str) {
    for case in list {
        let is_it = |line: &str| line.trim().trim_end_matches([',', ';']) == case.name;
        assert!(source.lines().any(is_it), "no test is called {}", case.name);
    }
}

const INSIDE: &str = "LICTOR_TEST_OWN_MOUNTS";

/// `true` in a mount namespace of the test's own; outside it runs the test there and holds that it passes.
pub fn with_own_mounts(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut unshare = std::process::Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private"]);
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let here = std::env::current_exe().expect("this test");
    let status = unshare
        .arg(here)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare runs");
    assert!(status.success(), "{test} in a mount namespace of its own");
    false
}

/// Says that a test cannot run here. In CI a test that cannot run must not pass for one that did.
pub fn skip(why: &str) {
    let in_ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!in_ci, "this test must run in CI, but: {why}");
    eprintln!("skipped: {why}");
}

/// Whether an attempt that prints `escaped` has worked without a sandbox. Some do for root only.
pub fn works_outside(host: &Outcome) -> bool {
    let works = host.stdout.contains("escaped");
    if !works && !rustix::process::geteuid().is_root() {
        skip("only root can show that it works without a sandbox");
        return false;
    }
    assert!(works, "works nowhere: {host:?}");
    true
}

/// Keepers of this process: an idle one is called so, one with a job after the job.
pub fn keepers() -> Vec<u32> {
    let own = std::process::id();
    let own = processes()
        .into_iter()
        .filter(|p| p.3 == own && p.1.starts_with("lictor-") && p.1 != "lictor-zygote");
    own.map(|p| p.0).collect()
}

/// Each case as a test of its own for each backend; those after `but for gvisor` do not fit a kernel of its own.
macro_rules! for_every_backend {
    ($($case:ident),* $(,)?) => {
        $crate::common::for_every_backend![$($case),*; but for gvisor];
    };
    ($($case:ident),* $(,)?; but for gvisor $($less:ident),* $(,)?) => {
        $crate::common::for_every_backend!(@ host Host $($case)* $($less)*);
        $crate::common::for_every_backend!(@ landlock Landlock $($case)* $($less)*);
        $crate::common::for_every_backend!(@ container Container $($case)* $($less)*);
        $crate::common::for_every_backend!(@ bubblewrap Bubblewrap $($case)* $($less)*);
        $crate::common::for_every_backend!(@ gvisor Gvisor $($case)*);
        mod prepared_bubblewrap {
            $crate::common::for_every_backend!(@ prepared $($case)* $($less)*);
        }
    };
    (@ prepared $($case:ident)*) => {
        $(#[tokio::test]
        async fn $case() {
            let mut bench = super::Bench::warm(1).await;
            super::$case(&bench).await;
            bench.cool_down().await;
        })*
    };
    (@ $module:ident $backend:ident $($case:ident)*) => {
        mod $module {
            $(#[tokio::test]
            async fn $case() {
                use $crate::common::OnThisMachine as _;
                if let Some(bench) = super::Bench::on(super::Backend::$backend).await {
                    super::$case(&bench).await;
                }
            })*
        }
    };
}
pub(crate) use for_every_backend;

/// Each case as a test of its own for each backend that shows a view of its own; a case gets the backend's name.
macro_rules! for_every_sandbox {
    ($($case:ident),* $(,)?) => {
        $crate::common::for_every_sandbox!(@ bubblewrap Bubblewrap $($case)*);
        $crate::common::for_every_sandbox!(@ container Container $($case)*);
        $crate::common::for_every_sandbox!(@ gvisor Gvisor $($case)*);
    };
    (@ $module:ident $backend:ident $($case:ident)*) => {
        mod $module {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Backend::$backend).await;
            })*
        }
    };
}
#[allow(unused_imports)]
pub(crate) use for_every_sandbox;
