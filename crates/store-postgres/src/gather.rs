//! Verifies that miss the cache: gathered into one statement for many digests, over a few links.
//! A cold instance so asks a few big questions instead of thousands of small ones; the tail and
//! the writers have links of their own.

use std::sync::Arc;

use sqlx::postgres::PgRow;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::failure::Kind;
use super::pool::Pool;
use super::rows::{self, key_columns};
use keyward_core::fence::Stamp;
use keyward_core::key::KeyRecord;
use keyward_crypto::Digest;
use keyward_store::{Found, Result, StoreError};

/// Digests in one statement at most.
const MOST: usize = 64;
/// Statements under way at a time.
pub(super) const READERS: usize = 4;

type Question = (Digest, oneshot::Sender<Result<Found<KeyRecord>>>);

/// Takes questions and gathers them.
pub(super) struct Gather {
    questions: mpsc::Sender<Question>,
}

impl Gather {
    /// Starts the readers on the current runtime; they end when this is dropped.
    pub(super) fn start(links: &Arc<Pool>) -> Self {
        let (questions, asked) = mpsc::channel(MOST * READERS);
        let asked = Arc::new(Mutex::new(asked));
        for _ in 0..READERS {
            tokio::spawn(read(Arc::clone(links), Arc::clone(&asked)));
        }
        Self { questions }
    }

    pub(super) async fn find(&self, digest: &Digest) -> Result<Found<KeyRecord>> {
        let (tell, told) = oneshot::channel();
        let closed = || StoreError::Unavailable("the store is being closed".to_owned());
        self.questions
            .send((*digest, tell))
            .await
            .map_err(|_| closed())?;
        told.await.map_err(|_| closed())?
    }
}

async fn read(links: Arc<Pool>, asked: Arc<Mutex<mpsc::Receiver<Question>>>) {
    let mut batch: Vec<Question> = Vec::with_capacity(MOST);
    loop {
        // While one reader waits for an answer, the next gathers.
        if asked.lock().await.recv_many(&mut batch, MOST).await == 0 {
            return;
        }
        let digests: Vec<Vec<u8>> = batch
            .iter()
            .map(|(digest, _)| digest.as_bytes().to_vec())
            .collect();
        let answers = look_up(&links, digests).await;
        for (n, (_, tell)) in batch.drain(..).enumerate() {
            let answer = match &answers {
                Ok(found) => found
                    .get(n)
                    .ok_or_else(|| rows::damaged("an answer is missing"))
                    .and_then(|(row, stamp)| record(row, *stamp)),
                Err(why) => Err(StoreError::Unavailable(why.clone())),
            };
            // Whoever asked may have gone.
            let _ = tell.send(answer);
        }
    }
}

/// One row for each digest, in order, with its stamp (I2: one statement, one snapshot).
async fn look_up(
    links: &Pool,
    digests: Vec<Vec<u8>>,
) -> std::result::Result<Vec<(PgRow, Stamp)>, String> {
    let mut again = true;
    loop {
        let ask = async {
            let mut lease = links.lease().await?;
            let statement = sqlx::query(concat!(
                "SELECT head.revision AS head, incarnation, ",
                key_columns!("api_keys."),
                "  FROM unnest($1::bytea[]) WITH ORDINALITY AS asked(digest, place)
                  CROSS JOIN log_state
                  CROSS JOIN (SELECT revision FROM key_changes
                               ORDER BY revision DESC LIMIT 1) AS head
                   LEFT JOIN api_keys ON api_keys.digest = asked.digest
                  ORDER BY place"
            ));
            let found = lease.fetch_all(statement.bind(digests.clone())).await?;
            let mut answers = Vec::with_capacity(found.len());
            for row in found {
                let incarnation = rows::revision(&row, "incarnation")?;
                let stamp = Stamp {
                    epoch: lease.connection().epoch(incarnation),
                    revision: rows::revision(&row, "head")?,
                };
                answers.push((row, stamp));
            }
            lease.done();
            Ok::<_, super::failure::Failure>(answers)
        };
        match ask.await {
            Ok(answers) => return Ok(answers),
            // The link may have died while it was idle: a read can be asked anew.
            Err(failure) if failure.kind == Kind::Broken && again => again = false,
            Err(failure) => return Err(failure.error.to_string()),
        }
    }
}

fn record(row: &PgRow, stamp: Stamp) -> Result<Found<KeyRecord>> {
    let found = rows::column::<Option<uuid::Uuid>>(row, "key_id")?.is_some();
    let record = if found { Some(rows::key(row)?) } else { None };
    Ok(Found { record, stamp })
}
