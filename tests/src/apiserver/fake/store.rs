//! Objects, their history, and who may not see it any more.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use serde_json::{Value, json};

use super::{answer::Denied, selector::Selectors};

/// Changes that are kept until [`Store::compact`], or until there are more.
const HISTORY: usize = 10_000;

/// What a collection is called: `services`, `endpointslices.discovery.k8s.io`.
pub(super) type Resource = Arc<str>;

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub resource: Resource,
    pub namespace: String,
    pub name: String,
}

/// What happened to an object at one revision.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub revision: u64,
    pub key: Key,
    pub old: Option<Arc<Value>>,
    pub new: Option<Arc<Value>>,
}

/// All objects at one revision, to go back to.
#[derive(Clone, Debug)]
pub struct Backup {
    objects: BTreeMap<Key, Arc<Value>>,
    revision: u64,
}

/// What is left of a list that is being read in pages.
#[derive(Debug)]
struct Pages {
    rest: VecDeque<Arc<Value>>,
    revision: u64,
}

/// A page of a list.
pub(super) struct Page {
    pub items: Vec<Arc<Value>>,
    pub revision: u64,
    pub token: Option<String>,
    pub remaining: usize,
}

/// The state of the cluster. Revisions only grow, except by [`Store::restore`].
#[derive(Debug)]
pub(super) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    revision: u64,
    history: VecDeque<Change>,
    /// Changes up to this revision are forgotten.
    compacted: u64,
    pages: HashMap<String, Pages>,
    serial: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            revision: 1,
            history: VecDeque::new(),
            compacted: 0,
            pages: HashMap::new(),
            serial: 0,
        }
    }
}

impl Store {
    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// Every object of a kind, of one namespace or all.
    pub(super) fn all<'a>(
        &'a self,
        resource: &Resource,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Value>> + use<'a> {
        let first = Key { resource: resource.clone(), namespace: namespace.to_owned(), name: String::new() };
        let resource = resource.clone();
        self.objects
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(key, _)| {
                key.resource == resource && (namespace.is_empty() || key.namespace == namespace)
            })
            .map(|(_, object)| object)
    }

    /// Writes an object, whose version and identity become the store's.
    pub(super) fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        let old = self.objects.get(&key).cloned();
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let uid = old
            .as_ref()
            .map_or_else(|| json!(format!("uid-{}", self.revision)), |old| old["metadata"]["uid"].clone());
        object["metadata"]["uid"] = uid;
        let object = Arc::new(object);
        self.objects.insert(key.clone(), Arc::clone(&object));
        self.note(Change { revision: self.revision, key, old, new: Some(Arc::clone(&object)) });
        object
    }

    pub(super) fn delete(&mut self, key: &Key) -> Option<Arc<Value>> {
        let old = self.objects.remove(key)?;
        self.revision += 1;
        self.note(Change {
            revision: self.revision,
            key: key.clone(),
            old: Some(Arc::clone(&old)),
            new: None,
        });
        Some(old)
    }

    fn note(&mut self, change: Change) {
        self.history.push_back(change);
        while self.history.len() > HISTORY {
            self.compacted = self.history.pop_front().map_or(self.compacted, |change| change.revision);
        }
    }

    /// Forgets all changes, and the snapshots behind continue tokens.
    pub(super) fn compact(&mut self) {
        self.history.clear();
        self.compacted = self.revision;
        self.pages.clear();
    }

    pub(super) fn backup(&self) -> Backup {
        Backup { objects: self.objects.clone(), revision: self.revision }
    }

    /// Goes back in time. Watches of later revisions stay open and hear nothing until these come again.
    pub(super) fn restore(&mut self, backup: &Backup) {
        self.objects = backup.objects.clone();
        self.revision = backup.revision;
        self.compact();
    }

    /// Changes of a kind after `revision`.
    ///
    /// # Errors
    ///
    /// When they are forgotten.
    pub(super) fn since(&self, resource: &Resource, revision: u64) -> Result<Vec<Change>, Denied> {
        if revision < self.compacted {
            return Err(Denied::expired(&format!(
                "too old resource version: {revision} ({})",
                self.compacted
            )));
        }
        let from = self.history.partition_point(|change| change.revision <= revision);
        Ok(self.history.range(from..).filter(|change| change.key.resource == *resource).cloned().collect())
    }

    /// The first page of a list. A `limit` of 0 is none.
    pub(super) fn list(
        &mut self,
        resource: &Resource,
        namespace: &str,
        selectors: &Selectors,
        limit: usize,
    ) -> Page {
        let all: VecDeque<_> =
            self.all(resource, namespace).filter(|object| selectors.match_object(object)).cloned().collect();
        self.page(Pages { rest: all, revision: self.revision }, limit)
    }

    /// The next page of one.
    ///
    /// # Errors
    ///
    /// When its snapshot is gone.
    pub(super) fn next_page(&mut self, token: &str, limit: usize) -> Result<Page, Denied> {
        let gone = "The provided continue parameter is too old to display a consistent list result.";
        let pages = self.pages.remove(token).ok_or_else(|| Denied::expired(gone))?;
        Ok(self.page(pages, limit))
    }

    fn page(&mut self, mut pages: Pages, limit: usize) -> Page {
        let count = if limit == 0 { pages.rest.len() } else { limit.min(pages.rest.len()) };
        let items = pages.rest.drain(..count).collect();
        let (revision, remaining) = (pages.revision, pages.rest.len());
        let token = (remaining > 0).then(|| {
            self.serial += 1;
            let token = format!("page-{}", self.serial);
            self.pages.insert(token.clone(), pages);
            token
        });
        Page { items, revision, token, remaining }
    }
}
