//! The warden, as the network side sees it: a closed set of messages and nothing else.
//!
//! A trait, so that the warden can become a process of its own behind the same messages, and so that tests of
//! the transports can script what it says.

use async_trait::async_trait;
use bytes::Bytes;
use lictor_proto::agent::stream::Message;
use lictor_proto::agent::{OutputPart, ReadOutput, Reply, Request};
use lictor_proto::code::Refusal;
use lictor_warden::Warden;

/// What the transports ask of the warden.
#[async_trait]
pub trait WardenPort: Send + Sync + 'static {
    /// Asks; the answer comes when whatever had to be durable is. Dropping the future never undoes the request.
    async fn ask(&self, request: Request) -> Reply;

    /// Reads an execution's log. Dropping the future has no effect.
    async fn read_output(&self, read: ReadOutput) -> Result<(OutputPart, Bytes), Refusal>;

    /// A new feed: a heartbeat first, then everything that has not been acknowledged, then what happens.
    fn events(&self) -> Box<dyn EventFeed>;
}

/// What the warden says on its own, in order.
#[async_trait]
pub trait EventFeed: Send {
    /// The next message; `None` when the warden has ended. Cancel safe: dropping the future loses no message.
    async fn next(&mut self) -> Option<Message>;
}

#[async_trait]
impl WardenPort for Warden {
    async fn ask(&self, request: Request) -> Reply {
        Self::ask(self, request).await
    }

    async fn read_output(&self, read: ReadOutput) -> Result<(OutputPart, Bytes), Refusal> {
        Self::read_output(self, read).await
    }

    fn events(&self) -> Box<dyn EventFeed> {
        Box::new(Self::events(self))
    }
}

#[async_trait]
impl EventFeed for lictor_warden::EventFeed {
    async fn next(&mut self) -> Option<Message> {
        Self::next(self).await
    }
}
