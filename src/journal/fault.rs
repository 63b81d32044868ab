//! A journal that fails on purpose, for tests.
//!
//! It wraps any other journal and passes everything on until its [`FaultControl`] says
//! otherwise. What it does wrong is what a disk can do wrong: no room, a failed flush whose
//! outcome is known or not, a flush that takes long, a record that can't be read. It keeps the
//! contract meanwhile: after a `Fault` it takes nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::anyhow;
use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    AppendError, Appended, Batch, Bounds, Cut, DedupeKey, Direction, Fingerprint, Journal,
    ReadError, ReadLimit, Record, Usage,
};
use crate::domain::cursor::{JournalId, Seq};

/// What goes wrong with an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendFailure {
    /// No room for this one; nothing is written, and the next one may pass.
    StorageFull,
    /// The flush fails and nothing is there; every later append fails too.
    Fault,
    /// The batch is written, but the answer is a fault; every later append fails and writes
    /// nothing.
    OutcomeUnknown,
}

/// What goes wrong with reads (`read`, `find` and `state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFailure {
    /// The record at the place that was asked for is damaged.
    Corrupt,
    /// The backend doesn't answer.
    Fault,
}

/// Where an append waits until it is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Before anything is written: the flush takes long.
    BeforeWrite,
    /// When all is written, before the answer: the answer takes long.
    BeforeAnswer,
}

/// A journal that does what its [`FaultControl`] says.
#[derive(Debug)]
pub struct FaultJournal<J> {
    inner: J,
    control: FaultControl,
}

/// The handle of a [`FaultJournal`]; clones steer the same one.
#[derive(Clone, Debug)]
pub struct FaultControl {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    plan: Mutex<Plan>,
    hold: watch::Sender<Option<Hold>>,
    /// Where the append that waits now does so; one appends at a time.
    held: watch::Sender<Option<Hold>>,
}

#[derive(Debug, Default)]
struct Plan {
    /// Counts every call of `append`, from 1.
    appends: u64,
    /// What happens to which append.
    append_failures: BTreeMap<u64, AppendFailure>,
    full: bool,
    poisoned: bool,
    read_failure: Option<ReadFailure>,
    damaged_keys: BTreeSet<DedupeKey>,
}

impl<J: Journal> FaultJournal<J> {
    /// Wraps a journal; nothing goes wrong until the handle says so.
    pub fn new(inner: J) -> (Self, FaultControl) {
        let control = FaultControl {
            shared: Arc::new(Shared {
                plan: Mutex::default(),
                hold: watch::Sender::new(None),
                held: watch::Sender::new(None),
            }),
        };
        let journal = Self {
            inner,
            control: control.clone(),
        };
        (journal, control)
    }
}

impl FaultControl {
    /// Lets the `nth` append from now on fail; 1 is the next one.
    ///
    /// After `Fault` and `OutcomeUnknown` every later append is a `Fault`, as the contract says.
    pub fn fail_append(&self, nth: u64, failure: AppendFailure) {
        let mut plan = self.plan();
        let at = plan.appends + nth;
        plan.append_failures.insert(at, failure);
    }

    /// Makes every append (that isn't failed otherwise) `StorageFull`, or stops doing so.
    pub fn set_full(&self, full: bool) {
        self.plan().full = full;
    }

    /// Makes every read fail, or (`None`) stops doing so.
    pub fn fail_reads(&self, failure: Option<ReadFailure>) {
        self.plan().read_failure = failure;
    }

    /// Damages what is stored of a key: no append can look it up.
    pub fn damage_key(&self, key: DedupeKey) {
        self.plan().damaged_keys.insert(key);
    }

    /// Lets every append and check that starts from now on wait at a place until [`Self::release`].
    pub fn hold(&self, at: Hold) {
        self.shared.hold.send_replace(Some(at));
    }

    /// Lets all waiting appends go, and holds no more.
    pub fn release(&self) {
        self.shared.hold.send_replace(None);
    }

    /// Waits until an append is being held at a place.
    pub async fn held(&self, at: Hold) {
        let mut held = self.shared.held.subscribe();
        // Fails only if the sender is gone, and self has it.
        _ = held.wait_for(|held| *held == Some(at)).await;
    }

    /// How many appends were called so far, failed ones included.
    pub fn appends(&self) -> u64 {
        self.plan().appends
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.shared
            .plan
            .lock()
            .expect("nothing panics with the lock held")
    }

