//! A consumer: handles each event of a named subscription, in order, and goes on where it was.
//!
//! ```text
//! cargo run --example consumer --no-default-features -- http://127.0.0.1:50051 my-team
//! ```
//!
//! Prints `SEQUENCE UUID` for each event; that is where your work belongs. At least once: after a
//! crash of this program, what was handled and not yet committed comes again. Ends well when
//! interrupted, and with an error when another reader takes over.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use provident::client::{Client, EventStream, Item};
use provident::wire::v1;
use provident::wire::v1::create_subscription_request::Start as CreateStart;
use provident::wire::v1::subscribe_request::Start;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(subscription)) = (arguments.next(), arguments.next()) else {
        return fail("usage: consumer URL SUBSCRIPTION");
    };
    match consume(&url, subscription).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

async fn consume(url: &str, subscription: String) -> Result<(), Box<dyn Error>> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let client = Client::new(url)?;
    // Waits for a server that is away.
    let ensured = client.ensure_subscription(v1::CreateSubscriptionRequest {
        subscription_id: subscription.clone(),
        // The usual: failures, warnings and what can't be told.
        filter: None,
        start: Some(CreateStart::Position(v1::Position::Earliest.into())),
    });
    tokio::select! {
        ensured = ensured => ensured?,
        _ = terminated.recv() => return Ok(()),
        _ = interrupted.recv() => return Ok(()),
    }
    let mut stream = client.subscribe(v1::SubscribeRequest {
        start: Some(Start::SubscriptionId(subscription)),
        on_gap: v1::OnGap::Skip.into(),
        reader: "example of a consumer in Rust".to_owned(),
        ..v1::SubscribeRequest::default()
    });
    // What is awaited here may be dropped at any time, and only here: handling is never cut short.
    let ended = loop {
        tokio::select! {
            item = stream.next() => match item {
                Ok(Some(item)) => take(&stream, item)?,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            },
            _ = terminated.recv() => break Ok(()),
            _ = interrupted.recv() => break Ok(()),
        }
    };
    let closed = stream.close().await;
    ended.and(closed)?;
    Ok(())
}

fn take(stream: &EventStream, item: Item) -> Result<(), Box<dyn Error>> {
    match item {
        Item::Events(events) => {
            for event in &events {
                handle(event)?;
                // Only what is done with: it will not come again.
                stream.commit(event);
            }
        }
        Item::CaughtUp => {}
        Item::Gap(gap) => {
            say(&format!(
                "LOST: events {} to {} were removed before they could be read",
                gap.first_lost_sequence, gap.last_lost_sequence
            ));
            stream.commit(&gap);
        }
        Item::Interrupted(why) => say(&format!("{why}; going on as soon as that passes")),
    }
    Ok(())
}

fn say(text: &str) {
    // Nobody reads it if standard error is gone.
    _ = writeln!(std::io::stderr(), "{text}");
}

fn fail(text: &str) -> ExitCode {
    say(text);
    ExitCode::FAILURE
}

/// Your work. An error ends the consumer, so that the event comes again when it is started anew.
fn handle(event: &v1::StreamedEvent) -> std::io::Result<()> {
    let uuid = event.event.as_ref().map_or("", |event| &event.uuid);
    writeln!(std::io::stdout(), "{} {uuid}", event.sequence)
}
