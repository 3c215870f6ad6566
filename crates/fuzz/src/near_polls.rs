//! WatchInvalidations: streams of near-caches that poll as the input says, while keys change and their own
//! token is revoked. Responses are what the proto file says, and bounded. A stream ends with a documented
//! status. A change returns only when each near-cache that may be fresh has acknowledged it.

mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use keyward_core::key::KeyId;
use keyward_proto::v1;
use keyward_testkit::now;
use keyward_testkit::requests::{bare, changing, creating_token, recoverable, revoking_token};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::codegen::Bytes;

use crate::Target;
use crate::world::{Handlers, World};
use stream::{Frames, Stream};

const METHOD: &str = "ApiKeyService/WatchInvalidations";
/// The most steps of one input, and the most streams and changes.
const MAX_STEPS: usize = 16;
const MAX_STREAMS: usize = 4;
const MAX_CHANGES: usize = 3;
/// A world with more inputs behind it becomes slow.
const INPUTS: usize = 500;
/// A poll is answered, or its stream ends, and a change returns, much sooner.
const PATIENCE: Duration = Duration::from_secs(10);

/// The next step of an input, before two bytes that say more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Opens a stream: by a near-cache, by a caller without the role, by nobody.
    Open,
    /// Sends a poll on a stream, and waits for the response. See [`Number`], [`Known`] and [`Extra`].
    Poll,
    /// Sends a poll and does not wait.
    Early,
    /// Sends the next bytes as they are.
    Raw,
    /// Changes a key.
    Change,
    /// Revokes the token of the near-caches.
    RevokeToken,
    /// Ends the requests of a stream.
    Finish,
    /// Ends a stream.
    Drop,
}

const STEPS: [Step; 8] = [
    Step::Open,
    Step::Poll,
    Step::Early,
    Step::Raw,
    Step::Change,
    Step::RevokeToken,
    Step::Finish,
    Step::Drop,
];

/// The number of a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    /// One more than the last.
    Next,
    /// The last once more.
    Same,
    /// 0.
    Zero,
    /// The highest.
    Highest,
}

const NUMBERS: [Number; 4] = [Number::Next, Number::Same, Number::Zero, Number::Highest];

/// What a poll acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// The last response.
    Response,
    /// Nothing, without an epoch.
    Nothing,
    /// Nothing, in the instance's epoch.
    Zero,
    /// One less than the last response.
    Below,
    /// One more than the last response.
    Above,
    /// Everything that there will ever be.
    Highest,
    /// The last response, of another epoch.
    Elsewhere,
    /// Everything of another epoch.
    HighestElsewhere,
}

const KNOWN: [Known; 8] = [
    Known::Response,
    Known::Nothing,
    Known::Zero,
    Known::Below,
    Known::Above,
    Known::Highest,
    Known::Elsewhere,
    Known::HighestElsewhere,
];

/// What else a poll holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extra {
    /// Nothing.
    Plain,
    /// `off`.
    Off,
    /// Used keys.
    Used,
    /// Used keys with an id that is too short.
    ShortId,
    /// Too many used keys.
    ManyUsed,
    /// Fields that nobody knows.
    Unknown,
    /// More bytes than a message may have.
    Large,
}

const EXTRAS: [Extra; 7] = [
    Extra::Plain,
    Extra::Off,
    Extra::Used,
    Extra::ShortId,
    Extra::ManyUsed,
    Extra::Unknown,
    Extra::Large,
];

/// The input is a list of steps.
pub fn target() -> Target {
    let (mut judge, mut inputs) = (Judge::start(), 0);
    Box::new(move |data| {
        inputs += 1;
        if inputs % INPUTS == 0 {
            judge = Judge::start();
        }
        // Another caller each time: one whose streams break may open no more for a minute.
        judge.run(data, &format!("near-{inputs}"));
    })
}

struct Judge {
    world: World,
    /// The token of a caller without the role.
    reader: String,
    key: String,
}

impl Judge {
    fn start() -> Self {
        let mut world = World::start();
        let reader = creating_token("reader", &[v1::Role::Reader]);
        let reader: v1::CreateTokenResponse = world
            .ask("AdminService/CreateToken", &reader)
            .expect("a token can be created");
        let issued: v1::IssueResponse = world
            .ask("ApiKeyService/Issue", &recoverable("fuzz"))
            .expect("a key can be issued");
        Self {
            world,
            reader: reader.token,
            key: issued.key.expect("a key").key_id,
        }
    }

    fn run(&mut self, data: &[u8], caller: &str) {
        let near = creating_token(caller, &[v1::Role::NearCache]);
        let near: v1::CreateTokenResponse = self
            .world
            .ask("AdminService/CreateToken", &near)
            .expect("a token can be created");
        let (admin, reader, key) = (
            self.world.token.clone(),
            self.reader.clone(),
            self.key.clone(),
        );
        let statuses = self.world.play(async |handlers| {
            let mut play = Play {
                handlers,
                admin,
                reader,
                key,
                near,
                streams: Vec::new(),
                calls: Vec::new(),
                changes: Arc::default(),
                statuses: Vec::new(),
            };
            play.run(data).await;
            play.finish().await
        });
        for status in statuses {
            self.world.check(METHOD, &status);
        }
    }
}

