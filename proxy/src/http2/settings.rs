//! What a peer may do on a connection.
//!
//! `h2` has limits of its own for the rest: frames that continue a head without end, empty and tiny frames of data,
//! streams that are reset as soon as they are opened.

use std::time::Duration;

use crate::framing::HeadMax;

/// The most streams that a caller may have open at once.
pub(crate) const STREAMS_MAX: u32 = 100;
/// How much of one body may be on its way to us before it went on.
pub(super) const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all bodies of a caller's connection together. Of an upstream's it is enough for all of its streams: one
/// whose caller takes nothing must not hold up the others.
pub(super) const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The largest frame that we take: the smallest that may be asked for.
pub(super) const FRAME_MAX: u32 = 16 * 1024;
/// How much of one body may wait to be written.
const SEND_BUFFER: usize = 64 * 1024;
/// How many streams a caller may reset before we have looked at them. More end the connection.
pub(super) const EARLY_RESETS_MAX: usize = 20;
/// How many streams may break the protocol before the connection ends.
pub(super) const ERRORS_MAX: usize = 100;

/// How long a connection may be without a stream.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a caller has for the preface.
pub(super) const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection that was told to go away may stay without a stream.
pub(super) const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long neither side of a body may do anything. Streams of events are silent for minutes.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(300);

/// For upstreams.
pub(super) fn client() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(STREAMS_MAX as usize)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAMS_MAX.saturating_mul(STREAM_WINDOW))
        .max_frame_size(FRAME_MAX)
        .max_header_list_size(head_list_max())
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(ERRORS_MAX));
    builder
}

/// For callers.
pub(super) fn server() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .max_header_list_size(head_list_max())
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(EARLY_RESETS_MAX)
        .max_local_error_reset_streams(Some(ERRORS_MAX));
    builder
}

/// The largest head as HTTP/2 counts it, with 32 bytes more for each field (RFC 9113 6.5.2). What is too large for who
/// sends it is seen once it is text.
fn head_list_max() -> u32 {
    u32::try_from(HeadMax::OF_SIDECARS.bytes).unwrap_or(u32::MAX)
}
