//! How connections arrive: at the local addresses of services, redirected by the kernel, or by way of load balancers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Forwarding, Intercept, OutboundTo, ProxyProtocol, ProxyProtocolVersion, Reader};

/// How many proxies may stand before the ingress.
const TRUSTED_HOPS: (RangeInclusive<u64>, u64) = (0..=16, 0);
/// The most ports of an application.
const PORTS_MAX: usize = 64;
/// The most local addresses of services.
const LOCAL_MAX: usize = 1000;

/// Where the application connects to a service of raw connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The service's name in the bundle.
    pub service: String,
    /// The address; it authenticates nobody, so it belongs on loopback.
    pub listen: SocketAddr,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLocalAddress {
    service: Spanned<String>,
    listen: Spanned<String>,
}

impl Reader<'_> {
    /// The local addresses of services, beside the one where HTTP goes `outbound`. Those with a mistake are left out.
    pub(super) fn local_addresses(
        &mut self,
        raw: Vec<RawLocalAddress>,
        outbound: Option<SocketAddr>,
    ) -> Vec<LocalAddress> {
        if let Some(one_more) = raw.get(LOCAL_MAX) {
            self.wrong::<(), _>(&one_more.service, format!("there are more than {LOCAL_MAX} of them"));
        }
        let mut services = BTreeSet::new();
        let mut taken: BTreeSet<SocketAddr> = outbound.into_iter().collect();
        let mut local = Vec::new();
        for RawLocalAddress { service, listen } in raw {
            let listen_at = self.socket(&listen);
            if !services.insert(service.value.clone()) {
                self.wrong::<(), _>(&service, format!("`{}` has a local address already", service.value));
            }
            if listen_at.is_some_and(|address| address.port() != 0 && !taken.insert(address)) {
                self.wrong::<(), _>(&listen, format!("`{}` is listened at already", listen.value));
            }
            if let (Some(service), Some(listen)) = (self.name(service), listen_at) {
                local.push(LocalAddress { service, listen });
            }
        }
        local
    }

    pub(super) fn proxy_protocol(
        &mut self,
        from: Option<Spanned<Vec<String>>>,
        has_ingress: bool,
    ) -> Option<Option<ProxyProtocol>> {
        let Some(written) = from else { return Some(None) };
        if written.value.is_empty() || !has_ingress {
            return self.wrong(&written, "name the networks of the load balancers before `ingress`");
        }
        let mut from = Vec::new();
        for network in &written.value {
            match network.parse() {
                Ok(network) => from.push(network),
                Err(_) => {
                    return self.wrong(&written, format!("`{network}` is no network, such as `10.0.0.0/8`"));
                }
            }
        }
        Some(Some(ProxyProtocol { from }))
    }

    /// How the application is told who calls, if it is.
    pub(super) fn greets_application(
        &mut self,
        version: Option<&Spanned<String>>,
    ) -> Option<Option<ProxyProtocolVersion>> {
        Some(match version.map(|written| written.value.as_str()) {
            None => None,
            Some("v1") => Some(ProxyProtocolVersion::V1),
            Some("v2") => Some(ProxyProtocolVersion::V2),
            Some(_) => return self.wrong(version?, "write `v1` or `v2`"),
        })
    }

    /// What is believed of earlier hops.
    pub(super) fn forwarding(
        &mut self,
        trusted_hops: Option<&Spanned<u64>>,
        client_cert: Option<&Spanned<String>>,
        has_ingress: bool,
    ) -> Option<Forwarding> {
        if let Some(written) = trusted_hops.filter(|_| !has_ingress) {
            return self.wrong(written, "only callers of `ingress` come through load balancers");
        }
        let trusted_hops = usize::try_from(self.number(trusted_hops, &TRUSTED_HOPS)?).ok()?;
        let appends_client_cert = match client_cert.map(|written| written.value.as_str()) {
            None | Some("replace") => false,
            Some("append") => true,
            Some(_) => return self.wrong(client_cert?, "write `replace` or `append`"),
        };
        Some(Forwarding { trusted_hops, appends_client_cert })
    }

    /// What the kernel redirects; what is written of it counts only if anything is.
    pub(super) fn intercept(
        &mut self,
        intercept: Option<Spanned<bool>>,
        outbound_to: Option<Spanned<String>>,
        ports: Option<Spanned<Vec<u16>>>,
    ) -> Option<Option<Intercept>> {
        const ALONE: &str = "it says what to do with redirected connections: write `intercept: true` as well";
        if !intercept.is_some_and(|intercept| intercept.value) {
            return match (outbound_to, ports) {
                (Some(value), _) => self.wrong(&value, ALONE),
                (None, Some(value)) => self.wrong(&value, ALONE),
                (None, None) => Some(None),
            };
        }
        let outbound_to = match outbound_to {
            None => OutboundTo::default(),
            Some(value) => match value.value.as_str() {
                "registry-only" => OutboundTo::RegistryOnly,
                "allow-any" => OutboundTo::AllowAny,
                _ => return self.wrong(&value, "write `registry-only` or `allow-any`"),
            },
        };
        let ports = match ports {
            None => Vec::new(),
            Some(ports) if (1..=PORTS_MAX).contains(&ports.value.len()) && !ports.value.contains(&0) => {
                ports.value
            }
            Some(ports) => {
                return self.wrong(&ports, format!("write 1 to {PORTS_MAX} ports from 1 to 65535"));
            }
        };
        Some(Some(Intercept { outbound_to, ports }))
    }
}
