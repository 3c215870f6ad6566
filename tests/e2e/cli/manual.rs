//! The completions complete, and the manual pages can be read.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::harness::{alone, command, run};

/// What bash offers for the last word of `line`, with the script in `directory`.
fn offered(directory: &Path, line: &str) -> Vec<String> {
    let script = r#"
        source ./keyward.bash
        read -ra COMP_WORDS <<<"$1"
        [[ $1 == *' ' ]] && COMP_WORDS+=('')
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        function_of=$(complete -p keyward)
        [[ $function_of =~ -F\ ([^ ]+) ]]
        "${BASH_REMATCH[1]}" keyward "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let bash = Command::new("bash")
        .args(["--norc", "--noprofile", "-c", script, "bash", line])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(bash.stderr.is_empty(), "{bash:?}");
    let offered = String::from_utf8(bash.stdout).unwrap();
    offered.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let directory = tempfile::tempdir().unwrap();
    let script = alone(&["completions", "bash"]).done();
    fs::write(directory.path().join("keyward.bash"), script).unwrap();
    let offered = |line: &str| offered(directory.path(), line);
    assert_eq!(offered("keyward rev"), ["revoke"]);
    assert_eq!(offered("keyward keyring ac"), ["activate"]);
    assert_eq!(offered("keyward revoke --gr"), ["--grace"]);
    assert_eq!(offered("keyward doctor --output "), ["text", "json"]);
    let verbs = offered("keyward ");
    for verb in ["serve", "issue", "verify", "doctor", "completions"] {
        assert!(verbs.contains(&verb.to_owned()), "{verb}: {verbs:?}");
    }
}

#[test]
fn every_shell_gets_a_script_and_settings_do_not_matter() {
    let directory = tempfile::tempdir().unwrap();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let mut command = command(directory.path(), &["completions", shell]);
        command.env("KEYWARD_WORKERS", "many");
        let script = run(command, "").done();
        assert!(
            script.contains("revoke") && script.contains("grace"),
            "{shell}"
        );
    }
    let refused = alone(&["completions", "cmd"]).refused(64);
    assert!(refused.contains("possible values: bash"), "{refused}");
}

#[test]
fn each_command_has_a_page_that_groff_renders_without_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("share/man1");
    let done = alone(&["man", pages.to_str().unwrap()]).done();
    assert_eq!(done, "");
    let help = alone(&["--help"]).done();
    let verbs = help
        .split("Commands:\n")
        .nth(1)
        .unwrap()
        .split("\n\n")
        .next()
        .unwrap();
    let verbs = verbs
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let verbs: Vec<_> = verbs
        .filter(|verb| !verb.is_empty() && *verb != "help")
        .collect();
    assert!(verbs.len() > 10, "{help}");
    for verb in verbs {
        assert!(pages.join(format!("keyward-{verb}.1")).exists(), "{verb}");
    }
    for page in fs::read_dir(&pages).unwrap() {
        let groff = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww"])
            .arg(page.unwrap().path())
            .output()
            .expect("groff is installed: run scripts/install-test-tools.sh");
        assert!(
            groff.status.success() && groff.stderr.is_empty(),
            "{groff:?}"
        );
        assert!(groff.stdout.len() > 200);
    }
    let refused = alone(&["man", "/dev/null/man1"]).refused(1);
    assert!(refused.contains("/dev/null/man1"), "{refused}");
}
