//! Whether the server is still the one that it was: a backup that was restored takes versions back, and a watch from
//! one that is yet to come again hears nothing.

use kube::api::ListParams;
use tokio::time::timeout;

use super::{
    super::{
        failure::{Doing, Failure},
        sinks::{Selector, Sink},
    },
    Follow,
};

/// Whether the server may be another one than before, or have another past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    Same,
    Doubtful,
}

impl<S: Sink> Follow<S> {
    /// Whether the server's last version is before ours, so that a watch from ours would hear nothing of what
    /// happens until it is reached again. It asks only where there is a doubt.
    pub(super) async fn went_back(&mut self) -> Result<bool, Failure> {
        if self.trust == Trust::Same {
            return Ok(false);
        }
        let Selector { labels, fields } = self.sink.selector();
        let params = ListParams {
            label_selector: labels,
            field_selector: fields,
            limit: Some(1),
            ..ListParams::default()
        };
        let page = match timeout(self.timing.request, self.api.list(&params)).await {
            Ok(page) => page.map_err(|error| self.client_failure(Doing::List, &error))?,
            Err(_) => return Err(Failure::timeout(S::RESOURCE, Doing::List, self.timing.request)),
        };
        self.trust = Trust::Same;
        Ok(page.metadata.resource_version.is_some_and(|version| is_before(&version, &self.version)))
    }
}

/// Whether a version came before another. Versions of an API server are numbers that grow with every change; of
/// anything else nothing is known.
pub(super) fn is_before(version: &str, other: &str) -> bool {
    matches!((version.parse::<u64>(), other.parse::<u64>()), (Ok(version), Ok(other)) if version < other)
}
