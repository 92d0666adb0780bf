//! HTTP/1.1, made for a proxy: a head is read once, written once in the form in which it goes on, and what follows
//! is passed on as it comes.
//!
//! There is one reading of a message here, in which everything else has its part: what [`RequestHead`] has read,
//! [`Forward`] writes, policies decide on that, and that is sent. No other parser sees it.
//!
//! # Layout
//! - [`downstream`]: a caller's connection, from one request to the next;
//! - [`request_head`], [`forward`], [`response_head`], [`trailers`]: what comes, and what goes on;
//! - [`relay`]: one request to an upstream, and its response back;
//! - [`pipe`], [`buffer`], [`deadline`]: bytes and time.

mod buffer;
mod deadline;
mod downstream;
mod forward;
mod pipe;
mod relay;
mod request_head;
mod response_head;
pub(crate) mod trailers;

pub(crate) use buffer::Buffer;
pub(crate) use deadline::Deadline;
pub(crate) use downstream::{After, Downstream, Line, Session, serve};
pub(crate) use forward::Forward;
pub(crate) use pipe::{Framing, Pipe, poll_write_all};
pub(crate) use request_head::RequestHead;
pub(crate) use response_head::{BadResponse, Onward, ResponseHead};

/// Where `part` lies in `whole`, of which it is a slice.
fn place(whole: &[u8], part: &[u8]) -> (u32, u32) {
    let start = part.as_ptr().addr().saturating_sub(whole.as_ptr().addr());
    at(start, part.len())
}

/// A place within a head, all of which are far shorter than 4 GiB.
pub(crate) fn at(start: usize, length: usize) -> (u32, u32) {
    (u32::try_from(start).unwrap_or(u32::MAX), u32::try_from(length).unwrap_or(u32::MAX))
}
