//! `SubscriptionService`: named subscriptions, made, read, changed, moved and committed.

use tonic::{Code, Request, Response, Status};

use super::classifier::{bad_token, page_size};
use super::events::{read_filter, start_position, start_time};
use super::generated::subscription_service_server::SubscriptionService;
use super::status::{self, Refusal};
use crate::engine::subscriptions::{Snapshot, SubscriptionError};
use crate::engine::{Engine, EngineSlot, Start};
use crate::wire::v1::{self, ErrorReason};
use crate::wire::{convert, page_token};

/// Subscriptions of a page where the request does not say, and at the most.
const PAGE_SIZE: (usize, usize) = (100, 1000);

#[derive(Debug)]
pub struct SubscriptionList {
    engine: EngineSlot,
}

impl SubscriptionList {
    pub fn new(engine: EngineSlot) -> Self {
        Self { engine }
    }
}

/// A subscription as the contract says it.
fn subscription(engine: &Engine, snapshot: Snapshot) -> v1::Subscription {
    let stored = snapshot.stored;
    v1::Subscription {
        subscription_id: snapshot.id,
        filter: Some(stored.filter_message()),
        committed_cursor: engine.cursor(stored.committed()),
        lag_events: snapshot.lag_events,
        lag_duration: snapshot.lag.map(convert::duration),
        active_reader: snapshot.reader.map(|reader| v1::ActiveReader {
            reader: reader.name,
            connect_time: Some(convert::timestamp(reader.since)),
        }),
        last_activity_time: stored.activity_time(),
        create_time: stored.create_time(),
        etag: stored.etag(),
    }
}

fn refused(engine: &Engine) -> impl Fn(SubscriptionError) -> Refusal {
    let journal = engine.journal_id();
    move |error| status::bad_subscription(journal, error)
}

fn no_start() -> Refusal {
    let problem = "say where to start: `cursor`, `time` or `position`";
    Refusal::field(ErrorReason::FieldInvalid, "start", problem)
}

#[tonic::async_trait]
impl SubscriptionService for SubscriptionList {
    async fn create_subscription(
        &self,
        request: Request<v1::CreateSubscriptionRequest>,
    ) -> Result<Response<v1::CreateSubscriptionResponse>, Status> {
        use v1::create_subscription_request::Start as Asked;
        let request = request.into_inner();
        let filter = read_filter("filter", request.filter)?;
        let start = match request.start.ok_or_else(no_start)? {
            Asked::Cursor(cursor) => Start::Cursor(cursor),
            Asked::Time(time) => start_time(time)?,
            Asked::Position(position) => start_position(position)?,
        };
        let engine = super::engine(&self.engine)?;
        let created = engine
            .subscriptions()
            .create(&request.subscription_id, &filter, &start)
            .await
            .map_err(refused(engine))?;
        Ok(Response::new(v1::CreateSubscriptionResponse {
            subscription: Some(subscription(engine, created)),
        }))
    }

    async fn get_subscription(
        &self,
        request: Request<v1::GetSubscriptionRequest>,
    ) -> Result<Response<v1::GetSubscriptionResponse>, Status> {
        let engine = super::engine(&self.engine)?;
        let found = engine
            .subscriptions()
            .get(&request.into_inner().subscription_id)
            .await
            .map_err(refused(engine))?;
        Ok(Response::new(v1::GetSubscriptionResponse {
            subscription: Some(subscription(engine, found)),
        }))
    }

    async fn update_subscription(
        &self,
        request: Request<v1::UpdateSubscriptionRequest>,
    ) -> Result<Response<v1::UpdateSubscriptionResponse>, Status> {
        let request = request.into_inner();
        let Some(wanted) = request.subscription else {
            let problem = "say which subscription, and its new filter";
            return Err(Refusal::field(ErrorReason::FieldInvalid, "subscription", problem).into());
        };
        let paths = request.update_mask.unwrap_or_default().paths;
        if let Some(path) = paths.iter().find(|path| *path != "filter") {
            let problem = format!("{path:?} can't be changed, only `filter` can, as a whole");
            return Err(Refusal::field(ErrorReason::FieldInvalid, "update_mask", problem).into());
        }
        let filter = read_filter("subscription.filter", wanted.filter)?;
        let engine = super::engine(&self.engine)?;
        let changed = engine
            .subscriptions()
            .set_filter(&wanted.subscription_id, &filter, &wanted.etag)
            .await
            .map_err(|error| match error {
                SubscriptionError::EtagOutdated => refused(engine)(error).with_code(Code::Aborted),
                error => refused(engine)(error).into(),
            })?;
        Ok(Response::new(v1::UpdateSubscriptionResponse {
            subscription: Some(subscription(engine, changed)),
        }))
    }

    async fn list_subscriptions(
        &self,
        request: Request<v1::ListSubscriptionsRequest>,
    ) -> Result<Response<v1::ListSubscriptionsResponse>, Status> {
        let request = request.into_inner();
        let count_max = page_size(request.page_size, PAGE_SIZE)?;
        let after = match request.page_token.as_str() {
            "" => String::new(),
            token => page_token::parse_name(token).map_err(|error| bad_token(&error))?,
        };
        let engine = super::engine(&self.engine)?;
        let (page, more) = engine
            .subscriptions()
            .list(&after, count_max)
            .await
            .map_err(refused(engine))?;
        let next_page_token = match page.last() {
            Some(last) if more => page_token::encode_name(&last.id),
            _ => String::new(),
        };
        let page = page.into_iter();
        Ok(Response::new(v1::ListSubscriptionsResponse {
            subscriptions: page.map(|found| subscription(engine, found)).collect(),
            next_page_token,
        }))
    }

    async fn delete_subscription(
        &self,
        request: Request<v1::DeleteSubscriptionRequest>,
    ) -> Result<Response<v1::DeleteSubscriptionResponse>, Status> {
        let engine = super::engine(&self.engine)?;
        engine
            .subscriptions()
            .delete(&request.into_inner().subscription_id)
            .await
            .map_err(refused(engine))?;
        Ok(Response::new(v1::DeleteSubscriptionResponse {}))
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        let request = request.into_inner();
        if request.session.is_empty() {
            let problem = "must be the one that the stream's Confirmation gave";
            return Err(Refusal::field(ErrorReason::FieldInvalid, "session", problem).into());
        }
        let engine = super::engine(&self.engine)?;
        engine
            .subscriptions()
            .commit(&request.subscription_id, &request.session, &request.cursor)
            .await
            .map_err(refused(engine))?;
        Ok(Response::new(v1::CommitResponse {}))
    }

    async fn seek_subscription(
        &self,
        request: Request<v1::SeekSubscriptionRequest>,
    ) -> Result<Response<v1::SeekSubscriptionResponse>, Status> {
        use v1::seek_subscription_request::Start as Asked;
        let request = request.into_inner();
        let start = match request.start.ok_or_else(no_start)? {
            Asked::Cursor(cursor) => Start::Cursor(cursor),
            Asked::Time(time) => start_time(time)?,
            Asked::Position(position) => start_position(position)?,
        };
        let engine = super::engine(&self.engine)?;
        let moved = engine
            .subscriptions()
            .seek(&request.subscription_id, &start)
            .await
            .map_err(refused(engine))?;
        Ok(Response::new(v1::SeekSubscriptionResponse {
            subscription: Some(subscription(engine, moved)),
        }))
    }
}
