//! How much memory a key takes, and that idle ones go.

use std::sync::Arc;

use model::{Limit, Mode};
use tidegate_limits::{Full, Page};

const KEYS: usize = 1_000_000;
const START: i64 = 1_795_600_000_000_000_000;

fn use_one(page: &mut Page, number: usize, now: i64) -> Result<bool, Full> {
    let key = format!("s24:spiffe://a/ns/b/sa/{number:07}");
    page.with(&key, now, |meter| meter.unused(now), |meter, state| meter.take(state, 1, 0, now))
}

#[test]
fn a_million_keys_take_at_most_120_bytes_each_and_idle_ones_none() {
    let limit = Arc::new(Limit::of_rate("l", Mode::Local, "1/h".parse().unwrap(), vec![]));
    let mut page = None;
    let used = allocation_counter::measure(|| {
        let page = page.insert(Page::new(Arc::clone(&limit), KEYS).unwrap());
        (0..KEYS).for_each(|number| assert_eq!(use_one(page, number, START), Ok(true)));
    });
    let each = used.bytes_current / KEYS as i64;
    assert!(each <= 120, "{each} bytes a key");
    println!("{each} bytes a key");

    let mut page = page.unwrap();
    assert_eq!(use_one(&mut page, KEYS, START), Err(Full));
    let later = START + 3_600_000_000_000;
    assert_eq!(use_one(&mut page, KEYS, later), Ok(true), "all others are idle by now");
    assert_eq!(page.table().len(), 1);
}
