//! What a proxy is told.

use std::time::Duration;

use super::limits::fail_mode;
use super::{ConvertError, converted, millis, parsed, required};
use crate::config::{
    Config, DecisionLog, Endpoint, Enforcement, Exposure, ReportAction, ReportHandler, ReportInstance,
    ReportRule, Service,
};
use crate::policy as wire;

impl From<&Config> for wire::Config {
    fn from(config: &Config) -> Self {
        Self {
            revision: Some(config.revision.into()),
            services: config.services.iter().map(wire::Service::from).collect(),
            limits: config.limits.iter().map(wire::Limit::from).collect(),
            handlers: config.handlers.iter().map(wire::ReportHandler::from).collect(),
            rules: config.rules.iter().map(wire::ReportRule::from).collect(),
        }
    }
}

impl TryFrom<wire::Config> for Config {
    type Error = ConvertError;
    fn try_from(config: wire::Config) -> Result<Self, Self::Error> {
        Ok(Self {
            revision: required(config.revision, "revision")?.into(),
            services: converted(config.services)?,
            limits: converted(config.limits)?,
            handlers: converted(config.handlers)?,
            rules: converted(config.rules)?,
        })
    }
}

impl From<&Service> for wire::Service {
    fn from(service: &Service) -> Self {
        let exposure = match service.denial_exposure {
            Exposure::None => wire::Exposure::None,
            Exposure::Mesh => wire::Exposure::Mesh,
            Exposure::All => wire::Exposure::All,
        };
        Self {
            name: service.name.clone(),
            spiffe_ids: service.spiffe_ids.iter().map(ToString::to_string).collect(),
            endpoints: service.endpoints.iter().map(wire::Endpoint::from).collect(),
            timeout_ms: millis(service.timeout),
            fail_mode: wire::FailMode::from(service.fail_mode).into(),
            denial_exposure: exposure.into(),
            enforcement: wire::Enforcement::from(service.enforcement).into(),
            atoms: service.atoms.as_ref().map(wire::AtomSet::from),
            decision_log: service.decision_log.as_ref().map(wire::DecisionLog::from),
        }
    }
}

impl TryFrom<wire::Service> for Service {
    type Error = ConvertError;
    fn try_from(service: wire::Service) -> Result<Self, Self::Error> {
        let denial_exposure = match wire::Exposure::try_from(service.denial_exposure) {
            Ok(wire::Exposure::None) => Exposure::None,
            Ok(wire::Exposure::Mesh) => Exposure::Mesh,
            Ok(wire::Exposure::All) => Exposure::All,
            Err(error) => return Err(ConvertError::invalid("service.denial_exposure", error)),
        };
        Ok(Self {
            name: service.name,
            spiffe_ids: service
                .spiffe_ids
                .iter()
                .map(|id| parsed(id, "service.spiffe_ids"))
                .collect::<Result<_, _>>()?,
            endpoints: converted(service.endpoints)?,
            timeout: Duration::from_millis(service.timeout_ms),
            fail_mode: fail_mode(service.fail_mode)?,
            denial_exposure,
            enforcement: enforcement(service.enforcement)?,
            atoms: service.atoms.map(TryInto::try_into).transpose()?,
            decision_log: service.decision_log.map(TryInto::try_into).transpose()?,
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
        Err(error) => Err(ConvertError::invalid("service.enforcement", error)),
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
    use model::{AtomSet, FailMode, Name, Operand, Revision};

    use super::*;

    fn service() -> Service {
        Service {
            name: "reviews".into(),
            spiffe_ids: vec!["spiffe://a/ns/b/sa/reviews".parse().unwrap()],
            endpoints: vec![Endpoint {
                instance: "reviews-v1".into(),
                version: "v1".into(),
                address: "[::1]:80".parse().unwrap(),
            }],
            timeout: Duration::from_secs(15),
            fail_mode: FailMode::Open,
            denial_exposure: Exposure::All,
            enforcement: Enforcement::Observe,
            atoms: Some(AtomSet::new(vec![], true)),
            decision_log: Some(DecisionLog {
                sample_hits: 0.25,
                recorded: vec![Name::Cookie("c".into())],
                masked: vec![Operand::Principal, Operand::Context(Name::Cookie("c".into()))],
            }),
        }
    }

    #[test]
    fn a_config_survives_the_wire() {
        let config = Config {
            revision: Revision { epoch: 1, number: 2 },
            services: vec![service()],
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
        };
        assert_eq!(Config::try_from(wire::Config::from(&config)), Ok(config));
        assert_eq!(Config::try_from(wire::Config::default()), Err(ConvertError::Missing("revision")));
    }

    #[test]
    fn a_part_of_the_hits_that_is_no_part_is_refused() {
        for sample_hits in [-0.1, 1.1, f64::NAN] {
            let log = wire::DecisionLog { sample_hits, ..wire::DecisionLog::default() };
            assert!(DecisionLog::try_from(log).is_err(), "{sample_hits}");
        }
    }

    #[test]
    fn an_enforcement_survives_the_wire_and_none_or_an_unknown_one_never_lets_requests_pass() {
        for enforcement in [Enforcement::Off, Enforcement::Observe, Enforcement::Enforce] {
            let wire = wire::Service::from(&Service { enforcement, ..service() });
            assert_eq!(Service::try_from(wire).map(|service| service.enforcement), Ok(enforcement));
        }
        let silent = wire::Service::default();
        assert_eq!(Service::try_from(silent).map(|service| service.enforcement), Ok(Enforcement::Enforce));
        let unknown = wire::Service { enforcement: 3, ..wire::Service::from(&service()) };
        let refused = Service::try_from(unknown);
        let field = "service.enforcement";
        assert!(
            matches!(&refused, Err(ConvertError::Invalid { field: f, .. }) if *f == field),
            "{refused:?}"
        );
    }
}
