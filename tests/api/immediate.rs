//! A Verify is answered at once if its whole request has arrived and a record in memory decides it, and
//! through tonic otherwise. A client cannot tell which: both ways give the same bytes.

use bytes::Bytes;
use http::{HeaderMap, Request};
use keyward_testkit::Random;
use keyward_testkit::raw::{Pieces, RawAnswer, RawClient, frame};
use prost::Message as _;

use super::*;

const CASES: usize = 2_000;
const VERIFY: &str = "/keyward.v1.ApiKeyService/Verify";

/// The values that a request is made of.
struct Parts {
    tokens: Vec<String>,
    keys: Vec<String>,
}

impl Parts {
    /// Keys in each state, and tokens with and without the role.
    async fn make(local: &Local, client: &Client) -> Self {
        let (mut keys, mut ids) = (Vec::new(), Vec::new());
        for account in 0..5 {
            let issued = client.send(all_fields(&account.to_string())).await.unwrap();
            keys.push(issued.api_key);
            ids.push(issued.key.unwrap().key_id);
        }
        client.revoke(&ids[1]).await.unwrap();
        client.disable(&ids[2], true).await.unwrap();
        let odd = [
            "",
            "kw_",
            "Bearer x",
            &keys[0].replace('_', "-"),
            &keys[0].to_uppercase(),
        ];
        keys.extend(odd.map(str::to_owned));
        let stranger = Local::start().await;
        keys.push(stranger.client().await.issue("1", "").await.unwrap().1);
        let reader = client.token("reader", &[Role::Reader]).await.unwrap();
        let token = &local.token;
        let tokens = vec![
            format!("Bearer {token}"),
            format!("bearer  {token}"),
            format!("Bearer {reader}"),
            format!("Bearer {}", stranger.token),
            token.clone(),
            "Bearer ".to_owned(),
        ];
        Self { tokens, keys }
    }

    /// A request with a plain value in most places and an odd one in some.
    fn draw(&self, random: &Random) -> (Request<()>, Vec<u8>) {
        let odd = || random.chance(8);
        let pick = |values: &[&str]| values[random.index(values.len())].to_owned();
        let key = if odd() {
            &self.keys[random.index(self.keys.len())]
        } else {
            &self.keys[0]
        };
        let mut request = v1::VerifyRequest {
            api_key: key.clone(),
            client_ip: "192.0.2.7".to_owned(),
            ..Default::default()
        };
        if odd() {
            request.required_scopes = vec![pick(&["read", "write", "missing", "", "two words"])];
        }
        if odd() {
            request.client_ip = pick(&["", "::1", "203.0.113.1", "localhost"]);
        }
        if odd() {
            request.consistency = [0, 1, 2, 77][random.index(4)];
        }
        let mut message = request.encode_to_vec();
        if odd() {
            // An unknown field, the same field twice, a wrong type, invalid UTF-8, a cut-off message.
            let more: [&[u8]; 5] = [
                &[0x78, 1],
                &[0x0a, 1, b'x'],
                &[0x10, 1],
                &[0x0a, 1, 0xff],
                &[0x0a, 9],
            ];
            message.extend_from_slice(more[random.index(5)]);
        }
        let mut body = frame(&message);
        if odd() {
            match random.below(5) {
                0 => body[0] = 1,
                1 => body[4] ^= 1,
                2 => body.truncate(3),
                3 => body.extend(frame(&message)),
                _ => body.extend([0; 9_000]),
            }
        }
        let path = if odd() {
            pick(&["/keyward.v1.ApiKeyService/verify", "/x", VERIFY])
        } else {
            VERIFY.to_owned()
        };
        let mut http = Request::post(format!("http://keyward{path}"));
        if odd() {
            http = http.method(pick(&["GET", "PUT", "OPTIONS"]).as_str());
        }
        let token = if odd() {
            &self.tokens[random.index(self.tokens.len())]
        } else {
            &self.tokens[0]
        };
        let odd_headers = [
            ("authorization", token.as_str()),
            ("content-type", "application/grpc+proto"),
            ("content-type", "application/json"),
            ("te", "trailers"),
            ("grpc-encoding", "identity"),
            ("grpc-encoding", "gzip"),
            ("grpc-encoding", "br"),
            ("grpc-accept-encoding", "gzip,identity"),
            ("grpc-timeout", "10S"),
            ("grpc-timeout", "0n"),
            ("grpc-timeout", "soon"),
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
        ];
        if !odd() {
            http = http.header("authorization", token);
        }
        while random.chance(30) {
            let (name, value) = odd_headers[random.index(odd_headers.len())];
            http = http.header(name, value);
        }
        if random.chance(2) {
            http = http.header("x-long", "x".repeat(17_000));
        }
        (http.body(()).unwrap(), body)
    }
}

/// All that a client sees, without the date.
fn seen(mut answer: RawAnswer) -> (u16, HeaderMap, HeaderMap, Bytes) {
    answer.headers.remove("date");
    (
        answer.http.as_u16(),
        answer.headers,
        answer.trailers,
        answer.frame,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_give_the_same_bytes() {
    let (local, client) = start().await;
    let parts = Parts::make(&local, &client).await;
    let raw = RawClient::connect(local.app.grpc_address()).await;
    let random = Random::new(15);
    for case in 0..CASES {
        let (request, body) = parts.draw(&random);
        let at = random.index(body.len() + 1);
        let mut answers = Vec::new();
        // tonic handles a message that comes in two pieces.
        for pieces in [
            vec![body.clone()],
            vec![body[..at].to_vec(), body[at..].to_vec()],
        ] {
            let pieces = Pieces(pieces.into_iter().map(Bytes::from).collect());
            answers.push(seen(raw.send(request.clone().map(|()| pieces)).await));
        }
        assert_eq!(answers[0], answers[1], "case {case}: {request:?} {body:?}");
    }
}
