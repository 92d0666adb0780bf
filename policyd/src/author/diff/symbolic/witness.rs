//! What a solver has found, made a request that both bundles are asked about.
//!
//! The solver knows entities and texts as Cedar does. A caller is a SPIFFE ID, a host is in lower case, an address is no
//! range: so of what it found the facts are taken, and callers and services are those that there are. What the
//! difference does not need is left out.

use std::net::IpAddr;

use cedar_policy::{EvalResult, Expression, eval_expression};
use cedar_policy_symcc::Env;
use ipnet::IpNet;
use jiff::Timestamp;
use model::{Action, Attributes, Kind, Principal, Record, Verdict};

use super::Example;
use crate::author::boundary::STRANGER;
use crate::author::unit_test::request_text::DEFAULT_TIME;
use crate::author::unit_test::{Answer, RequestText};
use crate::bundle::Bundle;

/// What a solver has found, and for which bundles.
pub(super) struct Witness<'a> {
    pub found: &'a Env,
    /// The old bundle and the new one.
    pub bundles: [&'a Bundle; 2],
    /// The id of the action that the request is to have in both.
    pub action: &'a str,
    /// Whether the new bundle is to allow it, and not the old one.
    pub gained: bool,
}

/// The most requests that are tried.
const TRIES_MAX: usize = 20_000;
/// The most characters of a text that are tried to be taken out.
const LENGTH_MAX: usize = 256;

