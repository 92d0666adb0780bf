//! Why a caller gets no certificate.

use jiff::Timestamp;

use crate::csr::CsrError;
use crate::issue::IssueError;
use crate::ledger::LedgerError;
use crate::token::TokenError;

/// Why a caller gets nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The CSR is bad.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The token is bad.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The caller's certificate is not one that this CA made for a workload.
    #[error("the certificate `{0}` is not in the ledger; get a new join token")]
    NotInLedger(String),
    /// The caller's certificate was renewed already, and that one too; or the instance joined anew.
    #[error("the certificate `{serial}` was replaced by a later one; get a new join token")]
    Superseded {
        /// The serial number of the caller's certificate.
        serial: String,
    },
    /// The caller's certificate ended too long ago.
    #[error("the certificate ended at {0}, too long ago to be renewed; get a new join token")]
    GraceOver(Timestamp),
    /// The key was certified for somebody else before.
    #[error("the CSR's key was used by another identity or instance; make a new one")]
    KeyOfOther,
    /// Nothing could be signed.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The ledger can't be used, so nothing is given out.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Refusal {
    /// A word for it, as metrics label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Csr(_) => "csr",
            Self::Token(TokenError::Ledger(_)) | Self::Ledger(_) => "ledger",
            Self::Token(TokenError::Used) => "token_used",
            Self::Token(TokenError::Expired(_)) => "token_expired",
            Self::Token(_) => "token_unknown",
            Self::NotInLedger(_) => "not_in_ledger",
            Self::Superseded { .. } => "superseded",
            Self::GraceOver(_) => "grace_over",
            Self::KeyOfOther => "key_of_other",
            Self::Issue(_) => "issue",
        }
    }
}
