//! What a proxy is told.

use std::sync::Arc;
use std::time::Duration;

use model::{Revision, Route};
use prost::Message;

use super::limits::fail_mode;
use super::{ConvertError, converted, millis, parsed, required};
use crate::config::{
    Config, DecisionLog, Endpoint, Enforced, Enforcement, Exposure, External, IDLE_TIMEOUT, Mesh, Mtls, Part,
    Policies, Protocol, ReportAction, ReportHandler, ReportInstance, ReportRule, Service,
};
use crate::policy as wire;

impl Part {
    /// What every proxy is told, as it is since `since`.
    pub fn of_mesh(since: Revision, mesh: &Mesh) -> Self {
        Self { since, content: wire::Mesh::from(mesh).encode_to_vec().into() }
    }

    /// What some proxies are told of their services, as it is since `since`.
    pub fn of_policies(since: Revision, policies: &Policies) -> Self {
        Self { since, content: wire::Policies::from(policies).encode_to_vec().into() }
    }
}

impl From<Part> for wire::Part {
    fn from(part: Part) -> Self {
        Self { since: Some(part.since.into()), content: part.content }
    }
}

impl wire::Part {
    fn decoded<T: Message + Default>(self, field: &'static str) -> Result<T, ConvertError> {
        T::decode(self.content).map_err(|error| ConvertError::invalid(field, error))
    }
}

impl From<&Config> for wire::Config {
    /// With both parts, as they are since this revision.
    fn from(config: &Config) -> Self {
        Self {
            revision: Some(config.revision.into()),
            mesh: Some(Part::of_mesh(config.revision, &config.mesh).into()),
            policies: Some(Part::of_policies(config.revision, &config.policies).into()),
        }
    }
}

impl Config {
    /// What `config` makes of this one: the parts that it holds, and those of this one that it leaves out.
    ///
    /// # Errors
    /// When something in it is not valid.
    pub fn with(&self, config: wire::Config) -> Result<Self, ConvertError> {
        let mesh = match config.mesh {
            Some(part) => Arc::new(part.decoded::<wire::Mesh>("config.mesh")?.try_into()?),
            None => self.mesh.clone(),
        };
        let policies = match config.policies {
            Some(part) => Arc::new(part.decoded::<wire::Policies>("config.policies")?.try_into()?),
            None => self.policies.clone(),
        };
        Ok(Self { revision: required(config.revision, "revision")?.into(), mesh, policies })
    }
}

impl From<&Mesh> for wire::Mesh {
    fn from(mesh: &Mesh) -> Self {
        Self { services: mesh.services.iter().map(wire::Service::from).collect() }
    }
}

impl TryFrom<wire::Mesh> for Mesh {
    type Error = ConvertError;
    fn try_from(mesh: wire::Mesh) -> Result<Self, Self::Error> {
        Ok(Self { services: converted(mesh.services)? })
    }
}

impl From<&Service> for wire::Service {
    fn from(service: &Service) -> Self {
        Self {
            name: service.name.clone(),
            spiffe_ids: service.spiffe_ids.iter().map(ToString::to_string).collect(),
            endpoints: service.endpoints.iter().map(wire::Endpoint::from).collect(),
            timeout_ms: millis(service.timeout),
            protocol: wire::Protocol::from(service.protocol).into(),
            mtls: wire::Mtls::from(service.mtls).into(),
            idle_timeout_ms: Some(millis(service.idle_timeout)),
            external: service.external.as_ref().map(wire::External::from),
        }
    }
}

