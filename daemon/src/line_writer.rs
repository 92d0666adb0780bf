//! Lines of a log, written in the background: a bounded queue, and one task that empties it.
//!
//! Whoever logs never waits. What finds no room, and what the sink then loses, is dropped and counted.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::rotating_file::{RotatingFile, Rotation};

/// The longest line accepted, in bytes: room for a request's whole head, with every character escaped.
pub const LINE_LENGTH_MAX: usize = 256 * 1024;
/// How many lines may wait to be written,
pub const LINES_WAITING_MAX: usize = 8192;
/// and how many bytes they may have together.
pub const BYTES_WAITING_MAX: usize = 16 * 1024 * 1024;

/// Takes lines; clones share one queue.
#[derive(Clone, Debug)]
pub struct LineWriter {
    queue: mpsc::Sender<Vec<u8>>,
    bytes_waiting: Arc<AtomicUsize>,
    dropped: Counter,
    closing: CancellationToken,
    ended: CancellationToken,
}

/// The task behind a [`LineWriter`], to be run by whoever made it. It ends, with every accepted line written,
/// once the last clone of the writer is gone, or after a [`LineWriter::close`].
#[derive(Debug)]
#[must_use = "nothing is written before it runs"]
pub struct Writing {
    lines: mpsc::Receiver<Vec<u8>>,
    bytes_waiting: Arc<AtomicUsize>,
    dropped: Counter,
    closing: CancellationToken,
    ended: CancellationToken,
    sink: Sink,
    /// What the sink is called when it fails.
    name: String,
}

enum Sink {
    Stream(Box<dyn AsyncWrite + Send + Sync + Unpin>),
    File(RotatingFile),
}

impl LineWriter {
    /// A writer to a stream that is called `name` when it fails; `dropped` counts the lines that are lost.
    pub fn to_stream(
        stream: impl AsyncWrite + Send + Sync + Unpin + 'static,
        name: impl Into<String>,
        dropped: Counter,
    ) -> (Self, Writing) {
        Self::new(Sink::Stream(Box::new(stream)), name.into(), dropped)
    }

    /// A writer that appends to the file at `path`, and rotates it if it is told to.
    ///
    /// # Errors
    /// When the file can't be opened.
    pub async fn to_file(
        path: &Path,
        rotation: Option<Rotation>,
        dropped: Counter,
    ) -> io::Result<(Self, Writing)> {
        let file = RotatingFile::open(path, rotation).await?;
        Ok(Self::new(Sink::File(file), path.display().to_string(), dropped))
    }

    fn new(sink: Sink, name: String, dropped: Counter) -> (Self, Writing) {
        let (queue, lines) = mpsc::channel(LINES_WAITING_MAX);
        let writer = Self {
            queue,
            bytes_waiting: Arc::default(),
            dropped: dropped.clone(),
            closing: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        let writing = Writing {
            lines,
            bytes_waiting: Arc::clone(&writer.bytes_waiting),
            dropped,
            closing: writer.closing.clone(),
            ended: writer.ended.clone(),
            sink,
            name,
        };
        (writer, writing)
    }

    /// Takes a line, its line break included. Never waits; false if it was dropped.
    pub fn write(&self, line: Vec<u8>) -> bool {
        let accepted = line.len() <= LINE_LENGTH_MAX && self.enqueue(line);
        if !accepted {
            self.dropped.inc();
        }
        accepted
    }

    /// How many lines were lost so far: dropped for want of room, or accepted and not written.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Accepts no more lines; returns once all that were accepted are written. May be called twice, also at once.
    pub async fn close(&self) {
        self.closing.cancel();
        self.ended.cancelled().await;
    }

    fn enqueue(&self, line: Vec<u8>) -> bool {
        let length = line.len();
        let before = self.bytes_waiting.fetch_add(length, Ordering::Relaxed);
        let accepted = before + length <= BYTES_WAITING_MAX && self.queue.try_send(line).is_ok();
        if !accepted {
            self.bytes_waiting.fetch_sub(length, Ordering::Relaxed);
        }
        accepted
    }
}

impl Writing {
    /// Waits a moment for more lines, unless there will be none.
    async fn gather(&mut self, batch: &mut Vec<Vec<u8>>) {
        if !self.lines.is_closed() {
            tokio::select! {
                () = self.closing.cancelled() => {}
                () = tokio::time::sleep(GATHERING) => {}
            }
        }
        while batch.len() < BATCH_LENGTH_MAX
            && let Ok(line) = self.lines.try_recv()
        {
            batch.push(line);
        }
    }

