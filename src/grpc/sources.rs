//! `SourceService`: how the ways in are.

use tonic::{Request, Response, Status};

use super::generated::source_service_server::SourceService;
use crate::domain::event::Timestamp;
use crate::engine::sources::{Source, SourceState, Sources};
use crate::wire::convert;
use crate::wire::v1;

#[derive(Debug)]
pub struct SourceList {
    sources: Sources,
}

impl SourceList {
    pub fn new(sources: Sources) -> Self {
        Self { sources }
    }

    fn source(&self, source: &Source) -> v1::Source {
        let status = source.snapshot();
        let state = match self.sources.judge(source) {
            SourceState::Well => v1::SourceState::Well,
            SourceState::Failing => v1::SourceState::Failing,
            SourceState::Silent => v1::SourceState::Silent,
        };
        let time = |time: Option<Timestamp>| time.map(convert::timestamp);
        let of_seconds = |seconds| convert::timestamp(Timestamp { seconds, nanos: 0 });
        let (error_time, last_error) = status.last_error.unzip();
        v1::Source {
            intake: convert::intake(source.intake).into(),
            org: source.org.clone(),
            state: state.into(),
            start_time: Some(convert::timestamp(status.started)),
            last_event_time: time(status.last_event),
            last_published_time: time(status.last_published),
            last_success_time: time(status.last_success),
            lag: status.lag.map(convert::duration),
            rate_limit: status.rate_limit.map(|limit| v1::RateLimit {
                limit: limit.limit,
                remaining: limit.remaining,
                reset_time: Some(of_seconds(limit.reset)),
            }),
            last_error: last_error.unwrap_or_default(),
            last_error_time: time(error_time),
            next_attempt_time: time(status.next_attempt),
            last_gap: status.last_gap.map(|gap| v1::SourceGap {
                newest_published_time: gap.from.map(of_seconds),
                resume_time: Some(of_seconds(gap.resumed)),
                detected_time: Some(of_seconds(gap.at)),
            }),
        }
    }
}

#[tonic::async_trait]
impl SourceService for SourceList {
    async fn list_sources(
        &self,
        _request: Request<v1::ListSourcesRequest>,
    ) -> Result<Response<v1::ListSourcesResponse>, Status> {
        let sources = self.sources.all().iter();
        Ok(Response::new(v1::ListSourcesResponse {
            sources: sources.map(|source| self.source(source)).collect(),
        }))
    }
}
