//! Decides how a request is answered and which visit is recorded for it, as
//! docs/CONTRACTS.md §1 has it: a function of the request, the links and domains as
//! they are, and the time.
//!
//! A request takes three steps: [`Redirects::decide`], then the visit of the decision
//! is recorded, which gives it an id, then [`Decision::write`] writes the response
//! with that id. Only clicks and scans are waited for; a process that ends may lose
//! the other visits.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use percent_encoding::percent_decode_str;
use schemas::{
    ClickClass, ClickId, Timestamp,
    click::orphan_tail,
    workspace::{SlugCase, TrailingSlash},
};

use crate::{
    Config, WhenPrefetched,
    http::answer::{RedirectResponse, ResponseContext},
    metrics::IngestMetrics,
    table::{
        domains::{CATCH_ALL, Domains, DomainsView, HostLinks, Site, SiteAnswer, host_name, leads_back},
        links::{Links, LinksView},
        location::Location,
        row::{LinkPhase, LinkRow},
    },
    visit::{
        CountsAs, RequestKind, VisitRecord, Visitor,
        limits::{SampledVisit, VisitLimits, VisitPace},
        path::{RequestedPath, ReservedPath},
    },
};

/// How many bytes are recorded of an address that no link has.
const ASKED_BYTES: usize = 2 << 10;

/// Everything that redirects are decided by. All cores share it.
pub(crate) struct Redirects {
    pub(crate) config: Arc<Config>,
    pub(crate) links: Links,
    pub(crate) domains: Domains,
    pub(crate) limits: VisitLimits,
    /// Whether all links and domains are known.
    pub(crate) complete: AtomicBool,
    pub(crate) metrics: IngestMetrics,
}

/// Links and domains, held for the length of one decision.
pub(crate) struct TableView<'t> {
    links: LinksView<'t>,
    domains: DomainsView<'t>,
}

/// A decision about a request: its response, and the visit to record before that.
pub(crate) struct Decision<'d> {
    response: RedirectResponse<'d>,
    visit: Option<VisitRecord<'d>>,
}

impl<'d> Decision<'d> {
    /// The visit to record; none where the response is all.
    pub(crate) const fn visit(&self) -> Option<&VisitRecord<'d>> {
        self.visit.as_ref()
    }

    /// Writes the response to `out`; `id` is the recorded visit's. The destination is told
    /// the ids of clicks and scans alone.
    pub(crate) fn write(&self, id: Option<ClickId>, context: ResponseContext, out: &mut Vec<u8>) {
        let id = id.filter(|_| self.visit.as_ref().is_some_and(|visit| visit.class.counts()));
        self.response.with_click_id(id).write(context, out);
    }
}

impl<'d> From<RedirectResponse<'d>> for Decision<'d> {
    fn from(response: RedirectResponse<'d>) -> Self {
        Self { response, visit: None }
    }
}

