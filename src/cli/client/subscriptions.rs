//! `subscriptions`: named places in the journal, through `SubscriptionService`.

use std::fmt::Write as _;

use tonic::transport::Channel;

use super::connection::{CallError, ClientArgs, block_on};
use super::output::{BOLD, DIM, GREEN, OutputFormat, YELLOW, emit, json_line, note, plain};
use super::sources::{duration, relative};
use super::tail::{FilterArgs, From, parse_from};
use crate::wire::v1;
use crate::wire::v1::create_subscription_request::Start as CreateStart;
use crate::wire::v1::seek_subscription_request::Start as SeekStart;
use crate::wire::v1::subscribe_request::Start;
use crate::wire::v1::subscription_service_client::SubscriptionServiceClient;

#[derive(Debug, clap::Subcommand)]
pub enum SubscriptionsCommand {
    /// List the subscriptions: how far behind each is, and who reads
    List(ListArgs),
    /// Show one subscription
    Get(Named),
    /// Make a subscription
    #[command(after_help = "\
Examples:
  provident subscriptions create slack-alerts --application Slack
  provident subscriptions create on-call --from 2h --min-priority high

Readers call Subscribe with its name, and Commit when they have dealt with what they were sent.")]
    Create(Box<CreateArgs>),
    /// Give a subscription another filter, as a whole; its reader is told and goes on with it
    Update(Box<UpdateArgs>),
    /// Move a subscription to another place, forwards or back; its reader is thrown off
    Seek(SeekArgs),
    /// Remove a subscription and its place; events stay
    Delete(Named),
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Where its reader begins: earliest, latest, a cursor, a time (RFC 3339) or how long ago (30m, 2h,
    /// 7d)
    #[arg(long, value_name = "WHERE", value_parser = parse_from, default_value = "latest")]
    from: From,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    named: Named,
}

#[derive(Debug, clap::Args)]
pub struct UpdateArgs {
    /// Only if nobody else has changed it since: the etag that `get` shows
    #[arg(
        long,
        value_name = "ETAG",
        default_value = "",
        hide_default_value = true
    )]
    etag: String,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    named: Named,
}

#[derive(Debug, clap::Args)]
pub struct SeekArgs {
    /// Where its reader goes on: earliest, latest, a cursor, a time (RFC 3339) or how long ago
    #[arg(long, value_name = "WHERE", value_parser = parse_from)]
    from: From,
    #[command(flatten)]
    named: Named,
}

