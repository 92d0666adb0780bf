//! What is known of one request.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::facts::Facts;
use crate::spiffe_id::{SpiffeId, SpiffeIdError};
use crate::value::Fact;

/// The entity id that stands for a caller without a verified certificate.
pub const UNAUTHENTICATED: &str = "unauthenticated";

/// Who is calling.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Principal {
    /// A caller without a verified certificate, such as a browser at an ingress.
    Unauthenticated,
    /// A caller whose certificate was verified.
    Workload(SpiffeId),
}

/// What kind of exchange it is: the Cedar action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// An HTTP request.
    Http,
    /// A gRPC call.
    Grpc,
    /// A raw TCP connection.
    Tcp,
}

/// The facts of one request, as the proxy saw them: the Cedar request, in Tidegate's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Who is calling.
    pub principal: Principal,
    /// What kind of exchange it is.
    pub action: Action,
    /// The service called, by its name in the bundle.
    pub resource: String,
    /// The HTTP method, as sent.
    pub method: String,
    /// The normalised path, without the query. What a policy sees is what the service gets.
    pub path: String,
    /// The host asked for, in lower case, without port.
    pub host: String,
    /// Headers by lower-case name; several values of one name are joined by `, `.
    pub headers: BTreeMap<String, String>,
    /// Query parameters, decoded; several values of one name are joined by `,`.
    pub query: BTreeMap<String, String>,
    /// Cookies, as sent; several values of one name are joined by `; `.
    pub cookies: BTreeMap<String, String>,
    /// The claims of the caller's verified token by name; empty for a caller without one.
    pub claims: BTreeMap<String, String>,
    /// The service's operation that method and path belong to, if it has such operations.
    pub operation: Option<String>,
    /// The address the connection came from.
    pub source_ip: IpAddr,
    /// Whether the connection is mutual TLS.
    pub tls: bool,
    /// The server name that the caller of a raw connection asked for in its TLS handshake, in lower case, if it did.
    pub sni: Option<String>,
    /// The application's port that a raw connection is for; 0 for requests, whose policies don't see it.
    pub destination_port: u16,
    /// When the request arrived.
    pub time: Timestamp,
}

/// A record within the Cedar `context` whose fields are named by whoever sends and reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Record {
    /// `context.headers`
    Headers,
    /// `context.query`
    Query,
    /// `context.cookies`
    Cookies,
    /// `context.claims`
    Claims,
}

/// The name of a fact within the Cedar `context`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Name {
    /// `context.method`
    Method,
    /// `context.path`
    Path,
    /// `context.host`
    Host,
    /// `context.headers["…"]`, in lower case
    Header(String),
    /// `context.query["…"]`
    Query(String),
    /// `context.cookies["…"]`
    Cookie(String),
    /// `context.claims["…"]`
    Claim(String),
    /// `context.operation`
    Operation,
    /// `context.source_ip`
    SourceIp,
    /// `context.tls`
    Tls,
    /// `context.sni`
    Sni,
    /// `context.destination_port`
    DestinationPort,
    /// `context.time`
    Time,
}

impl Attributes {
    /// The value of the fact called `name`, or nothing if this request has none (a header not sent).
    pub fn fact(&self, name: &Name) -> Option<Fact<'_>> {
        Some(match name {
            Name::Method => Fact::Text(&self.method),
            Name::Path => Fact::Text(&self.path),
            Name::Host => Fact::Text(&self.host),
            Name::Header(header) => Fact::Text(self.headers.get(header)?),
            Name::Query(parameter) => Fact::Text(self.query.get(parameter)?),
            Name::Cookie(cookie) => Fact::Text(self.cookies.get(cookie)?),
            Name::Claim(claim) => Fact::Text(self.claims.get(claim)?),
            Name::Operation => Fact::Text(self.operation.as_deref()?),
            Name::SourceIp => Fact::Ip(self.source_ip),
            Name::Tls => Fact::Bool(self.tls),
            Name::Sni => Fact::Text(self.sni.as_deref()?),
            Name::DestinationPort => Fact::Long(self.destination_port.into()),
            Name::Time => Fact::Time(self.time.as_millisecond()),
        })
    }

    /// The id of the Cedar entity `Action::"…"` of this request: its operation's, if it has one.
    pub fn action_id(&self) -> &str {
        self.operation.as_deref().unwrap_or_else(|| self.action.as_str())
    }

    /// The fields of `record` that this request has.
    pub const fn record(&self, record: Record) -> &BTreeMap<String, String> {
        match record {
            Record::Headers => &self.headers,
            Record::Query => &self.query,
            Record::Cookies => &self.cookies,
            Record::Claims => &self.claims,
        }
    }
}

impl Facts for Attributes {
    fn principal(&self) -> &Principal {
        &self.principal
    }

    fn action(&self) -> Action {
        self.action
    }

    fn resource(&self) -> &str {
        &self.resource
    }

