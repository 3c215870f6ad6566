//! The verbs on callers' tokens.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use keyward_proto::v1::{
    CreateTokenRequest, CreateTokenResponse, ListTokensRequest, RevokeTokenRequest,
};

use super::args;
use super::client::Client;
use super::input::id;
use super::output;
use super::render::Report;
use super::{Failure, Reach};

/// Makes a token, and shows it or writes it into the file that is named.
pub(super) async fn create(args: &args::TokenCreate, reach: &Reach<'_>) -> Result<Report, Failure> {
    let request = create_request(args);
    let Some(path) = &args.into else {
        return Client::connect(reach).await?.create_token(request).await;
    };
    if let Ok(there) = fs::metadata(path) {
        if !there.is_file() || there.len() == 0 {
            return Err(Failure::Failed(format!(
                "{} is there and holds no token: no token was made\n  name another file, or remove it",
                path.display()
            )));
        }
        let mut report = output::token_created(&CreateTokenResponse::default());
        report.note = Some(format!("{} is there: no token was made", path.display()));
        return Ok(report);
    }
    // Before there is a token that could not be written.
    let file = TokenFile::begin(path)?;
    let mut client = Client::connect(reach).await?;
    let answer = client.admin.create_token(request).await;
    let mut answer = answer
        .map_err(|status| client.explain(&status))?
        .into_inner();
    file.finish(&std::mem::take(&mut answer.token))?;
    Ok(output::token_created(&answer))
}

/// A file that holds a token, or is not there.
struct TokenFile<'a> {
    path: &'a Path,
    /// The same under a hidden name, while it is not whole.
    half: PathBuf,
    file: File,
}

impl<'a> TokenFile<'a> {
    fn begin(path: &'a Path) -> Result<Self, Failure> {
        let name = path.file_name().unwrap_or_default();
        let half = path.with_file_name(format!(".{}.new", name.display()));
        // Left by one that was killed; nobody has it.
        let _ = fs::remove_file(&half);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&half)
            .map_err(|error| unwritten(path, &error))?;
        Ok(Self { path, half, file })
    }

    fn finish(mut self, token: &str) -> Result<(), Failure> {
        writeln!(self.file, "{token}")
            .and_then(|()| self.file.sync_all())
            .and_then(|()| fs::hard_link(&self.half, self.path))
            .map_err(|error| unwritten(self.path, &error))
    }
}

impl Drop for TokenFile<'_> {
    fn drop(&mut self) {
        // What cannot be removed is as private as the file itself.
        let _ = fs::remove_file(&self.half);
    }
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("{} cannot be written: {error}", path.display()))
}

fn create_request(args: &args::TokenCreate) -> CreateTokenRequest {
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
