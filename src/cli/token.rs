//! The verbs for callers' tokens.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use keyward_core::key::TOKEN_PREFIX;
use keyward_proto::v1::{CreateTokenRequest, CreateTokenResponse};

use super::args;
use super::client::Service;
use super::input;
use super::output;
use super::render::Report;
use super::{Context, Failure};

/// Creates a token, and shows it or writes it to the file of `--into`.
pub(super) async fn create(
    args: &args::TokenCreate,
    context: &Context<'_>,
) -> Result<Report, Failure> {
    let request = CreateTokenRequest {
        name: args.name.clone(),
        roles: args.role.iter().map(|role| i32::from(*role)).collect(),
        expire_time: args.expire_time,
        ttl: args.ttl,
        san: args.san.clone().unwrap_or_default(),
    };
    let Some(path) = &args.into else {
        let response = Service::new(context)?.call(request).await?;
        return Ok(output::token_created(&response, None));
    };
    if is_token_file(path)? {
        let mut report = output::token_created(&CreateTokenResponse::default(), None);
        report.note = Some(format!(
            "{} already exists: no token was created",
            path.display()
        ));
        return Ok(report);
    }
    // The file comes first, so that no token is created that cannot be written.
    let file = TokenFile::create(path)?;
    let mut response = Service::new(context)?.call(request).await?;
    let token = std::mem::take(&mut response.token);
    file.publish(&token).map_err(|error| {
        let lost = response.caller_token.as_ref().map(output::lost_token);
        let lost = lost.unwrap_or_default();
        Failure::Failed(format!(
            "cannot write {}: {error}\n  {lost}",
            path.display()
        ))
    })?;
    Ok(output::token_created(&response, Some(path)))
}

/// Whether `path` already holds a token; `false` if a file can be created there.
fn is_token_file(path: &Path) -> Result<bool, Failure> {
    let refuse = |what: &str| {
        Err(Failure::Failed(format!(
            "--into '{}' {what}: no token was created\n  choose another file, or remove this one",
            path.display()
        )))
    };
    // The metadata of a symbolic link itself: a link to a missing file exists, too.
    match (fs::metadata(path), fs::symlink_metadata(path)) {
        (Ok(found), _) if found.is_dir() => refuse("is a directory"),
        (Ok(found), _) if !found.is_file() => refuse("is not a file"),
        (Ok(_), _) => match begins_as_token(path) {
            Ok(true) => Ok(true),
            Ok(false) => refuse("exists and holds no token"),
            Err(error) => refuse(&format!("exists and cannot be read: {error}")),
        },
        (Err(_), Ok(_)) => refuse("is a link to a missing file"),
        (Err(_), Err(_)) if !is_file_name(path) => refuse("is not the name of a file"),
        (Err(_), Err(_)) => Ok(false),
    }
}

fn begins_as_token(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    let length = TOKEN_PREFIX.len() as u64 + 1;
    File::open(path)?.take(length).read_to_end(&mut start)?;
    Ok(input::is_token(&String::from_utf8_lossy(&start)))
}

fn is_file_name(path: &Path) -> bool {
    path.file_name().is_some() && !path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

/// A file that appears only when it holds the whole token.
struct TokenFile<'a> {
    path: &'a Path,
    /// A hidden file in the same directory, which holds the token until it is complete.
    temporary: PathBuf,
    file: File,
}

impl<'a> TokenFile<'a> {
    fn create(path: &'a Path) -> Result<Self, Failure> {
        let name = path.file_name().unwrap_or_default();
        let temporary = path.with_file_name(format!(".{}.new", name.display()));
        // A killed command may have left one; nobody uses its token.
        let _ = fs::remove_file(&temporary);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|error| {
                Failure::Failed(format!("cannot write {}: {error}", path.display()))
            })?;
        Ok(Self {
            path,
            temporary,
            file,
        })
    }

    fn publish(mut self, token: &str) -> io::Result<()> {
        writeln!(self.file, "{token}")?;
        self.file.sync_all()?;
        fs::hard_link(&self.temporary, self.path)
    }
}

impl Drop for TokenFile<'_> {
    fn drop(&mut self) {
        // If this fails, the temporary file is as private as the token file.
        let _ = fs::remove_file(&self.temporary);
    }
}
