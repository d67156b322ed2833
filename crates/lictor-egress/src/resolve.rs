//! Names to addresses.

use std::io;
use std::net::IpAddr;

use async_trait::async_trait;

/// Who knows the addresses of names.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// All addresses of a name, asked for once.
    ///
    /// # Errors
    /// When there is none, or nobody answers.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The machine's own resolver: its hosts file, its name servers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}
