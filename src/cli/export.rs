//! The verb `export`: prints each key as soon as its page has arrived.

use keyward_proto::v1::ExportKeysRequest;

use super::client::Service;
use super::render::Report;
use super::{Console, Failure, args, output};

/// The most keys of a page.
const PAGE: i32 = 1_000;

pub(super) async fn run(
    console: &mut Console<'_>,
    args: &args::Export,
    service: &Service,
) -> Result<Report, Failure> {
    let failed = |error| Failure::Failed(format!("cannot write the output: {error}"));
    let mut request = ExportKeysRequest {
        include_revoked: args.include_revoked,
        page_size: PAGE,
        page_token: String::new(),
    };
    loop {
        let page = service.call(request.clone()).await?;
        let mut lines = String::new();
        for key in &page.keys {
            lines += &format!("{}\n", output::object(key));
        }
        console.out.write_all(lines.as_bytes()).map_err(failed)?;
        if page.next_page_token.is_empty() {
            // All is written.
            return Ok(Report::default());
        }
        request.page_token = page.next_page_token;
    }
}
