//! The machine's source of randomness, which `app` uses outside tests, and its limits.

use keyward_core::key::Entropy;

pub use keyward_clock::SystemClock;

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the implementation of Entropy"
    )]
    #[expect(
        clippy::expect_used,
        reason = "keys without randomness would be guessable"
    )]
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("Linux has getrandom(2), which does not fail once seeded");
    }
}

/// Makes ring the default cryptography of TLS in this process.
pub fn choose_cryptography() {
    // An error means that a default is already installed.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
}

/// Raises the limit of open files to what the system allows this process.
pub fn allow_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Without the right to raise it the limit stays, and `open_files` says how many are allowed.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

/// The number of files that this process may open.
pub fn open_files() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

/// The host name of this machine.
pub fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