    fn fact<'a>(&'a self, name: &Name, _room: &'a mut String) -> Option<Fact<'a>> {
        Self::fact(self, name)
    }
}

/// A request of which nothing is known: by nobody, to nothing. For code that fills in what it knows.
impl Default for Attributes {
    fn default() -> Self {
        Self {
            principal: Principal::Unauthenticated,
            action: Action::Http,
            resource: String::new(),
            method: String::new(),
            path: String::new(),
            host: String::new(),
            headers: BTreeMap::new(),
            query: BTreeMap::new(),
            cookies: BTreeMap::new(),
            claims: BTreeMap::new(),
            operation: None,
            source_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            tls: false,
            sni: None,
            destination_port: 0,
            time: Timestamp::UNIX_EPOCH,
        }
    }
}

impl Record {
    /// All records, in order.
    pub const ALL: [Self; 4] = [Self::Headers, Self::Query, Self::Cookies, Self::Claims];

    /// The record's name below Cedar's `context`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::Query => "query",
            Self::Cookies => "cookies",
            Self::Claims => "claims",
        }
    }

    /// The record with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|record| record.as_str() == name)
    }

    /// The name of its field called `field`.
    pub const fn name_of(self, field: String) -> Name {
        match self {
            Self::Headers => Name::Header(field),
            Self::Query => Name::Query(field),
            Self::Cookies => Name::Cookie(field),
            Self::Claims => Name::Claim(field),
        }
    }
}

impl Name {
    /// Whether requests with this action may have the fact.
    pub const fn is_of(&self, action: Action) -> bool {
        match self {
            Self::SourceIp | Self::Tls | Self::Time => true,
            Self::Sni | Self::DestinationPort => matches!(action, Action::Tcp),
            _ => !matches!(action, Action::Tcp),
        }
    }

    /// The name of the fact at `path` below Cedar's `context`, such as `["headers", "x-user"]`.
    ///
    /// Nothing for a path that is no fact of its own, such as `["headers"]`.
    pub fn from_context_path(path: &[&str]) -> Option<Self> {
        Some(match path {
            ["method"] => Self::Method,
            ["path"] => Self::Path,
            ["host"] => Self::Host,
            ["operation"] => Self::Operation,
            [record, field] => Record::from_name(record)?.name_of((*field).to_owned()),
            ["source_ip"] => Self::SourceIp,
            ["tls"] => Self::Tls,
            ["sni"] => Self::Sni,
            ["destination_port"] => Self::DestinationPort,
            ["time"] => Self::Time,
            _ => return None,
        })
    }

    /// Whether a request may lack this fact.
    pub const fn is_optional(&self) -> bool {
        matches!(self, Self::Operation | Self::Sni) || self.field().is_some()
    }

    /// The record that it is a field of, if any, and the field.
    pub const fn field(&self) -> Option<(Record, &str)> {
        Some(match self {
            Self::Header(field) => (Record::Headers, field.as_str()),
            Self::Query(field) => (Record::Query, field.as_str()),
            Self::Cookie(field) => (Record::Cookies, field.as_str()),
            Self::Claim(field) => (Record::Claims, field.as_str()),
            _ => return None,
        })
    }
}

impl Principal {
    /// The id of the Cedar entity `Workload::"…"` that stands for this caller.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Unauthenticated => UNAUTHENTICATED,
            Self::Workload(id) => id.as_str(),
        }
    }

    /// The verified SPIFFE ID, if there is one.
    pub const fn spiffe_id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Unauthenticated => None,
            Self::Workload(id) => Some(id),
        }
    }
}

impl FromStr for Principal {
    type Err = SpiffeIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == UNAUTHENTICATED { Ok(Self::Unauthenticated) } else { text.parse().map(Self::Workload) }
    }
}

impl TryFrom<String> for Principal {
    type Error = SpiffeIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Principal> for String {
    fn from(principal: Principal) -> Self {
        principal.as_str().to_owned()
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Action {
    /// All actions, in order.
    pub const ALL: [Self; 3] = [Self::Http, Self::Grpc, Self::Tcp];

    /// The id of the Cedar entity `Action::"…"`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    /// The action with this id.
    pub fn from_id(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == id)
    }
}

/// As policies write it.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("context.")?;
        match self {
            Self::Method => f.write_str("method"),
            Self::Path => f.write_str("path"),
            Self::Host => f.write_str("host"),
            Self::Operation => f.write_str("operation"),
            Self::SourceIp => f.write_str("source_ip"),
            Self::Tls => f.write_str("tls"),
            Self::Sni => f.write_str("sni"),
            Self::DestinationPort => f.write_str("destination_port"),
            Self::Time => f.write_str("time"),
            Self::Header(field) | Self::Query(field) | Self::Cookie(field) | Self::Claim(field) => {
                let record = self.field().map_or("", |(record, _)| record.as_str());
                write!(f, "{record}[{field:?}]")
            }
        }
    }
}
