//! A limit in numbers, and what its keys have used: a page of the [`Book`](crate::Book).

use std::collections::HashMap;
use std::sync::Arc;

use model::{Allowance, Limit};

use crate::Nanos;
use crate::meter::{Meter, MeterError, State};
use crate::table::{Full, Table};

/// A limit, and what its keys have used.
#[derive(Debug)]
pub struct Page {
    rules: Rules,
    table: Table,
}

/// A limit in numbers.
#[derive(Clone, Debug)]
pub struct Rules {
    limit: Arc<Limit>,
    meter: Meter,
    overrides: HashMap<String, Meter>,
}

impl Rules {
    /// The numbers of a limit.
    ///
    /// # Errors
    /// When one of its allowances can't be measured.
    pub fn new(limit: Arc<Limit>) -> Result<Self, MeterError> {
        let meter = Meter::new(&limit.allowance)?;
        let other = |(key, allowance): (&String, &Allowance)| Ok((key.clone(), Meter::new(allowance)?));
        let overrides = limit.overrides.iter().map(other).collect::<Result<_, _>>()?;
        Ok(Self { limit, meter, overrides })
    }

    /// The limit.
    pub fn limit(&self) -> &Arc<Limit> {
        &self.limit
    }

    /// The numbers of one key.
    pub fn meter(&self, key: &str) -> &Meter {
        // Most limits have none.
        if self.overrides.is_empty() { &self.meter } else { self.overrides.get(key).unwrap_or(&self.meter) }
    }
}

impl Page {
    /// A page on which nobody has used anything, of at most so many keys.
    ///
    /// # Errors
    /// When the limit can't be measured.
    pub fn new(limit: Arc<Limit>, keys: usize) -> Result<Self, MeterError> {
        Ok(Self { rules: Rules::new(limit)?, table: Table::new(keys) })
    }

    /// Acts on what a key has used, which begins as `fresh` says.
    ///
    /// # Errors
    /// When there is no room for another key.
    pub fn with<T>(
        &mut self,
        key: &str,
        now: Nanos,
        fresh: impl FnOnce(&Meter) -> State,
        act: impl FnOnce(&Meter, &mut State) -> T,
    ) -> Result<T, Full> {
        let Self { rules, table } = self;
        let meter = rules.meter(key);
        let state = table.entry(key, meter, now, || fresh(meter))?;
        Ok(act(meter, state))
    }

    /// Makes room for a key by dropping one that loses little by it.
    pub fn drop_one(&mut self) {
        self.table.drop_one(&self.rules.meter);
    }

    /// The limit.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The states of its keys.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Drops the keys whose allowances are whole.
    pub(crate) fn sweep(&mut self, now: Nanos) {
        let Self { rules, table } = self;
        table.sweep(|key, state| rules.meter(key).whole_at(state) > now);
    }

    /// Goes on with a limit that was changed. What was used stays used, as far as the new limit can tell.
    ///
    /// # Errors
    /// When the limit can't be measured; then nothing is changed.
    pub fn adopt(&mut self, limit: &Arc<Limit>, now: Nanos) -> Result<(), MeterError> {
        let rules = Rules::new(Arc::clone(limit))?;
        let same = *self.rules.limit == **limit;
        if !same {
            let keys_mean_the_same = self.rules.limit.key == limit.key;
            let placeholder = State::Gcra(now);
            let old = &self.rules;
            let adopted = |key: &str, state: State| {
                keys_mean_the_same.then(|| rules.meter(key).adopt(old.meter(key), state, now)).flatten()
            };
            self.table.update(adopted, &placeholder);
        }
        self.rules = rules;
        Ok(())
    }
}
