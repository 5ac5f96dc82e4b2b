//! The agent and an API server: a real one, where there is one, and one that fails on command.

mod real;
