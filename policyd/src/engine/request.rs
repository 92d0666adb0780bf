//! From Attributes to Cedar's words.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use cedar_policy::{Context, Entities, EntityTypeName, EntityUid, Request};
use cedar_policy_core::ast::{self, PartialValueToValueError, Value};
use cedar_policy_core::evaluator::EvaluationError;
use cedar_policy_core::extensions::Extensions;
use jiff::Timestamp;
use model::{Action, Attributes, Fact, Record};
use smol_str::SmolStr;

use crate::bundle::{Bundle, Schemas};

/// Why attributes make no Cedar request. None of these is the caller's choice of policy: all mean "not decided".
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Cedar refuses an id.
    #[error("`{0}` can't be the id of a Cedar entity")]
    Id(String),
    /// Cedar refuses the context.
    #[error("the request's attributes make no Cedar context")]
    Context(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The schema refuses the request.
    #[error("the request does not fit the schema")]
    Schema(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The caller's entity is refused.
    #[error("the caller's entity does not fit the schema")]
    Entity(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The Cedar request. Of headers, query parameters, cookies and claims only declared ones
/// enter it: no policy can read others.
///
/// The operation is the one that this bundle gives to method and path: a proxy, or a log, may know another bundle's.
///
/// It is made of values, not of expressions that Cedar would evaluate first: that took half of a check.
pub(crate) fn build(attributes: &Attributes, bundle: &Bundle) -> Result<Request, RequestError> {
    let schemas = &bundle.schemas;
    let operation = bundle.mesh.operation(attributes);
    let context = ast::Context::Value(Arc::new(context(attributes, operation, schemas)?));
    let principal = uid(Kind::Workload, attributes.principal.as_str())?;
    let action = uid(Kind::Action, operation.unwrap_or_else(|| attributes.action.as_str()))?;
    let resource = uid(Kind::Service, &attributes.resource)?;
    // What is built here fits the schema by construction; builds for tests check that it does.
    if cfg!(debug_assertions) {
        let context = Context::from(context.clone());
        let schema = Some(&schemas.entities);
        Request::new(principal.clone(), action.clone(), resource.clone(), context, schema)
            .map_err(|error| RequestError::Schema(Box::new(error)))?;
    }
    let known = |uid: EntityUid| ast::EntityUIDEntry::known(uid.into(), None);
    let request =
        ast::Request::new_unchecked(known(principal), known(action), known(resource), Some(context));
    Ok(request.into())
}

/// The bundle's entities and the caller's.
///
/// A caller that the bundle doesn't know, such as a new service account, is added for this request, to those entities
/// alone that it can matter for: see [`Strangers`](super::strangers::Strangers).
pub(super) fn entities<'b>(
    attributes: &Attributes,
    request: &Request,
    bundle: &'b Bundle,
) -> Result<Cow<'b, Entities>, RequestError> {
    let known = request.principal().is_some_and(|uid| bundle.entities.get(uid).is_some());
    if known {
        return Ok(Cow::Borrowed(&bundle.entities));
    }
    bundle.strangers.entities(&attributes.principal, request, &bundle.entities).map(Cow::Owned)
}

fn context(
    attributes: &Attributes,
    operation: Option<&str>,
    schemas: &Schemas,
) -> Result<BTreeMap<SmolStr, Value>, RequestError> {
    let text = |text: &str| Value::from(text);
    let mut pairs = BTreeMap::from([
        (SmolStr::new_static("source_ip"), extension(Function::Ip, &attributes.source_ip.to_string())?),
        (SmolStr::new_static("tls"), attributes.tls.into()),
        (SmolStr::new_static("time"), extension(Function::Datetime, &cedar_time(attributes.time))?),
    ]);
    if attributes.action == Action::Tcp {
        let port = i64::from(attributes.destination_port);
        pairs.insert(SmolStr::new_static("destination_port"), port.into());
        pairs.extend(attributes.sni.as_deref().map(|name| (SmolStr::new_static("sni"), text(name))));
    } else {
        pairs.extend([
            (SmolStr::new_static("method"), text(&attributes.method)),
            (SmolStr::new_static("path"), text(&attributes.path)),
            (SmolStr::new_static("host"), text(&attributes.host)),
        ]);
        for record in Record::ALL {
            pairs.insert(SmolStr::new_static(record.as_str()), declared(schemas, attributes, record)?);
        }
        pairs.extend(operation.map(|name| (SmolStr::new_static("operation"), text(name))));
    }
    Ok(pairs)
}

/// The declared fields of a record that were sent. One whose text can't be read as its type counts as not sent.
fn declared(schemas: &Schemas, attributes: &Attributes, record: Record) -> Result<Value, RequestError> {
    let sent = attributes.record(record);
    if sent.is_empty() {
        return Ok(EMPTY.clone());
    }
    let declared = schemas.declared.iter().filter_map(|(name, kind)| Some((name.field()?, *kind)));
    let mut fields = Vec::new();
    for ((_, field), kind) in declared.filter(|((of, _), _)| *of == record) {
        if let Some(fact) = sent.get(field).and_then(|text| kind.read(text)) {
            fields.push((field, value(fact)?));
        }
    }
    Ok(Value::record(fields, None))
}

/// The record without fields.
static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::empty_record(None));

