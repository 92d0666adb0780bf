//! JSON Schemas (draft 2020-12) of a bundle's YAML files, so that editors complete and check them.
//!
//! They are made from the types that the files are read into, so that they can't say anything else. A schema knows the
//! shape of a file: that a service is one of the mesh, or that a condition is Cedar, is for `tidegate policy check` to
//! tell.

use std::fmt;

use schemars::transform::transform_subschemas;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::Error;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

use crate::author::unit_test;
use crate::bundle::{limits, links, mesh, rules};

/// A kind of YAML file within a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YamlFile {
    /// `mesh.yaml`
    Mesh,
    /// `limits.yaml`
    Limits,
    /// `links.yaml`
    Links,
    /// `adapters.yaml`
    Adapters,
    /// `tests/*.yaml`
    Tests,
}

impl YamlFile {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Mesh, Self::Links, Self::Limits, Self::Adapters, Self::Tests];

    /// What its schema is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Limits => "limits",
            Self::Links => "links",
            Self::Adapters => "adapters",
            Self::Tests => "tests",
        }
    }

    /// The files that it is for, as seen from the bundle's folder.
    pub const fn files(self) -> &'static str {
        match self {
            Self::Mesh => mesh::FILE,
            Self::Limits => limits::FILE,
            Self::Links => links::FILE,
            Self::Adapters => rules::FILE,
            Self::Tests => "tests/*.yaml",
        }
    }

    /// Its schema.
    pub fn schema(self) -> Schema {
        fn of<T: JsonSchema>() -> Schema {
            let mut schema = SchemaGenerator::default().into_root_schema_for::<T>();
            without_null_defaults(&mut schema);
            schema
        }
        match self {
            Self::Mesh => of::<mesh::RawMesh>(),
            Self::Limits => of::<limits::RawLimits>(),
            Self::Links => of::<links::RawLinks>(),
            Self::Adapters => of::<rules::RawAdapters>(),
            Self::Tests => of::<unit_test::RawFile>(),
        }
    }
}

/// That a key is left out by default is no value for an editor to offer.
fn without_null_defaults(schema: &mut Schema) {
    if schema.get("default").is_some_and(serde_json::Value::is_null) {
        schema.remove("default");
    }
    transform_subschemas(&mut without_null_defaults, schema);
}

/// The schema of an enum without fields: one of the words that it is read from.
pub(crate) fn one_of<T: DeserializeOwned>(_generator: &mut SchemaGenerator) -> Schema {
    let mut words: &[&str] = &[];
    // Whatever `T` says to the word it is given, it has told which ones it knows.
    drop(T::deserialize(Words(&mut words)));
    json_schema!({ "type": "string", "enum": words })
}

/// A deserializer that holds no value: it takes down the words that an enum asks for.
struct Words<'w>(&'w mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Words<'_> {
    type Error = Error;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = variants;
        Err(Error::custom("there is no value"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("this is no enum"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl fmt::Display for YamlFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
