//! Reads a handler's configuration key by key, and collects every mistake on the way.

use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Map, Value};

use crate::contract::ConfigError;

/// One mapping of a configuration.
///
/// Every getter takes note of its key; [`ConfigReader::finish`] then knows which keys nobody reads. A getter
/// answers nothing both when its key is absent and when its value is wrong: the mistake is on record then.
#[derive(Debug)]
pub struct ConfigReader<'a> {
    pointer: String,
    given: Option<&'a Map<String, Value>>,
    known: Vec<&'static str>,
    errors: Vec<ConfigError>,
}

impl<'a> ConfigReader<'a> {
    /// Starts to read a whole configuration. None at all (null) is as good as an empty one.
    pub fn new(config: &'a Value) -> Self {
        Self::at(String::new(), config)
    }

    fn at(pointer: String, config: &'a Value) -> Self {
        let mut reader = Self { pointer, given: config.as_object(), known: Vec::new(), errors: Vec::new() };
        if reader.given.is_none() && !config.is_null() {
            reader.fail(reader.pointer.clone(), "this must be a mapping of keys to values", None);
        }
        reader
    }

    /// Whether `key` is given, rightly or wrongly.
    pub fn has(&self, key: &str) -> bool {
        self.given.is_some_and(|given| given.contains_key(key))
    }

    /// Makes it a mistake to leave out `key`.
    pub fn require(&mut self, key: &'static str) {
        if !self.has(key) {
            self.fail(self.pointer.clone(), format!("the key `{key}` is missing"), None);
        }
    }

    /// A text of at least one byte and at most `length_max` bytes.
    pub fn text(&mut self, key: &'static str, length_max: usize) -> Option<&'a str> {
        let value = self.value(key)?;
        self.check_text(self.pointer_to(key), value, length_max)
    }

    /// A time span such as `500ms`, `1s` or `1h 30m`.
    pub fn duration(&mut self, key: &'static str, range: &RangeInclusive<Duration>) -> Option<Duration> {
        let value = self.value(key)?;
        let parsed = value.as_str().and_then(|text| text.parse::<SignedDuration>().ok());
        let duration = parsed.and_then(|parsed| Duration::try_from(parsed).ok());
        if duration.is_some_and(|duration| range.contains(&duration)) {
            return duration;
        }
        let shown = |duration: &Duration| SignedDuration::try_from(*duration).unwrap_or(SignedDuration::MAX);
        let (low, high) = (shown(range.start()), shown(range.end()));
        self.reject(
            key,
            format!("this must be a time span from {low:#} to {high:#}"),
            Some("for example `5s`".into()),
        );
        None
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let value = self.value(key)?;
        let found = value.as_str().and_then(|text| choices.iter().find(|(word, _)| *word == text));
        if found.is_none() {
            let words: Vec<String> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
            let near =
                value.as_str().and_then(|text| did_you_mean(text, choices.iter().map(|(word, _)| *word)));
            let help = near.map(|word| format!("did you mean `{word}`?"));
            self.reject(key, format!("this must be {}", words.join(" or ")), help);
        }
        found.map(|(_, choice)| *choice)
    }

    /// A list of at most `count_max` values, each with the pointer to it.
    pub fn items(&mut self, key: &'static str, count_max: usize) -> Vec<(String, &'a Value)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        match value.as_array() {
            Some(items) if items.len() <= count_max => {
                let pointer = self.pointer_to(key);
                items.iter().enumerate().map(|(index, item)| (format!("{pointer}/{index}"), item)).collect()
            }
            _ => {
                self.reject(key, format!("this must be a list of at most {count_max} values"), None);
                Vec::new()
            }
        }
    }

    /// A list of at most `count_max` texts of at most `length_max` bytes, each with the pointer to it.
    pub fn texts(
        &mut self,
        key: &'static str,
        count_max: usize,
        length_max: usize,
    ) -> Vec<(String, &'a str)> {
        let items = self.items(key, count_max);
        items
            .into_iter()
            .filter_map(|(pointer, item)| {
                Some((pointer.clone(), self.check_text(pointer, item, length_max)?))
            })
            .collect()
    }

    /// A list of at most `count_max` mappings, each to be finished with [`ConfigReader::absorb`].
    pub fn mappings(&mut self, key: &'static str, count_max: usize) -> Vec<Self> {
        self.items(key, count_max).into_iter().map(|(pointer, item)| Self::at(pointer, item)).collect()
    }

