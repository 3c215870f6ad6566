//! A process and its children, as `/proc` shows them: Postgres' backends leave the process group of
//! their postmaster, so that a signal for the group does not reach them.

use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::deadline::wait_until;

/// A signal that takes longer has not arrived.
const PATIENCE: Duration = Duration::from_secs(30);

/// Its state (`R`, `S`, `T`, `Z`, ...) and its parent; `None` when there is no such process.
fn stat(pid: i32) -> Option<(char, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets, and may hold anything.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

/// Those whose parent `pid` is.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").expect("/proc can be read");
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|child| stat(*child).is_some_and(|(_, parent)| parent == pid))
        .collect()
}

/// Its process id.
pub(crate) fn id(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("a process id is an i32")
}

/// Kills a child of this process and all children of its own, and waits until they are gone.
pub(crate) fn kill_family(mut parent: Child) {
    let pid = id(&parent);
    // Stopped, it has no new children.
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

/// Whether it runs no more; one that nobody has reaped runs no more, either.
fn is_gone(pid: i32) -> bool {
    stat(pid).is_none_or(|(state, _)| state == 'Z')
}

/// Sends a signal; a process that is gone takes none.
pub(crate) fn send(pid: i32, signal: Signal) {
    let Some(pid) = Pid::from_raw(pid) else {
        return;
    };
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("a signal cannot be sent: {error}"),
    }
}

/// Stops it, and waits until it is: from then on it has no new children.
pub(crate) fn stop(pid: i32) {
    send(pid, Signal::STOP);
    wait_until("a process stops", PATIENCE, || {
        stat(pid).is_none_or(|(state, _)| ['T', 'Z'].contains(&state))
    });
}

/// Waits until it is gone.
fn wait_for_end(pid: i32) {
    wait_until("a process ends", PATIENCE, || is_gone(pid));
}
