//! Policies for actions that nobody can ask of their services, for these speak something else.

use api::config::Protocol;
use cedar_policy_core::ast::{ActionConstraint, EntityReference, PrincipalOrResourceConstraint};
use model::Action;

use super::name::Lint;
use super::source::{Report, Source};
use crate::bundle::Bundle;

/// Looks at the scopes that name both a service and actions.
pub(super) fn check(policies: &[Source<'_>], bundle: &Bundle, report: &mut Report) {
    for policy in policies {
        let resource = policy.tree().resource_constraint();
        let (PrincipalOrResourceConstraint::Eq(EntityReference::EUID(uid))
        | PrincipalOrResourceConstraint::In(EntityReference::EUID(uid))) = resource.as_inner()
        else {
            continue;
        };
        let service: &str = uid.eid().as_ref();
        let is_service = uid.entity_type().to_string() == "Service";
        let Some(declared) = bundle.mesh.services.get(service).filter(|_| is_service) else { continue };
        let named: Vec<_> = match policy.tree().action_constraint() {
            ActionConstraint::Eq(uid) => vec![uid],
            ActionConstraint::In(uids) => uids.iter().collect(),
            _ => continue,
        };
        let Some(first) = named.first() else { continue };
        if named.iter().any(|uid| is_possible(uid.eid().as_ref(), declared.protocol)) {
            continue;
        }
        let action: &str = first.eid().as_ref();
        let spoken = spoken(declared.protocol);
        let message = format!("no request to `{service}` has the action `{action}`: it speaks `{spoken}`");
        let help = match declared.protocol {
            Protocol::Tcp => "write `Action::\"tcp\"`, or correct `protocol` of the service in mesh.yaml",
            _ if action == Action::Grpc.as_str() => {
                "calls of gRPC have this action where the service has `protocol: http2` in mesh.yaml"
            }
            _ => "connections have this action where the service has `protocol: tcp` in mesh.yaml",
        };
        report.add(policy, Lint::UnmetAction, policy.span(first.loc()), message, help);
    }
}

/// Whether what asks for `action` can come to a service that speaks `protocol`. Operations are requests.
fn is_possible(action: &str, protocol: Protocol) -> bool {
    let raw = action == Action::Tcp.as_str();
    match protocol {
        Protocol::Tcp => raw,
        Protocol::Http1 => !raw && action != Action::Grpc.as_str(),
        Protocol::Http2 => !raw,
    }
}

const fn spoken(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
    }
}
