//! The files of a keyring. A file is accepted only in the form that Keyward writes, and no error
//! repeats a secret.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use keyward::system::SystemEntropy;
use keyward_crypto::{Active, Keyring, KeyringMaterial, keyring_files};

use crate::Target;

const NAMES: [&str; 10] = [
    "generation-1",
    "seal-1",
    "cache-1",
    "generation-2",
    "seal-4294967295",
    "cache-0",
    "foreign-1",
    "foreign-2",
    "import-1",
    "audit-1",
];

/// The first byte names a file of a valid keyring, which the rest replaces; with an odd byte, the
/// target repairs its checksum.
pub fn target() -> Target {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let dir = directory.path().join("keyring");
    keyring_files::generate(&dir, &SystemEntropy).expect("a keyring can be made");
    Box::new(move |data| {
        let _keep = &directory;
        let Some((choice, content)) = data.split_first() else {
            return;
        };
        let name = NAMES[usize::from(choice / 2) % NAMES.len()];
        let path = dir.join(name);
        let content = match choice % 2 {
            1 => with_checksum(content),
            _ => content.to_vec(),
        };
        let original = fs::read(&path).ok();
        write(&path, &content);
        match keyring_files::load(&dir) {
            Ok(material) => accepted(&material, name, &content),
            Err(error) => leaks_nothing(&error.to_string(), &content),
        }
        match original {
            Some(original) => write(&path, &original),
            None => fs::remove_file(&path).expect("a file can be removed"),
        }
    })
}

/// The keyring works, and `content` is the file `name` as Keyward writes it. The last line may lack its
/// end.
fn accepted(material: &KeyringMaterial, name: &str, content: &[u8]) {
    Keyring::new(material, Active::default()).expect("an accepted keyring works");
    let text = std::str::from_utf8(content).expect("a file is text");
    let (kind, number) = name.split_once('-').expect("a kind and a number");
    let header = format!("keyward keyring v1\n{kind} = {number}\n");
    let rest = text.strip_prefix(&header).expect("the header");
    let mut lines = rest.strip_suffix('\n').unwrap_or(rest).split('\n');
    let mut value = |label: &str, digits: &[usize]| {
        let line = lines.next().expect("a line");
        let value = line
            .strip_prefix(label)
            .and_then(|rest| rest.strip_prefix(" = "));
        let value = value.unwrap_or_else(|| panic!("a line without {label}"));
        let is_hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        assert!(
            digits.contains(&value.len()) && value.bytes().all(is_hex),
            "{label}"
        );
    };
    let keys: &[&str] = match kind {
        "generation" => &["tag_key", "pepper"],
        _ => &["key"],
    };
    let secret: Vec<_> = match kind {
        "import" => (2..=2_048).step_by(2).collect(),
        _ => vec![64],
    };
    for key in keys {
        value(key, &secret);
    }
    value("crc32", &[8]);
    assert_eq!(lines.next(), None);
}

fn leaks_nothing(error: &str, content: &[u8]) {
    let secrets = content.split(|byte| !byte.is_ascii_hexdigit());
    for secret in secrets.filter(|secret| secret.len() >= 32) {
        let secret = String::from_utf8_lossy(secret);
        assert!(!error.contains(&*secret), "an error repeats a secret");
    }
}

/// `content` up to its checksum, with a right one.
fn with_checksum(content: &[u8]) -> Vec<u8> {
    const LABEL: &[u8] = b"crc32 = ";
    let at = content.windows(LABEL.len()).rposition(|part| part == LABEL);
    let covered = &content[..at.unwrap_or(content.len())];
    let crc = format!("{:08x}\n", crc32fast::hash(covered));
    [covered, LABEL, crc.as_bytes()].concat()
}

fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).expect("a file can be written");
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(path, private).expect("a file can be made private");
}
