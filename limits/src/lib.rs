//! What is left of a limit. No I/O, no clock: the time is an argument, in nanoseconds since 1970.
//!
//! In reading order:
//! - [`key`]: the text that tells callers apart;
//! - [`meter`]: a limit's allowance in numbers, [`Meter`], and what one key has used of it, [`State`]. One
//!   module for each way to measure: [`gcra`], [`rolling`], [`calendar`]; slots are a count;
//! - [`table`]: the states of many keys, compact and bounded, [`Table`];
//! - [`page`]: a limit and the states of its keys, [`Page`];
//! - [`book`]: the tables of all limits, as policyd keeps them: takes from all of several allowances or from
//!   none, and lends parts of an allowance, [`Book`];
//! - [`pool`]: what a proxy was lent, and when it asks for more, [`Pool`];
//! - [`simulation`]: proxies and a policyd in a time that is made up.
//!
//! # Never too much
//!
//! Nothing here rounds in favour of the caller, and what is lent is used up when it is lent. What a proxy is
//! lent it may spend for a while (`hold`), so it is accounted for as if it were spent at the end of that while:
//! whenever it is really spent, no window holds more than it may. The proofs stand beside the arithmetic.

pub mod book;
pub mod calendar;
pub mod gcra;
pub mod key;
pub mod meter;
pub mod page;
pub mod pool;
pub mod rolling;
pub mod simulation;
pub mod table;

pub use book::Book;
pub use meter::{Balance, Meter, State};
pub use page::Page;
pub use pool::Pool;
pub use table::{Full, Table};

/// A time in nanoseconds since 1970, or a length of time.
pub type Nanos = i64;
