//! The bundle that policyd starts with.

use std::sync::Arc;

use daemon::finding::{Finding, Findings};
use tracing::error;

use super::{blocking, load};
use crate::bundle::{Bundle, Loader};
use crate::delivery::history::Why;
use crate::delivery::{Delivered, Delivery};
use crate::handlers::Handlers;

/// The bundle that policyd starts with.
pub(super) struct First {
    pub(super) bundle: Bundle,
    pub(super) handlers: Handlers,
    pub(super) delivered: Delivered,
    pub(super) why: Why,
    /// What is wrong with the source's, if this is another.
    pub(super) refused: Option<Arc<Findings>>,
}

/// The pinned bundle, else the source's, else the last good one.
///
/// # Errors
/// What is wrong with the one that should serve, when none can.
pub(super) async fn first(loader: &mut Loader, delivery: &Arc<Delivery>) -> Result<First, Findings> {
    if let Some(digest) = blocking(delivery.clone(), Delivery::pinned).await? {
        let kept = blocking(delivery.clone(), move |delivery| delivery.kept(digest)).await;
        return first_of(loader, kept, Why::Pinned).await.map_err(|mut findings| {
            // The source would be what the operator wanted to get rid of.
            let message = format!("the bundle {} is pinned, and can't be put in force", digest.short());
            let help =
                "`tidegate bundle rollback` pins another, `tidegate bundle release` follows the source again";
            findings.push(Finding::in_file("pin.json", message).with_help(help));
            findings
        });
    }
    let refused = match first_of(loader, blocking(delivery.clone(), Delivery::read).await, Why::Source).await
    {
        Ok(first) => return Ok(first),
        Err(findings) => findings,
    };
    for digest in delivery.were_in_force() {
        let kept = blocking(delivery.clone(), move |delivery| delivery.kept(digest)).await;
        match first_of(loader, kept, Why::LastGood).await {
            Ok(first) => {
                error!(
                    bundle = %digest,
                    "the bundle is refused, and the last good one serves instead: {}\n{}",
                    refused.summary(&delivery.source()),
                    refused.render(false)
                );
                return Ok(First { refused: Some(Arc::new(refused)), ..first });
            }
            Err(findings) => error!("a kept bundle can't serve:\n{}", findings.render(false)),
        }
    }
    Err(refused)
}

async fn first_of(
    loader: &mut Loader,
    delivered: Result<Delivered, Findings>,
    why: Why,
) -> Result<First, Findings> {
    let delivered = delivered?;
    let bundle = load(loader, &delivered).await?;
    let handlers = Handlers::start(&bundle).await?;
    Ok(First { bundle, handlers, delivered, why, refused: None })
}
