//! What the long-running commands share: logs on standard error, and the end by signal.

use tracing_subscriber::EnvFilter;

use crate::out::Out;

/// Logs to standard error: lines for people, JSON with `--json`; `RUST_LOG` says how much.
pub(crate) fn log(out: Out) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second subscriber in one process is refused; the first one then goes on.
    let _ = if out.is_json() {
        builder.json().try_init()
    } else {
        builder.with_ansi(out.is_coloured()).try_init()
    };
}

/// Resolves when the system asks the process to end (SIGTERM or SIGINT; Ctrl-C elsewhere).
pub(crate) async fn terminated() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            tracing::error!("signals cannot be watched; only a kill ends this process");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    }
    #[cfg(not(unix))]
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
