//! Instances as lines of JSON, written in the background.

use async_trait::async_trait;
use daemon::LineWriter;
use daemon::line_writer::Writing;
use jiff::Timestamp;
use model::Value;

use crate::contract::{Instance, ReportHandler};

/// Writes each instance as a line.
#[derive(Debug)]
pub(crate) struct Lines(LineWriter);

impl Lines {
    /// Starts to write.
    pub(crate) fn start((writer, writing): (LineWriter, Writing)) -> Self {
        tokio::spawn(writing.run());
        Self(writer)
    }
}

#[async_trait]
impl ReportHandler for Lines {
    fn report(&self, instance: &Instance) -> bool {
        self.0.write(line(instance))
    }

    fn dropped(&self) -> u64 {
        self.0.dropped()
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

fn line(instance: &Instance) -> Vec<u8> {
    let mut object = serde_json::Map::new();
    object.insert("instance".to_owned(), instance.name.as_str().into());
    for (name, value) in &instance.fields {
        object.insert(name.clone(), json(value));
    }
    let mut line = serde_json::Value::Object(object).to_string().into_bytes();
    line.push(b'\n');
    line
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Long(value) => (*value).into(),
        Value::Text(value) => value.as_str().into(),
        Value::Ip(_) | Value::Range(_) | Value::Duration(_) | Value::Decimal(_) | Value::Texts(_) => {
            value.to_string().into()
        }
        Value::Time(value) => match Timestamp::from_millisecond(*value) {
            Ok(time) => time.to_string().into(),
            Err(_) => (*value).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_the_types() {
        let fields = [
            ("a", Value::Bool(true)),
            ("b", Value::Long(-1)),
            ("c", Value::Text("x\n\"y".to_owned())),
            ("d", Value::Ip("::1".parse().unwrap())),
            ("e", Value::Time(1000)),
            ("f", Value::Time(i64::MAX)),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let text = String::from_utf8(line(&Instance { name: "i".to_owned(), fields })).unwrap();
        assert_eq!(
            text,
            "{\"instance\":\"i\",\"a\":true,\"b\":-1,\"c\":\"x\\n\\\"y\",\"d\":\"::1\",\
             \"e\":\"1970-01-01T00:00:01Z\",\"f\":9223372036854775807}\n"
        );
    }
}
