//! What every command has at hand: the node, the pins and where to print.

use std::{io, path::Path, path::PathBuf};

use anyhow::Context as _;

use super::{
    Cli, Streams,
    exit::Failure,
    node::Node,
    output::{Document, Format},
    term::{Ink, Output, Palette, safe},
    warnings::warnings,
};
use crate::view::Snapshot;

/// The reader of the output has closed it. Not a failure: it had enough.
#[derive(Debug, thiserror::Error)]
#[error("the output was closed")]
pub struct ClosedPipe;

/// What every command has at hand.
pub struct Context<'a> {
    node: &'a dyn Node,
    pins: PathBuf,
    palette: Palette,
    stderr_palette: Palette,
    streams: Streams<'a>,
}

impl<'a> Context<'a> {
    /// The context of a command line.
    pub fn new(node: &'a dyn Node, cli: &Cli, streams: Streams<'a>) -> Self {
        Self {
            node,
            pins: cli.pins.clone(),
            palette: cli.color.palette(streams.stdout_kind),
            stderr_palette: cli.color.palette(streams.stderr_kind),
            streams,
        }
    }

    /// The node.
    pub fn node(&self) -> &'a dyn Node {
        self.node
    }

    /// Where everything is pinned.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// How to colour standard output.
    pub fn palette(&self) -> Palette {
        self.palette
    }

    /// What standard output leads to.
    pub fn stdout_kind(&self) -> Output {
        self.streams.stdout_kind
    }

    /// Standard error.
    pub fn stderr(&mut self) -> &mut dyn io::Write {
        self.streams.stderr
    }

    /// Reads the maps.
    pub fn snapshot(&self) -> Result<Snapshot, Failure> {
        self.node.snapshot(&self.pins)
    }

    /// Prints to standard output, at once.
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        let written =
            self.streams.stdout.write_all(text.as_bytes()).and_then(|()| self.streams.stdout.flush());
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ClosedPipe.into()),
            other => Ok(other.context("cannot write to standard output")?),
        }
    }

    /// Prints what a user should know of the agent to standard error.
    pub fn warn(&mut self, snapshot: &Snapshot) {
        let text = warning_lines(snapshot, self.stderr_palette);
        // Standard error may be closed; the output is worth more than the warning.
        let _ = self.streams.stderr.write_all(text.as_bytes());
    }

    /// Prints a remark to standard error.
    pub fn note(&mut self, text: &str) {
        // As in `warn`.
        let _ = writeln!(self.streams.stderr, "{}", safe(text));
    }

    /// Prints a document in a form that is for programs.
    pub fn print_document<T: serde::Serialize>(
        &mut self,
        format: Format,
        document: &Document<T>,
    ) -> Result<(), Failure> {
        let text = match format {
            Format::Yaml => document.yaml()?,
            Format::Table | Format::Wide | Format::Json => document.json()?,
        };
        self.print(&text)
    }
}

/// The warnings of [`warnings`], a line each.
pub fn warning_lines(snapshot: &Snapshot, palette: Palette) -> String {
    let mut text = String::new();
    for warning in warnings(snapshot) {
        palette.paint(&mut text, Ink::Warn, "warning:");
        text.push(' ');
        text.push_str(&safe(&warning.message));
        text.push('\n');
    }
    text
}
