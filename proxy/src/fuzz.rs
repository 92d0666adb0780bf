//! What must hold of everything that strangers feed this proxy with, as functions of any bytes: for fuzzing, and for the
//! test that runs the same functions on what was found. Nothing else uses it.
//!
//! Each asserts laws, not only that nothing panics: what is accepted is read by others as we have read it.

mod chunked;
mod heads;
mod paths;
mod proxied;
mod responses;
mod tokens;
mod told;

pub use chunked::chunks;
pub use heads::{http2_head, request_head};
pub use paths::path;
pub use proxied::proxy_protocol;
pub use responses::{http2_response, response_head};
pub use tokens::{key_set, token};
pub use told::{Parts, Told, told};
