//! What the files of the directory say, and what was made of it.
//!
//! Pure: files come in as bytes, events come out. The rules it keeps:
//! - the first file by name that has an object owns it; copies in later files are reported;
//! - a file that becomes malformed or unreadable keeps the objects that it had, next to those that can
//!   still be read from it, until it is right again;
//! - an object is reported as gone only when no file has it any more, and all changes of a batch count as
//!   made at once, so renaming a file or moving an object between files never removes it.
//!
//! It holds a hash per object, not the object: the model behind the channel has that already.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::{self, Debug, Write as _},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use super::{
    parse::{self, Fault, Key, Object, Parsed},
    split::{self, Document},
};
use crate::{
    model::{Event, NodeInfo},
    source::health::{Loss, Problem},
};

/// A file's name within the directory.
pub(super) type FileName = Arc<str>;

/// What became of a file.
#[derive(Debug)]
pub(super) enum Change {
    /// It was read.
    Read(Vec<u8>),
    /// It is there and cannot be read, for this reason.
    Unreadable(String),
    /// It is not there.
    Removed,
}

/// What a batch of changes comes to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// In the order to send them: what is there first, then what is gone.
    pub events: Vec<Event>,
    /// All that is wrong with each file that was touched; an empty list clears it.
    pub problems: Vec<(FileName, Vec<Problem>)>,
    /// Files to give in again as [`Change::Read`]: an object of theirs counts now that an earlier file lost it.
    pub reread: Vec<FileName>,
}

/// The files and the objects in them.
#[derive(Debug, Default)]
pub(super) struct Store {
    node: Arc<str>,
    files: BTreeMap<FileName, File>,
    objects: HashMap<Key, Owners>,
}

#[derive(Debug, Default)]
struct File {
    documents: Box<[Kept]>,
    /// Objects of an earlier version that the present one may have lost by being malformed.
    retained: BTreeMap<Key, u64>,
    unreadable: Option<String>,
}

/// A document as it was read.
#[derive(Debug, Default)]
struct Kept {
    /// Of its text.
    hash: u64,
    objects: Box<[(Key, u64)]>,
    malformed: Vec<Fault>,
    unusable: Vec<Fault>,
    number: usize,
    line: usize,
}

#[derive(Debug, Default)]
struct Owners {
    /// Sorted by file name; the first one counts.
    files: Vec<(FileName, u64)>,
    /// Hash of what was last reported.
    reported: Option<u64>,
}

/// Objects just read, by file.
type Fresh = HashMap<(Key, FileName), Object>;

impl Store {
    /// Empty. Nodes other than `node` are ignored.
    pub(super) fn new(node: Arc<str>) -> Self {
        Self { node, ..Self::default() }
    }

    /// The names of all files that are held.
    pub(super) fn files(&self) -> impl Iterator<Item = &FileName> {
        self.files.keys()
    }

    /// Takes in a batch of changes, all of them at once.
    pub(super) fn apply(&mut self, changes: Vec<(FileName, Change)>) -> Outcome {
        let mut fresh = Fresh::new();
        let mut affected = BTreeSet::new();
        let mut touched = BTreeSet::new();
        for (name, change) in changes {
            let before = self.files.remove(&name).unwrap_or_default();
            let old = before.objects();
            let after = match change {
                Change::Removed => None,
                Change::Unreadable(why) => Some(File { unreadable: Some(why), ..before }),
                Change::Read(bytes) => Some(self.read(&name, &bytes, before, &mut fresh)),
            };
            let new = after.as_ref().map(File::objects).unwrap_or_default();
            for key in old.keys().filter(|key| !new.contains_key(*key)) {
                self.disown(key, &name);
                affected.insert(key.clone());
            }
            for (key, hash) in new.into_iter().filter(|(key, hash)| {
                old.get(key) != Some(hash) || fresh.contains_key(&(key.clone(), name.clone()))
            }) {
                self.own(&key, &name, hash);
                affected.insert(key);
            }
            if let Some(file) = after {
                self.files.insert(name.clone(), file);
            }
            touched.insert(name);
        }
        let mut outcome = Outcome::default();
        let (mut gone, mut reread) = (Vec::new(), BTreeSet::new());
        for key in affected {
            self.settle(&key, &mut fresh, &mut outcome.events, &mut gone, &mut reread, &mut touched);
        }
        outcome.events.append(&mut gone);
        outcome.reread.extend(reread);
        outcome.problems = touched.into_iter().map(|name| (name.clone(), self.problems(&name))).collect();
        outcome
    }

