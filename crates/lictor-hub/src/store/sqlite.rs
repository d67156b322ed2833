//! The store on SQLite: WAL, one writer task that batches steps per transaction, a read pool apart.

mod advance;
mod documents;
mod followed;
mod jobs;
mod logs;
mod nodes;
mod notices;
mod orgs;
mod papers;
#[cfg(test)]
mod plans;
mod results;
mod retention;
mod rollouts;
mod rows;
mod secrets;
mod tokens;
mod trail;
mod writer;

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio_util::task::TaskTracker;

use super::StoreError;
use writer::Writer;

/// The store on one SQLite file.
pub struct SqliteStore {
    reads: SqlitePool,
    writer: Writer,
}

impl SqliteStore {
    /// Opens or makes the file, brings the schema up to date, and starts the writer in `tasks`.
    ///
    /// # Errors
    /// When the file cannot be opened or migrated.
    pub async fn open(path: &Path, tasks: &TaskTracker) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5))
            .disable_statement_logging();
        let mut writing = sqlx::SqliteConnection::connect_with(&options).await?;
        sqlx::migrate!("migrations/sqlite").run(&mut writing).await?;
        let reads = SqlitePoolOptions::new()
            .max_connections(4)
            .min_connections(1)
            .connect_with(options.pragma("query_only", "ON"))
            .await?;
        Ok(Self {
            reads,
            writer: Writer::start(writing, tasks),
        })
    }

    /// Where to read what everybody else may be told of already: nothing taken is still on its way to the database.
    async fn settled(&self) -> Result<&SqlitePool, StoreError> {
        self.writer.settle().await?;
        Ok(&self.reads)
    }
}
