//! What is in `deploy/`: rendered by the tools that users render it with, and checked object by object against the types of the
//! API and against the agent itself.

mod agent;
mod capabilities;
mod container;
mod helm;
mod host;
mod image;
mod kustomize;
mod monitoring;
mod node;
mod objects;
mod prometheus;
mod rights;
mod systemd;
mod upgrade;
