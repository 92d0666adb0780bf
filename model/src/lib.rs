//! The vocabulary of Tidegate. No I/O, no clock, no async: everything here is a value or a pure function.
//!
//! In reading order:
//! - [`spiffe_id`]: who is calling, [`SpiffeId`] and [`TrustDomain`];
//! - [`attributes`]: what is known of one request, [`Attributes`], and the [`Name`]s of its parts;
//! - [`value`]: what those parts are, [`Value`], and borrowed, [`Fact`]; [`kind`]: the types that a text is read as;
//! - [`head`] and [`path`]: the one reading of a request's head, and the limits of both; [`claims`]: of a token's content;
//! - [`facts`]: how they are read wherever they lie, [`Facts`];
//! - [`atom`]: the tests that policies make of a request, [`Atom`], evaluated natively by the proxy, after [`step`]s;
//! - [`key`]: the decision-cache key, made of those tests' outcomes, and `classes`: how many tests cost as few;
//! - [`operand`]: how a limit's key or an instance's field is read from a request, [`Operand`];
//! - [`operation`]: which of a service's operations a request is for, [`Operations`];
//! - [`decision`]: the answer, [`Decision`], and how answers combine;
//! - [`refused`]: what the caller of a refused request is told;
//! - [`decision_line`]: an answer in a log, with all that it was made from, [`DecisionLine`];
//! - [`limit`]: limits, and what they allow, [`Allowance`];
//! - [`revision`]: which state of the policies an answer came from, [`Revision`].

pub mod atom;
pub mod attributes;
pub mod claims;
mod classes;
pub mod decision;
pub mod decision_line;
pub mod facts;
pub mod head;
pub mod key;
pub mod kind;
pub mod limit;
pub mod operand;
pub mod operation;
pub mod path;
pub mod pattern;
pub mod refused;
pub mod revision;
pub mod spiffe_id;
pub mod step;
pub mod value;

pub use atom::{Atom, AtomSet, Test};
pub use attributes::{Action, Attributes, Name, Principal, Record};
pub use decision::{Decision, FailMode, Shadow, Verdict};
pub use decision_line::DecisionLine;
pub use facts::Facts;
pub use key::{Keys, Room};
pub use kind::Kind;
pub use limit::{Allowance, Limit, Mode, OnStoreFailure, Rate};
pub use operand::{Operand, ResponseFacts};
pub use operation::{Operations, Route, Template};
pub use pattern::Pattern;
pub use revision::Revision;
pub use spiffe_id::{SpiffeId, TrustDomain};
pub use step::Step;
pub use value::{Fact, Texts, Value};
