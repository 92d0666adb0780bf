//! A request as an author writes it, in a test or on the command line: texts, with defaults.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use daemon::finding::did_you_mean;
use jiff::Timestamp;
use model::{Action, Attributes, Principal};
use serde::Serialize;

use crate::bundle::Mesh;

/// When a request arrives whose author doesn't say.
pub const DEFAULT_TIME: &str = "2026-01-01T12:00:00Z";

/// A request in words. What is not given has the default that stands beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestText {
    /// A SPIFFE ID, or `unauthenticated`, which is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// `http`, which is the default, `grpc` or `tcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The service called, by its name in the mesh.
    pub service: String,
    /// `GET`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The service's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// By name in lower case: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// By name, decoded: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
    /// By name: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cookies: BTreeMap<String, String>,
    /// Of a verified token, by name: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
    /// `127.0.0.1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<String>,
    /// True if the principal is a workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<bool>,
    /// Of a raw connection: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Of a raw connection: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// [`DEFAULT_TIME`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

/// A part of a request that can be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// `principal`
    Principal,
    /// `action`
    Action,
    /// `service`
    Service,
    /// `path`
    Path,
    /// `host`
    Host,
    /// One of `headers`.
    Header(String),
    /// `source_ip`
    SourceIp,
    /// `time`
    Time,
}

/// What is wrong with a part of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The part.
    pub part: Part,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

impl RequestText {
    /// The request's attributes, in a mesh.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn attributes(&self, mesh: &Mesh) -> Result<Attributes, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let principal = or_mistake(self.principal(), &mut mistakes);
        let action = or_mistake(self.action(), &mut mistakes);
        let source_ip = or_mistake(self.source_ip(), &mut mistakes);
        let time = or_mistake(self.time(), &mut mistakes);
        mistakes
            .extend([self.unknown_service(mesh), self.wrong_path(), self.wrong_host()].into_iter().flatten());
        mistakes.extend(self.headers.keys().filter_map(|name| wrong_header(name)));
        let (Some(principal), Some(action), Some(source_ip), Some(time), true) =
            (principal, action, source_ip, time, mistakes.is_empty())
        else {
            return Err(mistakes);
        };
        let mut attributes = Attributes {
            tls: self.tls.unwrap_or(principal != Principal::Unauthenticated),
            principal,
            action,
            resource: self.service.clone(),
            method: self.method.clone().unwrap_or_else(|| "GET".to_owned()),
            path: self.path.clone().unwrap_or_else(|| "/".to_owned()),
            host: self.host.clone().unwrap_or_else(|| self.service.clone()),
            headers: self.headers.clone(),
            query: self.query.clone(),
            cookies: self.cookies.clone(),
            claims: self.claims.clone(),
            operation: None,
            source_ip,
            sni: self.sni.clone(),
            destination_port: self.destination_port.unwrap_or_default(),
            time,
        };
        // As a proxy finds it.
        attributes.operation = mesh.operation(&attributes).map(str::to_owned);
        Ok(attributes)
    }

    fn principal(&self) -> Result<Principal, Mistake> {
        let Some(text) = &self.principal else { return Ok(Principal::Unauthenticated) };
        let wrong = |error| Mistake {
            part: Part::Principal,
            message: format!("`{text}` is not a SPIFFE ID: {error}"),
            help: "write `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` or `unauthenticated`"
                .into(),
        };
        text.parse().map_err(wrong)
    }

    fn action(&self) -> Result<Action, Mistake> {
        let Some(text) = &self.action else { return Ok(Action::Http) };
        Action::from_id(text).ok_or_else(|| Mistake {
            part: Part::Action,
            message: format!("there is no action `{text}`"),
            help: near(text, Action::ALL.map(Action::as_str), "use `http`, `grpc` or `tcp`"),
        })
    }

    fn source_ip(&self) -> Result<IpAddr, Mistake> {
        let Some(text) = &self.source_ip else { return Ok(Ipv4Addr::LOCALHOST.into()) };
        let wrong = |_error| Mistake {
            part: Part::SourceIp,
            message: format!("`{text}` is not an IP address"),
            help: "write one such as `10.1.2.3` or `2001:db8::1`, without a port".to_owned(),
        };
        text.parse().map_err(wrong)
    }

    fn time(&self) -> Result<Timestamp, Mistake> {
        let text = self.time.as_deref().unwrap_or(DEFAULT_TIME);
        let wrong = |error| Mistake {
            part: Part::Time,
            message: format!("`{text}` is not a time: {error}"),
            help: format!("write it as RFC 3339 has it, such as `{DEFAULT_TIME}`"),
        };
        text.parse().map_err(wrong)
    }

    fn unknown_service(&self, mesh: &Mesh) -> Option<Mistake> {
        (!mesh.services.contains_key(&self.service)).then(|| Mistake {
            part: Part::Service,
            message: format!("there is no service `{}`", self.service),
            help: near(
                &self.service,
                mesh.services.keys().map(String::as_str),
                "name a service of mesh.yaml",
            ),
        })
    }

    fn wrong_path(&self) -> Option<Mistake> {
        let path = self.path.as_ref().filter(|path| !path.starts_with('/') || path.contains(['?', '#']))?;
        let help = if path.starts_with('/') {
            "policies see the path alone: write the rest under `query`"
        } else {
            "a path starts with `/`"
        };
        Some(Mistake { part: Part::Path, message: format!("`{path}` is not a path"), help: help.to_owned() })
    }

    fn wrong_host(&self) -> Option<Mistake> {
        let host = self.host.as_ref().filter(|host| host.bytes().any(|b| b.is_ascii_uppercase()))?;
        Some(Mistake {
            part: Part::Host,
            message: format!("there is never a host `{host}`: policies see it in lower case"),
            help: format!("write `{}`", host.to_ascii_lowercase()),
        })
    }
}

impl fmt::Display for Part {
    /// The key in a file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Principal => "principal",
            Self::Action => "action",
            Self::Service => "service",
            Self::Path => "path",
            Self::Host => "host",
            Self::Header(_) => "headers",
            Self::SourceIp => "source_ip",
            Self::Time => "time",
        })
    }
}

fn wrong_header(name: &str) -> Option<Mistake> {
    name.bytes().any(|b| b.is_ascii_uppercase()).then(|| Mistake {
        part: Part::Header(name.to_owned()),
        message: format!("there is never a header `{name}`: policies see names in lower case"),
        help: format!("write `{}`", name.to_ascii_lowercase()),
    })
}

fn or_mistake<T>(result: Result<T, Mistake>, mistakes: &mut Vec<Mistake>) -> Option<T> {
    result.map_err(|mistake| mistakes.push(mistake)).ok()
}

/// `did you mean …?` if one of `known` is near, else `otherwise`.
pub(super) fn near<'a>(word: &str, known: impl IntoIterator<Item = &'a str>, otherwise: &str) -> String {
    match did_you_mean(word, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => otherwise.to_owned(),
    }
}
