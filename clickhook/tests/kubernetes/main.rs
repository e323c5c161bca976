//! The manifests of `k8s/`, the systemd units and the container image: everything is
//! rendered, validated against the schemas of Kubernetes, and held to our rules and to the
//! program.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod documentation;
mod image;
mod manifests;
mod pods;
mod references;
mod scaling;
mod settings;
mod topics;
mod units;
