//! The codec of every RPC: protobuf, except that an invalid request is an error of the caller.

use prost::{Message, Name};
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic::{Code, Status};
use tonic_prost::{ProstCodec, ProstDecoder};

/// tonic's protobuf codec, except that an invalid *request* is INVALID_ARGUMENT.
///
/// tonic returns INTERNAL, which blames the service. For an invalid *response* INTERNAL is correct.
/// The generated server and client use the same codec type, so the name of the message decides: by
/// buf's STANDARD lint, all requests, and only requests, are named `...Request`. Errors that do not
/// come from decoding, such as OUT_OF_RANGE for a large message, do not pass through this codec.
#[derive(Clone, Debug)]
pub struct KeywardCodec<T, U>(ProstCodec<T, U>);

impl<T, U> Default for KeywardCodec<T, U> {
    fn default() -> Self {
        Self(ProstCodec::new())
    }
}

impl<T, U> Codec for KeywardCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = KeywardDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        KeywardDecoder(self.0.decoder())
    }
}

/// The decoding half of [`KeywardCodec`].
#[derive(Clone, Debug)]
pub struct KeywardDecoder<U>(ProstDecoder<U>);

impl<U: Message + Name + Default> Decoder for KeywardDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        self.0.decode(buf).map_err(|status| {
            if U::NAME.ends_with("Request") && status.code() == Code::Internal {
                let package = U::PACKAGE;
                let error = status.message();
                Status::invalid_argument(format!(
                    "the request is not a valid {package} message: {error}"
                ))
            } else {
                status
            }
        })
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use tonic::Streaming;
    use tonic::codegen::http::StatusCode;

    use super::*;
    use crate::v1::{VerifyRequest, VerifyResponse};

    /// A frame of one byte: field 1 as a number, truncated.
    const BROKEN: &str = "\0\0\0\0\x01\x08";
    /// A frame of three bytes: field 1 as a text of one byte, the first byte of an `é`.
    const HALF_A_CHARACTER: &str = "\0\0\0\0\x03\x0a\x01é";

    fn request(frame: &str, limit: Option<usize>) -> Result<Option<VerifyRequest>, Status> {
        let decoder = KeywardCodec::<VerifyResponse, VerifyRequest>::default().decoder();
        first(Streaming::new_request(
            decoder,
            frame.to_owned(),
            None,
            limit,
        ))
    }

    fn response(frame: &str) -> Result<Option<VerifyResponse>, Status> {
        let decoder = KeywardCodec::<VerifyRequest, VerifyResponse>::default().decoder();
        first(Streaming::new_response(
            decoder,
            frame.to_owned(),
            StatusCode::OK,
            None,
            None,
        ))
    }

    /// The first message. The stream is complete, so it never waits.
    fn first<M>(mut stream: Streaming<M>) -> Result<Option<M>, Status> {
        match pin!(stream.message()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(message) => message,
            Poll::Pending => panic!("the stream waits although the message is complete"),
        }
    }

    #[test]
    fn an_invalid_request_is_invalid_argument() {
        for frame in [BROKEN, HALF_A_CHARACTER] {
            let status = request(frame, None).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            let start = "the request is not a valid keyward.v1 message: ";
            assert!(status.message().starts_with(start), "{status}");
            assert!(
                status.message().contains("VerifyRequest.api_key"),
                "{status}"
            );
        }
    }

    #[test]
    fn an_invalid_response_is_internal() {
        assert_eq!(response(BROKEN).unwrap_err().code(), Code::Internal);
    }

    #[test]
    fn a_large_request_is_out_of_range() {
        assert_eq!(
            request(HALF_A_CHARACTER, Some(2)).unwrap_err().code(),
            Code::OutOfRange
        );
    }

    #[test]
    fn a_valid_request_is_decoded() {
        let request = request("\0\0\0\0\x04\x0a\x02kw", None).unwrap().unwrap();
        assert_eq!(request.api_key, "kw");
    }
}
