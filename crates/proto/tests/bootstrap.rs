//! The committed generated code matches the proto files.
//!
//! `UPDATE_PROTO=1 cargo test -p keyward-proto --test bootstrap` regenerates it. The crate must compile
//! for this test: after a change of the proto files, run it before you edit the crate.

use std::error::Error;
use std::fs;
use std::path::Path;

use protox::Compiler;
use secret::is_secret;
use tonic_prost_build::Config;

mod secret;

/// The generated packages, each with the directory of its source.
const PACKAGES: [(&str, &str); 2] = [
    ("keyward.v1", "keyward/v1"),
    ("envoy.service.auth.v3", "envoy/service/auth/v3"),
];
const DESCRIPTOR: &str = "descriptor.bin";
const UPDATE: &str = "UPDATE_PROTO=1 cargo test -p keyward-proto --test bootstrap";

#[test]
fn generated_code_is_up_to_date() -> Result<(), Box<dyn Error>> {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    let fresh = tempfile::tempdir()?;
    generate(&compile()?, fresh.path())?;

    let code = PACKAGES.map(|(package, _)| format!("{package}.rs"));
    for file in code.into_iter().chain([DESCRIPTOR.to_owned()]) {
        let (new, old) = (fs::read(fresh.path().join(&file))?, committed.join(&file));
        if std::env::var_os("UPDATE_PROTO").is_some() {
            fs::write(old, new)?;
        } else {
            let same = fs::read(old).is_ok_and(|old| old == new);
            assert!(
                same,
                "src/gen/{file} is out of date; to update it:\n\n    {UPDATE}\n"
            );
        }
    }
    Ok(())
}

/// People and log filters recognise a secret by these names.
#[test]
fn names_identify_secrets() -> Result<(), Box<dyn Error>> {
    let pool = compile()?.descriptor_pool();
    for field in pool
        .all_messages()
        .flat_map(|message| message.fields().collect::<Vec<_>>())
    {
        let named_as_secret = ["api_key", "token", "digest"].contains(&field.name());
        assert_eq!(named_as_secret, is_secret(&field), "{}", field.full_name());
    }
    Ok(())
}

fn compile() -> Result<Compiler, Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut protos = Vec::new();
    for (_, directory) in PACKAGES {
        for entry in fs::read_dir(root.join(directory))? {
            protos.push(entry?.path());
        }
    }
    protos.sort();

    let mut compiler = Compiler::new([root])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(protos)?;
    Ok(compiler)
}

fn generate(compiler: &Compiler, out: &Path) -> Result<(), Box<dyn Error>> {
    // Not the set that tonic gets below, because prost's types drop unknown options.
    fs::write(out.join(DESCRIPTOR), compiler.encode_file_descriptor_set())?;

    let with_secrets = compiler
        .descriptor_pool()
        .all_messages()
        // Their `Debug` is not generated.
        .filter(|message| message.fields().any(|field| is_secret(&field)))
        .map(|message| format!(".{}", message.full_name()))
        // Headers contain keys.
        .chain([".envoy".to_owned()])
        .collect::<Vec<_>>();
    let mut config = Config::new();
    config.enable_type_names().btree_map(["."]);
    // The annotations are read from the descriptors.
    let mut files = compiler.file_descriptor_set();
    files.file.retain(|file| file.package() != "google.api");
    tonic_prost_build::configure()
        .out_dir(out)
        .skip_debug(with_secrets)
        .compile_fds_with_config(files, config)?;

    for (package, directory) in PACKAGES {
        let code = out.join(format!("{package}.rs"));
        let header = format!("//! The package `{package}`, generated from `proto/{directory}`.\n");
        fs::write(&code, header + &fs::read_to_string(&code)?)?;
    }
    Ok(())
}
