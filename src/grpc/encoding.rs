//! Corrects what tonic decides about the encoding of messages.

use http::{Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::layer::util::Stack;
use tower::util::{MapRequestLayer, MapResponseLayer};

use super::status;

/// The corrections of requests and responses.
pub(super) type EncodingLayer = Stack<
    MapRequestLayer<fn(Request<Body>) -> Request<Body>>,
    MapResponseLayer<fn(Response<Body>) -> Response<Body>>,
>;

pub(super) fn layer() -> EncodingLayer {
    Stack::new(
        MapRequestLayer::new(compress_only_lists),
        MapResponseLayer::new(blame_the_caller),
    )
}

/// tonic compresses the answer of every request that accepts it. Answers of other methods may contain
/// a secret, and the length of a compressed secret reveals something about it.
fn compress_only_lists(mut request: Request<Body>) -> Request<Body> {
    if request.uri().path() != "/keyward.v1.ApiKeyService/List" {
        request.headers_mut().remove("grpc-accept-encoding");
    }
    request
}

/// tonic answers INTERNAL, which blames the service, if it cannot decode a request. Our own INTERNAL
/// has details.
fn blame_the_caller(response: Response<Body>) -> Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() == Code::Internal && status.details().is_empty() => {
            status::undecodable(status.message()).into_http()
        }
        _ => response,
    }
}