    /// Reads a new version of a file, parsing only the documents that differ from the previous one.
    fn read(&self, name: &FileName, bytes: &[u8], before: File, fresh: &mut Fresh) -> File {
        let mut old: HashMap<u64, Kept> =
            before.documents.into_iter().map(|kept| (kept.hash, kept)).collect();
        let old_objects: BTreeMap<Key, u64> =
            old.values().flat_map(|kept| kept.objects.iter().cloned()).chain(before.retained).collect();
        let mut kept = Vec::with_capacity(1);
        match std::str::from_utf8(bytes) {
            Ok(stream) => {
                for document in documents(name, stream) {
                    let hash = hash(document.text.as_bytes());
                    kept.push(match old.remove(&hash) {
                        // Faults know their line, and may have moved.
                        Some(kept) if kept.is_clean() && self.is_settled(&kept, name) => {
                            Kept { number: document.number, line: document.line, ..kept }
                        }
                        _ => self.keep(name, &document, hash, fresh),
                    });
                }
            }
            Err(error) => {
                let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
                let why = "it is not UTF-8".to_owned();
                let malformed = vec![Fault { line: Some(line), object: None, why }];
                kept.push(Kept { number: 1, line, malformed, ..Kept::default() });
            }
        }
        let mut file = File { documents: kept.into(), ..File::default() };
        if file.is_malformed() {
            let new = file.objects();
            file.retained = old_objects.into_iter().filter(|(key, _)| !new.contains_key(key)).collect();
        }
        file
    }

    /// Whether all objects of a document are reported as they are, or owned by an earlier file.
    fn is_settled(&self, kept: &Kept, name: &FileName) -> bool {
        kept.objects.iter().all(|(key, hash)| {
            self.objects.get(key).is_some_and(|owners| match owners.files.first() {
                Some((owner, _)) if owner == name => owners.reported == Some(*hash),
                Some(_) => true,
                None => false,
            })
        })
    }

    fn keep(&self, name: &FileName, document: &Document<'_>, hash: u64, fresh: &mut Fresh) -> Kept {
        let Parsed { objects, malformed, unusable } = parse::parse(document);
        let objects: Box<[_]> = objects
            .into_iter()
            .filter(|object| !matches!(object, Object::Node(node) if node.name != self.node))
            .map(|object| {
                let (key, hash) = (object.key(), hash_of(&object));
                // Within a file too the first one counts.
                fresh.entry((key.clone(), name.clone())).or_insert(object);
                (key, hash)
            })
            .collect();
        Kept { hash, objects, malformed, unusable, number: document.number, line: document.line }
    }

    fn own(&mut self, key: &Key, name: &FileName, hash: u64) {
        let owners = self.objects.entry(key.clone()).or_default();
        match owners.files.binary_search_by(|(owner, _)| owner.cmp(name)) {
            Ok(at) => owners.files[at].1 = hash,
            Err(at) => {
                // Hardly any object stands in a second file.
                owners.files.reserve_exact(1);
                owners.files.insert(at, (name.clone(), hash));
            }
        }
    }

    fn disown(&mut self, key: &Key, name: &FileName) {
        if let Some(owners) = self.objects.get_mut(key) {
            owners.files.retain(|(owner, _)| owner != name);
        }
    }

    /// Reports one object as its first owner has it.
    fn settle(
        &mut self,
        key: &Key,
        fresh: &mut Fresh,
        events: &mut Vec<Event>,
        gone: &mut Vec<Event>,
        reread: &mut BTreeSet<FileName>,
        touched: &mut BTreeSet<FileName>,
    ) {
        let Some(owners) = self.objects.get_mut(key) else { return };
        // What is said of copies names the owner, which may be another one now.
        touched.extend(owners.files.iter().map(|(name, _)| name.clone()));
        match owners.files.first() {
            None => {
                if owners.reported.is_some() {
                    gone.push(gone_event(key, &self.node));
                }
                self.objects.remove(key);
            }
            Some((_, hash)) if owners.reported == Some(*hash) => {}
            Some((name, hash)) => match fresh.remove(&(key.clone(), name.clone())) {
                Some(object) => {
                    owners.reported = Some(*hash);
                    events.push(event(object));
                }
                None => {
                    reread.insert(name.clone());
                }
            },
        }
    }

