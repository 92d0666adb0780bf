//! Instances as lines of JSON, written in the background.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use jiff::Timestamp;
use model::Value;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::contract::{Instance, ReportHandler};

/// A queue of lines, and the task that writes them.
#[derive(Debug)]
pub(crate) struct LineWriter {
    queue: mpsc::Sender<Vec<u8>>,
    closing: CancellationToken,
    dropped: Arc<AtomicU64>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl LineWriter {
    /// Starts to write to `sink`, which is called `sink_name` when it fails.
    pub(crate) fn start(sink: impl AsyncWrite + Send + Unpin + 'static, sink_name: String) -> Self {
        let (queue, lines) = mpsc::channel(QUEUE_LENGTH_MAX);
        let closing = CancellationToken::new();
        let dropped = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(write(lines, sink, sink_name, closing.clone(), Arc::clone(&dropped)));
        Self { queue, closing, dropped, task: Mutex::new(Some(task)) }
    }
}

#[async_trait]
impl ReportHandler for LineWriter {
    fn report(&self, instance: &Instance) -> bool {
        let line = line(instance);
        let accepted = line.len() <= LINE_LENGTH_MAX && self.queue.try_send(line).is_ok();
        if !accepted {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        accepted
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    async fn close(&self) {
        self.closing.cancel();
        // Held while waiting, so that a second caller waits too.
        let mut task = self.task.lock().await;
        if let Some(handle) = task.as_mut()
            && let Err(error) = handle.await
        {
            tracing::error!(%error, "a report writer failed");
        }
        *task = None;
    }
}

/// How many lines may wait to be written; more are dropped.
const QUEUE_LENGTH_MAX: usize = 8192;
/// The longest line accepted, in bytes. A request's head may be as long, so nothing of use is lost.
const LINE_LENGTH_MAX: usize = 64 * 1024;
/// How many lines are written in one go.
const BATCH_LENGTH_MAX: usize = 256;

async fn write(
    mut lines: mpsc::Receiver<Vec<u8>>,
    mut sink: impl AsyncWrite + Unpin,
    sink_name: String,
    closing: CancellationToken,
    dropped: Arc<AtomicU64>,
) {
    let mut batch = Vec::with_capacity(BATCH_LENGTH_MAX);
    let mut failing = false;
    loop {
        tokio::select! {
            biased;
            // From here on nothing is accepted; what was accepted is still received.
            () = closing.cancelled(), if !lines.is_closed() => {
                lines.close();
                continue;
            }
            count = lines.recv_many(&mut batch, BATCH_LENGTH_MAX) => if count == 0 { return },
        }
        match write_batch(&mut sink, &batch.concat()).await {
            Ok(()) => failing = false,
            Err(error) => {
                dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
                // Once per run of failures: a full disk needs no flood of warnings.
                if !failing {
                    tracing::warn!(sink = sink_name, %error, "reports can't be written, and are lost");
                }
                failing = true;
            }
        }
        batch.clear();
    }
}

async fn write_batch(sink: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    sink.write_all(bytes).await?;
    sink.flush().await
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
        Value::Ip(value) => value.to_string().into(),
        Value::Time(value) => match Timestamp::from_millisecond(*value) {
            Ok(time) => time.to_string().into(),
            Err(_) => (*value).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::AsyncReadExt;

    use super::*;

    fn instance(number: i64) -> Instance {
        Instance { name: "access".to_owned(), fields: vec![("number".to_owned(), Value::Long(number))] }
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts_while_all_that_was_accepted_is_written() {
        // Nobody reads the pipe until the end, so the writer is stuck after its first bytes.
        let (mut reader, sink) = tokio::io::duplex(16);
        let writer = LineWriter::start(sink, "a pipe".to_owned());
        let total = 2 * QUEUE_LENGTH_MAX;
        let accepted = (0..total).filter(|_| writer.report(&instance(0))).count();
        assert!(accepted >= QUEUE_LENGTH_MAX && accepted < total, "{accepted}");
        assert_eq!(writer.dropped(), (total - accepted) as u64);
        let mut text = String::new();
        let read = async {
            reader.read_to_string(&mut text).await.unwrap();
        };
        tokio::join!(writer.close(), writer.close(), read);
        assert_eq!(text.lines().count(), accepted);
        assert!(text.starts_with("{\"instance\":\"access\",\"number\":0}\n"), "{text:.100}");
        assert!(!writer.report(&instance(0)));
    }

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

    #[tokio::test]
    async fn an_endless_line_is_dropped() {
        let writer = LineWriter::start(tokio::io::sink(), "nowhere".to_owned());
        let fields = vec![("x".to_owned(), Value::Text("x".repeat(LINE_LENGTH_MAX)))];
        assert!(!writer.report(&Instance { name: String::new(), fields }));
        assert_eq!(writer.dropped(), 1);
    }

    struct Broken;

    impl AsyncWrite for Broken {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::StorageFull.into()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_a_broken_sink_loses_is_counted() {
        let writer = LineWriter::start(Broken, "a broken sink".to_owned());
        assert!(writer.report(&instance(1)) && writer.report(&instance(2)));
        writer.close().await;
        assert_eq!(writer.dropped(), 2);
    }
}