/// A change of a key or a token that has returned.
struct Change {
    id: KeyId,
    revision: u64,
    at: Instant,
    is_of_token: bool,
}

/// The run of one input.
struct Play {
    handlers: Handlers,
    admin: String,
    reader: String,
    key: String,
    near: v1::CreateTokenResponse,
    streams: Vec<Stream>,
    calls: Vec<JoinHandle<()>>,
    changes: Arc<Mutex<Vec<Change>>>,
    statuses: Vec<Status>,
}

impl Play {
    async fn run(&mut self, data: &[u8]) {
        let mut rest = data;
        for _ in 0..MAX_STEPS {
            let Some(([kind, low, high], after)) = rest.split_first_chunk() else {
                break;
            };
            rest = after;
            let step = STEPS[usize::from(kind % 8)];
            match step {
                Step::Open => self.open(low % 3).await,
                Step::Change => self.change(),
                Step::RevokeToken => self.revoke_token(),
                Step::Raw => {
                    let (bytes, after) = rest.split_at(usize::from(*low).min(rest.len()));
                    rest = after;
                    if let Some(stream) = self.stream(*kind) {
                        stream.is_raw = true;
                        stream.send(Bytes::copy_from_slice(bytes));
                    }
                }
                Step::Finish => {
                    if let Some(stream) = self.stream(*kind) {
                        stream.requests = None;
                    }
                }
                Step::Drop => {
                    if let Some(stream) = self.stream(*kind) {
                        stream.end();
                    }
                }
                Step::Poll | Step::Early => {
                    let changes = Arc::clone(&self.changes);
                    let Some(stream) = self.stream(*kind) else {
                        continue;
                    };
                    let number = NUMBERS[usize::from(low / 8 % 4)];
                    let known = KNOWN[usize::from(low % 8)];
                    let extra = EXTRAS[usize::from(*high) % EXTRAS.len()];
                    stream.poll(number, known, extra);
                    if step == Step::Poll
                        && let Err(status) = stream.responses(&changes).await
                    {
                        self.statuses.push(status);
                    }
                }
            }
        }
    }

    fn stream(&mut self, kind: u8) -> Option<&mut Stream> {
        let count = self.streams.len().max(1);
        self.streams.get_mut(usize::from(kind / 8) % count)
    }

    async fn open(&mut self, caller: u8) {
        if self.streams.len() == MAX_STREAMS {
            return;
        }
        let token = match caller {
            0 => Some(&*self.near.token),
            1 => Some(&*self.reader),
            _ => None,
        };
        let (requests, frames) = mpsc::unbounded_channel();
        match self.handlers.open(METHOD, token, Frames(frames)).await {
            Ok(responses) => {
                assert_eq!(caller, 0, "a stream needs its role");
                self.streams.push(Stream::new(requests, responses));
            }
            Err(status) => self.statuses.push(status),
        }
    }

    fn change(&mut self) {
        let token = self.near.caller_token.as_ref().expect("a token");
        let note = format!("{} {}", token.token_id, self.calls.len());
        // Other notes than ever before.
        let key = v1::ApiKey {
            metadata: [("note".to_owned(), note)].into(),
            ..bare(&self.key)
        };
        let request = changing(key, ["metadata"]).encode_to_vec();
        self.call("ApiKeyService/Update", request, |answer| {
            let key = v1::UpdateResponse::decode(answer).ok()?.key?;
            Some((key.key_id, key.revision))
        });
    }

    fn revoke_token(&mut self) {
        let token = self.near.caller_token.as_ref();
        let request = revoking_token(&token.expect("a token").token_id).encode_to_vec();
        self.call("AdminService/RevokeToken", request, |answer| {
            let token = v1::RevokeTokenResponse::decode(answer).ok()?.caller_token?;
            Some((token.token_id, token.revision))
        });
    }

    /// Begins a call that changes a key or a token.
    fn call(
        &mut self,
        method: &'static str,
        request: Vec<u8>,
        changed: fn(&[u8]) -> Option<(String, u64)>,
    ) {
        if self.calls.len() == MAX_CHANGES {
            return;
        }
        let (mut handlers, admin) = (self.handlers.clone(), self.admin.clone());
        let changes = Arc::clone(&self.changes);
        self.calls.push(tokio::spawn(async move {
            let answer = handlers.call(method, Some(&admin), &request).await;
            let at = now();
            let answer = answer.unwrap_or_else(|status| panic!("{method}: {status}"));
            let (id, revision) = changed(&answer).expect("what was changed");
            changes.lock().push(Change {
                id: KeyId::parse(&id).expect("an id"),
                revision,
                at,
                is_of_token: method.starts_with("Admin"),
            });
        }));
    }

    /// Waits for the changes, which no near-cache holds up for longer than its bound. Returns the statuses.
    async fn finish(self) -> Vec<Status> {
        for call in self.calls {
            let ended = tokio::time::timeout(PATIENCE, call).await;
            ended.expect("it returns").expect("it does not panic");
        }
        for change in self.changes.lock().iter() {
            for stream in self.streams.iter().filter(|stream| !stream.is_raw) {
                stream.judge(change);
            }
        }
        self.statuses
    }
}
