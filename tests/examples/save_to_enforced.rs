//! How long after a policy file is saved is it enforced? For docs/benchmarks.md.
//!
//! Flips a policy of Bookinfo back and forth, and asks, over and over, until the answer has flipped too.
#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use anyhow::{Context, Result};
use http::StatusCode;
use tidegate_tests::World;
use tokio::time::Instant;

/// How often the policy is flipped.
const FLIPS: usize = 100;

#[tokio::main]
async fn main() -> Result<()> {
    let world = World::bookinfo(|_| ()).await?;
    let denied = world.read("acl.cedar")?;
    let allowed = denied.replace("forbid (", "permit (");
    let mut took = Vec::new();
    for flip in 0..FLIPS {
        let (text, expected) =
            if flip % 2 == 0 { (&allowed, StatusCode::OK) } else { (&denied, StatusCode::FORBIDDEN) };
        let temporary = world.bundle().join(".written");
        std::fs::write(&temporary, text)?;
        let saved = Instant::now();
        std::fs::rename(temporary, world.bundle().join("acl.cedar"))?;
        while world.call("productpage-v1", "ratings", "/ratings/0").await?.status != expected {}
        took.push(saved.elapsed());
        // All others have it too before the next flip.
        world.until_applied(world.mesh.policyd.current.get().revision).await;
    }
    took.sort();
    let at = |share: f64| took.get(share_of(took.len(), share)).context("nothing was measured");
    println!("saved -> enforced, {FLIPS} flips: p50 {:?}, p99 {:?}, max {:?}", at(0.5)?, at(0.99)?, at(1.0)?);
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "small numbers"
)]
fn share_of(count: usize, share: f64) -> usize {
    ((count.saturating_sub(1)) as f64 * share).round() as usize
}
