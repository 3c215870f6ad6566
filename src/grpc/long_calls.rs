//! The threads of long calls: batches, lists and large messages. A long call that ran on a serving
//! thread would delay the short calls there. These threads have the lowest priority.

use std::io;

use tokio::runtime::{Handle, Runtime};

/// The niceness of these threads, the highest. With less, Linux often lets them finish their time slice,
/// some milliseconds, while a short call waits. On a core full of short calls they still get some time.
const NICENESS: i32 = 19;

/// The threads of long calls. They end when this is dropped.
pub struct LongCalls {
    handle: Handle,
    threads: Option<Runtime>,
}

impl LongCalls {
    /// Starts `count` threads. With 0 the calling runtime runs long calls, too.
    ///
    /// # Errors
    ///
    /// The threads cannot be started.
    pub fn start(count: usize) -> io::Result<Self> {
        if count == 0 {
            let handle = Handle::current();
            return Ok(Self {
                handle,
                threads: None,
            });
        }
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(count)
            .thread_name("long-calls")
            .on_thread_start(|| {
                // A failure leaves the priority as it was.
                let _ = rustix::process::nice(NICENESS);
            })
            .enable_all()
            .build()?;
        Ok(Self {
            handle: threads.handle().clone(),
            threads: Some(threads),
        })
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for LongCalls {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_threads_have_the_lowest_priority() {
        let long_calls = LongCalls::start(1).unwrap();
        let niceness = async { rustix::process::getpriority_process(None).unwrap() };
        assert_eq!(long_calls.handle().spawn(niceness).await.unwrap(), 19);
    }
}
