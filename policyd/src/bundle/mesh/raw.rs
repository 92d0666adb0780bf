//! Services of raw connections.

use api::config::Protocol;
use serde_saphyr::Spanned;

use super::Reader;
use super::written::{Key, RawService};

impl Reader<'_> {
    /// A service of raw connections has nothing that is only found in requests.
    pub(super) fn raw_service(&mut self, name: &Spanned<String>, raw: &RawService) {
        if raw.protocol != Protocol::Tcp {
            return;
        }
        let help = "leave it out, or say that its applications speak `http1` or `http2`";
        let without = |what: &str| format!("`{}` has `protocol: tcp`, and so no {what}", name.value);
        if let Some(Key(operation)) = raw.operations.keys().next() {
            self.wrong(operation, without("operations"), help);
        }
        if let Some(document) = &raw.openapi {
            self.wrong(document, without("operations"), help);
        }
        if let Some(issuer) = raw.jwt.first() {
            self.wrong(issuer, without("tokens"), help);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::bundle::{Files, mesh};

    /// What is wrong with `db`, which is written so.
    fn told(db: &str) -> Vec<String> {
        let text = format!(
            "trust_domain: a.example\njwt: {{a: {{issuer: a, audiences: [b], jwks: {{url: 'https://a.example/'}}}}}}\nservices:\n  db: {db}\n  web: {{jwt: [a]}}\n"
        );
        let files = Files {
            folder: ".".into(),
            texts: [("api.yaml".to_owned(), "openapi: 3.1.0\npaths: {}".to_owned())].into(),
        };
        match mesh::parse(&text, &files) {
            Ok(_) => Vec::new(),
            Err(findings) => findings.iter().map(|finding| finding.message.clone()).collect(),
        }
    }

    #[test]
    fn what_only_requests_have_is_a_mistake_and_all_mistakes_are_told() {
        let without = |what: &str| format!("`db` has `protocol: tcp`, and so no {what}");
        assert_eq!(told("{protocol: tcp, idle_timeout: 2d}"), Vec::<String>::new());
        let all = "{protocol: tcp, operations: {get: {method: GET, path: /a}}, openapi: api.yaml, jwt: [a]}";
        assert_eq!(told(all), [without("operations"), without("operations"), without("tokens")]);
        assert_eq!(told(&all.replace("tcp", "http2")), Vec::<String>::new());
        assert_eq!(told("{idle_timeout: 31d}"), ["`31d` is out of range"]);
    }
}