impl TryFrom<wire::Service> for Service {
    type Error = ConvertError;
    fn try_from(service: wire::Service) -> Result<Self, Self::Error> {
        let ids = service.spiffe_ids.iter().map(|id| parsed(id, "service.spiffe_ids"));
        Ok(Self {
            name: service.name,
            spiffe_ids: ids.collect::<Result<_, _>>()?,
            endpoints: converted(service.endpoints)?,
            timeout: Duration::from_millis(service.timeout_ms),
            protocol: protocol(service.protocol)?,
            mtls: mtls(service.mtls)?,
            idle_timeout: service.idle_timeout_ms.map_or(IDLE_TIMEOUT, Duration::from_millis),
            external: service.external.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<&External> for wire::External {
    fn from(external: &External) -> Self {
        Self {
            host: external.host.clone(),
            port: external.port.into(),
            name: external.name.clone(),
            roots: external.roots.clone().unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::External> for External {
    type Error = ConvertError;
    fn try_from(external: wire::External) -> Result<Self, Self::Error> {
        let port = external.port.try_into();
        Ok(Self {
            host: external.host,
            port: port.map_err(|error| ConvertError::invalid("external.port", error))?,
            name: external.name,
            roots: Some(external.roots).filter(|roots| !roots.is_empty()),
        })
    }
}

impl From<&Policies> for wire::Policies {
    fn from(policies: &Policies) -> Self {
        Self {
            services: policies.services.iter().map(wire::Enforced::from).collect(),
            limits: policies.limits.iter().map(wire::Limit::from).collect(),
            handlers: policies.handlers.iter().map(wire::ReportHandler::from).collect(),
            rules: policies.rules.iter().map(wire::ReportRule::from).collect(),
            stale_after_ms: millis(policies.stale_after),
        }
    }
}

impl TryFrom<wire::Policies> for Policies {
    type Error = ConvertError;
    fn try_from(policies: wire::Policies) -> Result<Self, Self::Error> {
        Ok(Self {
            services: converted(policies.services)?,
            limits: converted(policies.limits)?,
            handlers: converted(policies.handlers)?,
            rules: converted(policies.rules)?,
            stale_after: Duration::from_millis(policies.stale_after_ms),
        })
    }
}

impl From<&Enforced> for wire::Enforced {
    fn from(enforced: &Enforced) -> Self {
        let exposure = match enforced.denial_exposure {
            Exposure::None => wire::Exposure::None,
            Exposure::Mesh => wire::Exposure::Mesh,
            Exposure::All => wire::Exposure::All,
        };
        Self {
            service: enforced.service.clone(),
            revision: Some(enforced.revision.into()),
            fail_mode: wire::FailMode::from(enforced.fail_mode).into(),
            denial_exposure: exposure.into(),
            enforcement: wire::Enforcement::from(enforced.enforcement).into(),
            atoms: Some((&enforced.atoms).into()),
            decision_log: enforced.decision_log.as_ref().map(wire::DecisionLog::from),
            routes: enforced.routes.iter().map(wire::Route::from).collect(),
            issuers: enforced.issuers.iter().map(wire::TokenIssuer::from).collect(),
            merge_slashes: enforced.merge_slashes,
        }
    }
}

impl TryFrom<wire::Enforced> for Enforced {
    type Error = ConvertError;
    fn try_from(enforced: wire::Enforced) -> Result<Self, Self::Error> {
        let denial_exposure = match wire::Exposure::try_from(enforced.denial_exposure) {
            Ok(wire::Exposure::None) => Exposure::None,
            Ok(wire::Exposure::Mesh) => Exposure::Mesh,
            Ok(wire::Exposure::All) => Exposure::All,
            Err(error) => return Err(ConvertError::invalid("enforced.denial_exposure", error)),
        };
        Ok(Self {
            service: enforced.service,
            revision: required(enforced.revision, "enforced.revision")?.into(),
            fail_mode: fail_mode(enforced.fail_mode)?,
            denial_exposure,
            enforcement: enforcement(enforced.enforcement)?,
            atoms: required(enforced.atoms, "enforced.atoms")?.try_into()?,
            decision_log: enforced.decision_log.map(TryInto::try_into).transpose()?,
            routes: converted(enforced.routes)?,
            issuers: converted(enforced.issuers)?,
            merge_slashes: enforced.merge_slashes,
        })
    }
}

impl From<&DecisionLog> for wire::DecisionLog {
    fn from(log: &DecisionLog) -> Self {
        Self {
            sample_hits: log.sample_hits,
            recorded: log.recorded.iter().map(wire::Name::from).collect(),
            masked: log.masked.iter().map(wire::Operand::from).collect(),
        }
    }
}

impl TryFrom<wire::DecisionLog> for DecisionLog {
    type Error = ConvertError;
    fn try_from(log: wire::DecisionLog) -> Result<Self, Self::Error> {
        if !(0.0..=1.0).contains(&log.sample_hits) {
            return Err(ConvertError::invalid("decision_log.sample_hits", "it is not from 0 to 1"));
        }
        Ok(Self {
            sample_hits: log.sample_hits,
            recorded: converted(log.recorded)?,
            masked: converted(log.masked)?,
        })
    }
}

impl From<&Route> for wire::Route {
    fn from(route: &Route) -> Self {
        Self {
            method: route.method.clone(),
            template: route.template.to_string(),
            operation: route.operation.clone(),
        }
    }
}

impl TryFrom<wire::Route> for Route {
    type Error = ConvertError;
    fn try_from(route: wire::Route) -> Result<Self, Self::Error> {
        let template = parsed(&route.template, "route.template")?;
        Ok(Self { method: route.method, template, operation: route.operation })
    }
}

impl From<Protocol> for wire::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http1 => Self::Http1,
            Protocol::Http2 => Self::Http2,
            Protocol::Tcp => Self::Tcp,
        }
    }
}

fn protocol(number: i32) -> Result<Protocol, ConvertError> {
    match wire::Protocol::try_from(number) {
        Ok(wire::Protocol::Http1) => Ok(Protocol::Http1),
        Ok(wire::Protocol::Http2) => Ok(Protocol::Http2),
        Ok(wire::Protocol::Tcp) => Ok(Protocol::Tcp),
        Err(error) => Err(ConvertError::invalid("service.protocol", error)),
    }
}

impl From<Mtls> for wire::Mtls {
    fn from(mtls: Mtls) -> Self {
        match mtls {
            Mtls::Strict => Self::Strict,
            Mtls::Permissive => Self::Permissive,
            Mtls::Disabled => Self::Disabled,
        }
    }
}

fn mtls(number: i32) -> Result<Mtls, ConvertError> {
    match wire::Mtls::try_from(number) {
        Ok(wire::Mtls::Strict) => Ok(Mtls::Strict),
        Ok(wire::Mtls::Permissive) => Ok(Mtls::Permissive),
        Ok(wire::Mtls::Disabled) => Ok(Mtls::Disabled),
        Err(error) => Err(ConvertError::invalid("service.mtls", error)),
    }
}

impl From<Enforcement> for wire::Enforcement {
    fn from(enforcement: Enforcement) -> Self {
        match enforcement {
            Enforcement::Off => Self::Off,
            Enforcement::Observe => Self::Observe,
            Enforcement::Enforce => Self::Enforce,
        }
    }
}

fn enforcement(number: i32) -> Result<Enforcement, ConvertError> {
    match wire::Enforcement::try_from(number) {
        Ok(wire::Enforcement::Off) => Ok(Enforcement::Off),
        Ok(wire::Enforcement::Observe) => Ok(Enforcement::Observe),
        Ok(wire::Enforcement::Enforce) => Ok(Enforcement::Enforce),
        Err(error) => Err(ConvertError::invalid("enforced.enforcement", error)),
    }
}

impl From<&Endpoint> for wire::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            instance: endpoint.instance.clone(),
            version: endpoint.version.clone(),
            address: endpoint.address.to_string(),
        }
    }
}

impl TryFrom<wire::Endpoint> for Endpoint {
    type Error = ConvertError;
    fn try_from(endpoint: wire::Endpoint) -> Result<Self, Self::Error> {
        let address = parsed(&endpoint.address, "endpoint.address")?;
        Ok(Self { instance: endpoint.instance, version: endpoint.version, address })
    }
}

impl From<&ReportHandler> for wire::ReportHandler {
    fn from(handler: &ReportHandler) -> Self {
        Self {
            name: handler.name.clone(),
            adapter: handler.adapter.clone(),
            config_json: handler.config.to_string(),
        }
    }
}

impl TryFrom<wire::ReportHandler> for ReportHandler {
    type Error = ConvertError;
    fn try_from(handler: wire::ReportHandler) -> Result<Self, Self::Error> {
        let config = parsed(&handler.config_json, "handler.config_json")?;
        Ok(Self { name: handler.name, adapter: handler.adapter, config })
    }
}

impl From<&ReportRule> for wire::ReportRule {
    fn from(rule: &ReportRule) -> Self {
        let actions = rule.actions.iter().map(|action| wire::ReportAction {
            handler: action.handler.clone(),
            instances: action.instances.iter().map(wire::ReportInstance::from).collect(),
        });
        Self { name: rule.name.clone(), actions: actions.collect() }
    }
}

impl TryFrom<wire::ReportRule> for ReportRule {
    type Error = ConvertError;
    fn try_from(rule: wire::ReportRule) -> Result<Self, Self::Error> {
        let actions = rule.actions.into_iter().map(|action| {
            Ok(ReportAction { handler: action.handler, instances: converted(action.instances)? })
        });
        Ok(Self { name: rule.name, actions: actions.collect::<Result<_, _>>()? })
    }
}

impl From<&ReportInstance> for wire::ReportInstance {
    fn from(instance: &ReportInstance) -> Self {
        let fields = instance
            .fields
            .iter()
            .map(|(name, operand)| wire::Field { name: name.clone(), operand: Some(operand.into()) });
        Self { name: instance.name.clone(), fields: fields.collect() }
    }
}

impl TryFrom<wire::ReportInstance> for ReportInstance {
    type Error = ConvertError;
    fn try_from(instance: wire::ReportInstance) -> Result<Self, Self::Error> {
        let fields = instance
            .fields
            .into_iter()
            .map(|field| Ok((field.name, required(field.operand, "field.operand")?.try_into()?)));
        Ok(Self { name: instance.name, fields: fields.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use model::{AtomSet, FailMode, Name, Operand};

    use super::*;

    fn enforced() -> Enforced {
        Enforced {
            service: "reviews".into(),
            revision: Revision { epoch: 1, number: 1 },
            fail_mode: FailMode::Open,
            denial_exposure: Exposure::All,
            enforcement: Enforcement::Observe,
            atoms: AtomSet::new(vec![], true),
            decision_log: Some(DecisionLog {
                sample_hits: 0.25,
                recorded: vec![Name::Cookie("c".into())],
                masked: vec![Operand::Principal, Operand::Context(Name::Cookie("c".into()))],
            }),
            routes: vec![Route {
                method: "GET".into(),
                template: "/reviews/{id}".parse().unwrap(),
                operation: "getReview".into(),
            }],
            issuers: Vec::new(),
            merge_slashes: true,
        }
    }

    fn config() -> Config {
        let service = Service {
            name: "reviews".into(),
            spiffe_ids: vec!["spiffe://a/ns/b/sa/reviews".parse().unwrap()],
            endpoints: vec![Endpoint {
                instance: "reviews-v1".into(),
                version: "v1".into(),
                address: "[::1]:80".parse().unwrap(),
            }],
            timeout: Duration::from_secs(15),
            protocol: Protocol::Tcp,
            mtls: Mtls::Permissive,
            idle_timeout: Duration::from_secs(90),
            external: Some(External {
                host: "10.0.0.1".into(),
                port: 8443,
                name: "a.example".into(),
                roots: Some("PEM".into()),
            }),
        };
        let policies = Policies {
            services: vec![enforced()],
            limits: vec![],
            handlers: vec![ReportHandler {
                name: "h".into(),
                adapter: "stdio".into(),
                config: serde_json::json!({"a": [1]}),
            }],
            rules: vec![ReportRule {
                name: "r".into(),
                actions: vec![ReportAction {
                    handler: "h".into(),
                    instances: vec![ReportInstance {
                        name: "i".into(),
                        fields: vec![("who".into(), Operand::Principal)],
                    }],
                }],
            }],
            stale_after: Duration::from_millis(1500),
        };
        Config {
            revision: Revision { epoch: 1, number: 2 },
            mesh: Arc::new(Mesh { services: vec![service] }),
            policies: Arc::new(policies),
        }
    }

    #[test]
    fn a_config_survives_the_wire_and_what_it_leaves_out_stays() {
        let nothing = Config::default();
        assert_eq!(nothing.with(wire::Config::from(&config())), Ok(config()));
        let next = Revision { epoch: 1, number: 3 };
        let policies = Part::of_policies(next, &Policies::default()).into();
        let only_policies =
            wire::Config { revision: Some(next.into()), mesh: None, policies: Some(policies) };
        let expected = Config { revision: next, mesh: config().mesh, policies: Arc::default() };
        assert_eq!(config().with(only_policies), Ok(expected));
        assert_eq!(nothing.with(wire::Config::default()), Err(ConvertError::Missing("revision")));
        let broken = wire::Part { since: None, content: vec![0xff].into() };
        let broken = wire::Config { mesh: Some(broken), ..wire::Config::from(&config()) };
        assert!(matches!(nothing.with(broken), Err(ConvertError::Invalid { field: "config.mesh", .. })));
    }

    #[test]
    fn an_unknown_mode_lets_nobody_in_in_the_clear() {
        let service = |mtls| wire::Service { mtls, ..wire::Service::default() };
        for (number, mode) in [(0, Mtls::Strict), (1, Mtls::Permissive), (2, Mtls::Disabled)] {
            assert_eq!(Service::try_from(service(number)).map(|service| service.mtls), Ok(mode));
            assert_eq!(i32::from(wire::Mtls::from(mode)), number);
        }
        assert!(Service::try_from(service(3)).is_err());
    }

    #[test]
    fn a_part_of_the_hits_that_is_no_part_is_refused() {
        for sample_hits in [-0.1, 1.1, f64::NAN] {
            let log = wire::DecisionLog { sample_hits, ..wire::DecisionLog::default() };
            assert!(DecisionLog::try_from(log).is_err(), "{sample_hits}");
        }
    }

    #[test]
    fn a_route_that_is_no_path_is_refused() {
        let mut wire = wire::Enforced::from(&enforced());
        wire.routes[0].template = "reviews".to_owned();
        assert!(Enforced::try_from(wire).is_err());
    }

    #[test]
    fn an_enforcement_survives_the_wire_and_an_unknown_one_never_lets_requests_pass() {
        for enforcement in [Enforcement::Off, Enforcement::Observe, Enforcement::Enforce] {
            let wire = wire::Enforced::from(&Enforced { enforcement, ..enforced() });
            assert_eq!(Enforced::try_from(wire).map(|enforced| enforced.enforcement), Ok(enforcement));
        }
        let silent = wire::Enforced { enforcement: 0, ..wire::Enforced::from(&enforced()) };
        assert_eq!(Enforced::try_from(silent).map(|e| e.enforcement), Ok(Enforcement::Enforce));
        let unknown = wire::Enforced { enforcement: 3, ..wire::Enforced::from(&enforced()) };
        let refused = Enforced::try_from(unknown);
        let field = "enforced.enforcement";
        assert!(
            matches!(&refused, Err(ConvertError::Invalid { field: f, .. }) if *f == field),
            "{refused:?}"
        );
    }

    #[test]
    fn decisions_without_a_revision_or_atoms_are_refused() {
        let without = |change: fn(&mut wire::Enforced)| {
            let mut wire = wire::Enforced::from(&enforced());
            change(&mut wire);
            Enforced::try_from(wire)
        };
        let missing = |field| Err(ConvertError::Missing(field));
        assert_eq!(without(|wire| wire.revision = None), missing("enforced.revision"));
        assert_eq!(without(|wire| wire.atoms = None), missing("enforced.atoms"));
    }
}
