//! What stands in `mesh.yaml`, as its author wrote it: values and their places.

use std::collections::BTreeMap;

use api::config::{Enforcement, Exposure, Mtls, Protocol};
use model::FailMode;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::Try;
use crate::author::yaml_schema::one_of;
use crate::bundle::decision_log::RawDecisionLog;
use crate::bundle::jwt::RawIssuer;
use crate::bundle::operations::RawOperation;

/// The mesh: its trust domain, its services and their instances.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "mesh.yaml")]
pub(crate) struct RawMesh {
    /// The domain under which all identities are issued, such as `shop.example`.
    #[schemars(with = "String")]
    pub(super) trust_domain: Spanned<String>,
    /// How long a certificate lives, 5s to 90d; 1h by default.
    #[schemars(with = "Option<String>", example = "1h")]
    pub(super) certificate_ttl: Option<Spanned<String>>,
    /// How long a proxy may use a decision again, 100ms to 1d; 60s by default.
    #[schemars(with = "Option<String>", example = "60s")]
    pub(super) decision_validity: Option<Spanned<String>>,
    /// How long a proxy may use decisions again without word from policyd, 1s to 1d; 10s by default.
    #[schemars(with = "Option<String>", example = "10s")]
    pub(super) stale_after: Option<Spanned<String>>,
    /// What is logged of decisions.
    #[serde(default)]
    pub(super) decision_log: RawDecisionLog,
    /// Who signs tokens of end users, by name. Services say whose they take.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, RawIssuer>")]
    pub(super) jwt: BTreeMap<Key, RawIssuer>,
    /// The services by name, which callers put into `Host`: of a-z, 0-9, `-` and `.`.
    #[schemars(with = "BTreeMap<String, RawService>")]
    pub(super) services: BTreeMap<Key, RawService>,
    /// Lines that `tidegate up` shows.
    #[serde(default, rename = "try")]
    pub(super) tries: Vec<Try>,
}

/// A key that knows where it stands.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Key(pub(crate) Spanned<String>);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.value == other.0.value
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.value.cmp(&other.0.value)
    }
}

