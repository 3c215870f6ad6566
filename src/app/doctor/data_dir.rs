//! Examines the data directory and the first token in it.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use keyward_ops::findings::Findings;
use rustix::fs::{Access, access, statvfs};

use crate::app::bootstrap::{cannot_create, token_file};
use crate::config::{Settings, Store};

/// Less free space than this is worth a warning, in bytes.
const FREE: u64 = 64 << 20;

pub(super) fn examine(settings: &Settings, found: &mut Findings) {
    let path = settings.data_dir.as_path();
    let is_embedded = matches!(settings.store, Store::Sqlite(_));
    match fs::metadata(path) {
        Ok(directory) if directory.is_dir() => existing(path, &directory, is_embedded, found),
        Ok(_) => found.error(
            "data_dir",
            cannot_create(path, &io::ErrorKind::NotADirectory.into()),
        ),
        // A shared store needs none.
        Err(_) if !is_embedded => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => missing(path, found),
        Err(error) => found.error("data_dir", cannot_create(path, &error)),
    }
    let token = token_file(settings);
    if let Ok(file) = fs::metadata(&token)
        && file.permissions().mode() & 0o007 != 0
    {
        let token = token.display();
        let text = format!(
            "every user of this machine can read or change the token file {token}. Revoke that token, and run \
             `chmod o-rwx {token}`"
        );
        found.error("token", text);
    }
}

/// The first start creates the directory.
fn missing(path: &Path, found: &mut Findings) {
    let above = path.ancestors().skip(1).find(|above| above.exists());
    let above = above.unwrap_or(Path::new("."));
    match access(above, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => found.ok(
            "data_dir",
            format!(
                "{} does not exist; the first start creates it",
                path.display()
            ),
        ),
        Err(error) => found.error("data_dir", cannot_create(path, &error.into())),
    }
}

fn existing(path: &Path, directory: &Metadata, is_embedded: bool, found: &mut Findings) {
    let shown = path.display();
    let (owner, user) = (directory.uid(), rustix::process::geteuid().as_raw());
    let before = found.0.len();
    if owner != user {
        let text = format!(
            "{shown} belongs to user {owner}, and this is user {user}. Run this command as the user of the \
             service: `sudo -u '#{owner}' keyward doctor`"
        );
        found.warn("data_dir", text);
    }
    if directory.permissions().mode() & 0o007 != 0 {
        let text =
            format!("every user of this machine can look into {shown}. Run `chmod o-rwx {shown}`");
        found.warn("data_dir", text);
    }
    if is_embedded {
        let usable = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        if let Err(error) = access(path, usable) {
            let text = format!(
                "{shown} cannot be written: {error}. Run `chown -R USER {shown}` with the user of the service"
            );
            found.error("data_dir", text);
        }
        if let Ok(disk) = statvfs(path)
            && disk.f_bavail.saturating_mul(disk.f_frsize) < FREE
        {
            let text =
                format!("the disk of {shown} is almost full. Free space, or changes will fail");
            found.warn("data_dir", text);
        }
    }
    if found.0.len() == before {
        found.ok("data_dir", shown);
    }
}
