//! How SQLite finds what it is asked for on the way of a job: by an index, however long the queue and the past are.
//!
//! A plan depends on the schema alone (nothing here runs `ANALYZE`), so what holds for an empty database holds for a full
//! one.

use sqlx::Row as _;
use tokio_util::task::TaskTracker;

use super::{SqliteStore, documents, followed, jobs, nodes};

/// What is asked for each job, each time that a node comes, and with each heartbeat.
const ASKED: [(&str, &str); 9] = [
    ("what waits for a node that has come", jobs::PENDING),
    ("how many wait before a job", followed::AHEAD),
    ("an execution", followed::EXECUTION),
    ("its newest ask, and its receipt", followed::NEWEST),
    ("whether it waits for its rollout", followed::IS_HELD),
    ("what is signed about a job", documents::OF_JOB),
    ("what of it goes to its nodes", documents::SIGNED_FOR),
    ("what a schedule has fired", jobs::LIST_OF),
    ("the leases of a node", nodes::RENEW),
];

/// The lines of a plan (SQLite, "EXPLAIN QUERY PLAN", column `detail`).
async fn plan(store: &SqliteStore, query: &str) -> Vec<String> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}")))
        .fetch_all(&store.reads)
        .await
        .expect("a plan");
    rows.iter().map(|row| row.get("detail")).collect()
}

/// The lines that read a whole table or index; what was found already may be put in order.
fn walks(plan: &[String]) -> Vec<&String> {
    let subquery = |line: &&String| line.starts_with("SCAN (");
    let all = plan.iter().filter(|line| line.starts_with("SCAN"));
    all.filter(|line| !subquery(line)).collect()
}

#[tokio::test]
async fn nothing_that_a_job_waits_for_costs_more_the_longer_the_queue_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let tasks = TaskTracker::new();
    let store = SqliteStore::open(&dir.path().join("hub.db"), &tasks)
        .await
        .expect("a store");
    let newest = "SELECT job_id FROM jobs ORDER BY created_at";
    assert!(
        !walks(&plan(&store, newest).await).is_empty(),
        "a walk is seen as one"
    );
    for (what, query) in ASKED {
        let plan = plan(&store, query).await;
        assert!(!plan.is_empty(), "{what}");
        assert!(walks(&plan).is_empty(), "{what}: {plan:#?}");
        // Found by what the index has, not by its first column alone: of the queue, not of all that ever was.
        let ahead = plan.iter().any(|line| line.contains("state=? AND rowid<?"));
        assert!(query != followed::AHEAD || ahead, "{plan:#?}");
    }
    store.writer.close().await;
}