/// A fact in Cedar's words.
fn value(fact: Fact<'_>) -> Result<Value, RequestError> {
    Ok(match fact {
        Fact::Bool(value) => value.into(),
        Fact::Long(value) => value.into(),
        Fact::Text(value) => value.into(),
        Fact::Ip(address) => extension(Function::Ip, &cedar_ip(address))?,
        Fact::Range(range) => {
            extension(Function::Ip, &format!("{}/{}", cedar_ip(range.addr()), range.prefix_len()))?
        }
        Fact::Time(ms) => {
            let epoch = extension(Function::Datetime, "1970-01-01")?;
            let offset = extension(Function::Duration, &format!("{ms}ms"))?;
            call(Function::Offset, &[epoch, offset])?
        }
        Fact::Duration(_) => extension(Function::Duration, &fact.to_string())?,
        Fact::Decimal(_) => extension(Function::Decimal, &fact.to_string())?,
        Fact::Texts(texts) => {
            let mut members = Vec::new();
            texts.all(|member| {
                members.push(Value::from(member));
                true
            });
            Value::set(members, None)
        }
    })
}

/// Cedar reads no IPv4 address within an IPv6 one, which is how some are written.
fn cedar_ip(address: IpAddr) -> String {
    match address {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => {
            address.segments().map(|segment| format!("{segment:x}")).join(":")
        }
        address => address.to_string(),
    }
}

/// Cedar reads times with exactly three digits of milliseconds.
fn cedar_time(time: Timestamp) -> String {
    let millis = time.as_millisecond().rem_euclid(1000);
    format!("{}.{millis:03}Z", time.strftime("%Y-%m-%dT%H:%M:%S"))
}

/// The types of entities that stand in requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Workload,
    Action,
    Service,
}

/// The names of [`Kind`]s, in their order: Cedar parses a name each time it is asked to make one.
static NAMES: LazyLock<[Option<EntityTypeName>; 3]> =
    LazyLock::new(|| ["Workload", "Action", "Service"].map(|name| name.parse().ok()));

pub(crate) fn uid(kind: Kind, id: &str) -> Result<EntityUid, RequestError> {
    let name =
        NAMES.get(kind as usize).and_then(Option::as_ref).ok_or_else(|| RequestError::Id(id.to_owned()))?;
    Ok(EntityUid::from_type_name_and_id(name.clone(), cedar_policy::EntityId::new(id)))
}

/// Cedar's functions that make values of other types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Ip,
    Datetime,
    Duration,
    Decimal,
    Offset,
}

/// The names of [`Function`]s, in their order. `RestrictedExpression::new_ip` has the name parsed each time, which
/// costs more than all the rest of a check.
static FUNCTIONS: LazyLock<[Option<ast::Name>; 5]> =
    LazyLock::new(|| ["ip", "datetime", "duration", "decimal", "offset"].map(|name| name.parse().ok()));

fn extension(function: Function, text: &str) -> Result<Value, RequestError> {
    call(function, &[Value::from(text)])
}

fn call(function: Function, arguments: &[Value]) -> Result<Value, RequestError> {
    let name = FUNCTIONS.get(function as usize).and_then(Option::as_ref);
    let name = name.ok_or_else(|| RequestError::Id(format!("{function:?}")))?;
    let refused = |error: EvaluationError| RequestError::Context(Box::new(error));
    let function = Extensions::all_available().func(name).map_err(|error| refused(error.into()))?;
    let value = function.call(arguments).map_err(refused)?;
    value.try_into().map_err(|error: PartialValueToValueError| RequestError::Context(Box::new(error)))
}
