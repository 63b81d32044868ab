//! `ClassifierService`: what one event means, and what the catalogue knows. Needs no journal.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::generated::classifier_service_server::ClassifierService;
use super::status::Refusal;
use crate::domain::catalogue::{Application, Catalogue, EventType};
use crate::domain::classification::Category;
use crate::engine::intake::{Input, Preparation};
use crate::okta::group_push_failed;
use crate::wire::v1::{self, ErrorReason};
use crate::wire::{convert, page_token};

/// Entries of a page where the request does not say, and at the most.
const PAGE_SIZE: (usize, usize) = (100, 1000);

/// How many similar names an unknown one is answered with.
const NEAREST: usize = 3;

#[derive(Debug)]
pub struct Classifiers {
    preparation: Arc<Preparation>,
}

impl Classifiers {
    pub fn new(preparation: Arc<Preparation>) -> Self {
        Self { preparation }
    }
}

#[tonic::async_trait]
impl ClassifierService for Classifiers {
    async fn classify(
        &self,
        request: Request<v1::ClassifyRequest>,
    ) -> Result<Response<v1::ClassifyResponse>, Status> {
        use v1::classify_request::Input as Given;
        let request = request.into_inner();
        let input = match request.input {
            None => super::events::empty_input(),
            Some(Given::Json(json)) => Input::Json(json),
            Some(Given::Event(event)) => super::events::typed_input(*event),
            Some(Given::GroupPushFailed(card)) => super::events::card_input(*card),
        };
        let classified = self
            .preparation
            .classify(input)
            .map_err(|rejected| Refusal::from(&rejected))?;
        let considered = if request.explain {
            convert::considered(&self.preparation.classifier.explain(&classified.event))
        } else {
            Vec::new()
        };
        let date_time = group_push_failed::date_time(&classified.event.published);
        Ok(Response::new(v1::ClassifyResponse {
            considered,
            ..convert::classified(
                classified.event,
                classified.classification,
                date_time,
                &classified.delivery,
                &String::from_utf8_lossy(&classified.json),
            )
        }))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        use v1::describe_request::Subject;
        use v1::describe_response::Description;
        let catalogue = Catalogue::embedded();
        let description = match request.into_inner().subject {
            None => {
                let problem = "set `event_type` or `application`";
                return Err(Refusal::field(ErrorReason::FieldInvalid, "subject", problem).into());
            }
            Some(Subject::EventType(name)) => Description::EventType(
                catalogue
                    .event_type(&name)
                    .or_else(|| catalogue.event_type_once_called(&name))
                    .map(|event_type| convert::event_type(catalogue, event_type))
                    .ok_or_else(|| {
                        let nearest = catalogue.nearest_event_types(&name, NEAREST);
                        unknown(ErrorReason::EventTypeUnknown, "event type", &name, &nearest)
                    })?,
            ),
            Some(Subject::Application(name)) => Description::Application(
                catalogue
                    .application(&name)
                    .map(convert::application)
                    .ok_or_else(|| {
                        let nearest = catalogue.nearest_applications(&name, NEAREST);
                        unknown(
                            ErrorReason::ApplicationUnknown,
                            "application",
                            &name,
                            &nearest,
                        )
                    })?,
            ),
        };
        Ok(Response::new(v1::DescribeResponse {
            description: Some(description),
        }))
    }

    async fn list_event_types(
        &self,
        request: Request<v1::ListEventTypesRequest>,
    ) -> Result<Response<v1::ListEventTypesResponse>, Status> {
        let request = request.into_inner();
        let catalogue = Catalogue::embedded();
        let category = match request.category {
            0 => None,
            number => Some(
                convert::value("category", number, Category::from_number).map_err(Refusal::from)?,
            ),
        };
        let application = match request.application.as_str() {
            "" => None,
            name => Some(catalogue.application(name).ok_or_else(|| {
                let nearest = catalogue.nearest_applications(name, NEAREST);
                unknown(
                    ErrorReason::ApplicationUnknown,
                    "application",
                    name,
                    &nearest,
                )
            })?),
        };
        let wanted = |event_type: &&EventType| {
            category.is_none_or(|category| event_type.category == category)
                && application.is_none_or(|application: &Application| {
                    application.event_types.contains(&event_type.name)
                })
        };
        let wanted: Vec<_> = catalogue.event_types().iter().filter(wanted).collect();
        let asked = format!("event types\0{}\0{}", request.category, request.application);
        let (page, next_page_token) = page(
            &wanted,
            asked.as_bytes(),
            request.page_size,
            &request.page_token,
        )?;
        Ok(Response::new(v1::ListEventTypesResponse {
            event_types: page
                .iter()
                .map(|event_type| convert::event_type(catalogue, event_type))
                .collect(),
            next_page_token,
        }))
    }

    async fn list_applications(
        &self,
        request: Request<v1::ListApplicationsRequest>,
    ) -> Result<Response<v1::ListApplicationsResponse>, Status> {
        let request = request.into_inner();
        let all = Catalogue::embedded().applications();
        let (page, next_page_token) =
            page(all, b"applications", request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListApplicationsResponse {
            applications: page.iter().map(convert::application).collect(),
            next_page_token,
        }))
    }
}

fn unknown(reason: ErrorReason, kind: &str, name: &str, nearest: &[&str]) -> Refusal {
    let hint = if nearest.is_empty() {
        String::new()
    } else {
        format!(", the nearest known are {}", nearest.join(", "))
    };
    Refusal::new(
        reason,
        format!("the catalogue has no {kind} {name:?}{hint}"),
    )
    .with("nearest", nearest.join(","))
}

/// Reads a page size: 0 means the usual, more than the most counts as the most.
pub fn page_size(asked: i32, (usual, most): (usize, usize)) -> Result<usize, Refusal> {
    match usize::try_from(asked) {
        Ok(0) => Ok(usual),
        Ok(size) => Ok(size.min(most)),
        Err(_negative) => Err(Refusal::field(
            ErrorReason::FieldInvalid,
            "page_size",
            "must not be negative",
        )),
    }
}

/// A page of a list that does not change while the server runs, and the token of the next.
fn page<'a, T>(
    all: &'a [T],
    request: &[u8],
    size: i32,
    token: &str,
) -> Result<(&'a [T], String), Refusal> {
    let size = page_size(size, PAGE_SIZE)?;
    let start = if token.is_empty() {
        0
    } else {
        let (start, _) = page_token::parse(request, token).map_err(|error| bad_token(&error))?;
        usize::try_from(start).unwrap_or(usize::MAX).min(all.len())
    };
    let end = all.len().min(start + size);
    let next = if end < all.len() {
        page_token::encode(request, (end as u64, 0))
    } else {
        String::new()
    };
    Ok((&all[start..end], next))
}

/// A page token that can't be used.
pub fn bad_token(error: &page_token::BadPageToken) -> Refusal {
    Refusal::field(
        ErrorReason::PageTokenInvalid,
        "page_token",
        error.to_string(),
    )
}
