//! The arguments of the verbs about webhooks.

use clap::{ArgGroup, Args, Subcommand};

use super::super::input::{time, value};

#[derive(Subcommand)]
pub(in crate::cli) enum WebhookCall {
    /// List the webhooks, with the events that wait for them and those that are dead
    List,
    /// Send a signed event `keyward.test` now, and show the answer; exits with 1 if that is no status 2xx
    Test {
        /// The webhook
        #[arg(value_name = "NAME", allow_hyphen_values = true, value_parser = value)]
        name: String,
    },
    /// Send events again, and begin again if the receiver was gone (status 410)
    Replay(WebhookReplay),
}

#[derive(Args)]
#[command(group = ArgGroup::new("events"))]
pub(in crate::cli) struct WebhookReplay {
    /// The webhook
    #[arg(value_name = "NAME", allow_hyphen_values = true, value_parser = value)]
    pub(in crate::cli) name: String,
    /// Only the event with this `webhook-id`
    #[arg(long, value_name = "ID", group = "events")]
    pub(in crate::cli) event: Option<String>,
    /// The dead events, and those that wait after a failed attempt; the default
    #[arg(long, group = "events")]
    pub(in crate::cli) dead: bool,
    /// The events that happened at this time or later and were delivered, or are dead
    #[arg(long, value_name = "TIME", value_parser = time, group = "events")]
    pub(in crate::cli) since: Option<prost_types::Timestamp>,
}
