//! Starts Bookinfo's services as tasks of the test.

use anyhow::{Context, Result, bail};
use bookinfo::{Config, Service, Version};
use tidegate::application::{Application, Boxed, Launch, Order, Running};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Runs `tidegate sample bookinfo …` commands in this process.
#[derive(Clone, Copy, Debug)]
pub struct InProcess;

#[derive(Debug)]
struct Task {
    stop: CancellationToken,
    handle: JoinHandle<Result<()>>,
}

impl Launch for InProcess {
    fn launch<'a>(&'a self, order: Order<'a>) -> Boxed<'a, Result<Application>> {
        Box::pin(async move {
            let words: Vec<&str> = order.command.iter().map(String::as_str).collect();
            let (service, version) = match words.as_slice() {
                ["tidegate", "sample", "bookinfo", service] => (*service, "v1"),
                ["tidegate", "sample", "bookinfo", service, "--version", version] => (*service, *version),
                other => bail!("the tests can't run `{other:?}`"),
            };
            let config = Config {
                service: service.parse::<Service>()?,
                version: version.parse::<Version>()?,
                listen: ([127, 0, 0, 1], 0).into(),
                outbound: Some(order.outbound),
            };
            let bound = bookinfo::bind(config).await.context("the service can't be bound")?;
            let address = bound.address();
            let stop = CancellationToken::new();
            let handle = tokio::spawn(bound.serve(stop.clone().cancelled_owned()));
            Ok(Application { address, running: Box::new(Task { stop, handle }) })
        })
    }
}

impl Running for Task {
    fn stop(&mut self) -> Boxed<'_, ()> {
        Box::pin(async {
            self.stop.cancel();
            // How the service ended is its own tests' concern.
            drop((&mut self.handle).await);
        })
    }
}