/// A service.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Service")]
pub(super) struct RawService {
    /// Its namespace, a part of its identity; `default` by default.
    #[schemars(with = "Option<String>")]
    pub(super) namespace: Option<Spanned<String>>,
    /// Its service account, a part of its identity; the service's name by default.
    #[schemars(with = "Option<String>")]
    pub(super) service_account: Option<Spanned<String>>,
    /// How long the head of a response may take, connecting included, 1ms to 1h; 15s by default.
    #[schemars(with = "Option<String>", example = "15s")]
    pub(super) timeout: Option<Spanned<String>>,
    /// How long a raw connection, or a tunnel such as a WebSocket, may be silent, 1s to 30d; 1h by default.
    #[schemars(with = "Option<String>", example = "1h")]
    pub(super) idle_timeout: Option<Spanned<String>>,
    /// What its applications speak: HTTP/1.1, HTTP/2 by prior knowledge, which gRPC needs, or anything else (`tcp`), which
    /// is passed on as it is; `http1` by default.
    #[serde(default)]
    #[schemars(schema_with = "one_of::<Protocol>")]
    pub(super) protocol: Protocol,
    /// Whether its sidecars let callers in without a certificate: no, as well as those with one, or them alone;
    /// `strict` by default.
    #[serde(default)]
    #[schemars(schema_with = "one_of::<Mtls>")]
    pub(super) mtls: Option<Spanned<Mtls>>,
    /// Whether repeated slashes in a path are one, for policies and for the application; false by default.
    #[serde(default)]
    pub(super) merge_slashes: bool,
    /// Whether a request for which no decision can be had is refused (`closed`) or passes (`open`).
    #[serde(default)]
    #[schemars(schema_with = "one_of::<FailMode>")]
    pub(super) fail_mode: FailMode,
    /// Who is told which policy denied a request: nobody, callers with a verified identity, or all.
    #[serde(default)]
    #[schemars(schema_with = "one_of::<Exposure>")]
    pub(super) explain_denials: Exposure,
    /// What decisions and limits do to requests: nothing, nothing but to tell, or refuse; `enforce` by default.
    #[serde(default)]
    #[schemars(schema_with = "one_of::<Enforcement>")]
    pub(super) enforcement: Option<Spanned<Enforcement>>,
    /// The names of lints whose findings in this service are accepted, such as `unprotected-service`.
    #[serde(default)]
    #[schemars(with = "Vec<String>", example = ["unprotected-service"])]
    pub(super) allow: Vec<Spanned<String>>,
    /// Whether decisions on requests to it are logged; true by default.
    pub(super) decision_log: Option<bool>,
    /// Where callers from outside the mesh are let in, in the clear: an IP address and a port, 0 for any free port.
    #[schemars(with = "Option<String>", example = "127.0.0.1:8080")]
    pub(super) ingress: Option<Spanned<String>>,
    /// What it can be asked to do, by name: each is a Cedar action.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, RawOperation>")]
    pub(super) operations: BTreeMap<Key, RawOperation>,
    /// A file of the bundle that describes more of its operations: OpenAPI 3.0 or 3.1, in YAML or JSON.
    #[schemars(with = "Option<String>", example = "orders.openapi.yaml")]
    pub(super) openapi: Option<Spanned<String>>,
    /// Whose tokens it takes: names of `jwt:` at the top of the file.
    #[serde(default)]
    #[schemars(with = "Vec<String>", example = ["accounts"])]
    pub(super) jwt: Vec<Spanned<String>>,
    /// Where it is, if it is outside of the mesh: its callers' sidecars decide, and call it by TLS. It has no instances.
    pub(super) external: Option<RawExternal>,
    /// Its running copies.
    #[serde(default)]
    pub(super) instances: Vec<RawInstance>,
}

/// A server outside of the mesh, known by a public name.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "External")]
pub(super) struct RawExternal {
    /// Where it is: a name that each sidecar resolves, or an IP address; the service's name by default.
    #[schemars(with = "Option<String>", example = "api.partner.example")]
    pub(super) host: Option<Spanned<String>>,
    /// Its port, 443 by default.
    #[schemars(with = "Option<u16>")]
    pub(super) port: Option<Spanned<u16>>,
    /// How it is known.
    #[serde(default)]
    pub(super) tls: RawExternalTls,
}

/// How a server outside of the mesh is known.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ExternalTls")]
pub(super) struct RawExternalTls {
    /// The name that its certificate has to be for, and that it is asked for (SNI); `host` by default.
    #[schemars(with = "Option<String>")]
    pub(super) name: Option<Spanned<String>>,
    /// A file of the bundle with the roots that it is believed by, in PEM, ending in `.pem`; those of each sidecar's
    /// system by default.
    #[schemars(with = "Option<String>", example = "partner.pem")]
    pub(super) roots: Option<Spanned<String>>,
}

/// A running copy of a service: a `command` to start, or an `endpoint` that runs already.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Instance")]
pub(super) struct RawInstance {
    /// Unique in the mesh; `<service>-<version>` by default, or the service's name.
    #[schemars(with = "Option<String>")]
    pub(super) name: Option<Spanned<String>>,
    /// The version it runs.
    #[serde(default)]
    pub(super) version: String,
    /// A program for `tidegate up` to start, with its arguments.
    #[schemars(with = "Option<Vec<String>>")]
    pub(super) command: Option<Spanned<Vec<String>>>,
    /// Where the program listens, if it runs already: an IP address and a port.
    #[schemars(with = "Option<String>", example = "127.0.0.1:9080")]
    pub(super) endpoint: Option<Spanned<String>>,
    /// Where its sidecar listens for other sidecars: an IP address and a port. `tidegate up` takes a free one.
    #[schemars(with = "Option<String>")]
    pub(super) inbound: Option<Spanned<String>>,
}
