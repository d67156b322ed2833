//! What the hub says of an execution: shown as its word, and decisive for nothing.

use lictor_client::follow::Item;
use lictor_proto::api::{ExecutionState, StreamEvent};
use lictor_proto::code::{Code, Refusal};

use crate::commands::attempts::Attempts;

/// What the hub said last; shown only when there is no receipt.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) state: Option<ExecutionState>,
    pub(crate) reason: Option<Refusal>,
    pub(crate) attempts: Attempts,
}

impl Said {
    /// Remembers a state.
    pub(crate) fn hear(&mut self, event: &StreamEvent) {
        if let StreamEvent::State {
            state, code, message, ..
        } = event
        {
            self.state = Some(*state);
            self.reason = code.map(|c| Refusal::new(c, message.clone()));
        }
    }

    /// Whether it says more than was said before.
    pub(crate) fn is_news(&self, item: &Item) -> bool {
        match item {
            Item::Event(StreamEvent::State { state, .. }) => self.state != Some(*state),
            Item::Event(
                StreamEvent::From { .. } | StreamEvent::Submitted { .. } | StreamEvent::Ask { .. },
            ) => false,
            Item::Event(StreamEvent::Receipt { .. })
            | Item::Output { .. }
            | Item::Missing { .. }
            | Item::Egress(_) => true,
        }
    }

    /// Whether the hub says that it is over.
    pub(crate) fn is_final(&self) -> bool {
        self.state.is_some_and(ExecutionState::is_final)
    }

    /// No receipt came: what the hub said, marked as no more than that.
    pub(crate) fn without_receipt(&self) -> Refusal {
        let Some(state) = self.state else {
            return Code::Unconfirmed.into();
        };
        let mut text = format!(
            "the hub says {}, and there is no receipt of the node",
            state.as_str()
        );
        if let Some(reason) = &self.reason {
            text.push_str(&format!(
                "; the hub's reason is {} ({})",
                reason.code, reason.message
            ));
        }
        Refusal::new(Code::Unconfirmed, text)
    }
}
