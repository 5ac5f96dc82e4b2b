//! Which Services a command is about.

use std::{fmt, str::FromStr};

use clap::Args;

use super::{exit::Failure, nearest::nearest};
use crate::view::{Connection, ServiceView, Snapshot};

/// The namespace that is meant where none is named, as with kubectl.
const DEFAULT_NAMESPACE: &str = "default";

/// The flags that name Services.
#[derive(Args, Clone, Debug, Default)]
pub struct Scope {
    /// Service: NAME, NAMESPACE/NAME or NAME:PORT, the port by name or number
    #[arg(value_name = "SERVICE")]
    pub service: Option<ServiceQuery>,

    #[command(flatten)]
    namespaces: Namespaces,
}

/// The flags that name namespaces.
#[derive(Args, Clone, Debug, Default)]
pub struct Namespaces {
    /// Namespace of the Services [default: default]
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "all_namespaces")]
    namespace: Option<String>,

    /// Services of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

impl Namespaces {
    /// The one that was named, if one was.
    pub fn one(namespace: Option<String>) -> Self {
        Self { namespace, all_namespaces: false }
    }
}

/// A Service by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceQuery {
    /// Namespace, if one was named.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Port by name or number, if one was named.
    pub port: Option<String>,
}

impl FromStr for ServiceQuery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is not NAME, NAMESPACE/NAME or NAME:PORT");
        let part = |part: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if part.is_empty() || !part.chars().all(plain) { Err(expected()) } else { Ok(part.to_owned()) }
        };
        let (namespace, rest) = match text.split_once('/') {
            Some((namespace, rest)) => (Some(part(namespace)?), rest),
            None => (None, text),
        };
        let (name, port) = match rest.split_once(':') {
            Some((name, port)) => (name, Some(part(port)?)),
            None => (rest, None),
        };
        Ok(Self { namespace, name: part(name)?, port })
    }
}

impl fmt::Display for ServiceQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)?;
        if let Some(port) = &self.port {
            write!(f, ":{port}")?;
        }
        Ok(())
    }
}

/// The outcome of a selection.
#[derive(Debug)]
pub struct Selected<'a> {
    /// The Services, in the order of the snapshot.
    pub services: Vec<&'a ServiceView>,
    /// What to tell a user who finds the selection empty; `None` otherwise.
    pub hint: Option<String>,
}

impl Scope {
    /// A scope from its parts.
    pub fn new(service: Option<ServiceQuery>, namespaces: Namespaces) -> Self {
        Self { service, namespaces }
    }

    /// Whether a Service was named.
    pub fn names_a_service(&self) -> bool {
        self.service.is_some()
    }

    /// The namespace that is meant; `None` for all.
    pub fn namespace(&self) -> Result<Option<&str>, Failure> {
        let named = self.service.as_ref().and_then(|query| query.namespace.as_deref());
        match (self.namespaces.all_namespaces, self.namespaces.namespace.as_deref(), named) {
            (_, Some(flag), Some(named)) if flag != named => Err(Failure::usage(format!(
                "-n {flag} contradicts the namespace in {}: name one of them",
                self.service.as_ref().map(ToString::to_string).unwrap_or_default(),
            ))),
            (_, _, Some(named)) => Ok(Some(named)),
            (true, _, None) => Ok(None),
            (false, flag, None) => Ok(Some(flag.unwrap_or(DEFAULT_NAMESPACE))),
        }
    }

    /// Whether a Service port of this name is meant.
    pub fn matches(&self, port: PortName<'_>) -> Result<bool, Failure> {
        let namespace = self.namespace()?;
        Ok(namespace.is_none_or(|namespace| port.namespace == namespace)
            && self.service.as_ref().is_none_or(|query| query.matches(port)))
    }

    /// The Services that are meant. A Service that is named and does not exist is a [`Failure::problem`].
    pub fn select<'a>(&self, snapshot: &'a Snapshot) -> Result<Selected<'a>, Failure> {
        let namespace = self.namespace()?;
        let mut services = Vec::new();
        for service in &snapshot.services {
            if self.matches(service.into())? {
                services.push(service);
            }
        }
        if !services.is_empty() {
            return Ok(Selected { services, hint: None });
        }
        match &self.service {
            Some(query) => Err(Failure::problem(not_found(query, namespace, &snapshot.services))),
            None => Ok(Selected { services, hint: Some(nothing(namespace, &snapshot.services)) }),
        }
    }
}

impl ServiceQuery {
    fn matches(&self, port: PortName<'_>) -> bool {
        self.name == port.service
            && self
                .port
                .as_ref()
                .is_none_or(|wanted| wanted == port.name || wanted.parse() == Ok(port.number))
    }
}

/// What a Service port is called.
#[derive(Clone, Copy, Debug)]
pub struct PortName<'a> {
    /// Namespace of the Service.
    pub namespace: &'a str,
    /// Name of the Service.
    pub service: &'a str,
    /// Port name; empty for an unnamed port.
    pub name: &'a str,
    /// Port number.
    pub number: u16,
}

impl<'a> From<&'a ServiceView> for PortName<'a> {
    fn from(service: &'a ServiceView) -> Self {
        Self {
            namespace: &service.namespace,
            service: &service.name,
            name: &service.port_name,
            number: service.frontend.port(),
        }
    }
}

impl<'a> From<&'a Connection> for PortName<'a> {
    fn from(connection: &'a Connection) -> Self {
        Self {
            namespace: &connection.namespace,
            service: &connection.service,
            name: &connection.port_name,
            number: connection.frontend.port(),
        }
    }
}

fn nothing(namespace: Option<&str>, services: &[ServiceView]) -> String {
    match (namespace, services.len()) {
        (_, 0) => "no Service is balanced on this node".to_owned(),
        (Some(namespace), n) => format!(
            "no Service is balanced in namespace {namespace}; {n} Service port{} in others (-A shows all)",
            if n == 1 { " is" } else { "s are" },
        ),
        (None, _) => "no Service matches".to_owned(),
    }
}

fn not_found(query: &ServiceQuery, namespace: Option<&str>, services: &[ServiceView]) -> String {
    let here = |service: &&ServiceView| namespace.is_none_or(|namespace| &*service.namespace == namespace);
    let place = namespace.map_or_else(String::new, |namespace| format!(" in namespace {namespace}"));
    let ports: Vec<String> =
        services.iter().filter(here).filter(|service| *service.name == *query.name).map(port_label).collect();
    if let (Some(port), false) = (&query.port, ports.is_empty()) {
        return format!("Service {}{place} has no port {port}; it has {}", query.name, ports.join(", "));
    }
    let mut message = format!("no Service {} is balanced{place}", query.name);
    let elsewhere = services.iter().find(|service| *service.name == *query.name);
    let near = nearest(&query.name, services.iter().filter(here).map(|service| &*service.name));
    if let Some(service) = elsewhere {
        message.push_str(&format!("; there is one in namespace {}", service.namespace));
    } else if let Some(near) = near {
        message.push_str(&format!("; did you mean {near}?"));
    }
    message
}

/// How a Service port is called: by its name, or by its number where it has none.
pub fn port_label(service: &ServiceView) -> String {
    if service.port_name.is_empty() {
        service.frontend.port().to_string()
    } else {
        service.port_name.to_string()
    }
}