/// The result of looking an address up.
#[derive(Clone, Copy)]
enum Found<'t> {
    Live(&'t LinkRow),
    Expired(&'t LinkRow),
    /// A link that has not started: answered as if it did not exist, but no orphan.
    NotStarted,
    Root,
    Nothing,
    /// Not all links and domains are known yet, and this one is not.
    Unknown,
}

impl Redirects {
    /// Pins links and domains as they are now.
    pub(crate) fn view(&self) -> TableView<'_> {
        TableView { links: self.links.view(), domains: self.domains.view() }
    }

    /// Decides how a request is answered at `at`.
    pub(crate) fn decide<'d>(
        &'d self,
        request: &'d RequestKind<'d>,
        tables: &'d TableView<'_>,
        at: Timestamp,
    ) -> Decision<'d> {
        let visitor = match request {
            RequestKind::Visit(visitor) => visitor,
            RequestKind::NoVisit => return RedirectResponse::MethodNotAllowed.into(),
        };
        let is_other_method = matches!(visitor.counts_as, CountsAs::OtherMethod(_));
        if let RequestedPath::Reserved(path) = visitor.path {
            return match path {
                _ if is_other_method => RedirectResponse::MethodNotAllowed,
                ReservedPath::Health => RedirectResponse::Healthy,
                ReservedPath::Robots => RedirectResponse::Robots,
                ReservedPath::Absent => RedirectResponse::NotFound { page: None },
            }
            .into();
        }
        let pace = self.limits.pace(visitor.rate_key);
        if let VisitPace::Refused { retry_after_s } = pace {
            return RedirectResponse::TooMany { retry_after_s }.into();
        }
        // Whatever the address is: a person who clicks asks for it again.
        if visitor.counts_as == CountsAs::Prefetch && self.config.when_prefetched == WhenPrefetched::Refuse {
            self.metrics.prefetches_refused.inc();
            return RedirectResponse::PrefetchRefused.into();
        }
        let rate_limited = pace == VisitPace::Marked;
        let record = |class, tail| VisitRecord { visitor, at, class, rate_limited, tail };
        let host = tables.domains.links_of(visitor.host);
        let site = host.site();
        match self.find(&visitor.path, host, &tables.links, at) {
            Found::Live(row) | Found::Expired(row) if is_other_method && !row.keeps_method() => {
                RedirectResponse::MethodNotAllowed.into()
            }
            Found::Live(row) => {
                let visit = self.class_of(visitor).map(|class| record(class, row.tail().into()));
                Decision { response: self.live(row, visitor), visit }
            }
            Found::Expired(row) => {
                let response = match row.expired_url() {
                    Some(url) if !leads_back(url, visitor.host, visitor.raw_path) => RedirectResponse::found(url),
                    _ => instead(site.and_then(|site| site.expired.as_ref()), visitor, |page| RedirectResponse::Gone {
                        page,
                    }),
                };
                let is_recorded = self.counts_as_expired(visitor) == SampledVisit::Recorded;
                let visit = is_recorded.then(|| record(ClickClass::Expired, row.tail().into()));
                Decision { response, visit }
            }
            Found::Nothing => {
                let tail = self.orphan(visitor, site);
                let visit = tail.map(|tail| record(ClickClass::Orphan, tail.into()));
                let response =
                    if is_other_method { RedirectResponse::MethodNotAllowed } else { fallback(site, visitor) };
                Decision { response, visit }
            }
            Found::Root | Found::NotStarted if is_other_method => RedirectResponse::MethodNotAllowed.into(),
            Found::Root => match site.and_then(|site| site.root.as_deref()) {
                Some(root) if !leads_back(root, visitor.host, visitor.raw_path) => RedirectResponse::found(root).into(),
                Some(_) => RedirectResponse::NotFound { page: None }.into(),
                None => not_found_page(site).into(),
            },
            Found::NotStarted => fallback(site, visitor).into(),
            Found::Unknown => RedirectResponse::Unavailable.into(),
        }
    }

    /// Looks up where `path` leads on a domain, or on a host that is none.
    fn find<'t>(
        &self,
        path: &RequestedPath<'_>,
        host: HostLinks<'_>,
        links: &'t LinksView<'_>,
        at: Timestamp,
    ) -> Found<'t> {
        let complete = self.complete.load(Ordering::Relaxed);
        if host.site().is_none() && !complete {
            // The host may be a domain that is not known yet.
            return Found::Unknown;
        }
        let slug = match path {
            RequestedPath::Root => return Found::Root,
            RequestedPath::Slug(slug) => &**slug,
            RequestedPath::SlashedSlug(slug)
                if host.site().is_some_and(|site| site.trailing_slash == TrailingSlash::Ignored) =>
            {
                &**slug
            }
            RequestedPath::SlashedSlug(_) | RequestedPath::Reserved(_) | RequestedPath::Other(_) => {
                return Found::Nothing;
            }
        };
        let (number, case) = match host {
            HostLinks::Site(site) => (site.number, site.slug_case),
            HostLinks::CatchAll => (CATCH_ALL, SlugCase::Sensitive),
            HostLinks::Nowhere => return Found::Nothing,
        };
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

    /// Returns the class under which a visit to a live link is recorded, if it is.
    fn class_of(&self, visitor: &Visitor<'_>) -> Option<ClickClass> {
        match visitor.counts_as {
            CountsAs::Click(class) | CountsAs::OtherMethod(class) => Some(class),
            CountsAs::Prefetch | CountsAs::Preview => {
                self.metrics.prefetches.inc();
                (self.limits.uncounted() == SampledVisit::Recorded).then_some(ClickClass::Prefetch)
            }
            CountsAs::Head => {
                self.metrics.heads.inc();
                None
            }
        }
    }

    /// Counts a visit to a link that has expired; says whether it is recorded.
    fn counts_as_expired(&self, visitor: &Visitor<'_>) -> SampledVisit {
        if visitor.counts_as == CountsAs::Head {
            self.metrics.heads.inc();
            return SampledVisit::Skipped;
        }
        self.metrics.expired.inc();
        self.limits.uncounted()
    }

    fn live<'d>(&'d self, row: &'d LinkRow, visitor: &'d Visitor<'_>) -> RedirectResponse<'d> {
        let mut location = Location::new(row.location());
        if row.passes_query() {
            location = location.passing(visitor.query.as_deref());
        }
        if row.tells_click_id() {
            location = location.telling(&self.config.click_id_param);
        }
        RedirectResponse::Redirect { status: row.status(), location, referrer_policy: row.referrer_policy() }
    }

    /// The end of an orphan visit's line; none where the visit is not recorded.
    fn orphan(&self, visitor: &Visitor<'_>, site: Option<&Site>) -> Option<Vec<u8>> {
        if matches!(visitor.counts_as, CountsAs::Head | CountsAs::OtherMethod(_)) {
            // Not recorded, but no way to try out slugs unseen either.
            self.limits.unknown_slug(visitor.rate_key);
            return None;
        }
        if self.limits.orphan(visitor.rate_key) == SampledVisit::Skipped {
            return None;
        }
        let workspace = site.map_or("default", |site| site.workspace.as_str());
        // Never fails: strings are always JSON.
        orphan_tail(workspace, &requested_address(visitor)).ok()
    }
}

