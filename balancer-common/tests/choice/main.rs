//! The choice of a backend, tested on the host: the functions that the eBPF programs run, over tables
//! held in vectors.

mod affinity;
mod corrupt;
mod least_connections;
mod sampling;
mod scaling;
mod schedules;
mod steering;
mod storm;
mod ties;
mod translate;
mod world;
