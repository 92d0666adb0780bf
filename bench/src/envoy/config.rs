//! Envoy's configurations: what Tidegate does in a job, said in Envoy's words.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::pki::{self, Files};
use crate::row::{CALLER, Row, SERVICE, Wire};

/// Tokens in a second of the limit that is never reached.
pub(crate) const RATE: u32 = 1_000_000;

/// In front of a service.
#[derive(Clone, Debug)]
pub(crate) struct Server<'a> {
    pub admin: SocketAddr,
    pub listen: SocketAddr,
    pub upstream: SocketAddr,
    pub row: &'a Row,
    /// For mutual TLS.
    pub tls: Option<&'a Files>,
    /// A server to be asked, in place of policies.
    pub authz: Option<SocketAddr>,
    pub access_log: Option<PathBuf>,
}

/// Beside a caller: what comes in the clear goes to the other sidecar by mutual TLS.
#[derive(Clone, Debug)]
pub(crate) struct Client<'a> {
    pub admin: SocketAddr,
    pub listen: SocketAddr,
    pub sidecar: SocketAddr,
    pub tls: &'a Files,
    pub access_log: Option<PathBuf>,
}

impl Server<'_> {
    /// The bootstrap file.
    pub(crate) fn json(&self) -> Value {
        let mut filters = Vec::new();
        let upstream = match self.row.wire {
            Wire::Grpc { .. } => h2_cluster("upstream", self.upstream),
            Wire::Http | Wire::Tcp => cluster("upstream", self.upstream),
        };
        let mut clusters = vec![upstream];
        match self.authz {
            Some(address) => {
                filters.push(ext_authz());
                clusters.push(h2_cluster("authz", address));
            }
            None if self.row.policies > 0 => filters.push(rbac(self.row)),
            None => {}
        }
        if self.row.limited {
            filters.push(local_ratelimit());
        }
        if self.row.wire == Wire::Tcp {
            return bootstrap(self.admin, self.listen, None, &tcp_proxy(), &clusters);
        }
        let mut http = http_manager(filters, self.access_log.as_ref());
        if self.tls.is_some() {
            merge(
                &mut http,
                json!({
                    "forward_client_cert_details": "SANITIZE_SET",
                    "set_current_client_cert_details": {"uri": true},
                }),
            );
        }
        let socket = self.tls.map(|files| {
            let mut tls = tls_context(files, CALLER);
            merge(&mut tls, json!({"require_client_certificate": true}));
            transport(
                "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                tls,
            )
        });
        bootstrap(self.admin, self.listen, socket, &http, &clusters)
    }
}

impl Client<'_> {
    /// The bootstrap file.
    pub(crate) fn json(&self) -> Value {
        let http = http_manager(Vec::new(), self.access_log.as_ref());
        let mut cluster = cluster("upstream", self.sidecar);
        let tls = tls_context(self.tls, SERVICE);
        let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        merge(&mut cluster, json!({"transport_socket": transport(kind, tls)}));
        bootstrap(self.admin, self.listen, None, &http, &[cluster])
    }
}

fn bootstrap(
    admin: SocketAddr,
    listen: SocketAddr,
    transport_socket: Option<Value>,
    filter: &Value,
    clusters: &[Value],
) -> Value {
    let mut chain = json!({"filters": [{"name": "in", "typed_config": filter}]});
    if let Some(socket) = transport_socket {
        merge(&mut chain, json!({"transport_socket": socket}));
    }
    json!({
        "admin": {"address": address(admin)},
        "static_resources": {
            "listeners": [{"name": "in", "address": address(listen), "filter_chains": [chain]}],
            "clusters": clusters,
        },
    })
}

fn http_manager(mut filters: Vec<Value>, access_log: Option<&PathBuf>) -> Value {
    filters.push(json!({"name": "router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
    }}));
    let logs: Vec<Value> = access_log.into_iter().map(file_log).collect();
    json!({
        "@type":
            "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": "AUTO",
        "use_remote_address": true,
        "normalize_path": true,
        "merge_slashes": true,
        "access_log": logs,
        "route_config": {"virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "15s"}}],
        }]},
        "http_filters": filters,
    })
}