/// Returns the response where no link has the address.
fn fallback<'d>(site: Option<&'d Site>, visitor: &Visitor<'_>) -> RedirectResponse<'d> {
    instead(site.and_then(|site| site.fallback.as_ref()), visitor, |page| RedirectResponse::NotFound { page })
}

/// Returns the response at a root that leads nowhere.
fn not_found_page(site: Option<&Site>) -> RedirectResponse<'_> {
    match site.and_then(|site| site.fallback.as_ref()) {
        Some(SiteAnswer::Page(page)) => RedirectResponse::NotFound { page: Some(page) },
        _ => RedirectResponse::NotFound { page: None },
    }
}

/// Returns the answer of the domain where no link leads on. Where that would lead back to
/// what was asked for, it is `refuse`.
fn instead<'d>(
    answer: Option<&'d SiteAnswer>,
    visitor: &Visitor<'_>,
    refuse: impl Fn(Option<&'d str>) -> RedirectResponse<'d>,
) -> RedirectResponse<'d> {
    match answer {
        Some(SiteAnswer::Redirect(url)) if !leads_back(url, visitor.host, visitor.raw_path) => {
            RedirectResponse::found(url)
        }
        Some(SiteAnswer::Page(page)) => refuse(Some(page)),
        Some(SiteAnswer::Redirect(_)) | None => refuse(None),
    }
}

/// The address that an orphan visit asked for: host, slash, slug.
fn requested_address(visitor: &Visitor<'_>) -> String {
    let host = host_name(visitor.host.unwrap_or_default());
    let mut address = match &visitor.path {
        RequestedPath::Root => format!("{host}/"),
        RequestedPath::Slug(slug) => format!("{host}/{slug}"),
        RequestedPath::SlashedSlug(slug) => format!("{host}/{slug}/"),
        RequestedPath::Reserved(_) | RequestedPath::Other(_) => {
            format!("{host}{}", percent_decode_str(visitor.raw_path).decode_utf8_lossy())
        }
    };
    address.truncate(address.floor_char_boundary(ASKED_BYTES));
    address
}
