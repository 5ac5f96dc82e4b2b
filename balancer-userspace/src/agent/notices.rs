//! What is wrong with objects, told once: in the log, as a count, and as notices for those who own them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use balancer_common::abi::Stop;
use tokio::sync::mpsc;

use crate::{
    lifecycle::trust::CLEAN,
    metrics::AgentMetrics,
    model::{Index, ObjectName, Uid},
    source::{Notice, NoticeReason},
};

/// The most lines that are logged of problems at once; one more every [`REFILL`].
const LINES: u32 = 50;
const REFILL: Duration = Duration::from_secs(1);
/// The most notices of one Service; the log and `balancer services` have the rest.
const NOTICES: usize = 3;

/// Remembers what was told.
pub(super) struct Notices {
    metrics: Arc<AgentMetrics>,
    /// Nobody listens where Events are off.
    sender: Option<mpsc::Sender<Notice>>,
    /// By Service: what was wrong with it when it was last looked at.
    told: BTreeMap<ObjectName, HashSet<String>>,
    /// The same of Namespaces and of this node's Pods, as a line each.
    others: HashSet<String>,
    lines: u32,
    refilled: Instant,
    unsaid: u64,
}

impl Notices {
    pub(super) fn new(metrics: Arc<AgentMetrics>, sender: Option<mpsc::Sender<Notice>>) -> Self {
        Self {
            metrics,
            sender,
            told: BTreeMap::new(),
            others: HashSet::new(),
            lines: LINES,
            refilled: Instant::now(),
            unsaid: 0,
        }
    }

    /// A Service was resolved and applied: tells what is wrong with it that was not before. `starved` if
    /// there was no room for all of it, which the reconciler has logged.
    pub(super) fn service(&mut self, index: &Index, name: &ObjectName, starved: Option<&str>) {
        let problems = index.problems_of(name);
        if problems.is_empty() && starved.is_none() {
            self.told.remove(name);
            return;
        }
        let before = self.told.remove(name).unwrap_or_default();
        let uid = index.service(name).and_then(|spec| spec.uid);
        let of_objects = problems.iter().map(|text| (NoticeReason::Problem, text.as_str()));
        let all = starved.map(|text| (NoticeReason::NoRoom, text)).into_iter().chain(of_objects);
        let mut now = HashSet::new();
        for (number, (reason, text)) in all.enumerate() {
            now.insert(text.to_owned());
            if before.contains(text) {
                continue;
            }
            self.metrics.problem_found();
            if reason == NoticeReason::Problem {
                self.log(&format!("Service {name}: {text}"));
            }
            if number < NOTICES {
                self.announce(name, uid, reason, text);
            }
        }
        self.told.insert(name.clone(), now);
    }

    /// Moving the idle connections of a Service was stopped, or goes on; the log has said so.
    pub(super) fn rebalance(&mut self, index: &Index, name: &ObjectName, stop: Stop) {
        let (reason, text) = match stop {
            Stop::None => (NoticeReason::RebalanceResumed, "idle connections may be moved again".to_owned()),
            Stop::NoReconnects => (
                NoticeReason::RebalanceStopped,
                "idle connections are not moved any more: too few of the clients connected anew".to_owned(),
            ),
            Stop::Harm => (
                NoticeReason::RebalanceStopped,
                format!(
                    "idle connections are not moved before {CLEAN} offers in a row have done no harm: a server spoke \
                     first on one that could have been"
                ),
            ),
            Stop::ServerSpeaksFirst => (
                NoticeReason::RebalanceStopped,
                "idle connections are not moved: its servers often speak first, so that silence is not idleness"
                    .to_owned(),
            ),
        };
        self.announce(name, index.service(name).and_then(|spec| spec.uid), reason, &text);
    }

    /// Namespaces or Pods may have been taken in: tells what is wrong with them that was not before.
    pub(super) fn others(&mut self, index: &Index) {
        let namespaces = index.namespace_problems().map(|(name, text)| format!("Namespace {name}: {text}"));
        let pods = index.pod_problems().map(|(name, text)| format!("Pod {name}: {text}"));
        let now: HashSet<String> = namespaces.chain(pods).collect();
        let before = std::mem::replace(&mut self.others, now.clone());
        for line in now.difference(&before) {
            self.metrics.problem_found();
            self.log(line);
        }
    }

    /// Time passes: more may be said.
    pub(super) fn pass(&mut self, now: Instant) {
        let steps = now.saturating_duration_since(self.refilled).as_millis() / REFILL.as_millis();
        if steps == 0 {
            return;
        }
        self.refilled = now;
        self.lines = self.lines.saturating_add(u32::try_from(steps).unwrap_or(LINES)).min(LINES);
        if self.unsaid > 0 {
            log::warn!("{} more problems of objects; balancer services shows them", self.unsaid);
            self.unsaid = 0;
        }
    }

    fn log(&mut self, line: &str) {
        if self.lines == 0 {
            self.unsaid += 1;
            return;
        }
        self.lines -= 1;
        log::warn!("{line}");
    }

