//! A failed request: its gRPC status, and what HTTP says of it.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use keyward_guard::whole_seconds;
use prost::Message as _;
use prost_reflect::MessageDescriptor;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{JSON, json};
use crate::grpc;

/// Why a request has no answer.
pub(super) struct Failure {
    pub(super) status: Status,
    pub(super) code: StatusCode,
    /// The methods of the path.
    pub(super) allowed: Option<String>,
}

impl Failure {
    fn new(status: Status, code: StatusCode) -> Self {
        Self {
            status,
            code,
            allowed: None,
        }
    }

    /// No route has this path.
    pub(super) fn no_route(path: &str) -> Self {
        Self::new(grpc::no_route(path), StatusCode::NOT_FOUND)
    }

    /// The path has routes for the methods `allowed` alone.
    pub(super) fn wrong_method(allowed: String) -> Self {
        Self {
            allowed: Some(allowed.clone()),
            ..Self::new(grpc::wrong_method(&allowed), StatusCode::METHOD_NOT_ALLOWED)
        }
    }

    /// The response: a bare `google.rpc.Status` with its details.
    pub(super) fn response(&self, description: &MessageDescriptor) -> Response<Bytes> {
        let status = &self.status;
        let plain = || {
            let plain = tonic_types::Status {
                code: status.code().into(),
                message: status.message().to_owned(),
                details: Vec::new(),
            };
            Bytes::from(plain.encode_to_vec())
        };
        let encoded = match status.details() {
            [] => plain(),
            details => Bytes::copy_from_slice(details),
        };
        let body = json::write(description, encoded).or_else(|_| json::write(description, plain()));
        let mut response = Response::new(body.unwrap_or_default());
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        match self.code {
            StatusCode::UNAUTHORIZED => {
                let challenge = HeaderValue::from_static("Bearer realm=\"keyward\"");
                headers.insert(WWW_AUTHENTICATE, challenge);
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let retry = status.get_details_retry_info();
                let delay = retry.and_then(|retry| retry.retry_delay);
                headers.insert(RETRY_AFTER, whole_seconds(delay.unwrap_or_default()).into());
            }
            _ => {}
        }
        let allowed = self.allowed.as_ref().map(HeaderValue::try_from);
        if let Some(Ok(allowed)) = allowed {
            headers.insert(ALLOW, allowed);
        }
        response
    }

    /// The body is not announced as JSON.
    pub(super) fn not_json() -> Self {
        Self::new(grpc::not_json(), StatusCode::UNSUPPORTED_MEDIA_TYPE)
    }
}

/// The code of `google.rpc.Code`, but for a request that is too large or too slow.
impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info();
        let reason = info.map(|info| info.reason).unwrap_or_default();
        let code = match status.code() {
            _ if reason == grpc::HEADERS_TOO_LARGE.name => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            _ if reason == grpc::REQUEST_UNFINISHED.name => StatusCode::REQUEST_TIMEOUT,
            Code::Ok => StatusCode::OK,
            Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Code::InvalidArgument | Code::FailedPrecondition => StatusCode::BAD_REQUEST,
            Code::OutOfRange => StatusCode::PAYLOAD_TOO_LARGE,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, code)
    }
}
