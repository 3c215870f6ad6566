//! Nothing is left behind: a directory, and the server in it, end with this process, however that
//! ends.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Waits for the end of its input, that is, of whoever holds the other end. Then a server that runs
/// in `data` is told to end, also one that is paused, and the directory is removed. No signal that
/// a terminal sends to all ends this.
const WATCH: &str = r#"
trap '' HUP INT TERM
cat > /dev/null
if read -r pid < "$1/data/postmaster.pid"; then
    kill -QUIT "$pid"
    pkill -CONT -P "$pid"
    kill -CONT "$pid"
    n=0
    while [ -e "$1/data/postmaster.pid" ] && [ "$n" -lt 150 ]; do
        sleep 0.1
        n=$((n + 1))
    done
fi
rm -rf "$1"
"#;

/// Where temporary files that may grow go: `/tmp` is often memory, or crowded.
fn place() -> PathBuf {
    let large = PathBuf::from("/var/tmp");
    match std::env::var_os("TMPDIR") {
        None if large.is_dir() => large,
        _ => std::env::temp_dir(),
    }
}

/// A temporary directory with a watchdog.
pub(super) struct Guard {
    watchdog: Child,
    home: PathBuf,
}

impl Guard {
    /// Makes the directory, and the watchdog before anything is in it.
    pub(super) fn new() -> Self {
        let home = tempfile::Builder::new()
            .prefix("keyward-postgres-")
            .tempdir_in(place())
            .expect("a temporary directory can be made")
            .keep();
        let watchdog = Command::new("sh")
            .args(["-c", WATCH, "watchdog"])
            .arg(&home)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh can be started");
        Self { watchdog, home }
    }

    /// The directory.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        // What it could not remove is in the system's temporary directory.
        let _ = self.watchdog.wait();
    }
}