    /// Never waits: what finds no room is not announced.
    fn announce(&self, service: &ObjectName, uid: Option<Uid>, reason: NoticeReason, text: &str) {
        if let (Some(sender), Some(uid)) = (&self.sender, uid) {
            let notice = Notice { service: service.clone(), uid, reason, message: text.to_owned() };
            if sender.try_send(notice).is_err() {
                log::debug!("{service}: not announced, too many are waiting");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use balancer_common::abi::Algorithm;
    use serde_json::json;

    use super::*;
    use crate::model::{ConnectionSettings, Defaults, Event, Selection, convert};

    const UID: &str = "7f3c1a2e-0b4d-4c5e-8f60-a1b2c3d4e5f6";

    fn index() -> Index {
        let connections = ConnectionSettings::default();
        let selection = Selection::All;
        Index::new(Defaults { algorithm: Algorithm::Random, connections, selection, started_ms: 0 })
    }

    fn set(index: &mut Index, name: &str, algorithm: &str) -> ObjectName {
        let annotations = json!({"balancer.dev/algorithm": algorithm});
        let meta = json!({"name": name, "namespace": "shop", "uid": UID, "annotations": annotations});
        let addr = format!("10.96.1.{}", index.counts().services);
        let spec = json!({"clusterIP": addr, "ports": [{"port": 80}]});
        let object = serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap();
        let spec = convert::service_spec(&object).unwrap();
        let name = spec.name.clone();
        index.apply(Event::Service(Box::new(spec)));
        index.resolve(&name);
        name
    }

    fn notices() -> (Notices, mpsc::Receiver<Notice>, Arc<AgentMetrics>) {
        let metrics = Arc::new(AgentMetrics::default());
        let (sender, receiver) = mpsc::channel(8);
        (Notices::new(Arc::clone(&metrics), Some(sender)), receiver, metrics)
    }

    #[test]
    fn a_problem_is_told_once_and_again_when_it_comes_back() {
        let (mut notices, mut receiver, _) = notices();
        let mut index = index();
        let name = set(&mut index, "web", "fastest");
        for _ in 0..3 {
            notices.service(&index, &name, None);
        }
        let notice = receiver.try_recv().unwrap();
        assert_eq!((notice.reason, notice.uid.to_string()), (NoticeReason::Problem, UID.to_owned()));
        assert!(notice.message.contains("\"fastest\" is not an algorithm"), "{}", notice.message);
        assert!(receiver.try_recv().is_err());

        set(&mut index, "web", "random");
        notices.service(&index, &name, None);
        assert!(receiver.try_recv().is_err() && notices.told.is_empty());
        set(&mut index, "web", "fastest");
        notices.service(&index, &name, Some("no room"));
        assert_eq!(receiver.try_recv().unwrap().reason, NoticeReason::NoRoom);
        assert_eq!(receiver.try_recv().unwrap(), notice);
    }

    #[test]
    fn a_harmful_offer_is_not_called_a_habit() {
        let (mut notices, mut receiver, _) = notices();
        let mut index = index();
        let name = set(&mut index, "web", "random");
        let mut said = |stop| {
            notices.rebalance(&index, &name, stop);
            let notice = receiver.try_recv().unwrap();
            assert_eq!(notice.reason, NoticeReason::RebalanceStopped);
            notice.message
        };
        let harm = said(Stop::Harm);
        assert!(harm.contains("200 offers") && !harm.contains("often"), "{harm}");
        assert!(said(Stop::ServerSpeaksFirst).contains("often"));
    }

    #[test]
    fn neither_the_log_nor_the_queue_grows_with_the_number_of_mistakes() {
        let (mut notices, mut receiver, _) = notices();
        let mut index = index();
        for n in 0..200 {
            let name = set(&mut index, &format!("web-{n}"), "fastest");
            notices.service(&index, &name, None);
        }
        assert_eq!((notices.lines, notices.unsaid), (0, 150));
        assert_eq!(std::iter::from_fn(|| receiver.try_recv().ok()).count(), 8);
        notices.pass(notices.refilled + Duration::from_secs(3));
        assert_eq!((notices.lines, notices.unsaid), (3, 0));
    }

    #[test]
    fn a_namespace_is_told_of_once_for_all_its_services() {
        let (mut notices, _receiver, _) = notices();
        let mut index = index();
        let meta = json!({"name": "shop", "annotations": {"balancer.dev/enabled": "perhaps"}});
        let spec = convert::namespace_spec(&serde_json::from_value(meta).unwrap()).unwrap();
        index.apply(Event::Namespace(spec));
        for n in 0..3 {
            let name = set(&mut index, &format!("web-{n}"), "random");
            notices.service(&index, &name, None);
            notices.others(&index);
        }
        assert_eq!((notices.lines, notices.told.len()), (LINES - 1, 0));
    }

    #[test]
    fn a_mistake_on_a_pod_is_told_once() {
        let (mut notices, _receiver, _) = notices();
        let mut index = index();
        let annotations = json!({"balancer.dev/enabled": "perhaps"});
        let meta = json!({"name": "web-1", "namespace": "shop", "uid": UID, "annotations": annotations});
        let pod = convert::pod_spec(&serde_json::from_value(meta).unwrap()).unwrap();
        index.apply(Event::AllPods(vec![pod.clone()]));
        for _ in 0..3 {
            notices.others(&index);
        }
        assert_eq!(notices.lines, LINES - 1);
        index.apply(Event::PodGone(pod.name.clone()));
        notices.others(&index);
        index.apply(Event::Pod(pod));
        notices.others(&index);
        assert_eq!(notices.lines, LINES - 2);
    }
}
