//! The corpus of `testdata/smuggling`: what has fooled other proxies, sent to this one byte by byte as well.

use std::net::SocketAddr;

use serde::Deserialize;

use super::http1::ingress;
use super::setting::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    what: String,
    sent: String,
    answers: Vec<u16>,
    #[serde(default)]
    stays: bool,
    #[serde(default)]
    reaches: Vec<String>,
}

impl Case {
    /// Each character stands for a byte.
    fn bytes(&self) -> Vec<u8> {
        self.sent.chars().map(|c| u8::try_from(u32::from(c)).expect("Latin-1")).collect()
    }

    async fn try_at(&self, address: SocketAddr, application: &Application, in_parts: bool) {
        let before = application.count();
        let mut wire = Wire::open(address).await;
        if in_parts {
            for byte in self.bytes() {
                // What is refused may be refused before its end.
                if !wire.write_if_open(&[byte]).await {
                    break;
                }
                tokio::task::yield_now().await;
            }
        } else {
            wire.write(self.bytes()).await;
        }
        for expected in &self.answers {
            assert_eq!(wire.response(false).await.status, *expected, "{}", self.what);
        }
        if self.stays {
            wire.write("GET /next HTTP/1.1\r\nHost: shop\r\n\r\n").await;
            assert_eq!(wire.response(false).await.status, 200, "{}", self.what);
        } else {
            assert!(wire.is_closed().await, "the connection stays open: {}", self.what);
        }
        let seen = application.seen.lock().unwrap();
        let lines: Vec<&str> = seen[before..].iter().map(|seen| seen.line.as_str()).collect();
        let next = self.stays.then_some("GET /next");
        assert_eq!(
            lines,
            self.reaches.iter().map(String::as_str).chain(next).collect::<Vec<_>>(),
            "{}",
            self.what
        );
    }
}

#[tokio::test]
async fn what_fooled_others_is_refused_or_read_in_one_way() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/smuggling/http1.yaml");
    let cases: Vec<Case> = serde_saphyr::from_str(&std::fs::read_to_string(corpus).unwrap()).unwrap();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    for case in &cases {
        for in_parts in [false, true] {
            case.try_at(ingress(&proxy), &application, in_parts).await;
        }
    }
}
