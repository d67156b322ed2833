//! A person with the real `lictor` and a home of their own, who was told out of band which org is theirs.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use lictor_client::{Config, Home, HubAddress, TrustStore};
use lictor_proto::Code;
use lictor_trust::keyfile;
use tempfile::TempDir;

use super::org::{NODE, key, name};
use super::{Place, Scene, Seen};
use crate::cli::{Cli, Done};

/// What is run again and again. Without a sandbox: what is looked at is what comes back.
const RUN: [&str; 7] = ["run", "--profile", "host", NODE, "--", "echo", "as it was"];

/// A person at a terminal.
pub struct Client {
    cli: Cli,
    home: Home,
    _dir: TempDir,
}

impl Client {
    /// Alice, whose home is pinned to the scene's org and connected to its hub.
    ///
    /// # Errors
    /// When the home can't be made, or there is no `lictor` to run.
    pub fn of(scene: &Scene) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lictor-home-").tempdir()?;
        let path = dir.path().join("home");
        let home = Home::at(&path);
        let address = HubAddress {
            url: scene.hub.plain_url(),
            spki: None,
            link_url: None,
            link_spki: None,
        };
        let this = Self {
            cli: Cli::new(&path)?,
            home,
            _dir: dir,
        };
        this.connect(scene, address)?;
        let docs = scene.org.docs();
        let root = docs.roots.first().context("there is no root")?;
        let mut store = TrustStore::pin(&this.home, &scene.org.id, root)?;
        store.accept(&docs)?;
        lictor_client::home::make_dir(&this.home.keys_dir())?;
        keyfile::store(&this.home.key_path(&name("alice")), &key("alice"), None)?;
        let mut people = scene.hub.people();
        people.show_law(&scene.org.id, docs);
        people.show_node(&scene.id, &name(NODE), scene.papers.clone());
        Ok(this)
    }

    /// Points the home at a hub.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn connect(&self, scene: &Scene, hub: HubAddress) -> Result<()> {
        self.home.write_token("lictor_pat_test_test")?;
        self.home.write_config(&Config {
            org: scene.org.id.clone(),
            operator: name("alice"),
            key: name("alice"),
            hub: Some(hub),
        })?;
        Ok(())
    }

    /// Lets the home ask the hub for news with its next command, as if it had asked ten minutes ago.
    ///
    /// # Errors
    /// When it has never asked.
    pub fn asks_again(&self) -> Result<()> {
        let path = self.home.trust_dir().join("refreshed");
        let asked = std::fs::File::options().write(true).open(path);
        let before = SystemTime::now() - Duration::from_secs(600);
        Ok(asked.context("it has not asked yet")?.set_modified(before)?)
    }

    /// Forgets all receipts that the home has seen.
    ///
    /// # Errors
    /// When it has seen none.
    pub fn forgets_receipts(&self) -> Result<()> {
        Ok(std::fs::remove_dir_all(self.home.trust_dir().join("receipts"))?)
    }

    /// Types `lictor ...`.
    ///
    /// # Errors
    /// When it doesn't end in time.
    pub async fn types(&self, arguments: &[&str]) -> Result<Done> {
        let cli = self.cli.clone();
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        tokio::task::spawn_blocking(move || cli.run(&arguments)).await?
    }

    /// Runs a job that prints something, which an honest hub lets through.
    ///
    /// # Errors
    /// When it doesn't succeed.
    pub async fn runs(&self) -> Result<()> {
        let done = self.types(&RUN).await?;
        ensure!(
            done.code()? == 0,
            "an honest hub: {}\n{}",
            done.status,
            done.stderr
        );
        ensure!(done.text() == "as it was\n", "{:?}", done.text());
        Ok(())
    }

    /// Runs the same job, and gives its id.
    ///
    /// # Errors
    /// When it doesn't succeed.
    pub async fn runs_job(&self) -> Result<String> {
        let mut words = vec!["--json"];
        words.extend(RUN);
        let done = self.types(&words).await?;
        ensure!(done.code()? == 0, "{}: {}", done.status, done.stderr);
        let result = done.result()?;
        let id = result["job_id"].as_str().context("a result without a job")?;
        Ok(id.to_owned())
    }

    /// Runs the same job, and must be refused loudly: exit status 125, and this code.
    ///
    /// # Errors
    /// When it isn't.
    pub async fn refuses(&self, code: Code) -> Result<Seen> {
        self.refuses_to(&RUN, code).await
    }

    /// Types something that must be refused loudly.
    ///
    /// # Errors
    /// When it isn't.
    pub async fn refuses_to(&self, arguments: &[&str], code: Code) -> Result<Seen> {
        let done = self.types(arguments).await?;
        ensure!(
            done.code()? == 125,
            "IT GOT THROUGH: {}\n{}",
            done.status,
            done.stderr
        );
        ensure!(
            done.stderr.contains(&format!("[{code}]")),
            "not with {code}:\n{}",
            done.stderr
        );
        Ok(Seen::refused(code, Place::Client))
    }
}
