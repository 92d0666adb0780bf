//! The access log: one JSON object a line, one line a request.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use daemon::{Lifecycle, LineWriter};
use model::Shadow;
use serde::Serialize;

use crate::metrics::Metrics;

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    #[default]
    Stdout,
    /// Nowhere.
    Off,
    /// A file, which is appended to.
    File(PathBuf),
}

/// Takes lines; clones share one queue.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog(Option<LineWriter>);

/// What is logged of one request. Absent parts did not apply or were not reached.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    pub ts: String,
    pub direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<&'static str>,
    /// `tcp` for a raw connection; requests have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub trace_id: &'a str,
    pub request_id: &'a str,
    pub principal: &'a str,
    pub client: IpAddr,
    pub service: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// False when the response did not reach its end.
    pub complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision_source: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub reasons: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    pub message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub limits: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub shadows: &'a [Shadow],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_instance: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_address: Option<&'a str>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub duration_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision_us: Option<u64>,
}

impl AccessLog {
    /// Opens the log; its writer ends, with every line written, once the last clone is gone.
    pub(crate) async fn open(
        destination: &Destination,
        lifecycle: &Lifecycle,
        metrics: &Metrics,
    ) -> io::Result<Self> {
        let dropped = metrics.dropped_log_lines("access");
        let (lines, writing) = match destination {
            Destination::Off => return Ok(Self(None)),
            Destination::Stdout => {
                LineWriter::to_stream(tokio::io::stdout(), "the access log on standard output", dropped)
            }
            Destination::File(path) => LineWriter::to_file(path, None, dropped).await?,
        };
        drop(lifecycle.spawn(writing.run()));
        Ok(Self(Some(lines)))
    }

    /// Whether it goes nowhere, so that no line needs to be made.
    pub(crate) const fn is_off(&self) -> bool {
        self.0.is_none()
    }

    /// Logs one request. Never waits.
    pub(crate) fn log(&self, line: &Line<'_>) {
        let Some(lines) = &self.0 else { return };
        lines.write(text(line));
    }
}

fn text(line: &Line<'_>) -> Vec<u8> {
    // Texts and numbers alone: there is nothing that JSON has no form for.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_line_whatever_its_path_holds() {
        let line = Line {
            ts: "2026-01-01T00:00:00Z".to_owned(),
            direction: "ingress",
            tls: Some("none"),
            action: None,
            trace_id: "t",
            request_id: "r",
            principal: "unauthenticated",
            client: IpAddr::from([192, 0, 2, 1]),
            service: "shop",
            method: Some("GET"),
            path: Some("/a\"\n{"),
            operation: None,
            status: Some(400),
            complete: true,
            error: Some("bad_request"),
            verdict: None,
            decision_source: None,
            reasons: &[],
            message: "",
            revision: None,
            limits: &[],
            shadows: &[],
            upstream_instance: None,
            upstream_address: None,
            request_bytes: 0,
            response_bytes: 7,
            duration_us: 12,
            decision_us: None,
        };
        assert_eq!(
            String::from_utf8(text(&line)).unwrap(),
            concat!(
                r#"{"ts":"2026-01-01T00:00:00Z","direction":"ingress","tls":"none","trace_id":"t","request_id":"r","#,
                r#""principal":"unauthenticated","client":"192.0.2.1","service":"shop","method":"GET","path":"/a\"\n{","status":400,"#,
                r#""complete":true,"error":"bad_request","request_bytes":0,"response_bytes":7,"duration_us":12}"#,
                "\n"
            )
        );
    }
}
