//! The entries of the fuzz targets: each takes any bytes, and panics if something is not as it must be.
//!
//! They are compiled for tests, and for `fuzz/` with the feature `fuzzing`; the binary has none of it.

mod annotations;
mod config;
mod netlink;
mod objects;
mod records;
mod select;

pub use self::{
    annotations::annotations,
    config::config,
    netlink::netlink,
    objects::{manifests, resolve},
    records::records,
    select::select,
};

#[cfg(test)]
mod tests;
