//! What the end-to-end tests share: a whole mesh in one process, on free ports, with a clock that tests can move;
//! this repository's files; and the programs that some tests run.

pub mod alone;
pub mod cedar_corpus;
pub mod client;
pub mod echo;
pub mod envoy;
pub mod launch;
pub mod program;
pub mod promtool;
pub mod repository;
pub mod world;

pub use client::Answer;
pub use world::World;
