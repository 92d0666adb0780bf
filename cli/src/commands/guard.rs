//! `tidegate guard`, which `tidegate up` starts for itself.

use clap::Args;

use super::Outcome;

/// End the services of a `tidegate up` that was killed
#[derive(Debug, Args)]
pub(super) struct Guard {}

impl Guard {
    pub(super) fn run(self) -> Outcome {
        let Self {} = self;
        crate::guard::stand(std::io::stdin().lock());
        Outcome::Clean
    }
}
