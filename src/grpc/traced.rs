//! A span for each call, in its caller's trace if it has one.
//!
//! It ends with the head of the answer, which is all of it but for a stream: that may go on for weeks,
//! and shows in the traces of what it delivers. Names are OpenTelemetry's conventions for gRPC.

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use tonic::service::Routes;
use tonic::{Code, Status};

use crate::telemetry::trace;
use crate::wire::CONTRACT;

/// What the conventions call a method that there is not.
const NO_METHOD: &str = "_OTHER";

const CODE: &str = "rpc.response.status_code";

/// Follows calls to our services, if traces are recorded.
pub fn traced(routes: Routes) -> Routes {
    if !trace::is_on() {
        return routes;
    }
    routes.into_axum_router().layer(from_fn(follow)).into()
}

async fn follow(request: Request, next: Next) -> Response {
    let method = request.uri().path().trim_start_matches('/');
    // Health is asked for every few seconds.
    if !method.starts_with("provident.v1.") {
        return next.run(request).await;
    }
    let method = if exists(method) {
        method.to_owned()
    } else {
        NO_METHOD.to_owned()
    };
    let mut span = trace::serve(method.clone(), request.headers());
    span.set("rpc.system.name", "grpc");
    span.set("rpc.method", method);
    // The caller goes, or its deadline passes.
    span.set_otherwise(CODE, name(Code::Cancelled), trace::Status::Unset);
    let response = span.trace().within(next.run(request)).await;
    let status = Status::from_header_map(response.headers());
    let code = status.map_or(Code::Ok, |status| status.code());
    span.set(CODE, name(code));
    if is_ours(code) {
        span.failed(name(code));
    }
    response
}

/// Whether there is a method of that name: what callers make up is not taken over.
fn exists(path: &str) -> bool {
    let service = path
        .split_once('/')
        .and_then(|(service, method)| Some((CONTRACT.get_service_by_name(service)?, method)));
    service.is_some_and(|(service, method)| service.methods().any(|ours| ours.name() == method))
}

/// Whether a failure is the server's, not the caller's.
fn is_ours(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// The code as gRPC's specification writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
