//! Whole proxies, over real sockets: mutual TLS between them, a stand-in policyd, small applications.

mod application;
mod clients;
mod decision_log;
mod end_users;
mod enforcement;
mod forwarded;
mod greeting;
mod grpc;
mod http1;
mod http2;
mod http2_hostile;
mod http2_upstream;
mod mesh;
mod modes;
mod overload;
mod pki;
mod policyd;
mod proxy_protocol;
mod python;
mod requests;
mod setting;
mod smuggling;
mod staleness;
mod streams;
mod tenure;
mod wire;
