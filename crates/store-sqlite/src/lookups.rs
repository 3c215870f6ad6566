//! Cache misses: one statement looks up the records behind several digests.

use super::{SqliteStore, rows, store_error};
use keyward_core::fence::Stamp;
use keyward_crypto::Digest;
use keyward_store::rows::FromRow;
use keyward_store::{Found, Result, raw};

/// The start of a statement whose first parameter is several digests, one after the other: `asked` has
/// the place of each.
macro_rules! asked {
    () => {
        "WITH RECURSIVE asked(place) AS (
             VALUES (1) UNION ALL SELECT place + 32 FROM asked WHERE place + 32 < length(?1)
         ) "
    };
}

/// A statement that reads the records behind digests, which are its parameter, and the head of the log.
macro_rules! lookup {
    ($columns:expr, $table:literal $(, $condition:expr)?) => {
        concat!(
            $crate::lookups::asked!(),
            "SELECT ",
            $columns,
            ", (SELECT max(revision) FROM key_changes) AS head,
                    (SELECT incarnation FROM log_state) AS incarnation
               FROM asked LEFT JOIN ",
            $table,
            " ON digest = substr(?1, place, 32) ",
            $("AND ", $condition,)?
            " ORDER BY place"
        )
    };
}

pub(super) use {asked, lookup};

/// Digests as the parameter of such a statement.
pub(super) fn joined(digests: &[Digest]) -> Vec<u8> {
    let bytes = digests.iter().flat_map(|digest| *digest.as_bytes());
    bytes.collect()
}

impl SqliteStore {
    /// The records in the order of `digests`. I2: one statement is one snapshot.
    pub(super) async fn look_up<R: FromRow>(
        &self,
        statement: &'static str,
        digests: &[Digest],
        id: &str,
    ) -> Result<Vec<Found<R>>> {
        let found = sqlx::query(statement).bind(joined(digests));
        let found = found.fetch_all(&self.readers);
        let found = found.await.map_err(store_error)?;
        let found = found.iter().map(|row| {
            let is_known = rows::column::<Option<&[u8]>>(row, id)?.is_some();
            Ok(Found {
                record: is_known.then(|| rows::read(row)).transpose()?,
                stamp: Stamp {
                    epoch: self.epoch(rows::column(row, "incarnation")?)?,
                    revision: raw::revision(rows::column(row, "head")?)?,
                },
            })
        });
        found.collect()
    }
}
