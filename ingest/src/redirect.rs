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
    http::RequestHead,
    http::answer::{RedirectResponse, ResponseContext},
    metrics::IngestMetrics,
    table::domains::{CATCH_ALL, Domains, Site, host_name},
    table::links::{self, Links},
    table::location::Location,
    table::row::{LinkPhase, LinkRow},
    visit::limits::{OrphanVisit, VisitLimits, VisitPace},
    visit::{self, Classified, CountsAs, RequestKind, RequestedPath, Visitor},
};

/// What is kept of an address that no link has.
const ASKED_BYTES: usize = 2 << 10;

/// What redirects are decided by. Shared by all cores.
pub(crate) struct Redirects {
    pub(crate) config: Arc<Config>,
    pub(crate) links: Links,
    pub(crate) domains: Domains,
    pub(crate) limits: VisitLimits,
    /// Whether all links and domains are there.
    pub(crate) complete: AtomicBool,
    pub(crate) counts: IngestMetrics,
}

/// What an address leads to.
#[derive(Clone, Copy)]
enum Found<'t> {
    Live(&'t LinkRow),
    Expired(&'t LinkRow),
    /// A link that has not started: as if it were not there, but no orphan.
    NotStarted,
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
        head: &RequestHead<'_>,
        peer: SocketAddr,
        (at, sent): (Timestamp, ResponseContext),
        note: impl FnOnce(&Visitor<'_>, Classified, &[u8]) -> (ClickId, S),
        out: &mut Vec<u8>,
    ) -> Option<(ClickClass, S)> {
        let visitor = match visit::read(head, peer, &self.config.trusted_proxies) {
            RequestKind::Visit(visitor) => visitor,
            RequestKind::OtherMethod => {
                RedirectResponse::MethodNotAllowed.write(sent, out);
                return None;
            }
        };
        let pace = self.limits.pace(visitor.rate_limit_keys());
        if let VisitPace::Refused { retry_after_s } = pace {
            RedirectResponse::TooMany { retry_after_s }.write(sent, out);
            return None;
        }
        let note = |class, tail: &[u8]| {
            note(&visitor, Classified { at, class, rate_limited: pace == VisitPace::Marked }, tail)
        };
        let (domains, links) = (self.domains.view(), self.links.view());
        let site = domains.find(visitor.host);
        let fallback = || {
            site.and_then(|site| site.fallback.as_deref()).map_or(RedirectResponse::NotFound, RedirectResponse::found)
        };
        let mut waiting = None;
        let answer = match self.find(&visitor.place, site, &links, at) {
            Found::Live(row) => {
                let id = match visitor.counted {
                    CountsAs::Click(class) => {
                        let (id, slip) = note(class, row.tail());
                        waiting = Some((class, slip));
                        Some(id)
                    }
                    CountsAs::Prefetch => {
                        self.counts.prefetches.inc();
                        Some(note(ClickClass::Prefetch, row.tail()).0)
                    }
                    CountsAs::Head => {
                        self.counts.heads.inc();
                        None
                    }
                };
                self.live(row, &visitor, id)
            }
            Found::Expired(row) => {
                if visitor.counted == CountsAs::Head {
                    self.counts.heads.inc();
                } else {
                    self.counts.expired.inc();
                    note(ClickClass::Expired, row.tail());
                }
                let url = row.expired_url().or_else(|| site?.expired.as_deref());
                url.map_or(RedirectResponse::Gone, RedirectResponse::found)
            }
            Found::Root => {
                site.and_then(|site| site.root.as_deref()).map_or(RedirectResponse::NotFound, RedirectResponse::found)
            }
            Found::NotStarted => fallback(),
            Found::Nothing => {
                if visitor.counted != CountsAs::Head
                    && self.limits.orphan(visitor.rate_limit_keys()) == OrphanVisit::Recorded
                {
                    let workspace = site.map_or("default", |site| site.workspace.as_str());
                    // Never fails: strings are always JSON.
                    if let Ok(tail) = orphan_tail(workspace, &asked(&visitor)) {
                        note(ClickClass::Orphan, &tail);
                    }
                }
                fallback()
            }
            Found::Unknown => RedirectResponse::Unavailable,
        };
        answer.write(sent, out);
        waiting
    }

    /// What `place` leads to on a domain, or on none.
    fn find<'t>(
        &self,
        place: &RequestedPath<'_>,
        site: Option<&Site>,
        links: &'t links::LinksView<'_>,
        at: Timestamp,
    ) -> Found<'t> {
        let complete = self.complete.load(Ordering::Relaxed);
        if site.is_none() && !complete {
            // The host may be one of a domain that is not there yet.
            return Found::Unknown;
        }
        let slug = match place {
            RequestedPath::Root => return Found::Root,
            RequestedPath::Other(_) => return Found::Nothing,
            RequestedPath::Slug(slug) => &**slug,
        };
        let (number, case) = site.map_or((CATCH_ALL, SlugCase::Sensitive), |site| (site.number, site.slug_case));
        let row = match links.find(number, &case.canonical(slug.into())) {
            Some(row) => row,
            None if complete => return Found::Nothing,
            None => return Found::Unknown,
        };
        match row.phase(at) {
            LinkPhase::Live => Found::Live(row),
            LinkPhase::Expired => Found::Expired(row),
            LinkPhase::NotStarted => Found::NotStarted,
        }
    }

    fn live<'a>(&'a self, row: &'a LinkRow, visitor: &'a Visitor<'_>, id: Option<ClickId>) -> RedirectResponse<'a> {
        let mut location = Location::new(row.location());
        if row.passes_query() {
            location = location.passing(visitor.query.as_deref());
        }
        if row.tells_click_id() {
            location = location.telling(&self.config.click_id_param, id);
        }
        RedirectResponse::Redirect { status: row.status(), location, referrer_policy: row.referrer_policy() }
    }
}

/// What an orphan visit asked for: host, slash, slug.
fn asked(visitor: &Visitor<'_>) -> String {
    let host = host_name(visitor.host.unwrap_or_default());
    let mut asked = match &visitor.place {
        RequestedPath::Root => format!("{host}/"),
        RequestedPath::Slug(slug) => format!("{host}/{slug}"),
        RequestedPath::Other(path) => format!("{host}{}", percent_decode_str(path).decode_utf8_lossy()),
    };
    asked.truncate(asked.floor_char_boundary(ASKED_BYTES));
    asked
}
