//! What one limit costs a request: of one key, and of a million.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use model::{Limit, Mode};
use tidegate_limits::Page;

const KEYS: usize = 1_000_000;

fn take(criterion: &mut Criterion) {
    let limit = Arc::new(Limit::of_rate("l", Mode::Local, "1000/s".parse().unwrap(), vec![]));
    for count in [1, KEYS] {
        let keys: Vec<String> =
            (0..count).map(|number| format!("s24:spiffe://a/ns/b/sa/{number:07}")).collect();
        let mut page = Page::new(Arc::clone(&limit), KEYS).unwrap();
        let mut now = 1_795_600_000_000_000_000;
        let mut next = 0;
        criterion.bench_function(&format!("take, {count} keys"), |bencher| {
            bencher.iter(|| {
                // Far from the one before, so that it is in no cache.
                next = (next + 611_953) % count;
                now += 100;
                let key = keys.get(next).map(String::as_str).unwrap_or_default();
                let taken = page.with(
                    key,
                    now,
                    |meter| meter.unused(now),
                    |meter, state| (meter.take(state, 1, 0, now), meter.balance(state, 0, now)),
                );
                black_box(taken)
            });
        });
    }
}

criterion_group!(benches, take);
criterion_main!(benches);
