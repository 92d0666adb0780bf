//! Whole proxies, over real sockets: mutual TLS between them, a stand-in policyd, small applications.

mod http1;
mod mesh;
mod requests;
mod setting;
