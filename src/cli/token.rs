//! The verbs on callers' tokens.

use keyward_proto::v1::{CreateTokenRequest, ListTokensRequest, RevokeTokenRequest};

use super::Failure;
use super::args;
use super::client::Client;
use super::input::id;
use super::output;
use super::render::Report;

pub(super) fn create_request(args: &args::TokenCreate) -> CreateTokenRequest {
    CreateTokenRequest {
        name: args.name.clone(),
        roles: args.role.iter().map(|role| i32::from(*role)).collect(),
    }
}

pub(super) fn revoke_request(args: &args::TokenRevoke) -> Result<RevokeTokenRequest, Failure> {
    Ok(RevokeTokenRequest {
        token_id: id("TOKEN_ID", &args.token_id)?,
    })
}

impl Client {
    pub(super) async fn create_token(
        &mut self,
        request: CreateTokenRequest,
    ) -> Result<Report, Failure> {
        let answer = self.admin.create_token(request).await;
        Ok(output::token_created(
            &answer.map_err(|status| self.explain(&status))?.into_inner(),
        ))
    }

    /// One page if its token was given, otherwise all.
    pub(super) async fn list_tokens(&mut self, args: &args::TokenList) -> Result<Report, Failure> {
        let mut request = ListTokensRequest {
            include_revoked: args.page.all,
            page_size: args.page.page_size,
            page_token: args.page.page_token.clone().unwrap_or_default(),
        };
        let mut tokens = Vec::new();
        loop {
            let answer = self.admin.list_tokens(request.clone()).await;
            let page = answer.map_err(|status| self.explain(&status))?.into_inner();
            tokens.extend(page.caller_tokens);
            if args.page.page_token.is_some() || page.next_page_token.is_empty() {
                return Ok(output::tokens_listed(&tokens, &page.next_page_token));
            }
            request.page_token = page.next_page_token;
        }
    }

    pub(super) async fn revoke_token(
        &mut self,
        request: RevokeTokenRequest,
    ) -> Result<Report, Failure> {
        let answer = self.admin.revoke_token(request).await;
        Ok(output::token_revoked(
            &answer.map_err(|status| self.explain(&status))?.into_inner(),
        ))
    }
}