fn tcp_proxy() -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "in",
        "cluster": "upstream",
    })
}

/// As much as Tidegate's access log tells.
fn file_log(path: &PathBuf) -> Value {
    json!({"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": path,
        "log_format": {"json_format": {
            "ts": "%START_TIME%",
            "trace_id": "%REQ(TRACEPARENT)%",
            "request_id": "%REQ(X-REQUEST-ID)%",
            "principal": "%DOWNSTREAM_PEER_URI_SAN%",
            "method": "%REQ(:METHOD)%",
            "path": "%REQ(:PATH)%",
            "status": "%RESPONSE_CODE%",
            "flags": "%RESPONSE_FLAGS%",
            "details": "%RESPONSE_CODE_DETAILS%",
            "upstream_cluster": "%UPSTREAM_CLUSTER%",
            "upstream_address": "%UPSTREAM_HOST%",
            "request_bytes": "%BYTES_RECEIVED%",
            "response_bytes": "%BYTES_SENT%",
            "duration_ms": "%DURATION%",
        }},
    }})
}

/// One policy for each of the job's; the last one permits.
fn rbac(row: &Row) -> Value {
    let policy = |number: usize| {
        let (prefix, caller) = row.policy(number);
        let principal = match caller {
            Some(caller) => json!({"authenticated": {"principal_name": {"exact": pki::id(&caller)}}}),
            None => json!({"any": true}),
        };
        let permission = json!({"and_rules": {"rules": [
            {"header": {"name": ":method", "string_match": {"exact": "GET"}}},
            {"url_path": {"path": {"prefix": prefix}}},
        ]}});
        // Envoy walks them in the order of their names.
        (format!("p{number:04}"), json!({"permissions": [permission], "principals": [principal]}))
    };
    let policies: Map<String, Value> = (0..row.policies).map(policy).collect();
    json!({"name": "rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {"action": "ALLOW", "policies": policies},
    }})
}

fn local_ratelimit() -> Value {
    let always = json!({"default_value": {"numerator": 100, "denominator": "HUNDRED"}});
    json!({"name": "limit", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "limit",
        "token_bucket": {"max_tokens": RATE, "tokens_per_fill": RATE, "fill_interval": "1s"},
        "filter_enabled": always,
        "filter_enforced": always,
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
    }})
}

fn ext_authz() -> Value {
    json!({"name": "ask", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "1s"},
    }})
}

fn cluster(name: &str, at: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": address(at)}}]},
        ]},
    })
}

fn h2_cluster(name: &str, at: SocketAddr) -> Value {
    let mut cluster = cluster(name, at);
    merge(
        &mut cluster,
        json!({"typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        }}),
    );
    cluster
}

/// TLS 1.3 with both sides verified, and Tidegate's order of key exchanges.
fn tls_context(files: &Files, peer: &str) -> Value {
    let file = |path: &PathBuf| json!({"filename": path});
    json!({"common_tls_context": {
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": ["X25519MLKEM768", "X25519", "P-256"],
        },
        "alpn_protocols": ["http/1.1"],
        "tls_certificates": [{"certificate_chain": file(&files.chain), "private_key": file(&files.key)}],
        "validation_context": {
            "trusted_ca": file(&files.trust),
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": pki::id(peer)}}],
        },
    }})
}

fn transport(kind: &str, mut tls: Value) -> Value {
    merge(&mut tls, json!({"@type": kind}));
    json!({"name": "tls", "typed_config": tls})
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// Adds the fields of `more` to the object `value`.
fn merge(value: &mut Value, more: Value) {
    if let (Value::Object(value), Value::Object(more)) = (value, more) {
        value.extend(more);
    }
}

#[cfg(test)]
mod tests;
