//! Which service of the mesh a request is for.
//!
//! What Envoy's configuration or Envoy's own certificate says comes first, for no caller chooses that. The host is the
//! caller's to choose: it counts only where policyd's configuration says that each Envoy's routes go by it.

use api::config::Protocol;
use api::ext_authz::Asked;
use model::head::host_name;
use policyd::bundle::mesh::{Mesh, Service};

use crate::refusal::Refusal;

/// The service that `asked` is about, and its name.
pub(crate) fn find<'m>(
    asked: &Asked,
    mesh: &'m Mesh,
    by_host: bool,
) -> Result<(&'m str, &'m Service), Refusal> {
    let named = |name: &str| mesh.services.get_key_value(name);
    let found = match &asked.service {
        Some(name) => named(name),
        None => own(asked, mesh)
            .or_else(|| host_name(&asked.authority).filter(|_| by_host).and_then(|host| named(&host))),
    };
    let unknown = || match &asked.service {
        Some(name) => Refusal::NoSuchService(name.clone()),
        None => Refusal::WhichService(asked.authority.clone()),
    };
    let (name, service) = found.ok_or_else(unknown)?;
    if service.protocol == Protocol::Tcp {
        return Err(Refusal::NoRequests(name.clone()));
    }
    Ok((name, service))
}

/// The one whose identity the asking Envoy has.
fn own<'m>(asked: &Asked, mesh: &'m Mesh) -> Option<(&'m String, &'m Service)> {
    let has_it = |(_, service): &(_, &Service)| {
        service.external.is_none() && service.spiffe_id.as_str() == asked.destination
    };
    let mut own = mesh.services.iter().filter(has_it);
    let only = own.next()?;
    // Two services may share an identity; then it names neither.
    own.next().is_none().then_some(only)
}
