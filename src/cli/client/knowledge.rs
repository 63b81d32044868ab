//! `classify`, `describe`, `event-types` and `applications`: what Provident knows.
//!
//! They answer from what is built in, without a server; with `--server` on the command line they
//! ask that server, which may have rules of its own.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use tonic::Code;

use super::axis::axis;
use super::builtin;
use super::connection::{ANSWER_BYTES_MAX, CallError, OutputArgs, block_on, connect};
use super::output::{OutputFormat, emit, json_line, note, plain};
use super::page::{self, Page};
use super::split::{Content, Piece, Splitter};
use crate::cli::UsageError;
use crate::domain::classification::Category;
use crate::domain::classify::Classifier;
use crate::okta::input;
use crate::okta::log_event::Purpose;
use crate::server::read_rules;
use crate::wire::v1;
use crate::wire::v1::classifier_service_client::ClassifierServiceClient;
use crate::wire::v1::describe_response::Description;

type Client = ClassifierServiceClient<tonic::transport::Channel>;

/// The largest event, page or envelope read; Okta's events are a few kilobytes.
const PIECE_BYTES_MAX: usize = 64 << 20;

/// The largest page that a server gives.
const PAGE_SIZE: i32 = 1000;

/// Whom to ask, and how to write the answer.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct KnowledgeArgs {
    /// Ask this server instead of answering from what is built in
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

