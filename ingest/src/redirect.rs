//! What is answered to a request, and what is recorded of it (docs/CONTRACTS.md §1):
//! a function of the request, the links and domains as they are, and the time.
//! Only clicks and scans are waited for; what else is written down may be lost
//! with the process.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use percent_encoding::percent_decode_str;
use schemas::{ClickClass, ClickId, Timestamp, click::orphan_tail, workspace::SlugCase};

use crate::{
    Config,
    http::Head,
    http::answer::{Answer, Sent},
    metrics::Counts,
    table::domains::{CATCH_ALL, Domains, Site, host_name},
    table::links::{self, Links},
    table::location::Location,
    table::row::{Row, Stand},
    visit::limits::{Limits, Orphan, Pace},
    visit::{self, Asked, Counted, Place, Seen, Visitor},
};

/// What is kept of an address that no link has.
const ASKED_BYTES: usize = 2 << 10;

/// What redirects are decided by. Shared by all cores.
pub(crate) struct Redirects {
    pub(crate) config: Arc<Config>,
    pub(crate) links: Links,
    pub(crate) domains: Domains,
    pub(crate) limits: Limits,
    /// Whether all links and domains are there.
    pub(crate) complete: AtomicBool,
    pub(crate) counts: Counts,
}

/// What an address leads to.
#[derive(Clone, Copy)]
enum Found<'t> {
    Live(&'t Row),
    Expired(&'t Row),
    /// A link that has not started: as if it were not there, but no orphan.
    NotYet,
    Root,
    Nothing,
    /// It is not known yet.
    Unknown,
}

impl Redirects {
    /// Writes the answer to a request to `out`. A visit that is to be written down
    /// is given to `note`, which gives back its id and a slip to wait with; where
    /// the answer must wait for that, the slip comes back.
    pub(crate) fn answer<S>(
        &self,
        head: &Head<'_>,
        peer: SocketAddr,
        (at, sent): (Timestamp, Sent),
        note: impl FnOnce(&Visitor<'_>, Seen, &[u8]) -> (ClickId, S),
        out: &mut Vec<u8>,
    ) -> Option<(ClickClass, S)> {
        let visitor = match visit::read(head, peer, &self.config.trusted_proxies) {
            Asked::Visit(visitor) => visitor,
            Asked::Method => {
                Answer::MethodNotAllowed.write(sent, out);
                return None;
            }
        };
        let pace = self.limits.pace(visitor.askers());
        if let Pace::Refused { retry_after_s } = pace {
            Answer::TooMany { retry_after_s }.write(sent, out);
            return None;
        }
        let note = |class, tail: &[u8]| note(&visitor, Seen { at, class, rate_limited: pace == Pace::Marked }, tail);
        let (domains, links) = (self.domains.look(), self.links.look());
        let site = domains.find(visitor.host);
        let fallback = || site.and_then(|site| site.fallback.as_deref()).map_or(Answer::NotFound, Answer::found);
        let mut waiting = None;
        let answer = match self.find(&visitor.place, site, &links, at) {
            Found::Live(row) => {
                let id = match visitor.counted {
                    Counted::As(class) => {
                        let (id, slip) = note(class, row.tail());
                        waiting = Some((class, slip));
                        Some(id)
                    }
                    Counted::Prefetch => {
                        self.counts.prefetches.inc();
                        Some(note(ClickClass::Prefetch, row.tail()).0)
                    }
                    Counted::Head => {
                        self.counts.heads.inc();
                        None
                    }
                };
                self.live(row, &visitor, id)
            }
            Found::Expired(row) => {
                if visitor.counted == Counted::Head {
                    self.counts.heads.inc();
                } else {
                    self.counts.expired.inc();
                    note(ClickClass::Expired, row.tail());
                }
                let url = row.expired_url().or_else(|| site?.expired.as_deref());
                url.map_or(Answer::Gone, Answer::found)
            }
            Found::Root => site.and_then(|site| site.root.as_deref()).map_or(Answer::NotFound, Answer::found),
            Found::NotYet => fallback(),
            Found::Nothing => {
                if visitor.counted != Counted::Head && self.limits.orphan(visitor.askers()) == Orphan::Recorded {
                    let workspace = site.map_or("default", |site| site.workspace.as_str());
                    // Never fails: strings are always JSON.
                    if let Ok(tail) = orphan_tail(workspace, &asked(&visitor)) {
                        note(ClickClass::Orphan, &tail);
                    }
                }
                fallback()
            }
            Found::Unknown => Answer::Unavailable,
        };
        answer.write(sent, out);
        waiting
    }

    /// What `place` leads to on a domain, or on none.
    fn find<'t>(&self, place: &Place<'_>, site: Option<&Site>, links: &'t links::Look<'_>, at: Timestamp) -> Found<'t> {
        let complete = self.complete.load(Ordering::Relaxed);
        if site.is_none() && !complete {
            // The host may be one of a domain that is not there yet.
            return Found::Unknown;
        }
        let slug = match place {
            Place::Root => return Found::Root,
            Place::Nowhere(_) => return Found::Nothing,
            Place::Slug(slug) => &**slug,
        };
        let (number, case) = site.map_or((CATCH_ALL, SlugCase::Sensitive), |site| (site.number, site.slug_case));
        let row = match links.find(number, &case.canonical(slug.into())) {
            Some(row) => row,
            None if complete => return Found::Nothing,
            None => return Found::Unknown,
        };
        match row.stand(at) {
            Stand::Live => Found::Live(row),
            Stand::Expired => Found::Expired(row),
            Stand::NotYet => Found::NotYet,
        }
    }

    fn live<'a>(&'a self, row: &'a Row, visitor: &'a Visitor<'_>, id: Option<ClickId>) -> Answer<'a> {
        let mut location = Location::new(row.location());
        if row.passes_query() {
            location = location.passing(visitor.query.as_deref());
        }
        if row.tells_click_id() {
            location = location.telling(&self.config.click_id_param, id);
        }
        Answer::Redirect { status: row.status(), location, referrer_policy: row.referrer_policy() }
    }
}

/// What an orphan visit asked for: host, slash, slug.
fn asked(visitor: &Visitor<'_>) -> String {
    let host = host_name(visitor.host.unwrap_or_default());
    let mut asked = match &visitor.place {
        Place::Root => format!("{host}/"),
        Place::Slug(slug) => format!("{host}/{slug}"),
        Place::Nowhere(path) => format!("{host}{}", percent_decode_str(path).decode_utf8_lossy()),
    };
    asked.truncate(asked.floor_char_boundary(ASKED_BYTES));
    asked
}
