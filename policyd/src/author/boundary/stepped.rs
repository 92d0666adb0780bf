//! Values of facts that are tested after steps, such as the hour of the time, or a header that is read as a number.
//!
//! The steps are gone back from each literal and its neighbours. That shows each outcome of one test, but not all that
//! several tests tell apart together: lists with such values are no exhaustive ones.

use model::{Atom, Kind, Step, Test, Value};

/// Values of the atom's fact for which its test comes out differently. `day` is the start of an ordinary day, in
/// milliseconds since 1970.
pub(super) fn values(atom: &Atom, day: i64) -> Vec<Value> {
    let literals: Vec<&Value> = match &atom.test {
        Test::Equals(value) | Test::Less(value) | Test::LessOrEqual(value) | Test::Contains(value) => {
            vec![value]
        }
        Test::OneOf(values) => values.iter().collect(),
        Test::InRange(range) => return back(&atom.steps, Value::network(*range), day).into_iter().collect(),
        Test::Value | Test::Present | Test::Like(_) => ordinary(&atom.steps),
    };
    let around = literals.into_iter().flat_map(neighbours);
    around.filter_map(|value| back(&atom.steps, value, day)).collect()
}

/// A value that steps can be gone back from, where the test names none.
fn ordinary(steps: &[Step]) -> Vec<&'static Value> {
    static ORDINARY: [Value; 4] =
        [Value::Long(1), Value::Decimal(10_000), Value::Bool(true), Value::Duration(60_000)];
    let [long, decimal, bool, duration] = &ORDINARY;
    match steps.last() {
        Some(Step::Read(Kind::Decimal)) => vec![decimal],
        Some(Step::Read(Kind::Bool)) => vec![bool],
        Some(Step::Read(Kind::Duration) | Step::ToTime | Step::Since(_) | Step::Until(_)) => vec![duration],
        Some(_) => vec![long],
        None => Vec::new(),
    }
}

fn neighbours(value: &Value) -> Vec<Value> {
    let around = |number: i64, make: fn(i64) -> Value| {
        [-1, 0, 1].into_iter().filter_map(|by| number.checked_add(by)).map(make).collect()
    };
    match value {
        Value::Bool(value) => vec![Value::Bool(*value), Value::Bool(!value)],
        Value::Long(number) => around(*number, Value::Long),
        Value::Time(number) => around(*number, Value::Time),
        Value::Duration(number) => around(*number, Value::Duration),
        Value::Decimal(number) => around(*number, Value::Decimal),
        value => vec![value.clone()],
    }
}

/// A value that `steps` make `value` of.
fn back(steps: &[Step], value: Value, day: i64) -> Option<Value> {
    steps.iter().rev().try_fold(value, |value, step| {
        let duration = |number: i64, unit: i64| number.checked_mul(unit).map(Value::Duration);
        match (step, value) {
            (Step::Read(_), value) => Some(Value::Text(value.to_string())),
            (Step::ToDate, time @ Value::Time(_)) => Some(time),
            (Step::ToTime, Value::Duration(ms)) => day.checked_add(ms).map(Value::Time),
            (Step::Offset(by), Value::Time(ms)) => ms.checked_sub(*by).map(Value::Time),
            (Step::Since(start), Value::Duration(ms)) => start.checked_add(ms).map(Value::Time),
            (Step::Until(end), Value::Duration(ms)) => end.checked_sub(ms).map(Value::Time),
            (Step::ToMilliseconds, Value::Long(number)) => duration(number, 1),
            (Step::ToSeconds, Value::Long(number)) => duration(number, 1000),
            (Step::ToMinutes, Value::Long(number)) => duration(number, 60_000),
            (Step::ToHours, Value::Long(number)) => duration(number, 3_600_000),
            (Step::ToDays, Value::Long(number)) => duration(number, 86_400_000),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use model::Name;

    use super::*;

    #[test]
    fn steps_are_gone_back_from_literals_and_their_neighbours() {
        const DAY: i64 = 86_400_000;
        let hour = 3_600_000;
        let text = |text: &str| Value::Text(text.to_owned());
        let time = |times: &[i64]| times.iter().map(|ms| Value::Time(*ms)).collect::<Vec<_>>();
        let table = [
            (vec![Step::ToTime], Test::Less(Value::Duration(7)), time(&[DAY + 6, DAY + 7, DAY + 8])),
            (
                vec![Step::ToTime, Step::ToHours],
                Test::Equals(Value::Long(2)),
                time(&[DAY + hour, DAY + 2 * hour, DAY + 3 * hour]),
            ),
            (vec![Step::Offset(5)], Test::Less(Value::Time(7)), time(&[1, 2, 3])),
            (
                vec![Step::Read(Kind::Long)],
                Test::OneOf(vec![Value::Long(2)]),
                ["1", "2", "3"].map(text).to_vec(),
            ),
            (
                vec![Step::Read(Kind::Decimal)],
                Test::Present,
                ["0.9999", "1.0000", "1.0001"].map(text).to_vec(),
            ),
            (vec![Step::Read(Kind::Texts)], Test::Contains(text("a")), vec![text("a")]),
            (
                vec![Step::Read(Kind::Ip)],
                Test::InRange("10.0.0.0/8".parse().unwrap()),
                vec![text("10.0.0.0/8")],
            ),
        ];
        for (steps, test, expected) in table {
            let atom = Atom { name: Name::Time, steps, test };
            assert_eq!(values(&atom, DAY), expected, "{atom:?}");
        }
    }
}
