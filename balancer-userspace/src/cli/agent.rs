//! `balancer agent`: its flags.
//!
//! Each flag can also be given as a variable of the environment or as a key of the file that `--config` names.
//! A flag beats a variable, and a variable beats the file ([`config`](super::config)).

use std::{path::PathBuf, time::Duration};

use balancer_common::abi::{Algorithm, Mode, Rebalance};
use clap::{Args, ValueEnum, value_parser};

use super::{
    exit::Failure,
    values::{self, HttpListen, LeaseTerm},
};
use crate::{
    lane::Cidr,
    logging::LogFormat,
    model::{ConnectionSettings, Drain, RemovedSockets, Selection, Trust},
};

/// Flags of `balancer agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// Where Services and EndpointSlices come from [default: manifests where --manifests is given, else kubernetes]
    #[arg(long, env = "BALANCER_SOURCE", value_name = "SOURCE")]
    source: Option<SourceKind>,

    /// Directory of Service and EndpointSlice manifests (YAML or JSON), watched for changes
    #[arg(long, env = "BALANCER_MANIFESTS", value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// Kubeconfig to use [default: $KUBECONFIG, the pod's service account, or ~/.kube/config]
    #[arg(long, env = "BALANCER_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig to use [default: its current one]
    #[arg(long, env = "BALANCER_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,

    /// Longest wait for an answer of the API server, and between two attempts (1s to 5m)
    ///
    /// A watch that falls silent for five times as long is begun anew; where it never said a thing, everything is
    /// listed. API servers send a sign of life about once a minute: with less than 15s, a quiet cluster is listed
    /// that often for nothing.
    #[arg(long, env = "BALANCER_API_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = values::api_timeout)]
    pub api_timeout: Duration,

    /// Time between full lists of the API server's objects, give or take a fifth (10s to 24h)
    #[arg(long, env = "BALANCER_RELIST", value_name = "DURATION", default_value = "30m", value_parser = values::relist)]
    pub relist: Duration,

    /// Name of this node in the cluster; NODE_NAME is read too [default: the host name]
    #[arg(long, env = "BALANCER_NODE", value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    node: Option<String>,

    /// Zone of this node [default: its label topology.kubernetes.io/zone]
    #[arg(long, env = "BALANCER_ZONE", value_name = "ZONE")]
    pub zone: Option<String>,

    /// cgroup whose processes are balanced [default: the host's cgroup2 root]
    #[arg(long, env = "BALANCER_CGROUP", value_name = "DIR")]
    pub cgroup: Option<PathBuf>,

    /// Start although another socket load balancer (Cilium's, Calico's) is attached too
    ///
    /// Right where it leaves alone what balancer is to balance, as Cilium's does with pods when it is confined to the
    /// host's namespace. Otherwise whichever was attached first balances.
    #[arg(long, env = "BALANCER_BESIDE_SOCKET_LB", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub beside_socket_lb: bool,

    /// Let connects to pods pass by kube-proxy's iptables rules
    ///
    /// In iptables mode the first packet of a connection to a pod's own address is compared with the rule of every
    /// Service. A table of this agent's in nf_tables settles such connections before. It lapses with the lease, and is
    /// left out where kube-proxy has no iptables rules.
    #[arg(long, env = "BALANCER_EXPRESS_LANE", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub express_lane: bool,

    /// Range of addresses that the express lane is confined to, such as the pods'; several are separated by commas
    ///
    /// Without it the lane takes the backends of all Services that are balanced. Whoever may write EndpointSlices can name
    /// any address there, and exempt it from the rules of others that come after the lane. Once one is named, a family
    /// of which none is has no endpoints in it.
    #[arg(long, env = "BALANCER_EXPRESS_LANE_CIDR", value_name = "CIDR", value_delimiter = ',')]
    pub express_lane_cidr: Vec<Cidr>,

    /// How long connects are balanced after the agent's last sign of life; 0 for ever
    ///
    /// Once the lease has lapsed the programs leave every connect alone, and kube-proxy answers. Use 0 only where no
    /// kube-proxy runs: tables that nobody updates send connects to pods that are gone.
    #[arg(long, env = "BALANCER_LEASE", value_name = "DURATION", default_value = "60s")]
    pub lease: LeaseTerm,

    /// How Services without an annotation of their own choose a backend
    #[arg(long, env = "BALANCER_ALGORITHM", value_name = "NAME", default_value = Algorithm::LeastConnections.name(), value_parser = values::algorithm())]
    pub algorithm: Algorithm,

    /// Whether open connections are moved to backends that have fewer: off, dry-run (said, not done), or idle ones
    ///
    /// A connection is moved by ending it while nothing is under way on it; the application opens another. For TCP
    /// Services without the annotation balancer.dev/rebalance.
    #[arg(long, env = "BALANCER_REBALANCE", value_name = "WHICH", default_value = Rebalance::Off.name(), value_parser = values::rebalance())]
    rebalance: Rebalance,

    /// How long a connection must have been quiet before it is moved, at least (50ms to 1h)
    #[arg(long, env = "BALANCER_REBALANCE_QUIET", value_name = "DURATION", default_value = "2s", value_parser = values::quiet)]
    rebalance_quiet: u32,

    /// How old a connection must be before it is moved (0s to 24h)
    #[arg(long, env = "BALANCER_REBALANCE_MIN_AGE", value_name = "DURATION", default_value = "10s", value_parser = values::min_age)]
    rebalance_min_age: u32,

    /// How many connections of a Service port may be moved in ten seconds, of those that are open (0% to 10000%)
    #[arg(long, env = "BALANCER_REBALANCE_BUDGET", value_name = "PERCENT", default_value = "5%", value_parser = values::budget)]
    rebalance_budget: u16,

    /// Whether connections to terminating backends are moved: off, or idle ones
    ///
    /// Where connections are moved to even out (--rebalance idle, or the annotation), they are moved away from
    /// terminating backends too, unless the Service is annotated with balancer.dev/drain: "off".
    #[arg(long, env = "BALANCER_DRAIN", value_name = "WHICH", default_value = Drain::Off.name(), value_parser = values::drain())]
    drain: Drain,

    /// Whether sockets to backends that have left their Service are closed
    #[arg(long, env = "BALANCER_CLOSE_REMOVED", value_name = "WHETHER", default_value = "true")]
    close_removed: CloseRemovedChoice,

    /// How long new backends take to get their full share of connects; 0s: they have it at once (0s to 1h)
    #[arg(long, env = "BALANCER_SLOW_START", value_name = "DURATION", default_value = "0s", value_parser = values::slow_start)]
    slow_start: u32,

    /// balance, or observe: leave every connect alone, and count what balancing would have done
    #[arg(long, env = "BALANCER_MODE", value_name = "MODE", default_value = Mode::Balance.name(), value_parser = values::mode())]
    pub mode: Mode,

    /// Read the Pods of this node, and leave those alone that opt out or are part of a service mesh
    ///
    /// A pod opts out by the annotation balancer.dev/enabled: "false", its own or its Namespace's. Pods that a mesh has
    /// taken in keep the Service's address, unless they say "true". With --source kubernetes it takes the right to list
    /// and watch Pods.
    #[arg(long, env = "BALANCER_WATCH_PODS")]
    pub watch_pods: bool,

    /// cgroup whose processes are left alone, with all cgroups below it; several are separated by commas
    #[arg(long, env = "BALANCER_EXCLUDE_CGROUP", value_name = "DIR", value_delimiter = ',')]
    pub exclude_cgroup: Vec<PathBuf>,

    /// Which Services are balanced: all but those that opt out, or those alone that are annotated with balancer.dev/enabled: "true"
    ///
    /// The annotation balancer.dev/enabled, "true" or "false", on a Service beats the one on its Namespace, which beats
    /// this flag.
    #[arg(long, env = "BALANCER_SELECT", value_name = "WHICH", default_value = "all")]
    pub select: SelectChoice,

    /// Whether problems of Services are written as Events on them, with an API server as the source
    #[arg(long, env = "BALANCER_EVENTS", value_name = "WHETHER", default_value = "on")]
    pub events: EventsChoice,

    /// Address for /metrics, /livez and /readyz, or off
    #[arg(long, env = "BALANCER_HTTP", value_name = "ADDRESS", default_value = "127.0.0.1:9990")]
    pub http: HttpListen,

    /// Most Service ports, each address family counted apart (16 to 1048576)
    #[arg(long, env = "BALANCER_MAX_SERVICES", value_name = "N", default_value = "16384", value_parser = value_parser!(u32).range(16..=1_048_576))]
    pub max_services: u32,

    /// Most backends of all Service ports together (16 to 1048576)
    #[arg(long, env = "BALANCER_MAX_BACKENDS", value_name = "N", default_value = "65536", value_parser = value_parser!(u32).range(16..=1_048_576))]
    pub max_backends: u32,

    /// Most slots: what the backends of all Service ports take up in the tables (64 to 16777216)
    #[arg(long, env = "BALANCER_MAX_SLOTS", value_name = "N", default_value = "262144", value_parser = value_parser!(u32).range(64..=16_777_216))]
    pub max_slots: u32,

    /// Most clients that are remembered for session affinity and per-client turns (64 to 4194304)
    #[arg(long, env = "BALANCER_MAX_CLIENTS", value_name = "N", default_value = "65536", value_parser = value_parser!(u32).range(64..=4_194_304))]
    pub max_clients: u32,

    /// Form of the log
    #[arg(long, env = "BALANCER_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// error, warn, info, debug, trace, off, or filters such as info,balancer_userspace::source=debug [default: $RUST_LOG, or info]
    #[arg(long, env = "BALANCER_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// Most time series that /metrics serves of Services and backends; what is left out is counted
    #[arg(long, env = "BALANCER_METRICS_MAX_SERIES", value_name = "N", default_value = "20000", value_parser = value_parser!(u32).range(0..=10_000_000))]
    pub metrics_max_series: u32,

    /// YAML file of flags, by their long names without dashes in front (`lease: 60s`)
    #[arg(long, env = "BALANCER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Where Services and EndpointSlices come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceKind {
    /// A directory of manifests.
    Manifests,
    /// A Kubernetes API server.
    Kubernetes,
}