#[derive(Debug, clap::Args)]
pub struct Named {
    /// The subscription's name
    #[arg(value_name = "NAME")]
    id: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl Named {
    async fn connect(&self) -> anyhow::Result<SubscriptionServiceClient<Channel>> {
        Ok(SubscriptionServiceClient::new(self.client.connect().await?))
    }
}

pub(super) fn run(command: &SubscriptionsCommand) -> anyhow::Result<()> {
    block_on(async {
        match command {
            SubscriptionsCommand::List(args) => list(&args.client).await,
            SubscriptionsCommand::Get(named) => {
                let request = v1::GetSubscriptionRequest {
                    subscription_id: named.id.clone(),
                };
                let answer = named.connect().await?.get_subscription(request).await;
                let found = answer.map_err(CallError::from)?.into_inner().subscription;
                show(&named.client, found)
            }
            SubscriptionsCommand::Create(args) => {
                let CreateArgs {
                    from,
                    filter,
                    named,
                } = &**args;
                let start = match from.start(jiff::Timestamp::now()) {
                    Start::Cursor(cursor) => CreateStart::Cursor(cursor),
                    Start::Time(time) => CreateStart::Time(time),
                    Start::Position(position) => CreateStart::Position(position),
                    Start::SubscriptionId(_) => unreachable!("no beginning is a subscription"),
                };
                let request = v1::CreateSubscriptionRequest {
                    subscription_id: named.id.clone(),
                    filter: Some(filter.message()),
                    start: Some(start),
                };
                let answer = named.connect().await?.create_subscription(request).await;
                let made = answer.map_err(CallError::from)?.into_inner().subscription;
                show(&named.client, made)
            }
            SubscriptionsCommand::Update(args) => {
                let UpdateArgs {
                    etag,
                    filter,
                    named,
                } = &**args;
                let request = v1::UpdateSubscriptionRequest {
                    subscription: Some(v1::Subscription {
                        subscription_id: named.id.clone(),
                        filter: Some(filter.message()),
                        etag: etag.clone(),
                        ..v1::Subscription::default()
                    }),
                    update_mask: None,
                };
                let answer = named.connect().await?.update_subscription(request).await;
                let changed = answer.map_err(CallError::from)?.into_inner().subscription;
                show(&named.client, changed)
            }
            SubscriptionsCommand::Seek(SeekArgs { from, named }) => {
                let start = match from.start(jiff::Timestamp::now()) {
                    Start::Cursor(cursor) => SeekStart::Cursor(cursor),
                    Start::Time(time) => SeekStart::Time(time),
                    Start::Position(position) => SeekStart::Position(position),
                    Start::SubscriptionId(_) => unreachable!("no beginning is a subscription"),
                };
                let request = v1::SeekSubscriptionRequest {
                    subscription_id: named.id.clone(),
                    start: Some(start),
                };
                let answer = named.connect().await?.seek_subscription(request).await;
                let moved = answer.map_err(CallError::from)?.into_inner().subscription;
                show(&named.client, moved)
            }
            SubscriptionsCommand::Delete(named) => {
                let request = v1::DeleteSubscriptionRequest {
                    subscription_id: named.id.clone(),
                };
                let answer = named.connect().await?.delete_subscription(request).await;
                answer.map_err(CallError::from)?;
                note(&format!("{} is deleted", named.id));
                Ok(())
            }
        }
    })
}

async fn list(args: &ClientArgs) -> anyhow::Result<()> {
    let mut client = SubscriptionServiceClient::new(args.connect().await?);
    let mut page_token = String::new();
    let mut count = 0;
    loop {
        let request = v1::ListSubscriptionsRequest {
            page_size: 0,
            page_token,
        };
        let answer = client.list_subscriptions(request).await;
        let page = answer.map_err(CallError::from)?.into_inner();
        count += page.subscriptions.len();
        for found in page.subscriptions {
            show(args, Some(found))?;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if count == 0 {
        note("there are none; make one with `provident subscriptions create NAME`");
    }
    Ok(())
}

fn show(client: &ClientArgs, found: Option<v1::Subscription>) -> anyhow::Result<()> {
    let found = found.unwrap_or_default();
    match client.output.format()? {
        OutputFormat::Text => emit(&text(&found, jiff::Timestamp::now())),
        OutputFormat::Json => emit(&json_line("Subscription", &found)),
    }
}

fn text(found: &v1::Subscription, now: jiff::Timestamp) -> String {
    let behind = found.lag_duration.map_or(0, |lag| lag.seconds);
    let state = if found.lag_events == 0 {
        format!("{GREEN}nothing behind{GREEN:#}")
    } else {
        let events = if found.lag_events == 1 {
            "event"
        } else {
            "events"
        };
        let since = duration(behind);
        format!(
            "{YELLOW}{} {events}, {since} behind{YELLOW:#}",
            found.lag_events
        )
    };
    let mut text = format!("{BOLD}{}{BOLD:#}: {state}\n", plain(&found.subscription_id));
    let mut line = |name: &str, value: String| {
        // A text of our own takes any text.
        let _ = writeln!(text, "    {DIM}{name:<13}{DIM:#} {}", plain(&value));
    };
    let reader = match &found.active_reader {
        None => "nobody".to_owned(),
        Some(reader) => {
            let name = match reader.reader.as_str() {
                "" => "without a name",
                name => name,
            };
            let since = reader.connect_time.map(|time| relative(time, now));
            format!("{name}, came {}", since.unwrap_or_default())
        }
    };
    line("reader", reader);
    let used = found.last_activity_time.map(|time| relative(time, now));
    line("last used", used.unwrap_or_else(|| "never".to_owned()));
    let made = found.create_time.map(|time| relative(time, now));
    line("made", made.unwrap_or_default());
    line("committed", found.committed_cursor.clone());
    line("etag", found.etag.clone());
    let filter = found.filter.clone().unwrap_or_default();
    line("filter", json_line("Filter", &filter).trim_end().to_owned());
    text
}