    /// Finishes a mapping within this one, and takes over its mistakes.
    pub fn absorb(&mut self, inner: Self) {
        self.errors.extend(inner.finish().err().unwrap_or_default());
    }

    /// Records that the value of `key` is wrong.
    pub fn reject(&mut self, key: &str, message: impl Into<String>, help: Option<String>) {
        self.fail(self.pointer_to(key), message, help);
    }

    /// Records that something is wrong at `pointer`.
    pub fn fail(&mut self, pointer: String, message: impl Into<String>, help: Option<String>) {
        self.errors.push(ConfigError { pointer, message: message.into(), help });
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// All mistakes on record, and one for each key that nobody read.
    pub fn finish(mut self) -> Result<(), Vec<ConfigError>> {
        for key in self.given.into_iter().flat_map(Map::keys) {
            if !self.known.contains(&key.as_str()) {
                let help = did_you_mean(key, self.known.iter().copied())
                    .map(|near| format!("did you mean `{near}`?"));
                self.reject(key, format!("unknown key `{key}`"), help);
            }
        }
        if self.errors.is_empty() { Ok(()) } else { Err(self.errors) }
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.given?.get(key)
    }

    fn check_text(&mut self, pointer: String, value: &'a Value, length_max: usize) -> Option<&'a str> {
        let text = value.as_str().filter(|text| (1..=length_max).contains(&text.len()));
        if text.is_none() {
            self.fail(pointer, format!("this must be a text of 1 to {length_max} bytes"), None);
        }
        text
    }

    fn pointer_to(&self, key: &str) -> String {
        // The two escapes of RFC 6901.
        format!("{}/{}", self.pointer, key.replace('~', "~0").replace('/', "~1"))
    }
}

/// The candidate that `word` is most likely a misspelling of, if one is near enough.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, candidate)| candidate)
}

/// From 0, nothing in common, to 1, equal.
const LIKENESS_MIN: f64 = 0.8;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: &Value) -> Vec<(String, String)> {
        let mut reader = ConfigReader::new(config);
        reader.require("name");
        reader.text("name", 5);
        reader.choice("mode", &[("deny", 1), ("allow", 2)]);
        reader.duration("refresh", &(Duration::from_millis(1)..=Duration::from_secs(3600)));
        reader.texts("entries", 3, 5);
        for mut inner in reader.mappings("metrics", 1) {
            inner.text("help", 5);
            reader.absorb(inner);
        }
        let errors = reader.finish().err().unwrap_or_default();
        errors.into_iter().map(|error| (error.pointer, error.message)).collect()
    }

    #[test]
    fn good_configurations_have_no_mistakes() {
        for config in [
            json!({"name": "x"}),
            json!({"name": "x", "mode": "deny", "refresh": "1m 30s", "entries": ["a"], "metrics": [{"help": "h"}]}),
        ] {
            assert_eq!(read(&config), []);
        }
    }

    #[test]
    fn every_mistake_is_found_at_once_with_its_pointer() {
        let config = json!({
            "name": "too long", "mode": "dney", "refresh": "2h", "entries": ["a", 1, ""], "metrics": [{"hlep": 1}], "a/b~c": 0,
        });
        let pointers: Vec<String> = read(&config).into_iter().map(|(pointer, _)| pointer).collect();
        assert_eq!(
            pointers,
            ["/name", "/mode", "/refresh", "/entries/1", "/entries/2", "/metrics/0/hlep", "/a~1b~0c"]
        );
        assert_eq!(read(&json!(null)), [(String::new(), "the key `name` is missing".to_owned())]);
        assert_eq!(read(&json!([])).len(), 2);
    }

    #[test]
    fn time_spans_have_limits() {
        for (refresh, good) in
            [("1ms", true), ("0s", false), ("1h", true), ("61m", false), ("-1s", false), ("1", false)]
        {
            assert_eq!(read(&json!({"name": "x", "refresh": refresh})).is_empty(), good, "{refresh}");
        }
        assert_eq!(
            read(&json!({"name": "x", "refresh": 1})),
            [("/refresh".to_owned(), "this must be a time span from 1ms to 1h".to_owned())]
        );
    }
}
