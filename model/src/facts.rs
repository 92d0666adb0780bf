//! How the facts of a request are read, wherever they lie.

use crate::attributes::{Action, Name, Principal};
use crate::value::Fact;

/// A request whose facts can be read in place: [`crate::Attributes`], or an HTTP head in the proxy.
pub trait Facts {
    /// Who is calling.
    fn principal(&self) -> &Principal;
    /// What kind of exchange it is.
    fn action(&self) -> Action;
    /// The service called, by its name in the bundle.
    fn resource(&self) -> &str;
    /// The value of the fact called `name`, or nothing if this request has none (a header not sent).
    ///
    /// `room` is for text that the request holds in pieces, such as a header that was sent twice: a buffer that
    /// the caller keeps, so that nothing is allocated once it has grown.
    fn fact<'a>(&'a self, name: &Name, room: &'a mut String) -> Option<Fact<'a>>;
}
