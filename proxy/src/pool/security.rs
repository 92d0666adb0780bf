//! How a connection is secured, as logs and metrics tell it.

/// How a connection is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    /// Not at all.
    None,
    /// By TLS in which the server alone is known.
    Server,
    /// By TLS with both sides' certificates.
    Mutual,
}

impl Security {
    /// As logs and metrics have it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Server => "server",
            Self::Mutual => "mutual",
        }
    }

    /// That of a connection whose peer is known, or is not.
    pub(crate) const fn of_caller(is_known: bool) -> Self {
        if is_known { Self::Mutual } else { Self::None }
    }
}
