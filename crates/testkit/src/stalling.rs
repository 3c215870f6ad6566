//! A store that answers late when a test asks for it.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyward_store::{Interceptor, Result};
use tokio::sync::{Semaphore, watch};

/// A point in a call at which a test can stop it. Open at first.
#[derive(Debug)]
pub struct Gate {
    open: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
    tickets: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            open: watch::Sender::new(true),
            waiting: watch::Sender::new(0),
            tickets: Semaphore::new(0),
        }
    }
}

impl Gate {
    /// Stops all calls from now on.
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    /// Lets all calls continue.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Lets one call continue.
    pub fn admit_one(&self) {
        self.tickets.add_permits(1);
    }

    /// Waits until a call is stopped here.
    pub async fn is_holding(&self) {
        // The sender lives as long as this gate.
        let _ = self.waiting.subscribe().wait_for(|count| *count > 0).await;
    }

    async fn pass(&self) {
        let mut open = self.open.subscribe();
        if *open.borrow_and_update() {
            return;
        }
        self.waiting.send_modify(|count| *count += 1);
        tokio::select! {
            _ = open.wait_for(|open| *open) => {}
            ticket = self.tickets.acquire() => {
                ticket.expect("the tickets are never closed").forget();
            }
        }
        self.waiting.send_modify(|count| *count -= 1);
    }
}

/// The delays that a test causes: an interceptor of a store.
#[derive(Debug, Default)]
pub struct Faults {
    /// Before a page is read: the store does not answer.
    pub tail: Gate,
    /// After a page was read: it arrives late and old.
    pub page: Gate,
    /// Before a key's record is read.
    pub lookup: Gate,
    /// After the record of a key or a caller was read: it arrives late and old.
    pub record: Gate,
    /// After any other call: its answer arrives late.
    pub answer: Gate,
    page_delay: AtomicU64,
}

impl Faults {
    /// Makes every page arrive this much later than it was read.
    pub fn delay_pages(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.page_delay.store(millis, Ordering::SeqCst);
    }

    async fn delay_page(&self) {
        self.page.pass().await;
        let delay = self.page_delay.load(Ordering::SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
    }
}

impl Interceptor for Faults {
    async fn intercept<T: Send>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let reads_log = matches!(call, "tail" | "beat");
        if reads_log {
            self.tail.pass().await;
        }
        if call == "find_key" {
            self.lookup.pass().await;
        }
        let answer = work.await;
        match call {
            _ if reads_log => self.delay_page().await,
            "find_key" | "find_token" => self.record.pass().await,
            _ => self.answer.pass().await,
        }
        answer
    }
}
