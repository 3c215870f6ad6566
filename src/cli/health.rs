//! The verb that asks how the service is; it takes no token.

use serde_json::json;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client::channel;
use super::render::{Report, lines};
use super::{Failure, Reach};

/// Done when the service serves, failed when it does not or cannot be asked.
pub(super) async fn ask(reach: &Reach<'_>) -> Result<Report, Failure> {
    let mut client = HealthClient::new(channel(reach).await?);
    let answer = client.check(HealthCheckRequest::default()).await;
    let status = answer.map_err(|status| {
        Failure::Failed(format!(
            "the service does not say how it is: {}: {}\n  is the endpoint a keyward service? one \
             with TLS takes https://",
            status.code().description(),
            status.message()
        ))
    })?;
    match status.into_inner().status() {
        ServingStatus::Serving => {
            let json = json!({"status": "SERVING"});
            let text = lines(&json, &["status"]);
            Ok(Report::new(json, text))
        }
        other => Err(Failure::Failed(format!(
            "the service is {}: it stops, or cannot prove that it knows of every change",
            other.as_str_name()
        ))),
    }
}