/// Which Services are balanced of which nobody says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SelectChoice {
    /// All of them.
    All,
    /// None of them.
    Annotated,
}

/// Whether Events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EventsChoice {
    /// They are.
    On,
    /// They are not.
    Off,
}

/// Whether sockets to backends that have left are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CloseRemovedChoice {
    /// They are.
    True,
    /// They are left alone.
    False,
}

impl From<SelectChoice> for Selection {
    fn from(choice: SelectChoice) -> Self {
        match choice {
            SelectChoice::All => Self::All,
            SelectChoice::Annotated => Self::Annotated,
        }
    }
}

/// A source with what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceChoice {
    /// A directory of manifests.
    Manifests {
        /// The directory.
        dir: PathBuf,
    },
    /// A Kubernetes API server.
    Kubernetes {
        /// The kubeconfig, if one was named.
        kubeconfig: Option<PathBuf>,
        /// The context, if one was named.
        context: Option<String>,
    },
}

impl AgentArgs {
    /// What becomes of open connections of Services that do not say.
    pub fn connections(&self) -> ConnectionSettings {
        ConnectionSettings {
            slow_start_ms: self.slow_start,
            rebalance: self.rebalance,
            quiet_ms: self.rebalance_quiet,
            min_age_ms: self.rebalance_min_age,
            budget_percent: self.rebalance_budget,
            trust: Trust::Earned,
            drain: self.drain,
            removed: match self.close_removed {
                CloseRemovedChoice::True => RemovedSockets::Close,
                CloseRemovedChoice::False => RemovedSockets::Keep,
            },
        }
    }

