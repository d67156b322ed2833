//! A node's warden whose clock is a week and a minute ahead, without any link: does the chores that are due by then, until
//! it is killed. The agent itself has no clock that anybody could set.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lictor_proto::Timestamp;
use lictor_sandbox::Host;
use lictor_warden::{Clock, Config, Warden};

const LATER: Duration = Duration::from_secs(7 * 24 * 3600 + 60);

fn main() -> Result<()> {
    let dir: PathBuf = std::env::args_os().nth(1).context("which directory")?.into();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Runtime::new()?;
    let host = Host::start(lictor_sandbox::Config::default())?;
    let mut config = Config::new(&dir);
    config.clock = Clock::new(|| Timestamp::now().plus(LATER));
    let warden = runtime.block_on(Warden::start(config, host))?;
    // Until whoever has started it closes the pipe.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    runtime.block_on(warden.close());
    warden.join();
    Ok(())
}
