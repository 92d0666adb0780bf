//! From Attributes to Cedar's words.

use std::borrow::Cow;
use std::sync::LazyLock;

use cedar_policy::{Context, Entities, Entity, EntityTypeName, EntityUid, Request, RestrictedExpression};
use cedar_policy_core::ast;
use jiff::Timestamp;
use model::{Action, Attributes, Name, Principal, Record};

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
pub(super) fn build(attributes: &Attributes, schemas: &Schemas) -> Result<Request, RequestError> {
    let context = Context::from_pairs(context(attributes, schemas)?)
        .map_err(|error| RequestError::Context(Box::new(error)))?;
    let principal = uid(Kind::Workload, attributes.principal.as_str())?;
    let action = uid(Kind::Action, attributes.action.as_str())?;
    let resource = uid(Kind::Service, &attributes.resource)?;
    // What is built here fits the schema by construction; builds for tests check that it does.
    let schema = cfg!(debug_assertions).then_some(&schemas.request);
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
        .add_entities([caller], Some(&bundle.schemas.request))
        .map(Cow::Owned)
        .map_err(|error| RequestError::Entity(Box::new(error)))
}

fn entity(principal: &Principal, bundle: &Bundle) -> Result<Entity, RequestError> {
    Entity::from_json_value(workload(principal), Some(&bundle.schemas.request))
        .map_err(|error| RequestError::Entity(Box::new(error)))
}

fn context(
    attributes: &Attributes,
    schemas: &Schemas,
) -> Result<Vec<(String, RestrictedExpression)>, RequestError> {
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let mut pairs = vec![
        ("source_ip".to_owned(), extension(Function::Ip, attributes.source_ip.to_string())?),
        ("tls".to_owned(), RestrictedExpression::new_bool(attributes.tls)),
        ("time".to_owned(), extension(Function::Datetime, cedar_time(attributes.time))?),
    ];
    if attributes.action != Action::Tcp {
        pairs.extend([
            ("method".to_owned(), text(&attributes.method)),
            ("path".to_owned(), text(&attributes.path)),
            ("host".to_owned(), text(&attributes.host)),
        ]);
        pairs.extend(
            Record::ALL.map(|record| (record.as_str().to_owned(), declared(schemas, attributes, record))),
        );
        pairs.extend(attributes.operation.as_deref().map(|name| ("operation".to_owned(), text(name))));
    }
    Ok(pairs)
}

/// The declared fields of a record that were sent.
fn declared(schemas: &Schemas, attributes: &Attributes, record: Record) -> RestrictedExpression {
    let sent = attributes.record(record);
    let fields = schemas.declared.iter().filter_map(Name::field).filter(|(of, _)| *of == record);
    let fields = fields.filter_map(|(_, field)| {
        let value = RestrictedExpression::new_string(sent.get(field)?.clone());
        Some((field.to_owned(), value))
    });
    // Names are unique in a set, so there is no duplicate to refuse.
    RestrictedExpression::new_record(fields)
        .unwrap_or_else(|_duplicate| RestrictedExpression::new_string(String::new()))
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

/// Cedar's functions that make values of other types from text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Ip,
    Datetime,
}

/// The names of [`Function`]s, in their order. `RestrictedExpression::new_ip` has the name parsed each time, which
/// costs more than all the rest of a check.
static FUNCTIONS: LazyLock<[Option<ast::Name>; 2]> =
    LazyLock::new(|| ["ip", "datetime"].map(|name| name.parse().ok()));

fn extension(function: Function, text: String) -> Result<RestrictedExpression, RequestError> {
    let name = FUNCTIONS.get(function as usize).and_then(Option::as_ref);
    let name = name.ok_or_else(|| RequestError::Id(text.clone()))?.clone();
    Ok(ast::RestrictedExpr::call_extension_fn(name, [ast::RestrictedExpr::val(text)]).into())
}
