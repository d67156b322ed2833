//! Append-only hash-chained event log: records, writer, verifier
