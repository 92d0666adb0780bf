//! A request's head as it came and as it goes on, for those who ask about requests in another way.

use std::net::{IpAddr, Ipv4Addr};

use api::config::Protocol;
use jiff::Timestamp;
use model::path::Slashes;
use model::{Attributes, Principal};

use crate::attributes::Head;
use crate::fields::Fields;
use crate::framing::HeadMax;
use crate::http1::{Buffer, Forward, RequestHead};
use crate::introduction::Introduction;
use crate::jwt::KeptBack;
use crate::request::action;

/// A head that a sidecar can read.
#[derive(Debug)]
pub struct Told {
    /// As it came.
    pub sent: Parts,
    /// As it goes on, and what policies see of it; nothing if it is refused.
    pub forwarded: Option<(Parts, Attributes)>,
}

/// What a head consists of.
#[derive(Debug)]
pub struct Parts {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The host, perhaps with a port.
    pub authority: String,
    /// The fields, by lower-case name.
    pub fields: Vec<(String, Vec<u8>)>,
}

/// The head in `bytes` of a request to `service`, which speaks `protocol`.
pub fn told(bytes: &[u8], service: &str, protocol: Protocol, merges: bool) -> Option<Told> {
    let mut buffer = Buffer::default();
    buffer.extend(bytes);
    let request = RequestHead::read(buffer, HeadMax::OF_OTHERS).ok()?;
    let target = request.target().ok()?;
    let query = target.query.map(|query| format!("?{query}")).unwrap_or_default();
    let sent = Parts {
        method: request.method().to_owned(),
        target: format!("{}{query}", target.path),
        authority: request.authority(&target).to_owned(),
        fields: fields(request.fields()),
    };
    Some(Told { sent, forwarded: forwarded(&request, service, protocol, merges) })
}

fn forwarded(
    request: &RequestHead,
    service: &str,
    protocol: Protocol,
    merges: bool,
) -> Option<(Parts, Attributes)> {
    let slashes = if merges { Slashes::Merged } else { Slashes::Kept };
    let introduction = Introduction::Nothing { passes_client_cert: true };
    let forward = Forward::of(request, &introduction, &KeptBack::nothing(), slashes).ok()?;
    let action = action(&forward, protocol, None).ok()?;
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let caller = (&Principal::Unauthenticated, address, false);
    let host = forward.host();
    let head = Head::of_connection(caller, action, service, Timestamp::UNIX_EPOCH);
    let seen = head.with_request(&forward, &host).ok()?.to_attributes();
    let authority = forward.fields().named("host").next().unwrap_or_default().to_owned();
    let parts = Parts {
        method: forward.method().to_owned(),
        target: forward.target().to_owned(),
        authority,
        fields: fields(forward.fields()),
    };
    Some((parts, seen))
}

fn fields(fields: Fields<'_>) -> Vec<(String, Vec<u8>)> {
    let lower = |name: &[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
    fields.iter().map(|field| (lower(field.name), field.value.to_vec())).collect()
}
