//! The whole pipeline under test: the real binary and its real engines.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod advice;
mod audit;
mod brokers;
mod conformance;
mod conversions;
mod crash;
mod customer;
mod dead;
mod failover;
mod fatal;
mod joining;
mod outage;
mod quickstart;
mod replays;
mod roles;
mod rolling;
mod secured;
mod support;
mod tenants;
mod watch;
mod widening;
