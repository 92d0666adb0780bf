//! Questions of Envoy's filter `ext_authz`, and answers to it.

use std::net::IpAddr;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use serde_json::{Map, Number, Value};

use super::{ConvertError, parsed, required};
use crate::envoy::auth::attribute_context::{HttpRequest, Peer};
use crate::envoy::auth::check_response::HttpResponse;
use crate::envoy::auth::{CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse};
use crate::envoy::core::address::Address::SocketAddress;
use crate::envoy::core::header_value_option::HeaderAppendAction;
use crate::envoy::core::{HeaderValue, HeaderValueOption};
use crate::envoy::rpc::Status;
use crate::envoy::status::HttpStatus;
use crate::ext_authz::{Answer, Asked, SERVICE, TOKENS};

/// The deepest content of a token.
const DEPTH_MAX: usize = 32;
/// The code of gRPC for a denial.
const PERMISSION_DENIED: i32 = 7;
/// The largest whole number that a number of Envoy's holds exactly.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

impl TryFrom<CheckRequest> for Asked {
    type Error = ConvertError;
    fn try_from(request: CheckRequest) -> Result<Self, ConvertError> {
        let mut attributes = required(request.attributes, "attributes")?;
        let http = required(attributes.request.and_then(|request| request.http), "attributes.request.http")?;
        let source = attributes.source.unwrap_or_default();
        let destination = attributes.destination.unwrap_or_default();
        let mut metadata = attributes.metadata_context.unwrap_or_default().filter_metadata;
        let tokens = metadata.remove(TOKENS).unwrap_or_default().fields.into_iter();
        // Other things than tokens may stand there, such as headers of tokens.
        let tokens = tokens.filter_map(|(name, value)| match value.kind {
            Some(Kind::StructValue(token)) => Some(object(token, DEPTH_MAX).map(|token| (name, token))),
            _ => None,
        });
        let is_joined = http.header_map.is_none();
        let (method, target, authority) = (http.method.clone(), http.path.clone(), http.host.clone());
        Ok(Self {
            source_ip: address(&source)?,
            principal: source.principal,
            destination: destination.principal,
            service: attributes.context_extensions.remove(SERVICE),
            method,
            target,
            authority,
            fields: fields(http),
            is_joined,
            tokens: tokens.collect::<Result<_, _>>()?,
        })
    }
}

fn address(peer: &Peer) -> Result<Option<IpAddr>, ConvertError> {
    let address = peer.address.as_ref().and_then(|address| address.address.as_ref());
    let Some(SocketAddress(address)) = address else { return Ok(None) };
    let ip: IpAddr = parsed(&address.address, "attributes.source.address")?;
    Ok(Some(ip.to_canonical()))
}

fn fields(http: HttpRequest) -> Vec<(String, bytes::Bytes)> {
    let raw = http.header_map.unwrap_or_default().headers.into_iter();
    let raw = raw.map(|field| {
        let value = if field.raw_value.is_empty() { field.value.into() } else { field.raw_value };
        (field.key, value)
    });
    let joined = http.headers.into_iter().map(|(name, value)| (name, value.into()));
    let lower = |(name, value): (String, _)| (name.to_ascii_lowercase(), value);
    raw.chain(joined).filter(|(name, _)| !name.starts_with(':')).map(lower).collect()
}

fn object(object: Struct, depth: usize) -> Result<Map<String, Value>, ConvertError> {
    let too_deep = || ConvertError::invalid("metadata_context", "a token's content is too deep");
    let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
    object.fields.into_iter().map(|(name, field)| Ok((name, value(field, depth)?))).collect()
}

fn value(value: prost_types::Value, depth: usize) -> Result<Value, ConvertError> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(ConvertError::invalid("metadata_context", "a token's content is too deep"));
    };
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::NumberValue(value)) => number(value),
        Some(Kind::StructValue(inner)) => object(inner, depth)?.into(),
        Some(Kind::ListValue(ListValue { values })) => {
            let values: Result<Vec<Value>, _> =
                values.into_iter().map(|one| self::value(one, depth)).collect();
            values?.into()
        }
    })
}

/// Envoy has only one kind of numbers; what was whole is whole again, so that it is the same text.
#[expect(clippy::cast_possible_truncation, reason = "a whole number that is small enough")]
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() <= EXACT_MAX {
        return (value as i64).into();
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

impl From<Answer> for CheckResponse {
    fn from(answer: Answer) -> Self {
        let Answer { status, headers, body, removed, told } = answer;
        let (code, response) = if status == Answer::OK {
            (0, HttpResponse::OkResponse(OkHttpResponse { headers: Vec::new(), headers_to_remove: removed }))
        } else {
            let headers = headers.into_iter().map(header).collect();
            let status = Some(HttpStatus { code: status.into() });
            (PERMISSION_DENIED, HttpResponse::DeniedResponse(DeniedHttpResponse { status, headers, body }))
        };
        Self {
            status: Some(Status { code, message: String::new() }),
            http_response: Some(response),
            dynamic_metadata: Some(to_struct(told)),
        }
    }
}

fn header((key, value): (String, String)) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key, value, raw_value: bytes::Bytes::new() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
    }
}

fn to_struct(object: Map<String, Value>) -> Struct {
    Struct { fields: object.into_iter().map(|(name, value)| (name, to_value(value))).collect() }
}

fn to_value(value: Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(to_value).collect() })
        }
        Value::Object(object) => Kind::StructValue(to_struct(object)),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests;
