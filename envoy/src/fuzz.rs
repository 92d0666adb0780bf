//! A request as policies see it, for fuzzing and for the test that runs the same. Nothing else uses it.

use api::ext_authz::Asked;
use jiff::Timestamp;
use model::Attributes;
use policyd::bundle::Mesh;

use crate::{seen, service};

/// What policies see of the request that was `asked` about, if it is not refused.
///
/// # Errors
/// Why it is refused.
pub fn seen(asked: &Asked, mesh: &Mesh) -> Result<Attributes, String> {
    let found = service::find(asked, mesh, false).map_err(|refusal| refusal.to_string())?;
    seen::attributes(asked, mesh, found, Timestamp::UNIX_EPOCH).map_err(|refusal| refusal.to_string())
}
