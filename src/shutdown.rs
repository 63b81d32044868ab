//! Named tasks, one signal that stops them all, one deadline.
//!
//! A task that fails or panics stops the process: half a server is worse than none. No task is
//! started any other way.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The process's tasks.
#[derive(Debug, Default)]
pub struct Tasks {
    running: JoinSet<Result<(), (&'static str, anyhow::Error)>>,
    stop: CancellationToken,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// Is cancelled when everything has to stop.
    pub fn stop_signal(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task. If it fails or panics, every task is told to stop.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        // Dropped by an error and by a panic, disarmed by success.
        let stop_all = self.stop.clone().drop_guard();
        self.running.spawn(async move {
            match task.await {
                Ok(()) => {
                    drop(stop_all.disarm());
                    Ok(())
                }
                Err(error) => {
                    tracing::error!(task = name, error = format!("{error:#}"), "task failed");
                    Err((name, error))
                }
            }
        });
    }

    /// Waits until all tasks have ended, `deadline` after the call at the latest, and gives the
    /// first failure.
    pub async fn join(mut self, deadline: Duration) -> anyhow::Result<()> {
        let mut first_failure = None;
        let all = async {
            while let Some(ended) = self.running.join_next().await {
                let failure = match ended {
                    Ok(Ok(())) => continue,
                    Ok(Err((name, error))) => error.context(format!("task {name} failed")),
                    Err(error) => anyhow::Error::new(error).context("a task panicked"),
                };
                first_failure.get_or_insert(failure);
            }
        };
        if tokio::time::timeout(deadline, all).await.is_err() {
            tracing::warn!(?deadline, "tasks were still running at the deadline");
            self.running.abort_all();
        }
        first_failure.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_task_stops_the_others_and_is_named() {
        let mut tasks = Tasks::new();
        let stop = tasks.stop_signal();
        tasks.spawn("waiting", async move {
            stop.cancelled().await;
            Ok(())
        });
        tasks.spawn("failing", async { anyhow::bail!("broken") });
        let error = tasks.join(Duration::from_mins(1)).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "task failing failed: broken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_is_not_waited_for() {
        let mut tasks = Tasks::new();
        tasks.spawn("stuck", std::future::pending());
        tasks.join(Duration::from_secs(1)).await.unwrap();
    }
}
