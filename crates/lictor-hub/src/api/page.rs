//! Reading requests: bounded bodies, page sizes, opaque cursors.

use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use lictor_link::http::collect;
use lictor_proto::{Code, Timestamp};
use serde::Deserialize;

use super::problem::Trouble;
use crate::store::JobCursor;

/// A request's body must be there within this.
const BODY: Duration = Duration::from_secs(60);
const PAGE: u32 = 50;
const PAGE_MAX: u32 = 1000;

/// `?limit=&cursor=`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PageQuery {
    limit: Option<u32>,
    cursor: Option<String>,
}

impl PageQuery {
    pub(super) fn limit(&self) -> u32 {
        limit(self.limit)
    }

    pub(super) fn after<T: FromStr>(&self) -> Result<Option<T>, Trouble> {
        self.cursor.as_deref().map(decode).transpose()
    }
}

pub(super) fn limit(asked: Option<u32>) -> u32 {
    asked.unwrap_or(PAGE).clamp(1, PAGE_MAX)
}

/// A cursor says nothing to whoever holds it.
pub(super) fn encode(position: &impl ToString) -> String {
    data_encoding::BASE64URL_NOPAD.encode(position.to_string().as_bytes())
}

pub(super) fn decode<T: FromStr>(cursor: &str) -> Result<T, Trouble> {
    let bytes = data_encoding::BASE64URL_NOPAD.decode(cursor.as_bytes()).ok();
    let text = bytes.and_then(|b| String::from_utf8(b).ok());
    text.and_then(|t| t.parse().ok())
        .ok_or_else(|| Trouble::new(Code::BadRequest, "the cursor is none that this hub gave"))
}

impl std::fmt::Display for JobCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.created_at.as_millis(), self.job_id)
    }
}

impl FromStr for JobCursor {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        let (ms, id) = s.split_once(':').ok_or(())?;
        Ok(Self {
            created_at: Timestamp::from_millis(ms.parse().map_err(|_| ())?),
            job_id: id.parse().map_err(|_| ())?,
        })
    }
}

/// A body of at most `limit` bytes.
pub(super) async fn read(body: Body, limit: usize) -> Result<Bytes, Trouble> {
    let collected = tokio::time::timeout(BODY, collect(body, limit)).await;
    match collected {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) => Err(Trouble::new(e.code(), e.to_string())),
        Err(_) => Err(Trouble::new(Code::Timeout, "the body did not come in time")),
    }
}

/// A body of at most `limit` bytes, as text.
pub(super) async fn read_text(body: Body, limit: usize) -> Result<String, Trouble> {
    let bytes = read(body, limit).await?;
    String::from_utf8(bytes.into()).map_err(|_| Trouble::new(Code::BadRequest, "the body is not UTF-8"))
}

/// A body of at most `limit` bytes, as strict JSON.
pub(super) async fn read_json<T: serde::de::DeserializeOwned>(
    body: Body,
    limit: usize,
) -> Result<T, Trouble> {
    let bytes = read(body, limit).await?;
    lictor_proto::json::from_slice(&bytes).map_err(|e| Trouble::new(Code::BadRequest, e.to_string()))
}

/// Something from the path or the query that must parse; what does not, does not exist.
pub(super) fn known<T: FromStr>(text: &str) -> Result<T, Trouble> {
    text.parse()
        .map_err(|_| Trouble::new(Code::NotFound, Code::NotFound.sentence()))
}

/// Something from the query that must parse.
pub(super) fn parsed<T: FromStr>(name: &str, text: Option<&str>) -> Result<Option<T>, Trouble> {
    text.map(|t| {
        t.parse()
            .map_err(|_| Trouble::new(Code::BadRequest, format!("{name} is malformed")))
    })
    .transpose()
}
