//! Files that are added to a keyring.

use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicU8, Ordering};

use super::*;

/// Never draws the same secret twice.
#[derive(Default)]
struct Distinct(AtomicU8);

impl Entropy for Distinct {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(0xd1);
        buffer[0] = self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_key_of_each_kind_is_added_and_replaces_nothing() {
    let (_home, dir) = generated();
    let entropy = Distinct::default();
    let before = versions(&dir).unwrap();
    for kind in [
        KeyKind::Generation,
        KeyKind::Seal,
        KeyKind::Cache,
        KeyKind::Audit,
    ] {
        for number in [2, 3] {
            let name = add(&dir, kind, None, &entropy).unwrap();
            assert_eq!(name, KeyName { kind, number });
            assert_eq!(mode(&dir.join(name.to_string())), 0o600);
        }
        let file = dir.join(format!("{}-3", kind.name()));
        let (text, again) = (fs::read(&file).unwrap(), add(&dir, kind, Some(3), &entropy));
        assert!(
            matches!(again, Err(KeyringError::Write { .. })),
            "{again:?}"
        );
        assert_eq!(fs::read(&file).unwrap(), text);
        assert_eq!(add(&dir, kind, Some(9), &entropy).unwrap().number, 9);
    }
    assert_ne!(versions(&dir).unwrap(), before);
    let keyring = Keyring::new(&load(&dir).unwrap(), Active::default()).unwrap();
    assert_eq!((keyring.active(), keyring.active_seal()), (9, 9));
    assert_eq!(keyring.cache_key().unwrap().version(), 9);
    assert_eq!(keyring.audit_key().unwrap().version(), 9);
    let left = fs::read_dir(&dir).unwrap().count();
    assert_eq!(left, 17, "no hidden file is left");
}

#[test]
fn a_keyring_has_one_foreign_pepper_and_any_number_of_import_secrets() {
    let (_home, dir) = generated();
    let entropy = Counting::default();
    entropy.fill(&mut [0; 200]);
    let known = add(&dir, KeyKind::Foreign, None, &entropy).unwrap_err();
    assert!(matches!(known, KeyringError::Known(_)), "{known}");
    fs::remove_file(dir.join("foreign-1")).unwrap();
    assert!(load(&dir).unwrap().foreign.is_none());
    assert_eq!(
        add(&dir, KeyKind::Foreign, None, &entropy).unwrap().number,
        1
    );
    assert_eq!(mode(&dir.join("foreign-1")), 0o600);

    let long = [0xab; ImportSecret::MAX_LEN];
    for (number, secret) in [(1, &b"x"[..]), (2, &long)] {
        let secret = ImportSecret::new(secret).unwrap();
        let added = add_import_secret(&dir, None, &secret).unwrap();
        assert_eq!(added.number, number);
        let known = add_import_secret(&dir, None, &secret).unwrap_err();
        assert!(matches!(known, KeyringError::Known(_)), "{known}");
        assert_eq!(
            load(&dir).unwrap().imports[&number].expose(),
            secret.expose()
        );
    }
    write(
        &dir.join("foreign-2"),
        &text_of(KeyKind::Foreign, 2, &format!("key = {}\n", "ab".repeat(32))),
    );
    assert!(refusal(&dir).contains("foreign-2\" would be a second foreign pepper"));
    fs::remove_file(dir.join("foreign-2")).unwrap();
    write(
        &dir.join("import-3"),
        &text_of(KeyKind::Import, 3, "key = abc\n"),
    );
    assert!(refusal(&dir).contains("a key is not 2 to 2048 hexadecimal digits"));
}

#[test]
fn who_reads_the_keyring_reads_a_new_file() {
    let (_home, dir) = generated();
    let files = || files_in(&dir).unwrap();
    // Only root can give files away.
    let is_root = std::os::unix::fs::chown(&dir, Some(65_534), Some(65_534)).is_ok();
    for file in files() {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        if is_root {
            std::os::unix::fs::chown(&file, Some(65_534), Some(65_534)).unwrap();
        }
    }
    add(&dir, KeyKind::Seal, None, &Distinct::default()).unwrap();
    let readers = |path: &PathBuf| {
        let file = fs::metadata(path).unwrap();
        (file.uid(), file.gid(), mode(path))
    };
    let all: std::collections::BTreeSet<_> = files().iter().map(readers).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all.iter().all(|(.., mode)| *mode == 0o640));
}