    /// Everything that is wrong with a file now.
    fn problems(&self, name: &FileName) -> Vec<Problem> {
        let Some(file) = self.files.get(name) else { return Vec::new() };
        let kept = if file.retained.is_empty() {
            ""
        } else {
            "; what the file had before stays in use until it is right again"
        };
        let mut problems = Vec::new();
        if let Some(why) = &file.unreadable {
            let kept = if file.documents.is_empty() { "" } else { "; what it had before stays in use" };
            problems.push(Problem {
                what: name.to_string(),
                why: format!("cannot read it: {why}{kept}"),
                loss: Loss::Unknown,
            });
        }
        for document in &file.documents {
            let malformed = document.malformed.iter().map(|fault| (fault, kept, Loss::Unknown));
            let unusable = document.unusable.iter().map(|fault| (fault, "", Loss::Object));
            for (fault, kept, loss) in malformed.chain(unusable) {
                problems.push(Problem {
                    what: place(name, document, fault),
                    why: format!("{}{kept}", fault.why),
                    loss,
                });
            }
        }
        let mut seen = BTreeSet::new();
        for (key, document) in
            file.documents.iter().flat_map(|d| d.objects.iter().map(move |(key, _)| (key, d)))
        {
            let owner = self.objects.get(key).and_then(|owners| owners.files.first()).map(|(owner, _)| owner);
            let why = match owner {
                _ if !seen.insert(key) => "the same file has it before".to_owned(),
                Some(owner) if owner != name => format!("{owner} has it already, and the first file counts"),
                _ => continue,
            };
            let line = document.line;
            problems.push(Problem {
                what: format!("{name}: document {}, line {line}: {key}", document.number),
                why,
                loss: Loss::Object,
            });
        }
        problems
    }
}

impl File {
    /// By key, the first of each.
    fn objects(&self) -> BTreeMap<Key, u64> {
        let mut objects = self.retained.clone();
        for (key, hash) in self.documents.iter().rev().flat_map(|kept| kept.objects.iter().rev()) {
            objects.insert(key.clone(), *hash);
        }
        objects
    }

    fn is_malformed(&self) -> bool {
        self.documents.iter().any(|kept| !kept.malformed.is_empty())
    }
}

impl Kept {
    fn is_clean(&self) -> bool {
        self.malformed.is_empty() && self.unusable.is_empty()
    }
}

/// A .json file is one JSON value after another, the others are YAML streams.
fn documents<'a>(name: &str, stream: &'a str) -> Vec<Document<'a>> {
    if name.ends_with(".json") { split::json_documents(stream) } else { split::documents(stream) }
}

fn place(name: &str, document: &Kept, fault: &Fault) -> String {
    let mut place = format!("{name}: document {}", document.number);
    // Writing to a String cannot fail.
    if let Some(line) = fault.line {
        let _ = write!(place, ", line {line}");
    }
    if let Some(object) = &fault.object {
        let _ = write!(place, ": {object}");
    }
    place
}

fn event(object: Object) -> Event {
    match object {
        Object::Service(spec) => Event::Service(Box::new(spec)),
        Object::Slice(spec) => Event::Slice(Box::new(spec)),
        Object::Node(node) => Event::Node(node),
        Object::Namespace(spec) => Event::Namespace(spec),
    }
}

fn gone_event(key: &Key, node: &Arc<str>) -> Event {
    match key {
        Key::Service(name) => Event::ServiceGone(name.clone()),
        Key::Slice(name) => Event::SliceGone(name.clone()),
        Key::Namespace(name) => Event::NamespaceGone(name.clone()),
        Key::Node(_) => Event::Node(NodeInfo { name: node.clone(), zone: None }),
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Of everything that the object's debug form shows, which is all of it.
fn hash_of(object: &impl Debug) -> u64 {
    struct Sink(DefaultHasher);
    impl fmt::Write for Sink {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            self.0.write(s.as_bytes());
            Ok(())
        }
    }
    let mut sink = Sink(DefaultHasher::new());
    // The sink never fails.
    let _ = write!(sink, "{object:?}");
    sink.0.finish()
}