    /// The source to use. Fails where the flags contradict each other.
    pub fn source(&self) -> Result<SourceChoice, Failure> {
        match (self.source, &self.manifests) {
            (None | Some(SourceKind::Manifests), Some(dir)) => {
                Ok(SourceChoice::Manifests { dir: dir.clone() })
            }
            (Some(SourceKind::Manifests), None) => {
                Err(Failure::usage("--source manifests needs --manifests DIR, the directory to read"))
            }
            (Some(SourceKind::Kubernetes), Some(_)) => Err(Failure::usage(
                "--source kubernetes reads no manifests: leave out --manifests or --source",
            )),
            (None | Some(SourceKind::Kubernetes), None) => Ok(SourceChoice::Kubernetes {
                kubeconfig: self.kubeconfig.clone(),
                context: self.context.clone(),
            }),
        }
    }

    /// The node's name: as given, or the host name in lower case, which is what a kubelet registers by default.
    pub fn node_name(&self) -> String {
        self.node.clone().unwrap_or_else(|| {
            rustix::system::uname().nodename().to_string_lossy().trim().to_ascii_lowercase()
        })
    }
}

#[cfg(test)]
mod tests {

    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(line: &str) -> AgentArgs {
        let argv = ["balancer", "agent"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(argv).unwrap_or_else(|error| panic!("{error}")).command {
            Command::Agent(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let args = parse("");
        assert_eq!(args.lease, LeaseTerm::Lasts(Duration::from_secs(60)));
        assert_eq!(args.algorithm, Algorithm::LeastConnections);
        assert_eq!(args.connections(), ConnectionSettings::default());
        assert_eq!(args.select, SelectChoice::All);
        assert_eq!(args.events, EventsChoice::On);
        assert_eq!(parse("--select annotated").select, SelectChoice::Annotated);
        assert_eq!(args.http.to_string(), "127.0.0.1:9990");
        let sizes = [args.max_services, args.max_backends, args.max_slots, args.max_clients];
        assert_eq!(sizes, [16_384, 65_536, 262_144, 65_536]);
        assert_eq!(args.metrics_max_series, 20_000);
        assert!(!args.node_name().is_empty());
        assert_eq!(args.source().unwrap(), SourceChoice::Kubernetes { kubeconfig: None, context: None });
    }

    #[test]
    fn what_becomes_of_open_connections_is_said_by_flags() {
        let line = "--rebalance dry-run --rebalance-quiet 500ms --rebalance-min-age 0s --rebalance-budget 100% \
                    --drain idle --close-removed false --slow-start 30s";
        let expect = ConnectionSettings {
            slow_start_ms: 30_000,
            rebalance: Rebalance::DryRun,
            quiet_ms: 500,
            min_age_ms: 0,
            budget_percent: 100,
            trust: Trust::Earned,
            drain: Drain::Idle,
            removed: RemovedSockets::Keep,
        };
        assert_eq!(parse(line).connections(), expect);
    }

    #[test]
    fn the_source_follows_from_what_is_given() {
        let dir = || PathBuf::from("/m");
        assert_eq!(parse("--manifests /m").source().unwrap(), SourceChoice::Manifests { dir: dir() });
        let explicit = parse("--source manifests --manifests /m");
        assert_eq!(explicit.source().unwrap(), SourceChoice::Manifests { dir: dir() });
        parse("--source manifests").source().unwrap_err();
        parse("--source kubernetes --manifests /m").source().unwrap_err();
        let kube = parse("--kubeconfig /k --context c").source().unwrap();
        assert_eq!(
            kube,
            SourceChoice::Kubernetes { kubeconfig: Some("/k".into()), context: Some("c".into()) }
        );
    }

    #[test]
    fn sizes_are_bounded() {
        for line in [
            "--max-services 0",
            "--max-backends 2000000",
            "--max-slots 1",
            "--max-clients -1",
            "--node=",
            "--rebalance-budget 5",
            "--drain dry-run",
        ] {
            let argv = ["balancer", "agent"].into_iter().chain(line.split_whitespace());
            assert!(Cli::try_parse_from(argv).is_err(), "{line}");
        }
    }

    #[test]
    fn ranges_of_the_express_lane_are_repeated_or_listed() {
        let args = parse(
            "--express-lane --express-lane-cidr 10.244.0.0/16,fd00::/64 --express-lane-cidr 10.0.0.0/8",
        );
        let texts: Vec<_> = args.express_lane_cidr.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.244.0.0/16", "fd00::/64", "10.0.0.0/8"]);
        let argv = ["balancer", "agent", "--express-lane-cidr", "10.244.0.0/16,10.1.0.0"];
        let error = Cli::try_parse_from(argv).unwrap_err().to_string();
        assert!(error.contains("'10.1.0.0'") && error.contains("prefix length"), "{error}");
    }

    #[test]
    fn every_flag_has_its_variable() {
        let command = crate::cli::command();
        let flags = command.find_subcommand("agent").unwrap().get_arguments();
        for (long, arg) in flags.filter_map(|arg| Some((arg.get_long()?, arg))) {
            if ["help", "version"].contains(&long) {
                continue;
            }
            let own = format!("BALANCER_{}", long.to_ascii_uppercase().replace('-', "_"));
            let variable = arg.get_env().unwrap_or_default().to_str().unwrap();
            assert!(variable == own || (long == "node" && variable == "NODE_NAME"), "--{long}: {variable}");
        }
    }
}
