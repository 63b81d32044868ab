//! Any texts are classified. The input is the texts, parted by a zero byte: reason, displayMessage,
//! old name, error code, then names of targets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use provident::domain::classify::Classifier;
use provident::domain::event::{Entity, ProvisioningEvent};

fuzz_target!(|text: &str| {
    let mut texts = text.split('\0').map(str::to_owned);
    let mut next = || texts.next().unwrap_or_default();
    let mut event = ProvisioningEvent {
        event_type: "application.provision.user.push".to_owned(),
        ..ProvisioningEvent::default()
    };
    event.outcome.result = "FAILURE".to_owned();
    event.outcome.reason = next();
    event.display_message = next();
    event.legacy_event_type = next();
    event.debug_data.insert("errorCode".to_owned(), next());
    event.targets = texts
        .map(|name| Entity {
            kind: "AppUser".to_owned(),
            display_name: name,
            ..Entity::default()
        })
        .collect();
    let classifier = Classifier::embedded();
    let answer = classifier.classify(&event);
    let said = classifier.explain(&event);
    // What is explained is what decided.
    assert_eq!(
        answer.evidence.map(|evidence| evidence.rule),
        said.first().map(|first| first.rule.clone())
    );
});