    /// Writes until nobody can send a line any more.
    pub async fn run(mut self) {
        // Told even if the task is dropped half-way, lest a close waits for ever.
        let _ended = self.ended.clone().drop_guard();
        let mut batch = Vec::new();
        let mut failing = false;
        loop {
            tokio::select! {
                biased;
                // From here on nothing is accepted; what was accepted is still received.
                () = self.closing.cancelled(), if !self.lines.is_closed() => {
                    self.lines.close();
                    continue;
                }
                count = self.lines.recv_many(&mut batch, BATCH_LENGTH_MAX) => if count == 0 { return },
            }
            self.gather(&mut batch).await;
            let (lost, result) = self.sink.write(&batch).await;
            self.dropped.inc_by(lost as u64);
            if let Err(error) = &result
                // Once per run of failures: a full disk needs no flood of warnings.
                && !failing
            {
                tracing::warn!(sink = self.name, %error, "lines can't be written, and are lost");
            }
            failing = result.is_err();
            let bytes: usize = batch.iter().map(Vec::len).sum();
            self.bytes_waiting.fetch_sub(bytes, Ordering::Relaxed);
            batch.clear();
        }
    }
}

/// How many lines are written in one go,
const BATCH_LENGTH_MAX: usize = LINES_WAITING_MAX;
/// and how long the first of them waits for the others. Waking a thread for each line takes longer than all else that
/// a request does; nobody who follows a log sees the difference.
const GATHERING: Duration = Duration::from_millis(10);

impl Sink {
    /// Writes lines; says how many were lost, and why.
    async fn write(&mut self, lines: &[Vec<u8>]) -> (usize, io::Result<()>) {
        match self {
            Self::File(file) => file.write(lines).await,
            Self::Stream(stream) => match write_all(stream, &lines.concat()).await {
                Ok(()) => (0, Ok(())),
                Err(error) => (lines.len(), Err(error)),
            },
        }
    }
}

async fn write_all(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stream(_) => f.write_str("Stream"),
            Self::File(file) => file.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_full_queue_drops_and_counts_while_all_that_was_accepted_is_written() {
        // Nobody reads the pipe until the end, so the writer is stuck after its first bytes.
        let (mut reader, sink) = tokio::io::duplex(16);
        let (writer, writing) = LineWriter::to_stream(sink, "a pipe", Counter::default());
        tokio::spawn(writing.run());
        let total = 2 * LINES_WAITING_MAX;
        let accepted = (0..total).filter(|_| writer.write(b"line\n".to_vec())).count();
        assert!(accepted >= LINES_WAITING_MAX && accepted < total, "{accepted}");
        assert_eq!(writer.dropped(), (total - accepted) as u64);
        let mut text = String::new();
        let read = async {
            reader.read_to_string(&mut text).await.unwrap();
        };
        tokio::join!(writer.close(), writer.close(), read);
        assert_eq!(text, "line\n".repeat(accepted));
        assert!(!writer.write(b"line\n".to_vec()), "nothing is accepted after a close");
    }

    #[tokio::test]
    async fn the_bytes_that_wait_are_bounded_and_a_written_line_makes_room() {
        let (mut reader, sink) = tokio::io::duplex(16);
        let (writer, writing) = LineWriter::to_stream(sink, "a pipe", Counter::default());
        assert!(!writer.write(vec![b'x'; LINE_LENGTH_MAX + 1]));
        let fitting = BYTES_WAITING_MAX / LINE_LENGTH_MAX;
        for number in 0..fitting {
            assert!(writer.write(vec![b'x'; LINE_LENGTH_MAX]), "{number}");
        }
        assert!(!writer.write(b"x".to_vec()));
        assert_eq!(writer.dropped(), 2);
        tokio::spawn(writing.run());
        let mut read = vec![0; fitting * LINE_LENGTH_MAX];
        reader.read_exact(&mut read).await.unwrap();
        // Counted as written a moment after it can be read.
        while writer.bytes_waiting.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        assert!(writer.write(b"x".to_vec()));
    }

    #[tokio::test]
    async fn the_task_ends_with_the_last_writer() {
        let (mut reader, sink) = tokio::io::duplex(64);
        let (writer, writing) = LineWriter::to_stream(sink, "a pipe", Counter::default());
        let task = tokio::spawn(writing.run());
        assert!(writer.clone().write(b"line\n".to_vec()));
        drop(writer);
        task.await.unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "line\n");
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
        let (writer, writing) = LineWriter::to_stream(Broken, "a broken sink", Counter::default());
        tokio::spawn(writing.run());
        assert!(writer.write(b"1\n".to_vec()) && writer.write(b"2\n".to_vec()));
        writer.close().await;
        assert_eq!(writer.dropped(), 2);
    }
}
