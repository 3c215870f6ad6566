//! The verbs that list: one page if `--page-token` is given, otherwise all pages.

use keyward_client::Rpc;
use keyward_proto::v1::{ListRequest, ListTokensRequest};

use super::Failure;
use super::args;
use super::client::Service;
use super::output;
use super::render::Report;

pub(super) async fn list_keys(args: &args::List, service: &Service) -> Result<Report, Failure> {
    let request = |page_token| ListRequest {
        account_id: args.account.clone().unwrap_or_default(),
        all_accounts: args.account.is_none(),
        include_revoked: args.page.all,
        state: args.state.unwrap_or_default().into(),
        name_prefix: args.name_prefix.clone().unwrap_or_default(),
        older_than: args.older_than,
        unused_for: args.unused_for,
        page_size: args.page.page_size,
        page_token,
    };
    let (keys, next) = collect(&args.page, service, request, |response| {
        (response.keys, response.next_page_token)
    })
    .await?;
    Ok(output::listed(&keys, args.account.is_none(), &next))
}

pub(super) async fn list_tokens(page: &args::Page, service: &Service) -> Result<Report, Failure> {
    let request = |page_token| ListTokensRequest {
        include_revoked: page.all,
        page_size: page.page_size,
        page_token,
    };
    let (tokens, next) = collect(page, service, request, |response| {
        (response.caller_tokens, response.next_page_token)
    })
    .await?;
    Ok(output::tokens_listed(&tokens, &next))
}

/// The items, and the token of the next page. `request` builds the request for a page token; `split`
/// takes a response apart.
async fn collect<R: Rpc, T>(
    page: &args::Page,
    service: &Service,
    request: impl Fn(String) -> R,
    split: impl Fn(R::Response) -> (Vec<T>, String),
) -> Result<(Vec<T>, String), Failure> {
    let mut items = Vec::new();
    let mut page_token = page.page_token.clone().unwrap_or_default();
    loop {
        let (more, next) = split(service.call(request(page_token)).await?);
        items.extend(more);
        if page.page_token.is_some() || next.is_empty() {
            return Ok((items, next));
        }
        page_token = next;
    }
}
