//! What the programs leave alone, kept in step by the agent's loop.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Instant};

use super::{control::ControlWriter, engine::Engine};
use crate::{
    cli::agent::AgentArgs,
    exclusion::{Exclusions, Pods},
};

/// The cgroups that are left alone.
pub(super) struct LeftAlone {
    exclusions: Exclusions,
    /// What went wrong last.
    complaint: Option<String>,
}

impl LeftAlone {
    /// What flags name, and nothing else yet; pods are looked for below `root`.
    pub(super) fn new(args: &AgentArgs, root: &Path) -> Self {
        for path in args.exclude_cgroup.iter().filter(|path| !path.is_dir()) {
            log::warn!(
                "--exclude-cgroup {}: there is no such directory now; it is looked for every second",
                path.display()
            );
        }
        let mut exclusions = Exclusions::new(root, args.exclude_cgroup.clone());
        if !args.watch_pods {
            exclusions.set_pods(Pods::Known(BTreeSet::new()), Instant::now());
        }
        Self { exclusions, complaint: None }
    }

    /// Sets the pods that are left alone, by UID.
    pub(super) fn set_pods(&mut self, uids: BTreeSet<Arc<str>>) {
        self.exclusions.set_pods(Pods::Known(uids), Instant::now());
    }

    /// Whether the cgroup of a pod should be there any moment.
    pub(super) fn is_searching(&self) -> bool {
        self.exclusions.is_searching(Instant::now())
    }

    /// Brings the kernel's list in step. What fails is tried again at the next turn, and logged once.
    pub(super) fn refresh(&mut self, engine: &mut Engine, control: &ControlWriter) {
        let (count, result) = self.exclusions.refresh(engine.maps_mut(), Instant::now());
        if let Some(count) = count
            && count != engine.maps().control().excluded
        {
            control.excluded(engine.maps(), count);
            log::info!("the processes of {count} cgroups are left alone");
        }
        let found = result.err().map(|error| error.to_string());
        if let Some(error) = &found
            && found != self.complaint
        {
            log::error!("{error}");
        }
        self.complaint = found;
    }
}
