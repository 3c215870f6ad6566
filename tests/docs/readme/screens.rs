//! The pictures of the bot show its current texts.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::updating;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn python() -> PathBuf {
    let named = std::env::var_os("KEYWARD_TEST_PYTHON").filter(|name| !name.is_empty());
    named.map_or_else(
        || Path::new(ROOT).join("target/venv/bin/python"),
        PathBuf::from,
    )
}

fn draw(directory: &Path) {
    // A test of the bot writes it.
    let texts = File::open(Path::new(ROOT).join("docs/screens/screens.json"));
    let drawing = Command::new(python())
        .arg(Path::new(ROOT).join("scripts/screens.py"))
        .arg(directory)
        .stdin(texts.unwrap())
        .status();
    assert!(drawing.unwrap().success());
}

#[test]
fn the_pictures_of_the_bot_are_those_of_its_texts() {
    let committed = Path::new(ROOT).join("docs/screens");
    if updating() {
        draw(&committed);
    }
    let drawn = tempfile::tempdir().unwrap();
    draw(drawn.path());
    for language in ["en", "zh", "ru"] {
        let read = |directory: &Path| {
            let path = directory.join(language).with_extension("svg");
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
        };
        let (picture, ours) = (read(&committed), read(drawn.path()));
        assert!(
            picture == ours,
            "docs/screens/{language}.svg is outdated: run `make update-docs` and look at it"
        );
        assert!(ours.matches("<g ").count() > 20, "each screen is there");
    }
}
