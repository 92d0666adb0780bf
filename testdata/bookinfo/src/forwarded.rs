//! The headers that go on from an incoming request to the requests made for it.
//!
//! With them a mesh sees one trace instead of many single requests, and can route by who is signed in. Cookies
//! stay behind: they are between the browser and the page.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The headers to send along.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forwarded(HeaderMap);

impl Forwarded {
    /// Those of an incoming request.
    pub(crate) fn of(incoming: &HeaderMap) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in incoming.iter().filter(|(name, _)| goes_on(name)) {
            headers.append(name, value.clone());
        }
        Self(headers)
    }

    /// The same, on behalf of `user`, whoever the incoming request claimed it was for.
    pub(crate) fn on_behalf_of(mut self, user: Option<HeaderValue>) -> Self {
        match user {
            Some(user) => self.0.insert(END_USER, user),
            None => self.0.remove(END_USER),
        };
        self
    }

    /// The headers, for a request.
    pub(crate) fn to_headers(&self) -> HeaderMap {
        self.0.clone()
    }
}

fn goes_on(name: &HeaderName) -> bool {
    NAMES.contains(&name.as_str()) || name.as_str().starts_with("x-b3-")
}

const END_USER: HeaderName = HeaderName::from_static("end-user");

const NAMES: [&str; 6] = ["x-request-id", "traceparent", "tracestate", "b3", "end-user", "user-agent"];
