//! A process and its children, found in `/proc`. Postgres' backends leave the process group of
//! their postmaster, so a signal to the group does not reach them.

use std::path::{Path, PathBuf};
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use crate::deadline::{PATIENCE, wait_until};

/// The state (`R`, `S`, `T`, `Z`, ...) and the parent of the process or thread with this directory in
/// `/proc`; `None` if there is none.
fn stat(directory: &Path) -> Option<(char, i32)> {
    let text = std::fs::read_to_string(directory.join("stat")).ok()?;
    // The name is in parentheses and can contain any character.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

fn directory(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

/// The children of `pid`.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").expect("/proc can be read");
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|child| stat(&directory(*child)).is_some_and(|(_, parent)| parent == pid))
        .collect()
}

/// Its process id.
pub(crate) fn id(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("a process id is an i32")
}

/// Kills a child of this process and all its children, and waits for their ends.
pub(crate) fn kill_family(mut parent: Child) {
    let pid = id(&parent);
    // A stopped process cannot start children.
    stop(pid);
    let children = children(pid);
    for child in &children {
        send(*child, Signal::KILL);
    }
    parent.kill().expect("a child can be killed");
    parent.wait().expect("a child ends");
    for child in children {
        wait_for_end(child);
    }
}

/// Whether the process has ended. This includes a zombie.
fn is_gone(pid: i32) -> bool {
    stat(&directory(pid)).is_none_or(|(state, _)| state == 'Z')
}

/// Sends a signal. A process that has ended ignores it.
pub(crate) fn send(pid: i32, signal: Signal) {
    let Some(pid) = Pid::from_raw(pid) else {
        return;
    };
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("cannot send a signal: {error}"),
    }
}

/// Stops the process and waits until each of its threads is stopped: until then, one that runs on another
/// core can still answer or start a child.
pub(crate) fn stop(pid: i32) {
    send(pid, Signal::STOP);
    wait_until("a process stops", PATIENCE, || {
        let is_stopped =
            |path: &Path| stat(path).is_none_or(|(state, _)| ['T', 'Z'].contains(&state));
        let Ok(threads) = std::fs::read_dir(directory(pid).join("task")) else {
            return true;
        };
        threads.flatten().all(|thread| is_stopped(&thread.path()))
    });
}

/// Waits until the process has ended.
fn wait_for_end(pid: i32) {
    wait_until("a process ends", PATIENCE, || is_gone(pid));
}
