//! Limits about which policyd is asked for each request: all of them in one call, all or none.
//!
//! Leased limits of such a request are asked about as well: it waits anyway, and what policyd takes at once it takes
//! from all or from none, without this proxy holding something meanwhile that others may need.

use std::sync::Arc;

use super::{Anchor, Charge, Counting, DEADLINE, Permit, Refused};
use crate::policy_client::{self, Policyd, Taken, Unavailable};

/// Takes from all limits among `charges` that policyd counts, or from none.
pub(super) async fn take(
    charges: &[Charge],
    permit: &mut Permit,
    service: &str,
    clock: Anchor,
    policyd: &Arc<dyn Policyd>,
) -> Result<(), Refused> {
    let of_mesh = |charge: &&Charge| !matches!(charge.counted.counting, Counting::Local(_));
    // What is only tried is asked for by itself: it must not keep the others from being taken.
    let (tried, enforced): (Vec<&Charge>, Vec<&Charge>) =
        charges.iter().filter(of_mesh).partition(|charge| charge.counted.limit.shadow);
    for charge in tried {
        take_together(&[charge], permit, service, clock, policyd).await?;
    }
    take_together(&enforced, permit, service, clock, policyd).await
}

async fn take_together(
    charges: &[&Charge],
    permit: &mut Permit,
    service: &str,
    clock: Anchor,
    policyd: &Arc<dyn Policyd>,
) -> Result<(), Refused> {
    if charges.is_empty() {
        return Ok(());
    }
    let why = match ask(charges, service, policyd).await {
        Ok(taken) if taken.balances.len() == charges.len() => return outcome(charges, taken, permit),
        Ok(_) => "policyd did not answer for each limit".to_owned(),
        Err(unavailable) => unavailable.0,
    };
    charges.iter().try_for_each(|charge| charge.without_policyd(why.clone(), permit, clock.now()))
}

/// Asks, and once more if the answer was lost: policyd knows by the id that it is the same Take.
async fn ask(charges: &[&Charge], service: &str, policyd: &Arc<dyn Policyd>) -> Result<Taken, Unavailable> {
    let wanted: Vec<_> = charges
        .iter()
        .map(|charge| policy_client::Charge {
            limit: charge.counted.limit.name.clone(),
            key: charge.key.clone(),
            amount: charge.amount,
        })
        .collect();
    let id = rand::random();
    let tries = async {
        match policyd.take(service, id, wanted.clone()).await {
            Ok(taken) => Ok(taken),
            Err(_lost) => policyd.take(service, id, wanted).await,
        }
    };
    let late = || Unavailable(format!("policyd did not answer within {DEADLINE:?}"));
    tokio::time::timeout(DEADLINE, tries).await.unwrap_or_else(|_elapsed| Err(late()))
}

fn outcome(charges: &[&Charge], taken: Taken, permit: &mut Permit) -> Result<(), Refused> {
    let balances = charges.iter().zip(taken.balances);
    if taken.allowed {
        permit.balances.extend(balances.map(|(charge, balance)| charge.balance(balance)));
        return Ok(());
    }
    // The one that keeps the caller waiting longest is the one to name.
    match balances.max_by_key(|(_, balance)| balance.retry_after) {
        Some((charge, balance)) => charge.over(charge.balance(balance), permit),
        None => Ok(()),
    }
}
