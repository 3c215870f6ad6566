//! Cache misses: one statement looks up the records behind several digests. It runs on the readers'
//! connections, so that the tail and the writers never wait for it.

use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::failure::{Failure, Kind};
use super::pool::Statement;
use super::rows;
use keyward_core::fence::Stamp;
use keyward_crypto::Digest;
use keyward_store::rows::FromRow;
use keyward_store::{Found, Result};

/// A statement that reads the record and the head of the log for each digest.
macro_rules! lookup {
    ($columns:expr, $table:literal $(, $condition:expr)?) => {
        concat!(
            "SELECT ",
            $columns,
            ", head.revision AS head, incarnation
               FROM unnest($1::bytea[]) WITH ORDINALITY AS asked(digest, place)
              CROSS JOIN log_state
              CROSS JOIN (SELECT revision FROM key_changes
                           ORDER BY revision DESC LIMIT 1) AS head
               LEFT JOIN ",
            $table,
            " AS t ON t.digest = asked.digest ",
            $("AND ", $condition,)?
            " ORDER BY place"
        )
    };
}

pub(super) use lookup;

impl PostgresStore {
    /// The records in the order of `digests`. I2: one statement is one snapshot, which has one head.
    pub(super) async fn look_up<R: FromRow>(
        &self,
        statement: &'static str,
        digests: &[Digest],
        id: &str,
    ) -> Result<Vec<Found<R>>> {
        let bytes: Vec<[u8; 32]> = digests.iter().map(|digest| *digest.as_bytes()).collect();
        let statement = || sqlx::query(statement).bind(bytes.clone());
        let (found, stamp) = match self.try_look_up(statement()).await {
            // An idle connection may have died unnoticed, and repeating a read is safe.
            Err(failure) if failure.kind == Kind::Broken => self.try_look_up(statement()).await?,
            outcome => outcome?,
        };
        let found = found.iter().map(|row| {
            let is_known = rows::column::<Option<uuid::Uuid>>(row, id)?.is_some();
            let record = is_known.then(|| rows::read(row)).transpose()?;
            Ok(Found { record, stamp })
        });
        found.collect()
    }

    async fn try_look_up(&self, statement: Statement) -> Result<(Vec<PgRow>, Stamp), Failure> {
        let mut lease = self.readers.lease().await?;
        let found = lease.fetch_all(statement).await?;
        let first = rows::first(&found)?;
        let stamp = Stamp {
            epoch: lease
                .connection()
                .epoch(rows::revision(first, "incarnation")?),
            revision: rows::revision(first, "head")?,
        };
        lease.done();
        Ok((found, stamp))
    }
}
