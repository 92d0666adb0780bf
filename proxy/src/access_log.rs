//! The access log: one JSON object a line, one line a request.
//!
//! Lines go through a bounded queue to one writer, so that a slow disk slows no request down; what does not
//! fit is dropped and counted.

use std::io;
use std::path::PathBuf;

use daemon::Lifecycle;
use serde::Serialize;
use tokio::fs::OpenOptions;
use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::mpsc;

use crate::metrics::Metrics;

/// The most lines that wait to be written.
const QUEUE_MAX: usize = 4096;

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
pub(crate) struct AccessLog {
    lines: Option<mpsc::Sender<Vec<u8>>>,
    metrics: Metrics,
}

/// What is logged of one request. Absent parts did not apply or were not reached.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    pub ts: String,
    pub direction: &'static str,
    pub trace_id: &'a str,
    pub request_id: &'a str,
    pub principal: &'a str,
    pub service: &'a str,
    pub method: &'a str,
    pub path: &'a str,
    pub status: u16,
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
        metrics: Metrics,
    ) -> io::Result<Self> {
        let writer: Box<dyn AsyncWrite + Send + Unpin> = match destination {
            Destination::Off => return Ok(Self { lines: None, metrics }),
            Destination::Stdout => Box::new(tokio::io::stdout()),
            Destination::File(path) => {
                Box::new(OpenOptions::new().create(true).append(true).open(path).await?)
            }
        };
        Ok(Self::start(writer, lifecycle, metrics))
    }

    fn start(
        writer: impl AsyncWrite + Send + Unpin + 'static,
        lifecycle: &Lifecycle,
        metrics: Metrics,
    ) -> Self {
        let (lines, queue) = mpsc::channel(QUEUE_MAX);
        drop(lifecycle.spawn(write(queue, writer)));
        Self { lines: Some(lines), metrics }
    }

    /// Logs one request. Never waits.
    pub(crate) fn log(&self, line: &Line<'_>) {
        let Some(lines) = &self.lines else { return };
        let written = serde_json::to_vec(line).ok().and_then(|mut text| {
            text.push(b'\n');
            lines.try_send(text).ok()
        });
        if written.is_none() {
            self.metrics.dropped_log_line();
        }
    }
}

async fn write(mut queue: mpsc::Receiver<Vec<u8>>, writer: impl AsyncWrite + Unpin) {
    let mut writer = BufWriter::new(writer);
    while let Some(line) = queue.recv().await {
        let mut result = writer.write_all(&line).await;
        // Flushed when nothing more waits, so that a line is seen at once and a burst is written at once.
        if result.is_ok() && queue.is_empty() {
            result = writer.flush().await;
        }
        if let Err(error) = result {
            tracing::warn!(%error, "the access log can't be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn line(path: &str) -> Line<'_> {
        Line {
            ts: "2026-01-01T00:00:00Z".to_owned(),
            direction: "ingress",
            trace_id: "t",
            request_id: "r",
            principal: "unauthenticated",
            service: "shop",
            method: "GET",
            path,
            status: 400,
            complete: true,
            error: Some("bad_request"),
            verdict: None,
            decision_source: None,
            reasons: &[],
            message: "",
            revision: None,
            limits: &[],
            upstream_instance: None,
            upstream_address: None,
            request_bytes: 0,
            response_bytes: 7,
            duration_us: 12,
            decision_us: None,
        }
    }

    #[tokio::test]
    async fn a_request_is_one_line_whatever_its_path_holds() {
        let (writer, mut reader) = tokio::io::duplex(4096);
        let lifecycle = Lifecycle::new();
        let log = AccessLog::start(writer, &lifecycle, Metrics::new(&daemon::Metrics::new()));
        log.log(&line("/a\"\n{"));
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"ts":"2026-01-01T00:00:00Z","direction":"ingress","trace_id":"t","request_id":"r","#,
                r#""principal":"unauthenticated","service":"shop","method":"GET","path":"/a\"\n{","status":400,"#,
                r#""complete":true,"error":"bad_request","request_bytes":0,"response_bytes":7,"duration_us":12}"#,
                "\n"
            )
        );
    }

    #[tokio::test]
    async fn lines_beyond_the_queue_are_dropped_and_counted() {
        let (writer, _never_read) = tokio::io::duplex(1);
        let shown = daemon::Metrics::new();
        let log = AccessLog::start(writer, &Lifecycle::new(), Metrics::new(&shown));
        for _ in 0..QUEUE_MAX + 3 {
            log.log(&line("/"));
        }
        assert!(shown.render().contains("tidegate_dropped_log_lines_total 3\n"), "{}", shown.render());
    }
}
