//! Answers of our own to streams.

use bytes::Bytes;
use h2::server::SendResponse;
use http::Response;
use http::header::{CONTENT_LENGTH, DATE, HeaderValue};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

/// Sends `answer`, made at `now`. False if the stream is gone.
pub(super) fn send(
    respond: &mut SendResponse<Bytes>,
    answer: Response<Vec<u8>>,
    now: Timestamp,
    to_head: bool,
) -> bool {
    let (mut parts, body) = answer.into_parts();
    if !body.is_empty() {
        parts.headers.insert(CONTENT_LENGTH, body.len().into());
    }
    // Only years beyond 9999 have no such form.
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&now).ok();
    if let Some(date) = date.and_then(|date| HeaderValue::from_str(&date).ok()) {
        parts.headers.insert(DATE, date);
    }
    let is_whole = to_head || body.is_empty();
    match respond.send_response(Response::from_parts(parts, ()), is_whole) {
        Ok(_) if is_whole => true,
        // It is short: what the caller's window does not take at once waits in `h2`.
        Ok(mut send) => send.send_data(body.into(), true).is_ok(),
        Err(_gone) => false,
    }
}
