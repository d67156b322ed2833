//! Schedules as the API shows them.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// When a schedule fires (from the signed payload).
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleView {
    /// A cron expression.
    pub cron: String,
    /// The time zone.
    pub tz: String,
    /// It fires at no time at or after.
    pub ends_at: Timestamp,
}
