//! The files for foreign keys: the pepper and the import secrets.

use super::*;

#[test]
fn a_keyring_has_one_foreign_pepper_and_any_number_of_import_secrets() {
    let (_home, dir) = generated();
    let entropy = Counting::default();
    entropy.fill(&mut [0; 200]);
    let known = add_foreign_pepper(&dir, &entropy).unwrap_err();
    assert!(matches!(known, KeyringError::Known(_)), "{known}");
    fs::remove_file(dir.join("foreign-1")).unwrap();
    assert!(load(&dir).unwrap().foreign.is_none());
    assert_eq!(add_foreign_pepper(&dir, &entropy).unwrap(), 1);
    assert_eq!(mode(&dir.join("foreign-1")), 0o600);

    let long = [0xab; ImportSecret::MAX_LEN];
    for (number, secret) in [(1, &b"x"[..]), (2, &long)] {
        let secret = ImportSecret::new(secret).unwrap();
        assert_eq!(add_import_secret(&dir, &secret).unwrap(), number);
        let known = add_import_secret(&dir, &secret).unwrap_err();
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