    /// Counts an append and says what is to become of it.
    fn next_append(&self, has_entries: bool) -> Option<AppendFailure> {
        let mut plan = self.plan();
        plan.appends += 1;
        let at = plan.appends;
        let failure = plan.append_failures.remove(&at);
        if plan.poisoned {
            return Some(AppendFailure::Fault);
        }
        match failure {
            None if plan.full && has_entries => Some(AppendFailure::StorageFull),
            None | Some(AppendFailure::StorageFull) => failure,
            Some(AppendFailure::Fault | AppendFailure::OutcomeUnknown) => {
                plan.poisoned = true;
                failure
            }
        }
    }

    async fn wait(&self, at: Hold) {
        let mut hold = self.shared.hold.subscribe();
        if *hold.borrow() != Some(at) {
            return;
        }
        self.shared.held.send_replace(Some(at));
        _ = hold.wait_for(|hold| *hold != Some(at)).await;
        self.shared.held.send_replace(None);
    }

    fn check_write(&self) -> Result<(), AppendError> {
        if self.plan().poisoned {
            return Err(append_fault());
        }
        Ok(())
    }

    fn check_keys(&self, batch: &Batch) -> Result<(), AppendError> {
        let plan = self.plan();
        let mut keys = batch.entries.iter().map(|entry| &entry.key);
        match keys.position(|key| plan.damaged_keys.contains(key)) {
            None => Ok(()),
            Some(entry) => Err(AppendError::Damaged {
                entry,
                cause: ReadError::Corrupt {
                    seq: Seq::ZERO,
                    cause: Some(anyhow!("damaged on purpose")),
                },
            }),
        }
    }

    fn check_read(&self, seq: Seq) -> Result<(), ReadError> {
        match self.plan().read_failure {
            None => Ok(()),
            Some(ReadFailure::Corrupt) => Err(ReadError::Corrupt {
                seq,
                cause: Some(anyhow!("damaged on purpose")),
            }),
            Some(ReadFailure::Fault) => Err(ReadError::Fault(anyhow!("failed on purpose"))),
        }
    }
}

fn append_fault() -> AppendError {
    AppendError::Fault(anyhow!("failed on purpose"))
}

#[async_trait]
impl<J: Journal> Journal for FaultJournal<J> {
    fn id(&self) -> JournalId {
        self.inner.id()
    }

    async fn check(&self) -> Result<(), AppendError> {
        self.control.check_write()?;
        self.control.wait(Hold::BeforeWrite).await;
        self.inner.check().await
    }

    fn bounds(&self) -> Bounds {
        self.inner.bounds()
    }

    async fn append(&self, batch: Batch) -> Result<Vec<Appended>, AppendError> {
        let failure = self.control.next_append(!batch.entries.is_empty());
        self.control.wait(Hold::BeforeWrite).await;
        match failure {
            Some(AppendFailure::StorageFull) => {
                return Err(AppendError::StorageFull {
                    free_bytes: 0,
                    reserve_bytes: 1,
                });
            }
            Some(AppendFailure::Fault) => return Err(append_fault()),
            Some(AppendFailure::OutcomeUnknown) | None => {}
        }
        self.control.check_keys(&batch)?;
        let appended = self.inner.append(batch).await;
        self.control.wait(Hold::BeforeAnswer).await;
        if failure.is_some() {
            return Err(append_fault());
        }
        appended
    }

    async fn read(
        &self,
        from: Seq,
        direction: Direction,
        limit: ReadLimit,
    ) -> Result<Vec<Record>, ReadError> {
        self.control.check_read(from)?;
        self.inner.read(from, direction, limit).await
    }

    async fn find(&self, key: DedupeKey) -> Result<Option<(Seq, Fingerprint)>, ReadError> {
        self.control.check_read(Seq::ZERO)?;
        self.inner.find(key).await
    }

    async fn state(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ReadError> {
        self.control.check_read(Seq::ZERO)?;
        self.inner.state(prefix).await
    }

    async fn trim(&self, before: Seq) -> Result<Seq, AppendError> {
        self.control.check_write()?;
        self.inner.trim(before).await
    }

    async fn usage(&self) -> Result<Usage, ReadError> {
        self.control.check_read(Seq::ZERO)?;
        self.inner.usage().await
    }

    async fn cut(&self, what: Cut) -> Result<(), AppendError> {
        self.control.check_write()?;
        self.inner.cut(what).await
    }

    async fn forget(&self, before: Seq) -> Result<(), AppendError> {
        self.control.check_write()?;
        self.inner.forget(before).await
    }
}
