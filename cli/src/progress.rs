//! Bars for long work, on standard error. They are seen on a terminal only, and are gone when the work is done.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that counts `what` as they are done; how many there are is said later.
pub fn counted(what: &str) -> ProgressBar {
    styled(ProgressBar::no_length(), &form(what))
}

fn form(what: &str) -> String {
    format!("{{bar:40}} {{pos}} of {{len}} {what}, {{eta}} left")
}

/// `bar`, shown in this form.
pub fn styled(bar: ProgressBar, form: &str) -> ProgressBar {
    match ProgressStyle::with_template(form) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_are_understood() {
        // Else the bar would be indicatif's own, which says neither what is counted nor how long it takes.
        for form in [form("tests"), form("answers")] {
            assert!(ProgressStyle::with_template(&form).is_ok(), "{form}");
            assert!(form.contains("{pos} of {len}"), "{form}");
        }
    }
}
