//! The express lane, beside rules in kube-proxy's shape: what passes by them, and that nothing else is different.

mod life;
mod net;
mod pace;
mod rules;
mod tables;