impl Witness<'_> {
    /// A request on which both bundles differ in this way. Tried are the caller and service that were found, then all
    /// others.
    pub(super) fn confirmed(&self, services: &[String], callers: &[Principal]) -> Option<Example> {
        let facts = self.facts()?;
        let uid = self.found.request.resource()?.id().unescaped().to_owned();
        let (found, others): (Vec<&String>, Vec<&String>) = services.iter().partition(|name| **name == uid);
        let callers: Vec<Principal> = self.callers().into_iter().chain(callers.iter().cloned()).collect();
        let tries = found.into_iter().chain(others).flat_map(|service| {
            callers.iter().flat_map(|caller| {
                facts.iter().map(|facts| {
                    let mut request = facts.clone();
                    request.principal = caller.clone();
                    request.resource.clone_from(service);
                    request
                })
            })
        });
        let request = tries.take(TRIES_MAX).find(|request| self.is_one(request))?;
        let mut request = self.simplified(request);
        let [old, new] = self.bundles;
        request.operation = new.mesh.operation(&request).map(str::to_owned);
        Some(Example { old: Answer::of(old, &request), new: Answer::of(new, &request), request })
    }

    /// Whether both bundles differ on a request in this way; and it is one that a user can write down.
    fn is_one(&self, request: &Attributes) -> bool {
        let [old, new] = self.bundles;
        let has_action = |bundle: &&Bundle| {
            bundle.mesh.operation(request).unwrap_or_else(|| request.action.as_str()) == self.action
        };
        let allows = |bundle: &Bundle| Answer::of(bundle, request).decision == Verdict::Allow;
        self.bundles.iter().all(has_action)
            && allows(new) == self.gained
            && allows(old) != self.gained
            && !request.method.is_empty()
            && RequestText::of(request).attributes(&new.mesh).is_ok()
    }

    /// The request without what the difference does not need.
    fn simplified(&self, mut request: Attributes) -> Attributes {
        let ordinary: [&dyn Fn(&mut Attributes); 9] = [
            &|request| request.host.clone_from(&request.resource),
            &|request| request.method = "GET".to_owned(),
            &|request| request.path = "/".to_owned(),
            &|request| request.source_ip = std::net::Ipv4Addr::LOCALHOST.into(),
            &|request| request.tls = request.principal != Principal::Unauthenticated,
            &|request| request.time = DEFAULT_TIME.parse().unwrap_or(request.time),
            &|request| request.principal = Principal::Unauthenticated,
            &|request| {
                request.principal = Principal::Unauthenticated;
                request.tls = false;
            },
            &|request| request.host.make_ascii_lowercase(),
        ];
        for change in ordinary {
            self.try_change(&mut request, change);
        }
        for record in Record::ALL {
            let names: Vec<String> = request.record(record).keys().cloned().collect();
            for name in names {
                self.try_change(&mut request, &|request| drop(fields(request, record).remove(&name)));
                self.shorten(&mut request, &|request| fields(request, record).get_mut(&name));
            }
        }
        self.shorten(&mut request, &|request| Some(&mut request.path));
        request
    }

    fn try_change(&self, request: &mut Attributes, change: &dyn Fn(&mut Attributes)) {
        let mut changed = request.clone();
        change(&mut changed);
        if self.is_one(&changed) {
            *request = changed;
        }
    }

    /// Takes each character out of a text that is not needed there.
    fn shorten(&self, request: &mut Attributes, text: &dyn Fn(&mut Attributes) -> Option<&mut String>) {
        let starts: Vec<usize> = match text(request) {
            Some(text) => text.char_indices().map(|(start, _)| start).collect(),
            None => return,
        };
        // From the end, so that the places of those before stay as they are.
        for start in starts.into_iter().rev().take(LENGTH_MAX) {
            self.try_change(request, &|request| {
                text(request).map(|text| text.remove(start));
            });
        }
    }

    /// The callers that were found: by its id, or as a stranger with these attributes.
    fn callers(&self) -> Vec<Principal> {
        let id =
            self.found.request.principal().map(|uid| uid.id().unescaped().to_owned()).unwrap_or_default();
        let part = |name: &str| self.text(&format!("principal.{name}")).unwrap_or_default();
        let (domain, namespace, account) = (part("trust_domain"), part("namespace"), part("service_account"));
        let [_, new] = self.bundles;
        let (own, any) = (new.mesh.trust_domain.to_string(), STRANGER.to_owned());
        let mut ids = vec![id];
        for domain in [&domain, &own] {
            for namespace in [&namespace, &any] {
                ids.extend(
                    [&account, &any].map(|account| format!("spiffe://{domain}/ns/{namespace}/sa/{account}")),
                );
            }
            // One that is in no namespace.
            ids.push(format!("spiffe://{domain}/{any}"));
        }
        ids.into_iter().filter_map(|id| id.parse().ok()).collect()
    }

    /// What was found but for caller and service; several times if the address is a range.
    fn facts(&self) -> Option<Vec<Attributes>> {
        let mut facts = Attributes {
            action: Action::from_id(self.action).unwrap_or(Action::Http),
            tls: matches!(self.value("context.tls")?, EvalResult::Bool(true)),
            time: Timestamp::from_millisecond(self.millis("context.time")?).ok()?,
            ..Attributes::default()
        };
        if facts.action == Action::Tcp {
            (facts.method, facts.path) = ("GET".to_owned(), "/".to_owned());
            facts.sni = self.text("context.sni");
            facts.destination_port = self.text("context.destination_port")?.parse().ok()?;
        } else {
            let text = |name: &str| self.text(&format!("context.{name}"));
            (facts.method, facts.path) = (text("method")?, text("path")?);
            facts.host = text("host")?.to_ascii_lowercase();
            let declared = self.bundles.iter().flat_map(|bundle| &bundle.schemas.declared);
            for (name, kind) in declared {
                let Some((record, field)) = name.field() else { continue };
                if let Some(value) = self.field(record, field, *kind) {
                    fields(&mut facts, record).insert(field.to_owned(), value);
                }
            }
        }
        let with = |source_ip| Attributes { source_ip, ..facts.clone() };
        Some(self.addresses("context.source_ip").into_iter().map(with).collect())
    }

    /// A field of a record as the text that is read as its value.
    fn field(&self, record: Record, field: &str, kind: Kind) -> Option<String> {
        let read = format!("context.{}[{field:?}]", record.as_str());
        match kind {
            Kind::Time => {
                let time = Timestamp::from_millisecond(self.millis(&read)?).ok()?;
                let millis = time.as_millisecond().rem_euclid(1000);
                Some(format!("{}.{millis:03}Z", time.strftime("%Y-%m-%dT%H:%M:%S")))
            }
            Kind::Duration => match self.value(&format!("{read}.toMilliseconds()"))? {
                EvalResult::Long(millis) => Some(format!("{millis}ms")),
                _ => None,
            },
            Kind::Text | Kind::Bool | Kind::Long | Kind::Decimal | Kind::Ip | Kind::Texts => {
                shown(&self.value(&read)?)
            }
        }
    }

    /// The addresses of a range at whose ends policies may differ; of an address it alone.
    fn addresses(&self, read: &str) -> Vec<IpAddr> {
        let text = self.text(read).unwrap_or_default();
        match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
            (Ok(address), _) => vec![address],
            (_, Ok(range)) => vec![range.network(), range.broadcast()],
            _ => Vec::new(),
        }
    }

    fn millis(&self, read: &str) -> Option<i64> {
        match self.value(&format!("{read}.durationSince(datetime(\"1970-01-01\")).toMilliseconds()"))? {
            EvalResult::Long(millis) => Some(millis),
            _ => None,
        }
    }

    fn text(&self, read: &str) -> Option<String> {
        shown(&self.value(read)?)
    }

    fn value(&self, read: &str) -> Option<EvalResult> {
        let expression: Expression = read.parse().ok()?;
        eval_expression(&self.found.request, &self.found.entities, &expression).ok()
    }
}

/// A value as a request has it: a text.
fn shown(value: &EvalResult) -> Option<String> {
    match value {
        EvalResult::Bool(value) => Some(value.to_string()),
        EvalResult::Long(value) => Some(value.to_string()),
        EvalResult::String(value) => Some(value.clone()),
        // Such as `ip("10.0.0.0/8")`.
        EvalResult::ExtensionValue(text) => text.split('"').nth(1).map(str::to_owned),
        EvalResult::Set(members) => {
            let members: Option<Vec<String>> = members.iter().map(shown).collect();
            members.map(|members| members.join(","))
        }
        EvalResult::EntityUid(_) | EvalResult::Record(_) => None,
    }
}

const fn fields(request: &mut Attributes, record: Record) -> &mut std::collections::BTreeMap<String, String> {
    match record {
        Record::Headers => &mut request.headers,
        Record::Query => &mut request.query,
        Record::Cookies => &mut request.cookies,
        Record::Claims => &mut request.claims,
    }
}
