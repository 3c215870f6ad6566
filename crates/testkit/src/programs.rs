//! The programs of the workspace, for tests that run them. They are built once, in the directory of
//! the test's executable.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The paths of the programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `keyward`
    pub keyward: PathBuf,
    /// `keyward-bot`
    pub bot: PathBuf,
    /// The example `rest_api`.
    pub rest_api: PathBuf,
    /// The example `demo`.
    pub demo: PathBuf,
}

impl Programs {
    /// The paths. Runs cargo first if a program is missing or older than its source.
    ///
    /// # Panics
    ///
    /// The build fails. The message contains cargo's output.
    pub fn get() -> &'static Self {
        static BUILT: OnceLock<Programs> = OnceLock::new();
        BUILT.get_or_init(|| {
            let place = place();
            let programs = Self {
                keyward: place.join("keyward"),
                bot: place.join("keyward-bot"),
                rest_api: place.join("examples/rest_api"),
                demo: place.join("examples/demo"),
            };
            // `cargo test` builds all programs; `cargo test --test NAME` builds only that test.
            if !programs.are_fresh() {
                build(&place);
            }
            programs
        })
    }
}

impl Programs {
    /// Whether all programs exist and are up to date.
    fn are_fresh(&self) -> bool {
        let made_from: [(&Path, &[&str]); 4] = [
            (&self.keyward, &["src", "migrations", "crates/proto/src"]),
            (
                &self.bot,
                &[
                    "crates/bot/src",
                    "crates/bot/locales",
                    "crates/client/src",
                    "crates/guard/src",
                ],
            ),
            (
                &self.rest_api,
                &[
                    "examples/rest_api.rs",
                    "crates/client/src",
                    "crates/guard/src",
                ],
            ),
            (&self.demo, &["examples/demo.rs", "crates/testkit/src"]),
        ];
        made_from.into_iter().all(|(program, sources)| {
            let newest = sources
                .iter()
                .map(|path| newest(&Path::new(ROOT).join(path)));
            modified(program) >= newest.max().flatten()
        })
    }
}

/// The modification time of the newest file in the directory; `None` if it has no files.
fn newest(path: &Path) -> Option<SystemTime> {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().filter_map(|e| newest(&e.path())).max(),
        Err(_) => modified(path),
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|found| found.modified()).ok()
}

/// The directory of the current profile. Tests are in its `deps`, examples in `examples`.
fn place() -> PathBuf {
    let here = std::env::current_exe().expect("this process has an executable");
    let parts = ["deps", "examples"].map(Path::new);
    let inner = here.parent().expect("an executable lies in a directory");
    match inner.file_name() {
        Some(name) if parts.iter().any(|part| part.as_os_str() == name) => {
            let place = inner.parent();
            place.expect("the directory lies in another").to_path_buf()
        }
        _ => inner.to_path_buf(),
    }
}

/// Builds all of them.
fn build(place: &Path) {
    let profile = place.file_name().and_then(|name| name.to_str());
    let profile = match profile.expect("a profile has a name") {
        "debug" => "dev",
        name => name,
    };
    let target = place.parent().expect("a profile lies in a directory");
    let arguments = [
        "build",
        "--workspace",
        "--locked",
        "--bin",
        "keyward",
        "--bin",
        "keyward-bot",
        "--example",
        "rest_api",
        "--example",
        "demo",
        "--profile",
        profile,
    ];
    let mut cargo = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        // What cargo tells the tests of a package: build scripts that look at it would run again.
        let build_variables = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_EXE_", "OUT_DIR"];
        if build_variables
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            cargo.env_remove(name);
        }
    }
    let output = cargo
        .args(arguments)
        .arg("--target-dir")
        .arg(target)
        .current_dir(ROOT)
        .output()
        .expect("cargo can be started");
    assert!(
        output.status.success(),
        "cannot build the programs; try: cargo {}\n{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}
