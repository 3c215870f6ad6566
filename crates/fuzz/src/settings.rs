//! The settings of the server and of the bot, from variables and a file. Accepted settings are
//! accepted again in the form that `keyward config` shows.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use keyward::config::Settings;
use keyward_bot::settings::Values;
use keyward_ops::settings::{Inputs, Schema, load};

use crate::Target;

/// Lines `NAME=VALUE` are variables, up to the first empty line. The rest is the file.
pub fn target() -> Target {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let file = directory.path().join("settings.toml");
    Box::new(move |data| {
        let _keep = &directory;
        let at = data.windows(2).position(|part| part == b"\n\n");
        let (lines, text) = at.map_or((&[][..], data), |at| (&data[..at], &data[at + 2..]));
        fs::write(&file, text).expect("a file can be written");
        let variables = lines.split(|byte| *byte == b'\n').filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b'=')?;
            let part = |bytes| OsStr::from_bytes(bytes).to_owned();
            Some((part(&line[..at]), part(&line[at + 1..])))
        });
        let inputs = Inputs {
            config: Some(file.clone()),
            environment: variables.collect(),
            default_file: PathBuf::from("none"),
            ..Inputs::default()
        };
        read::<Settings>(&inputs);
        read::<Values>(&inputs);
    })
}

fn read<S: Schema>(inputs: &Inputs) {
    let first = match load::<S>(inputs.clone()) {
        Ok(first) => first,
        Err(errors) => {
            assert!(
                !errors.to_string().is_empty(),
                "an error says what is wrong"
            );
            return;
        }
    };
    // What is hidden stays as it was given.
    let shown = first.entries.iter();
    let shown = shown.filter(|entry| !entry.value.contains("***"));
    let again = Inputs {
        flags: shown
            .map(|entry| (entry.name.to_owned(), entry.value.clone()))
            .collect(),
        ..inputs.clone()
    };
    let again = load::<S>(again).unwrap_or_else(|errors| panic!("shown, and refused: {errors}"));
    for (first, again) in first.entries.iter().zip(&again.entries) {
        assert_eq!((first.name, &first.value), (again.name, &again.value));
    }
}
