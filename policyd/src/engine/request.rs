//! From Attributes to Cedar's words.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::LazyLock;

use cedar_policy::{Context, Entities, Entity, EntityTypeName, EntityUid, Request, RestrictedExpression};
use cedar_policy_core::ast;
use jiff::Timestamp;
use model::{Action, Attributes, Fact, Principal, Record};

use crate::bundle::entities::workload;
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
pub(super) fn build(attributes: &Attributes, bundle: &Bundle) -> Result<Request, RequestError> {
    let schemas = &bundle.schemas;
    let operation = bundle.mesh.operation(attributes);
    let context = Context::from_pairs(context(attributes, operation, schemas)?)
        .map_err(|error| RequestError::Context(Box::new(error)))?;
    let principal = uid(Kind::Workload, attributes.principal.as_str())?;
    let action = uid(Kind::Action, operation.unwrap_or_else(|| attributes.action.as_str()))?;
    let resource = uid(Kind::Service, &attributes.resource)?;
    // What is built here fits the schema by construction; builds for tests check that it does.
    let schema = cfg!(debug_assertions).then_some(&schemas.entities);
    Request::new(principal, action, resource, context, schema)
        .map_err(|error| RequestError::Schema(Box::new(error)))
}

/// The bundle's entities and the caller's.
///
/// A caller that the bundle doesn't know, such as a new service account, is added for this request.
pub(super) fn entities<'b>(
    attributes: &Attributes,
    bundle: &'b Bundle,
) -> Result<Cow<'b, Entities>, RequestError> {
    let known = uid(Kind::Workload, attributes.principal.as_str())?;
    if bundle.entities.get(&known).is_some() {
        return Ok(Cow::Borrowed(&bundle.entities));
    }
    let caller = entity(&attributes.principal, bundle)?;
    bundle
        .entities
        .clone()
        .add_entities([caller], Some(&bundle.schemas.entities))
        .map(Cow::Owned)
        .map_err(|error| RequestError::Entity(Box::new(error)))
}

fn entity(principal: &Principal, bundle: &Bundle) -> Result<Entity, RequestError> {
    Entity::from_json_value(workload(principal), Some(&bundle.schemas.entities))
        .map_err(|error| RequestError::Entity(Box::new(error)))
}

fn context(
    attributes: &Attributes,
    operation: Option<&str>,
    schemas: &Schemas,
) -> Result<Vec<(String, RestrictedExpression)>, RequestError> {
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let mut pairs = vec![
        ("source_ip".to_owned(), extension(Function::Ip, attributes.source_ip.to_string())?.into()),
        ("tls".to_owned(), RestrictedExpression::new_bool(attributes.tls)),
        ("time".to_owned(), extension(Function::Datetime, cedar_time(attributes.time))?.into()),
    ];
    if attributes.action != Action::Tcp {
        pairs.extend([
            ("method".to_owned(), text(&attributes.method)),
            ("path".to_owned(), text(&attributes.path)),
            ("host".to_owned(), text(&attributes.host)),
        ]);
        for record in Record::ALL {
            pairs.push((record.as_str().to_owned(), declared(schemas, attributes, record)?));
        }
        pairs.extend(operation.map(|name| ("operation".to_owned(), text(name))));
    }
    Ok(pairs)
}

/// The declared fields of a record that were sent. One whose text can't be read as its type counts as not sent.
fn declared(
    schemas: &Schemas,
    attributes: &Attributes,
    record: Record,
) -> Result<RestrictedExpression, RequestError> {
    let sent = attributes.record(record);
    let declared = schemas.declared.iter().filter_map(|(name, kind)| Some((name.field()?, *kind)));
    let mut fields = Vec::new();
    for ((_, field), kind) in declared.filter(|((of, _), _)| *of == record) {
        if let Some(fact) = sent.get(field).and_then(|text| kind.read(text)) {
            fields.push((field.to_owned(), value(fact)?));
        }
    }
    RestrictedExpression::new_record(fields).map_err(|error| RequestError::Context(Box::new(error)))
}

/// A fact in Cedar's words.
fn value(fact: Fact<'_>) -> Result<RestrictedExpression, RequestError> {
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    Ok(match fact {
        Fact::Bool(value) => RestrictedExpression::new_bool(value),
        Fact::Long(value) => RestrictedExpression::new_long(value),
        Fact::Text(value) => text(value),
        Fact::Ip(address) => extension(Function::Ip, cedar_ip(address))?.into(),
        Fact::Range(range) => {
            extension(Function::Ip, format!("{}/{}", cedar_ip(range.addr()), range.prefix_len()))?.into()
        }
        Fact::Time(ms) => {
            let epoch = extension(Function::Datetime, "1970-01-01".to_owned())?;
            let offset = extension(Function::Duration, format!("{ms}ms"))?;
            call(Function::Offset, vec![epoch, offset])?.into()
        }
        Fact::Duration(_) => extension(Function::Duration, fact.to_string())?.into(),
        Fact::Decimal(_) => extension(Function::Decimal, fact.to_string())?.into(),
        Fact::Texts(texts) => {
            let mut members = Vec::new();
            texts.all(|member| {
                members.push(text(member));
                true
            });
            RestrictedExpression::new_set(members)
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

fn extension(function: Function, text: String) -> Result<ast::RestrictedExpr, RequestError> {
    call(function, vec![ast::RestrictedExpr::val(text)])
}

fn call(
    function: Function,
    arguments: Vec<ast::RestrictedExpr>,
) -> Result<ast::RestrictedExpr, RequestError> {
    let name = FUNCTIONS.get(function as usize).and_then(Option::as_ref);
    let name = name.ok_or_else(|| RequestError::Id(format!("{function:?}")))?.clone();
    Ok(ast::RestrictedExpr::call_extension_fn(name, arguments))
}
