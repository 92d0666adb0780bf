//! How connections arrive: redirected by the kernel, or by way of load balancers.

use serde_saphyr::Spanned;

use super::{Intercept, OutboundTo, ProxyProtocol, Reader};

/// The most ports of an application.
const PORTS_MAX: usize = 64;

impl Reader<'_> {
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
