//! Bodies on their way through: streamed, never collected, counted.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};

use crate::exchange::Record;

/// Any body. Its frames are passed on one by one as the receiver asks for them: that is the back-pressure.
pub(crate) type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BodyError>;

/// Why a body ended before its end.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body of these bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// `body`, whose bytes are added to `count` as they pass.
pub(crate) fn counted<B>(body: B, count: Arc<AtomicU64>) -> Body
where
    B: HttpBody<Data = Bytes, Error: Into<BodyError>> + Send + Unpin + 'static,
{
    Counted { body, count }.boxed_unsync()
}

/// `body`, with the record of its exchange, which ends with it: at its end, or when it is given up.
pub(crate) fn recorded(body: Body, mut record: Record) -> Body {
    let body = counted(body, Arc::clone(&record.response_bytes));
    if body.is_end_stream() {
        record.completed();
        return body;
    }
    Recorded { body, record: Some(record) }.boxed_unsync()
}

struct Counted<B> {
    body: B,
    count: Arc<AtomicU64>,
}

struct Recorded {
    body: Body,
    record: Option<Record>,
}

impl<B: HttpBody<Data = Bytes, Error: Into<BodyError>> + Unpin> HttpBody for Counted<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            self.count.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl HttpBody for Recorded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let is_error = matches!(frame, Some(Err(_)));
        // The receiver may never ask again once it knows that the end was reached.
        if (is_error || frame.is_none() || self.body.is_end_stream())
            && let Some(mut record) = self.record.take()
            && !is_error
        {
            record.completed();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
