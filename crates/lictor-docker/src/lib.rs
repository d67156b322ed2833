//! Containers made by a Docker daemon, asked through its Unix socket.
//!
//! ```text
//!   lictor-sandbox: Wanted --ContainerDaemon::start--> the image of nothing (handed over once) -> a container of it
//!                                                      -> the pid of its first process
//! ```
//!
//! A crate of its own, so that nothing that judges or starts jobs has an HTTP client below it: it is handed in by trait.
//! What is asked for here is not believed: `lictor-sandbox` looks at the process that the daemon names.
//!
//! # Invariants
//! - No image is ever pulled or looked for by name: containers are made of the one that was handed over, by its id.
//! - No container shows the daemon's socket, nor anything else of the host but the directory that it is to show.
//! - An answer has a bound in size; in time it has whatever bound the caller sets, who may drop any future here.

mod image;
mod reach;
mod wish;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bollard::Docker;
use bollard::errors::Error as Problem;
use bollard::models::ContainerSummary;
use bollard::query_parameters::{CreateContainerOptions, ListContainersOptions, RemoveContainerOptions};
use lictor_sandbox::{ContainerDaemon, LeftContainer, Wanted};
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

/// Where daemons listen.
pub const USUAL_SOCKET: &str = "/run/docker.sock";

/// A daemon, by its socket.
#[derive(Debug)]
pub struct Daemon {
    socket: PathBuf,
    connections: TaskTracker,
    /// The id of the image of nothing, when the daemon is known to have it.
    image: Mutex<Option<String>>,
}

impl Daemon {
    /// Of a socket, which is not looked at yet.
    #[must_use]
    pub fn at(socket: PathBuf) -> Self {
        Self {
            socket,
            connections: TaskTracker::new(),
            image: Mutex::default(),
        }
    }

    /// A client that speaks the daemon's version. Each request is a connection of its own, so a daemon that was started
    /// again in between makes no difference.
    async fn reach(&self) -> io::Result<Docker> {
        let docker = reach::client(&self.socket, &self.connections).map_err(said)?;
        docker.negotiate_version().await.map_err(said)
    }

    /// The id of the image of nothing, and whether that was known before. Only one at a time hands it over.
    async fn image(&self, docker: &Docker) -> io::Result<(String, bool)> {
        let mut known = self.image.lock().await;
        match known.clone() {
            Some(id) => Ok((id, true)),
            None => Ok((known.insert(image::of(docker).await?).clone(), false)),
        }
    }

    async fn create(&self, docker: &Docker, wanted: &Wanted) -> io::Result<String> {
        let (image, was_known) = self.image(docker).await?;
        match create_of(docker, wanted, &image).await {
            Err(Problem::DockerResponseServerError { status_code: 404, .. }) if was_known => {
                // Somebody has removed the image; it is handed over again.
                *self.image.lock().await = None;
                let (image, _) = self.image(docker).await?;
                create_of(docker, wanted, &image).await.map_err(said)
            }
            other => other.map_err(said),
        }
    }
}

async fn create_of(docker: &Docker, wanted: &Wanted, image: &str) -> Result<String, Problem> {
    let options = CreateContainerOptions {
        name: Some(wanted.name.clone()),
        ..CreateContainerOptions::default()
    };
    let made = docker
        .create_container(Some(options), wish::of(wanted, image))
        .await?;
    Ok(made.id)
}

#[async_trait]
impl ContainerDaemon for Daemon {
    fn socket(&self) -> &Path {
        &self.socket
    }

    async fn start(&self, wanted: &Wanted) -> io::Result<u32> {
        let docker = self.reach().await?;
        let id = self.create(&docker, wanted).await?;
        docker.start_container(&id, None).await.map_err(said)?;
        let seen = docker.inspect_container(&id, None).await.map_err(said)?;
        let pid = seen.state.and_then(|state| state.pid);
        let pid = pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
        pid.ok_or_else(|| io::Error::other("the container has no process"))
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            ..RemoveContainerOptions::default()
        };
        let docker = self.reach().await?;
        match docker.remove_container(name, Some(options)).await {
            // It is gone, or on its way.
            Ok(())
            | Err(Problem::DockerResponseServerError {
                status_code: 404 | 409,
                ..
            }) => Ok(()),
            Err(e) => Err(said(e)),
        }
    }

    async fn left(&self, node: &str) -> io::Result<Vec<LeftContainer>> {
        let docker = self.reach().await?;
        let label = format!("{}={node}", wish::NODE);
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), vec![label])])),
            ..ListContainersOptions::default()
        };
        let listed = docker.list_containers(Some(options)).await.map_err(said)?;
        Ok(listed.into_iter().filter_map(left).collect())
    }
}

fn left(listed: ContainerSummary) -> Option<LeftContainer> {
    let bundle = listed.labels?.remove(wish::BUNDLE)?.into();
    Some(LeftContainer {
        name: listed.id?,
        bundle,
    })
}

/// A daemon's words are for people, on one line and not too many.
fn said(problem: Problem) -> io::Error {
    const MOST: usize = 500;
    let words = match problem {
        Problem::DockerResponseServerError { message, .. } => message,
        other => {
            let mut words = other.to_string();
            let mut cause = std::error::Error::source(&other);
            while let Some(next) = cause {
                words = format!("{words}: {next}");
                cause = next.source();
            }
            words
        }
    };
    let words: String = words.chars().filter(|c| !c.is_control()).take(MOST).collect();
    io::Error::other(format!("the daemon: {words}"))
}