impl KnowledgeArgs {
    async fn client(&self, address: &str) -> anyhow::Result<Client> {
        let address = if address.contains("://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let channel = connect(&address).await?;
        Ok(ClassifierServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  provident classify event.json
  provident classify --output json system-log.ndjson | jq .classification.cause
  provident classify --rules rules.toml --explain event.json
  pbpaste | provident classify

Takes one event, a JSON array, NDJSON or an event hook's envelope. Nothing is kept or sent anywhere, \
unless --server names a server to ask.")]
pub struct ClassifyArgs {
    /// File with events; - or none is standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Tell all evidence that was found: every rule that matched, which one decided and why
    #[arg(long)]
    explain: bool,
    /// TOML file with rules of your own, which count over the built-in ones
    #[arg(long, value_name = "FILE", conflicts_with = "server")]
    rules: Option<PathBuf>,
    #[command(flatten)]
    knowledge: KnowledgeArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  provident describe application.provision.user.deactivate
  provident describe app.api.error.deactivate_user       an older name
  provident describe salesforce")]
pub struct DescribeArgs {
    /// An event type, also by an older name, or an application, also by another name
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    knowledge: KnowledgeArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  provident event-types --category group-push
  provident event-types --application salesforce --output json")]
pub struct EventTypesArgs {
    /// Only those of this category
    #[arg(long, ignore_case = true, value_parser = axis!(Category))]
    category: Option<Category>,
    /// Only those that this application can report
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    #[command(flatten)]
    knowledge: KnowledgeArgs,
}

#[derive(Debug, clap::Args)]
pub struct ApplicationsArgs {
    #[command(flatten)]
    knowledge: KnowledgeArgs,
}

pub(super) fn classify(args: &ClassifyArgs) -> anyhow::Result<()> {
    let (name, source): (String, Box<dyn Read>) = match &args.file {
        Some(path) if path.as_os_str() != "-" => {
            let name = path.display().to_string();
            let file = File::open(path).with_context(|| format!("can't read {name}"))?;
            (name, Box::new(file))
        }
        None if io::stdin().is_terminal() => {
            return Err(UsageError(
                "no FILE was given and nothing is piped in; name a file, pipe an event in, or give - to type one"
                    .to_owned(),
            )
            .into());
        }
        _ => ("standard input".to_owned(), Box::new(io::stdin())),
    };
    let format = args.knowledge.output.format()?;
    let classifier = match &args.rules {
        Some(path) => read_rules(path)?,
        None => Classifier::embedded(),
    };
    block_on(async {
        let mut answerer = match &args.knowledge.server {
            Some(address) => Answerer::Server(args.knowledge.client(address).await?),
            None => Answerer::Here(classifier),
        };
        let mut splitter = Splitter::new(source, PIECE_BYTES_MAX);
        let (mut events, mut bad) = (0_u64, 0_u64);
        while let Some(piece) = splitter
            .next()
            .with_context(|| format!("can't read {name}"))?
        {
            for answer in classify_piece(&mut answerer, &piece, args.explain).await? {
                events += 1;
                match answer {
                    Ok(answer) => emit(&show_classified(format, &answer))?,
                    Err(problem) => {
                        bad += 1;
                        let element = piece
                            .element
                            .map(|element| format!(" [{element}]"))
                            .unwrap_or_default();
                        note(&format!(
                            "{name}:{}{element}: {}",
                            piece.line,
                            plain(&problem)
                        ));
                    }
                }
            }
        }
        match (events, bad) {
            (0, _) => bail!("{name} holds no event"),
            (_, 0) => Ok(()),
            (1, 1) => bail!("this is no Okta event"),
            _ => bail!("{bad} of {events} are no Okta events"),
        }
    })
}

/// Who says what events mean.
enum Answerer {
    Server(Client),
    Here(&'static Classifier),
}

/// The answers for one piece of the input, one for each event in it, or what is wrong with it.
async fn classify_piece(
    answerer: &mut Answerer,
    piece: &Piece,
    explain: bool,
) -> anyhow::Result<Vec<Result<v1::ClassifyResponse, String>>> {
    let json = match &piece.content {
        Content::Json(json) => json,
        Content::TooLarge { bytes } => {
            return Ok(vec![Err(format!(
                "{bytes} bytes are too many for an event"
            ))]);
        }
        Content::Unclosed => {
            return Ok(vec![Err("the file ends before its array does".to_owned())]);
        }
    };
    let found = input::read(json, Purpose::Classify, usize::MAX).expect("no limit is passed");
    let client = match answerer {
        Answerer::Server(client) => client,
        Answerer::Here(classifier) => {
            let classify = |found| builtin::classify(classifier, found, explain);
            return Ok(found
                .into_iter()
                .map(|found| classify(found).map_err(|problem| problem.to_string()))
                .collect());
        }
    };
    let mut answers = Vec::new();
    for found in found {
        if let Err(problem) = &found.event {
            answers.push(Err(problem.to_string()));
            continue;
        }
        let request = v1::ClassifyRequest {
            input: Some(v1::classify_request::Input::Json(
                found.json.to_owned().into(),
            )),
            explain,
        };
        match client.classify(request).await {
            Ok(answer) => answers.push(Ok(answer.into_inner())),
            Err(status) => {
                let error = CallError::from(status);
                if error.code != Code::InvalidArgument {
                    return Err(error.into());
                }
                answers.push(Err(error.to_string()));
            }
        }
    }
    Ok(answers)
}

fn show_classified(format: OutputFormat, answer: &v1::ClassifyResponse) -> String {
    match format {
        OutputFormat::Json => json_line("ClassifyResponse", answer),
        OutputFormat::Text => {
            let mut page = Page::default();
            page::classified(&mut page, answer);
            page.0
        }
    }
}

pub(super) fn describe(args: &DescribeArgs) -> anyhow::Result<()> {
    let name = args.name.trim();
    let found = match &args.knowledge.server {
        Some(address) => block_on(async {
            let mut client = args.knowledge.client(address).await?;
            ask_to_describe(&mut client, name).await
        })?,
        None => builtin::find_event_type(name)
            .map(Description::EventType)
            .or_else(|| builtin::find_application(name).map(Description::Application))
            .ok_or_else(|| builtin::nearest(name)),
    };
    let description = found.map_err(|nearest| Unknown {
        what: "event type or application",
        name: name.to_owned(),
        nearest,
    })?;
    let text = match args.knowledge.output.format()? {
        OutputFormat::Json => json_line(
            "DescribeResponse",
            &v1::DescribeResponse {
                description: Some(description),
            },
        ),
        OutputFormat::Text => {
            let mut page = Page::default();
            match &description {
                Description::EventType(known) => page::event_type(&mut page, known),
                Description::Application(known) => page::application(&mut page, known),
            }
            page.0
        }
    };
    emit(&text)
}

/// A name that is not known, and those that may have been meant.
#[derive(Debug, thiserror::Error)]
#[error("no {what} is called {name:?}{}", did_you_mean(.nearest))]
struct Unknown {
    what: &'static str,
    name: String,
    nearest: Vec<String>,
}

fn did_you_mean(nearest: &[String]) -> String {
    if nearest.is_empty() {
        "\nhint: `provident event-types` and `provident applications` list what is known".to_owned()
    } else {
        let names: Vec<_> = nearest.iter().map(|name| plain(name)).collect();
        format!("\nhint: did you mean {}?", names.join(", "))
    }
}

/// The description, or the nearest names.
async fn ask_to_describe(
    client: &mut Client,
    name: &str,
) -> anyhow::Result<Result<Description, Vec<String>>> {
    use v1::describe_request::Subject;
    let subjects = [
        Subject::EventType(name.to_owned()),
        Subject::Application(name.to_owned()),
    ];
    let mut nearest: Vec<String> = Vec::new();
    for subject in subjects {
        let request = v1::DescribeRequest {
            subject: Some(subject),
        };
        let error = match client.describe(request).await {
            Ok(answer) => {
                let description = answer.into_inner().description;
                return description
                    .map(Ok)
                    .context("the server gave an empty answer");
            }
            Err(status) => CallError::from(status),
        };
        if error.code != Code::NotFound {
            return Err(error.into());
        }
        let names = error.metadata.get("nearest").map_or("", String::as_str);
        nearest.extend(
            names
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
        );
    }
    Ok(Err(nearest))
}

pub(super) fn event_types(args: &EventTypesArgs) -> anyhow::Result<()> {
    let known = match &args.knowledge.server {
        Some(address) => block_on(async {
            let mut client = args.knowledge.client(address).await?;
            ask_for_event_types(&mut client, args).await
        })?,
        None => built_in_event_types(args)?,
    };
    let text = match args.knowledge.output.format()? {
        OutputFormat::Json => known
            .iter()
            .map(|known| json_line("EventTypeDescription", known))
            .collect(),
        OutputFormat::Text => {
            let mut page = Page::default();
            page::event_types(&mut page, &known);
            page.0
        }
    };
    emit(&text)
}

fn built_in_event_types(args: &EventTypesArgs) -> anyhow::Result<Vec<v1::EventTypeDescription>> {
    let mut known = builtin::event_types();
    if let Some(category) = args.category {
        known.retain(|known| known.category == i32::from(category.number()));
    }
    if let Some(name) = &args.application {
        let application = builtin::find_application(name).ok_or_else(|| Unknown {
            what: "application",
            name: name.clone(),
            nearest: builtin::nearest_applications(name),
        })?;
        known.retain(|known| application.event_types.contains(&known.event_type));
    }
    Ok(known)
}

async fn ask_for_event_types(
    client: &mut Client,
    args: &EventTypesArgs,
) -> anyhow::Result<Vec<v1::EventTypeDescription>> {
    let mut request = v1::ListEventTypesRequest {
        category: args.category.map_or(0, |category| category.number().into()),
        application: args.application.clone().unwrap_or_default(),
        page_size: PAGE_SIZE,
        page_token: String::new(),
    };
    let mut known = Vec::new();
    loop {
        let answer = client
            .list_event_types(request.clone())
            .await
            .map_err(CallError::from)?
            .into_inner();
        known.extend(answer.event_types);
        if answer.next_page_token.is_empty() {
            return Ok(known);
        }
        request.page_token = answer.next_page_token;
    }
}

pub(super) fn applications(args: &ApplicationsArgs) -> anyhow::Result<()> {
    let known = match &args.knowledge.server {
        Some(address) => block_on(async {
            let mut client = args.knowledge.client(address).await?;
            ask_for_applications(&mut client).await
        })?,
        None => builtin::applications(),
    };
    let text = match args.knowledge.output.format()? {
        OutputFormat::Json => known
            .iter()
            .map(|known| json_line("ApplicationDescription", known))
            .collect(),
        OutputFormat::Text => {
            let mut page = Page::default();
            page::applications(&mut page, &known);
            page.0
        }
    };
    emit(&text)
}

async fn ask_for_applications(
    client: &mut Client,
) -> anyhow::Result<Vec<v1::ApplicationDescription>> {
    let mut request = v1::ListApplicationsRequest {
        page_size: PAGE_SIZE,
        page_token: String::new(),
    };
    let mut known = Vec::new();
    loop {
        let answer = client
            .list_applications(request.clone())
            .await
            .map_err(CallError::from)?
            .into_inner();
        known.extend(answer.applications);
        if answer.next_page_token.is_empty() {
            return Ok(known);
        }
        request.page_token = answer.next_page_token;
    }
}
