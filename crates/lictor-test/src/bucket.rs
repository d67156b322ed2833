//! A server that speaks S3, over a directory, in a thread of this process.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const NAME: &str = "lictor";
const KEY: &str = "AKIALICTORTEST";
const SECRET: &str = "a secret of the test's own";

/// A bucket, until it is dropped.
#[derive(Debug)]
pub struct Bucket {
    dir: TempDir,
    address: SocketAddr,
    stop: CancellationToken,
    server: Option<JoinHandle<()>>,
}

impl Bucket {
    /// Serves an empty one on any free port of loopback.
    ///
    /// # Errors
    /// When it cannot.
    pub fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lictor-bucket-").tempdir()?;
        let root = dir.path().join("root");
        fs::create_dir_all(root.join(NAME))?;
        let files = s3s_fs::FileSystem::new(&root)
            .ok()
            .context("a server over the directory")?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let (address, stop) = (listener.local_addr()?, CancellationToken::new());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let until = stop.clone();
        let server = std::thread::spawn(move || {
            runtime.block_on(until.run_until_cancelled(serve(listener, service)));
        });
        let bucket = Self {
            dir,
            address,
            stop,
            server: Some(server),
        };
        bucket.write_keys(SECRET)?;
        Ok(bucket)
    }

    /// Lines of a hub's configuration that name it.
    #[must_use]
    pub fn settings(&self) -> String {
        let (address, keys) = (self.address, self.keys());
        format!(
            "[s3]\nbucket = \"{NAME}\"\nendpoint = \"http://{address}\"\nprefix = \"hub-1\"\ncredentials = {keys:?}\n"
        )
    }

    /// The directory with its objects.
    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.dir.path().join("root").join(NAME)
    }

    /// Files of uploads that were begun and are neither completed nor aborted.
    #[must_use]
    pub fn unfinished(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("root"))
            .into_iter()
            .flatten()
            .flatten();
        let parts = entries.filter(|e| e.file_name().to_string_lossy().starts_with(".upload"));
        parts.map(|e| e.path()).collect()
    }

    /// Puts another secret into the file with the keys.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_keys(&self, secret: &str) -> Result<()> {
        let text = format!("access_key_id = {KEY:?}\nsecret_access_key = {secret:?}\n");
        fs::write(self.keys(), text)?;
        Ok(fs::set_permissions(
            self.keys(),
            fs::Permissions::from_mode(0o600),
        )?)
    }

    fn keys(&self) -> PathBuf {
        Path::new(self.dir.path()).join("keys.toml")
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, service: S3Service) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    let tasks = TaskTracker::new();
    while let Ok((socket, _)) = listener.accept().await {
        let service = service.clone();
        tasks.spawn(async move {
            let connection = Builder::new(TokioExecutor::new());
            // How a connection ends is its client's business.
            let _ = connection.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}
