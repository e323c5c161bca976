//! Links as writers ask the API for them: each new, none like another.

use std::io::Write;

use serde_json::json;

use crate::{catalogue, visitors::Script};

/// Requests that each make a link.
pub(crate) struct Writes {
    head: String,
    next: u64,
    request: Vec<u8>,
}

impl Writes {
    /// Links from number `first` on, with this key.
    pub(crate) fn new(key: &str, first: u64) -> Self {
        let head = format!(
            "POST /v1/links HTTP/1.1\r\nHost: api.acme.example\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: "
        );
        Self { head, next: first, request: Vec::new() }
    }

    /// The number of the link that would be asked for next.
    pub(crate) const fn next_number(&self) -> u64 {
        self.next
    }
}

impl Script for Writes {
    const WANTED: u16 = 201;

    fn next(&mut self) -> &[u8] {
        let body = line(self.next);
        self.next += 1;
        self.request.clear();
        // Writing to memory cannot fail.
        let _ = write!(self.request, "{}{}\r\n\r\n", self.head, body.len());
        self.request.extend_from_slice(&body);
        &self.request
    }
}

/// A link as it is asked for, and the end of the line.
pub(crate) fn line(number: u64) -> Vec<u8> {
    let link = catalogue::link(number);
    let link = json!({
        "slug": link.slug,
        "destination": link.destination,
        "campaign": link.campaign,
        "segment": link.segment,
        "tags": link.tags,
    });
    let mut line = link.to_string().into_bytes();
    line.push(b'\n');
    line
}
