//! Cache misses: concurrent lookups of keys are gathered into one statement for many digests. A cold
//! instance thus sends few large statements instead of thousands of small ones. The tail has its
//! own connection, and the writers have their own pool.

use std::sync::Arc;

use sqlx::postgres::PgRow;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::failure::Kind;
use super::pool::Pool;
use super::rows::{self, key_columns};
use keyward_core::fence::Stamp;
use keyward_core::key::KeyRecord;
use keyward_crypto::Digest;
use keyward_ops::Tasks;
use keyward_store::{Found, Result, StoreError};

/// The most digests in one statement.
const BATCH: usize = 64;
/// The number of concurrent statements.
pub(super) const READERS: usize = 4;

type Request = (Digest, oneshot::Sender<Result<Found<KeyRecord>>>);

/// Looks up keys in batches.
pub(super) struct Gather {
    requests: mpsc::Sender<Request>,
}

impl Gather {
    /// Starts the readers. They end when this is dropped.
    pub(super) fn start(pool: &Arc<Pool>, tasks: &Tasks) -> Self {
        let (requests, queue) = mpsc::channel(BATCH * READERS);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..READERS {
            tasks.spawn(
                "reader of keys",
                read_all(Arc::clone(pool), Arc::clone(&queue)),
            );
        }
        Self { requests }
    }

    pub(super) async fn find(&self, digest: &Digest) -> Result<Found<KeyRecord>> {
        let (sender, receiver) = oneshot::channel();
        let closed = || StoreError::Unavailable("the store is being closed".to_owned());
        self.requests
            .send((*digest, sender))
            .await
            .map_err(|_| closed())?;
        receiver.await.map_err(|_| closed())?
    }
}

async fn read_all(pool: Arc<Pool>, queue: Arc<Mutex<mpsc::Receiver<Request>>>) {
    let mut batch: Vec<Request> = Vec::with_capacity(BATCH);
    loop {
        // The lock is released before the read, so that the next reader gathers meanwhile.
        if queue.lock().await.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        let digests: Vec<Vec<u8>> = batch
            .iter()
            .map(|(digest, _)| digest.as_bytes().to_vec())
            .collect();
        let found = read(&pool, digests).await;
        for (n, (_, sender)) in batch.drain(..).enumerate() {
            let answer = match &found {
                Ok(rows) => rows
                    .get(n)
                    .ok_or_else(|| rows::damaged("a row of the answer is missing"))
                    .and_then(|(row, stamp)| record(row, *stamp)),
                Err(error) => Err(error.clone()),
            };
            // The caller may have stopped waiting.
            let _ = sender.send(answer);
        }
    }
}

/// One row for each digest, in the same order, with its stamp. I2: one statement is one snapshot.
async fn read(pool: &Pool, digests: Vec<Vec<u8>>) -> Result<Vec<(PgRow, Stamp)>> {
    let mut may_retry = true;
    loop {
        let attempt = async {
            let mut lease = pool.lease().await?;
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
        match attempt.await {
            Ok(answers) => return Ok(answers),
            // The connection may have broken while it was idle. A read can be retried.
            Err(failure) if failure.kind == Kind::Broken && may_retry => may_retry = false,
            Err(failure) => return Err(failure.into()),
        }
    }
}

fn record(row: &PgRow, stamp: Stamp) -> Result<Found<KeyRecord>> {
    let found = rows::column::<Option<uuid::Uuid>>(row, "key_id")?.is_some();
    let record = if found { Some(rows::key(row)?) } else { None };
    Ok(Found { record, stamp })
}
