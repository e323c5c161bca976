//! What the API answers when it does not do what it was asked to.

pub(crate) use service::problem::{FieldError, Kind, MEDIA_TYPE, Problem, ProblemBody};
