//! Any text is a file of rules, or refused with the line of each mistake.
#![no_main]

use libfuzzer_sys::fuzz_target;
use provident::domain::classify::Classifier;

fuzz_target!(|text: &str| {
    if let Err(invalid) = Classifier::with_rules(text) {
        let lines = text.matches('\n').count() + 1;
        assert!(!invalid.0.is_empty());
        assert!(
            invalid
                .0
                .iter()
                .all(|problem| (1..=lines).contains(&problem.line))
        );
    }
});
