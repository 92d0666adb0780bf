//! A request as policies see it, read in place: nothing is copied until somebody needs [`Attributes`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use cookie::Cookie;
use jiff::Timestamp;
use model::{Action, Attributes, Fact, Facts, Name, Principal};

use crate::fields::Fields;
use crate::http1::Forward;
use crate::jwt::Claims;
use model::path::{PathError, Query};

/// The head of a request in the form in which the application will get it, and what is known of its connection.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub principal: &'a Principal,
    pub action: Action,
    pub service: &'a str,
    pub method: &'a str,
    /// In normal form.
    pub path: &'a str,
    pub query: Query<'a>,
    /// In lower case, without port.
    pub host: &'a str,
    pub fields: Fields<'a>,
    /// What the end user's token says, if there is one.
    pub claims: Option<&'a Claims>,
    /// The service's operation that it is for.
    pub operation: Option<&'a str>,
    /// In its canonical form: one address has one.
    pub source_ip: IpAddr,
    pub tls: bool,
    /// The server name that the caller of a raw connection asked for.
    pub sni: Option<&'a str>,
    /// The application's port that a raw connection is for; 0 for requests.
    pub destination_port: u16,
    pub time: Timestamp,
}

impl<'a> Head<'a> {
    /// What is known of any connection of `principal`, and nothing of a request.
    pub(crate) const fn of_connection(
        (principal, source_ip, tls): (&'a Principal, IpAddr, bool),
        action: Action,
        service: &'a str,
        time: Timestamp,
    ) -> Self {
        Self {
            principal,
            action,
            service,
            method: "",
            path: "",
            query: Query::EMPTY,
            host: "",
            fields: Fields::EMPTY,
            claims: None,
            operation: None,
            source_ip,
            tls,
            sni: None,
            destination_port: 0,
            time,
        }
    }

    /// The same, with what `forward` says, for `host`.
    ///
    /// # Errors
    /// If its query has no single reading.
    pub(crate) fn with_request(self, forward: &'a Forward, host: &'a str) -> Result<Self, PathError> {
        Ok(Self {
            method: forward.method(),
            path: forward.path(),
            query: Query::new(forward.query())?,
            host,
            fields: forward.fields(),
            ..self
        })
    }
}

impl Head<'_> {
    /// All that policies may ever ask for.
    pub(crate) fn to_attributes(&self) -> Attributes {
        let mut headers = BTreeMap::new();
        for field in self.fields.iter() {
            let (mut room, name) = (String::new(), String::from_utf8_lossy(field.name).to_ascii_lowercase());
            if let Some(value) = join(self.fields.named(&name), ", ", &mut room) {
                headers.insert(name, value.to_owned());
            }
        }
        let mut cookies = BTreeMap::new();
        for (name, _) in self.cookies() {
            let mut room = String::new();
            if let Some(value) = join(self.cookie(name), "; ", &mut room) {
                cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        Attributes {
            principal: self.principal.clone(),
            action: self.action,
            resource: self.service.to_owned(),
            method: self.method.to_owned(),
            path: self.path.to_owned(),
            host: self.host.to_owned(),
            headers,
            query: self.query.parameters(),
            cookies,
            claims: self.claims.map(|claims| claims.all().clone()).unwrap_or_default(),
            operation: self.operation.map(str::to_owned),
            source_ip: self.source_ip,
            tls: self.tls,
            sni: self.sni.map(str::to_owned),
            destination_port: self.destination_port,
            time: self.time,
        }
    }

    /// Cookies (RFC 6265 4.2.1), as sent. A piece that is no cookie is left out, as servers do.
    fn cookies(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.fields.named("cookie");
        let cookies = lines.flat_map(|line| Cookie::split_parse(line).flatten());
        cookies.filter_map(|cookie| Some((cookie.name_raw()?, cookie.value_raw()?)))
    }

    fn cookie<'n>(&self, name: &'n str) -> impl Iterator<Item = &str> + use<'_, 'n> {
        self.cookies().filter(move |(sent, _)| *sent == name).map(|(_, value)| value)
    }
}

impl Facts for Head<'_> {
    fn principal(&self) -> &Principal {
        self.principal
    }

    fn action(&self) -> Action {
        self.action
    }

    fn resource(&self) -> &str {
        self.service
    }

    fn fact<'f>(&'f self, name: &Name, room: &'f mut String) -> Option<Fact<'f>> {
        Some(match name {
            Name::Method => Fact::Text(self.method),
            Name::Path => Fact::Text(self.path),
            Name::Host => Fact::Text(self.host),
            Name::Header(header) => Fact::Text(join(self.fields.named(header), ", ", room)?),
            Name::Query(parameter) => Fact::Text(self.query.parameter(parameter, room)?),
            Name::Cookie(cookie) => Fact::Text(join(self.cookie(cookie), "; ", room)?),
            Name::Claim(claim) => Fact::Text(self.claims?.get(claim)?),
            Name::Operation => Fact::Text(self.operation?),
            Name::SourceIp => Fact::Ip(self.source_ip),
            Name::Tls => Fact::Bool(self.tls),
            Name::Sni => Fact::Text(self.sni?),
            Name::DestinationPort => Fact::Long(self.destination_port.into()),
            Name::Time => Fact::Time(self.time.as_millisecond()),
        })
    }
}

/// Several values as one: in place if it is only one, else joined in `room`.
fn join<'f>(
    mut values: impl Iterator<Item = &'f str>,
    separator: &str,
    room: &'f mut String,
) -> Option<&'f str> {
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(first) };
    room.clear();
    room.push_str(first);
    for value in std::iter::once(second).chain(values) {
        room.push_str(separator);
        room.push_str(value);
    }
    Some(room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields;

    #[test]
    fn repeated_headers_parameters_and_cookies_are_joined() {
        let sent = fields::Head::of(&[
            ("X-User", "jason"),
            ("x-user", "zoë"),
            ("cookie", "a=1; b=\"2\"; c=; neither"),
            ("Cookie", "a=3"),
        ]);
        let claims = Claims::default();
        let head = Head {
            principal: &Principal::Unauthenticated,
            action: Action::Grpc,
            service: "reviews",
            method: "GET",
            path: "/a",
            query: Query::new("a=1&b=%20&a=2").unwrap(),
            host: "reviews",
            fields: sent.fields(),
            claims: Some(&claims),
            operation: Some("it"),
            source_ip: "10.0.0.1".parse().unwrap(),
            tls: true,
            sni: Some("reviews.example"),
            destination_port: 5432,
            time: Timestamp::UNIX_EPOCH,
        };
        let attributes = head.to_attributes();
        let named = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(attributes.headers.get("x-user").unwrap(), "jason, zoë");
        assert_eq!(attributes.query, named(&[("a", "1,2"), ("b", " ")]));
        assert_eq!(attributes.cookies, named(&[("a", "1; 3"), ("b", "\"2\""), ("c", "")]));
        let names = [
            Name::Method,
            Name::Path,
            Name::Host,
            Name::SourceIp,
            Name::Tls,
            Name::Time,
            Name::Operation,
            Name::Sni,
            Name::DestinationPort,
        ]
        .into_iter()
        .chain(["x-user", "cookie", "none"].map(|name| Name::Header(name.into())))
        .chain(["a", "b", "c", "none"].map(|name| Name::Cookie(name.into())))
        .chain(["a", "b", "none"].map(|name| Name::Query(name.into())));
        for name in names {
            let mut room = "left over".to_owned();
            assert_eq!(head.fact(&name, &mut room), attributes.fact(&name), "{name:?}");
        }
    }
}
