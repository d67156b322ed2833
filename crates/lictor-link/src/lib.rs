//! The byte path between agent, hub and client: TLS by pinned key, WebSocket as a stream, HTTP/2 settings
