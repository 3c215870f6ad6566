//! The keyring's files: each refused case with its message. A keyring appears complete, with its
//! permissions, or not at all.

mod added;

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::testing::Counting;
use super::*;
use crate::{Active, Keyring};

/// A new keyring in a temporary directory.
fn generated() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("keyring");
    generate(&dir, &Counting::default()).unwrap();
    (home, dir)
}

/// The error of a load, without the path of the directory.
fn refusal(dir: &Path) -> String {
    let error = load(dir).unwrap_err().to_string();
    error.replace(dir.to_str().unwrap(), "DIR")
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn text_of(kind: KeyKind, number: u32, lines: &str) -> String {
    let covered = format!("{HEADER}{} = {number}\n{lines}", kind.name());
    format!("{covered}crc32 = {}\n", crc_of(&covered))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn checks(material: &KeyringMaterial) -> Vec<crate::CheckValue> {
    Keyring::new(material, Active::default())
        .unwrap()
        .check_values()
}

#[test]
fn a_generated_keyring_is_loaded() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("keyring");
    let made = generate(&dir, &Counting::default()).unwrap();
    assert_eq!(checks(&made), checks(&load(&dir).unwrap()));
    assert_eq!(
        fs::read_dir(home.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
    let all = [
        &made.generations[&1].tag_key,
        &made.generations[&1].pepper,
        &made.seals[&1],
    ];
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
}

#[test]
fn only_the_owner_may_read_a_keyring() {
    let (_home, dir) = generated();
    assert_eq!(mode(&dir), 0o700);
    for name in ["generation-1", "seal-1", "cache-1", "foreign-1", "audit-1"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
}

#[test]
fn exposed_files_are_refused() {
    let (_home, dir) = generated();
    let seal = dir.join("seal-1");
    for exposed in [0o604, 0o602, 0o601] {
        fs::set_permissions(&seal, fs::Permissions::from_mode(exposed)).unwrap();
        assert_eq!(
            refusal(&dir),
            "\"DIR/seal-1\" can be read or changed by every user of this machine: run `chmod o-rwx \"DIR/seal-1\"`, \
             or in Kubernetes set the volume's defaultMode to 0440"
        );
    }
    fs::set_permissions(&seal, fs::Permissions::from_mode(0o440)).unwrap();
    assert!(load(&dir).is_ok());
}

#[test]
fn a_keyring_is_never_overwritten() {
    let (_home, dir) = generated();
    let before = fs::read(dir.join("seal-1")).unwrap();
    let error = generate(&dir, &Counting::default()).unwrap_err();
    assert!(matches!(error, KeyringError::Exists(_)), "{error}");
    assert!(
        error
            .to_string()
            .contains("exists and is not empty, and a keyring is never overwritten")
    );
    assert_eq!(fs::read(dir.join("seal-1")).unwrap(), before);
}

/// Makes a keyring in the same directory at the same time.
struct Rival(PathBuf);

impl Entropy for Rival {
    fn fill(&self, buffer: &mut [u8]) {
        if !self.0.exists() {
            generate(&self.0, &Counting::default()).unwrap();
        }
        buffer.fill(7);
    }
}

#[test]
fn of_two_concurrent_calls_one_makes_the_keyring() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("keyring");
    let error = generate(&dir, &Rival(dir.clone())).unwrap_err();
    assert!(matches!(error, KeyringError::Exists(_)), "{error}");
    assert!(load(&dir).is_ok());
    assert_eq!(
        fs::read_dir(home.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[test]
fn an_empty_directory_is_filled() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("keyring");
    fs::create_dir(&dir).unwrap();
    generate(&dir, &Counting::default()).unwrap();
    assert_eq!(mode(&dir), 0o700);
}

#[test]
fn leftovers_of_a_crash_do_not_block_a_new_keyring() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("keyring");
    let left = home.path().join(".keyring.ffffffffffffffff");
    fs::create_dir(&left).unwrap();
    write(&left.join("generation-1"), "keyward keyr");
    generate(&dir, &Counting::default()).unwrap();
    assert!(load(&dir).is_ok());
}

#[test]
fn a_failed_attempt_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("keyring");
    write(&file, "not a directory");
    assert!(matches!(
        generate(&file, &Counting::default()),
        Err(KeyringError::Write { .. })
    ));
    let below = home.path().join("missing/keyring");
    let error = generate(&below, &Counting::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot make a keyring at") && error.contains("the directory above it"),
        "{error}"
    );
    assert!(generate(Path::new("/"), &Counting::default()).is_err());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn a_mounted_secret_is_read_through_its_links() {
    let (home, dir) = generated();
    let mount = home.path().join("mount");
    fs::create_dir(&mount).unwrap();
    fs::rename(&dir, mount.join("..2024_05_01")).unwrap();
    symlink("..2024_05_01", mount.join("..data")).unwrap();
    for name in ["generation-1", "seal-1", "cache-1", "foreign-1"] {
        symlink(format!("..data/{name}"), mount.join(name)).unwrap();
    }
    assert!(load(&mount).is_ok());
    symlink("..data/seal-2", mount.join("seal-2")).unwrap();
    assert!(
        matches!(load(&mount), Err(KeyringError::Read { .. })),
        "a link to nowhere"
    );
}

#[test]
fn a_missing_or_incomplete_keyring_is_refused() {
    let (home, dir) = generated();
    let none = "there is no keyring in \"DIR\": restore it from its backup, or every key of this store is lost";
    assert_eq!(refusal(&home.path().join("none")), none);
    fs::remove_file(dir.join("seal-1")).unwrap();
    assert_eq!(
        refusal(&dir),
        "the keyring \"DIR\" holds no file seal-<number>: restore it from its backup"
    );
    fs::rename(dir.join("generation-1"), home.path().join("elsewhere")).unwrap();
    fs::remove_file(dir.join("cache-1")).unwrap();
    fs::remove_file(dir.join("foreign-1")).unwrap();
    fs::remove_file(dir.join("audit-1")).unwrap();
    assert_eq!(refusal(&dir), none);
    write(
        &dir.join("seal-1"),
        &text_of(KeyKind::Seal, 1, &format!("key = {}\n", "ab".repeat(32))),
    );
    assert_eq!(
        refusal(&dir),
        "the keyring \"DIR\" holds no file generation-<number>: restore it from its backup"
    );
    assert!(matches!(
        load(Path::new("/dev/null")),
        Err(KeyringError::Read { .. })
    ));
}

#[test]
fn foreign_names_are_refused() {
    for name in [
        "README",
        "generation",
        "seals-1",
        "Seal-1",
        "generation-1~x",
        "seal-1.bak",
    ] {
        let (_home, dir) = generated();
        write(&dir.join(name), "");
        let error = refusal(&dir);
        assert!(
            error.starts_with(&format!("\"DIR/{name}\" ")) || error.contains(name),
            "{error}"
        );
    }
    let (_home, dir) = generated();
    fs::create_dir(dir.join("seal-2")).unwrap();
    assert!(
        matches!(load(&dir), Err(KeyringError::Unknown(_))),
        "a directory"
    );
}

#[test]
fn numbers_have_one_form() {
    for digits in [
        "0",
        "01",
        "+1",
        "-1",
        "1 ",
        "",
        "4294967296",
        "one",
        "1.bak",
    ] {
        let (_home, dir) = generated();
        let name = format!("generation-{digits}");
        write(&dir.join(&name), "");
        assert_eq!(
            refusal(&dir),
            format!(
                "the number in the name of \"DIR/{name}\" is not from 1 to 4294967295 without leading zeros: restore the file's old name"
            )
        );
    }
}

#[test]
fn damaged_files_are_refused() {
    let key = "ab".repeat(32);
    let seal = |lines: &str| text_of(KeyKind::Seal, 2, lines);
    let cases = [
        ("", "it is empty"),
        (
            "keyward keyring v2\n",
            "its first line is not `keyward keyring v1`",
        ),
        (HEADER, "it is cut short: its last line is missing"),
        (
            &seal(&format!("key = {key}\n")).replace("ab", "ac"),
            "its checksum is wrong",
        ),
        (
            &seal(&format!("key = {key}\n")).replace('\n', "\r\n"),
            "its first line is not `keyward keyring v1`",
        ),
        (
            &text_of(KeyKind::Seal, 3, &format!("key = {key}\n")),
            "its second line does not match its name",
        ),
        (
            &text_of(KeyKind::Generation, 2, &format!("key = {key}\n")),
            "its second line does not match its name",
        ),
        (&seal(""), "a line is missing or out of place"),
        (
            &seal(&format!("pepper = {key}\n")),
            "a line is missing or out of place",
        ),
        (
            &seal(&format!("key = {}\n", &key[2..])),
            "a key is not 64 hexadecimal digits",
        ),
        (
            &seal(&format!("key = {}gg\n", &key[2..])),
            "a key is not 64 hexadecimal digits",
        ),
        (
            &seal(&format!("key = {key}\r\n")),
            "a key is not 64 hexadecimal digits",
        ),
        (
            &seal(&format!("key = {}\n", key.to_uppercase())),
            "a key is not 64 hexadecimal digits",
        ),
        (
            &seal(&format!("key = {key}\nkey = {key}\n")),
            "it has an extra line",
        ),
        // The checksum stands behind the key instead of on a line of its own.
        (
            &seal(&format!("key = {key}")),
            "it is cut short: its last line is missing",
        ),
        (&"x".repeat(5_000), "it is too long"),
    ];
    for (text, reason) in cases {
        let (_home, dir) = generated();
        write(&dir.join("seal-2"), text);
        assert_eq!(
            refusal(&dir),
            format!("\"DIR/seal-2\" is damaged ({reason}): restore it from the keyring's backup")
        );
    }
    let (_home, dir) = generated();
    fs::write(dir.join("seal-1"), [0xff, 0xfe]).unwrap();
    assert!(refusal(&dir).contains("it is not text"));
}

#[test]
fn a_file_under_another_name_is_refused() {
    let (_home, dir) = generated();
    fs::copy(dir.join("seal-1"), dir.join("seal-2")).unwrap();
    assert!(refusal(&dir).contains("its second line does not match its name"));
}

#[test]
fn a_repeated_secret_is_refused() {
    let used: String = {
        let (_home, dir) = generated();
        hex_digits(load(&dir).unwrap().generations[&1].pepper.expose()).collect()
    };
    let other = "cd".repeat(32);
    let lines = [
        (KeyKind::Seal, format!("key = {used}\n")),
        (KeyKind::Import, format!("key = {used}\n")),
        (
            KeyKind::Generation,
            format!("tag_key = {used}\npepper = {other}\n"),
        ),
        (
            KeyKind::Generation,
            format!("tag_key = {other}\npepper = {other}\n"),
        ),
    ];
    for (kind, lines) in lines {
        let (_home, dir) = generated();
        write(
            &dir.join(format!("{}-2", kind.name())),
            &text_of(kind, 2, &lines),
        );
        let error = refusal(&dir);
        assert!(
            error.contains("-2\" repeats a secret of this keyring"),
            "{error}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Only the last newline may be missing. No message shows any of the contents.
    #[test]
    fn a_cut_or_altered_file_is_refused(at in 0..160_usize, bit in 0..8_u8, cut: bool, seal: bool) {
        let (_home, dir) = generated();
        let path = dir.join(if seal { "seal-1" } else { "generation-1" });
        let mut bytes = fs::read(&path).unwrap();
        let at = at % (bytes.len() - 1);
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        fs::write(&path, &bytes).unwrap();
        let error = load(&dir).unwrap_err();
        prop_assert!(matches!(error, KeyringError::Damaged { .. }), "{error}");
        let shown = format!("{error} {error:?}");
        prop_assert!(!shown.contains("0a0b0c") && !shown.contains("202122"), "{shown}");
    }
}

#[test]
fn the_last_newline_may_be_missing() {
    let (_home, dir) = generated();
    let text = fs::read_to_string(dir.join("seal-1")).unwrap();
    write(&dir.join("seal-1"), text.trim_end());
    assert!(load(&dir).is_ok());
}
