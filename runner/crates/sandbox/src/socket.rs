//! The capability `socket`: one request and its answer over a granted unix socket that does not speak HTTP.

use std::time::Duration;

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

use super::{
    bindings::{HostError, socket},
    failure, format_duration,
    gate::CallPurpose,
    host::HostState,
};
use contract::step::{FailureKind, StepFailure};

/// The time for an exchange, unless the module asks for another.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time and answer, whatever a module asks for.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);
const MAX_ANSWER_BYTES: u64 = 16 << 20;

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct ExchangeOptions {
    timeout_ms: Option<u64>,
    max_bytes: Option<u64>,
    end_of_request: bool,
}

impl socket::Host for HostState {
    async fn exchange(&mut self, name: String, request: Vec<u8>, options: String) -> Result<Vec<u8>, HostError> {
        let options: ExchangeOptions = super::parse_options("an exchange", &options)?;
        let path = self.gate.socket_path(&name)?;
        if self.gate.purpose() == CallPurpose::Preview {
            return Err(self.gate.read_only_failure("write to a socket").into());
        }
        let within = options.timeout_ms.map_or(DEFAULT_TIMEOUT, Duration::from_millis).min(MAX_TIMEOUT);
        let max = options.max_bytes.unwrap_or(MAX_ANSWER_BYTES).min(MAX_ANSWER_BYTES);
        let exchange = async {
            let mut stream = UnixStream::connect(&path).await?;
            stream.write_all(&request).await?;
            if options.end_of_request {
                stream.shutdown().await?;
            }
            let mut answer = Vec::new();
            (&mut stream).take(max + 1).read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let shown = path.display();
        let retryable = |message: String| StepFailure { retryable: true, ..failure(FailureKind::Transient, message) };
        match timeout(within, exchange).await {
            Ok(Ok(answer)) if answer.len() as u64 > max => {
                Err(failure(FailureKind::Limit, format!("unix:{shown} answered more than {max} bytes")).into())
            }
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(retryable(format!("unix:{shown}: {error}"))
                .with_hint("start the server, and give the runner's user access to its socket")
                .into()),
            Err(_) => Err(retryable(format!("unix:{shown} did not answer within {}", format_duration(within))).into()),
        }
    }
}
