//! HTTP/2, on the `h2` crate: frames, HPACK, flow control and the states of streams are its business.
//!
//! There is one reading of a message here too: a request that comes as a stream is written as the HTTP/1.1 head that
//! says the same, and is read by the reader of all heads. So every rule of framing, hosts and paths holds for it, and
//! policies decide on the same text. What goes on by HTTP/2 is made from the form that was decided on.
//!
//! # Layout
//! - [`downstream`]: a caller's connection, and the streams on it;
//! - [`head`]: heads as text, and back;
//! - [`relay`], [`exchange`]: a request in whose way either side speaks HTTP/2, and its response; [`caller`] and
//!   [`callee`]: its two ends;
//! - [`links`]: connections to upstreams, which many requests share;
//! - [`flow`], [`side`]: one body on its way from one end to the other, whatever each of them speaks;
//! - [`grpc`]: what is special about gRPC;
//! - [`answer`]: answers of our own;
//! - [`settings`]: what we let a peer do; [`transport`], [`guard`]: the bytes below, and what is too many frames.

mod answer;
mod callee;
mod caller;
mod downstream;
mod exchange;
mod flow;
pub(crate) mod grpc;
mod guard;
pub(crate) mod head;
mod links;
mod relay;
mod settings;
mod side;
mod transport;

pub(crate) use downstream::serve;
pub(crate) use head::PREFACE;
pub(crate) use links::{Lease, Links};
pub(crate) use relay::Relay;
