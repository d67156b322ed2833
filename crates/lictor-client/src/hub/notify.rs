//! Notifications: whom the hub tells of what.

use bytes::Bytes;
use hyper::Method;
use lictor_proto::api::{CreatedNotifyTarget, NewNotifyTarget, NotifyTargetView};

use super::{CALL, Hub};
use crate::error::Error;

impl Hub {
    /// Has somebody told from now on.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn new_notify_target(&self, new: &NewNotifyTarget) -> Result<CreatedNotifyTarget, Error> {
        self.post_json("/api/v1/notify", new).await
    }

    /// Who is told.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn notify_targets(&self) -> Result<Vec<NotifyTargetView>, Error> {
        self.get("/api/v1/notify").await
    }

    /// Has a test sent.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn test_notify_target(&self, id: &str) -> Result<(), Error> {
        let path = format!("{}/test", path(id)?);
        self.send(Method::POST, &path, Bytes::new(), CALL).await.map(drop)
    }

    /// Has somebody told nothing any more.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn delete_notify_target(&self, id: &str) -> Result<(), Error> {
        self.send(Method::DELETE, &path(id)?, Bytes::new(), CALL)
            .await
            .map(drop)
    }
}

/// Ids are made of letters and digits; anything else would reach into other paths.
fn path(id: &str) -> Result<String, Error> {
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(Error::Malformed(format!("{id:?} is no id of a target")));
    }
    Ok(format!("/api/v1/notify/{id}"))
}
